"""Digital heads with a known truth: example and test data that need no download."""

from neuroferry.phantom.bold_dataset import PhantomBold
from neuroferry.phantom.bold_options import BoldOptions
from neuroferry.phantom.dataset import PhantomScan, PhantomSubject, write_phantom_dataset
from neuroferry.phantom.dwi_dataset import PhantomDwi
from neuroferry.phantom.dwi_options import DwiOptions
from neuroferry.phantom.t2w import PhantomT2w

__all__ = [
    "BoldOptions",
    "DwiOptions",
    "PhantomBold",
    "PhantomDwi",
    "PhantomScan",
    "PhantomSubject",
    "PhantomT2w",
    "write_phantom_dataset",
]
