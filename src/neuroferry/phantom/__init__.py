"""A digital head whose truth is known: the example and the test data that need no download."""

from neuroferry.phantom.dataset import PhantomScan, PhantomSubject, write_phantom_dataset

__all__ = ["PhantomScan", "PhantomSubject", "write_phantom_dataset"]
