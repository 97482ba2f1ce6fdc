"""The template that is always there: MNI152NLin2009aSym, out of nilearn's own files.

Nothing is downloaded: nilearn ships the skull-stripped T1-weighted template and its
grey- and white-matter maps at 1 mm. Images are cached for the life of the process.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import nibabel as nb
    from numpy.typing import NDArray

TEMPLATE_SPACE = "MNI152NLin2009aSym"


@dataclass(frozen=True)
class Template:
    """A brain template on one voxel grid.

    Attributes
    ----------
    space : str
        BIDS space label.
    t1w : ndarray of float32, shape (I, J, K)
        Skull-stripped T1-weighted intensities, scaled to [0, 1].
    gm, wm, csf : ndarray of float32, shape (I, J, K)
        Tissue probabilities; cerebrospinal fluid is what grey and white matter leave
        of the brain mask.
    brain_mask : ndarray of bool, shape (I, J, K)
        The undilated mask of the brain.
    affine : ndarray of float64, shape (4, 4)
        Voxel indices to RAS+ mm.
    """

    space: str
    t1w: NDArray[np.float32]
    gm: NDArray[np.float32]
    wm: NDArray[np.float32]
    csf: NDArray[np.float32]
    brain_mask: NDArray[np.bool_]
    affine: NDArray[np.float64]

    @property
    def tpms(self) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
        """Tissue maps in the order used everywhere: GM, WM, CSF."""
        return self.gm, self.wm, self.csf


@lru_cache(maxsize=4)
def load_template(resolution: int = 1) -> Template:
    """Load MNI152NLin2009aSym.

    Parameters
    ----------
    resolution : int
        Isotropic voxel size in mm; other than 1 is resampled by nilearn.

    Returns
    -------
    Template
        The arrays are read-only: they are shared by every caller in the process.
    """
    from nilearn import datasets

    def get(image: nb.nifti1.Nifti1Image) -> NDArray[np.float32]:
        return np.asarray(image.get_fdata(dtype=np.float32))

    t1w_img = datasets.load_mni152_template(resolution=resolution)
    mask = get(datasets.load_mni152_brain_mask(resolution=resolution)) > 0.5
    gm = np.clip(get(datasets.load_mni152_gm_template(resolution=resolution)), 0, 1)
    wm = np.clip(get(datasets.load_mni152_wm_template(resolution=resolution)), 0, 1)
    csf = np.where(mask, np.clip(1.0 - gm - wm, 0, 1), 0).astype(np.float32)
    arrays = (get(t1w_img), gm, wm, csf, mask, np.asarray(t1w_img.affine, dtype=np.float64))
    for array in arrays:
        array.setflags(write=False)
    return Template(TEMPLATE_SPACE, *arrays)
