"""Contrast of T2-weighted images, turned into that of T1-weighted ones to find the brain.

T2-weighted images have the contrast of the brain inverted: fluid is brightest, white matter
darkest. Their reciprocal looks like a T1-weighted image, a relation that maps of myelin rest on as
well [1]_; air, bone and vessels, which are dark in both, are kept dark. The location of the brain
needs no such change, because mutual information does not depend on the sign of the contrast.

References
----------
.. [1] Glasser MF, Van Essen DC (2011). Mapping human cortical areas in vivo based on myelin
   content as revealed by T1- and T2-weighted MRI. J Neurosci 31(32):11597-11616.
   doi:10.1523/JNEUROSCI.2180-11.2011
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from neuroferry.errors import InputError
from neuroferry.interfaces.image.images import Affine, FloatArray, Volume, crop_to, inverse
from neuroferry.interfaces.image.transforms import apply_transforms
from neuroferry.templates import Template

# In T2-weighted images fluid is at least this much brighter than white matter.
LEAST_FLUID = 1.2
# Darker than this fraction of white matter is no tissue: bone, vessels with flow, air.
DARK = 0.6
# The reciprocal of the brightest fluid: as dark as fluid is in a T1-weighted image.
LEAST_RECIPROCAL = 0.2
# The edge between fluid and bone touches voxels darker and brighter than these.
EDGE_DARK, EDGE_FLUID, FLUID = 0.5, 1.8, 0.25
# Tissue of the template that is certain.
CERTAIN = 0.8
# Largest share of a brain in T2-weighted images that is darker than half of white matter: 0.0002
# within true masks of phantoms of 1 to 3 mm, 0.02 and more within masks with a Dice overlap below
# 0.92.
MOST_DARK = 0.01
DARK_FRACTION = 0.5
DARK_MM = 4.0


def tissue_levels(head: Volume, template: Template, matrix: Affine) -> tuple[float, float, float]:
    """Measure the intensity of each tissue where the template is certain of it.

    Parameters
    ----------
    head : Volume
        Roughly bias-corrected head.
    template : Template
        With tissue maps.
    matrix : ndarray of float64, shape (4, 4)
        Template points to head points.

    Returns
    -------
    gm, wm, csf : float
        Medians.
    """
    levels = []
    for tpm in template.tpms:
        moved = apply_transforms(
            Volume(tpm, template.affine), [inverse(matrix)], head.shape, head.affine
        )
        sure = head.data[(moved.data > CERTAIN) & (head.data > 0)]
        levels.append(float(np.median(sure)) if sure.size else 0.0)
    return levels[0], levels[1], levels[2]


def as_t1w(data: FloatArray, white: float) -> FloatArray:
    """Give a T2-weighted head the contrast of a T1-weighted one.

    Parameters
    ----------
    data : ndarray of float32
        Intensities, not negative.
    white : float
        Intensity of white matter.

    Returns
    -------
    ndarray of float32
        White matter is 1; brighter tissue gets its reciprocal, at least 0.2. Below 0.6 of white
        matter, intensities fall to 0 as they do in the image.

    Examples
    --------
    >>> image = np.array([0.0, 30.0, 60.0, 100.0, 140.0, 400.0], dtype=np.float32)
    >>> print(as_t1w(image, 100.0).round(2))
    [0.   0.5  1.   1.   0.71 0.25]
    """
    relative = np.asarray(data, dtype=np.float32) / np.float32(white)
    inverted = np.clip(1 / np.maximum(relative, np.float32(DARK)), LEAST_RECIPROCAL, 1.0)
    turned: FloatArray = np.where(relative < DARK, relative / np.float32(DARK), inverted)
    return turned


def darken_fluid_edges(turned: FloatArray, data: FloatArray, white: float) -> FloatArray:
    """Take the edge between fluid and bone out of a head that was given T1-weighted contrast.

    Voxels with a part of both pass through the intensity of white matter: a shell around the
    fluid, one voxel thick, that would be taken for cortex and carry the edge of the brain out to
    the skull. They touch bright fluid and darkness, which tissue of the brain does not.

    Parameters
    ----------
    turned : ndarray of float32, shape (I, J, K)
        From :func:`as_t1w`.
    data : ndarray of float32, shape (I, J, K)
        Intensities of the T2-weighted head.
    white : float
        Intensity of white matter.

    Returns
    -------
    ndarray of float32, shape (I, J, K)
        As `turned`; at such an edge at most as bright as fluid.

    Examples
    --------
    >>> head = np.full((3, 3, 5), 10, dtype=np.float32)
    >>> head[..., 3], head[..., 4] = 100, 300
    >>> print(darken_fluid_edges(as_t1w(head, 100.0), head, 100.0)[1, 1].round(2))
    [0.17 0.17 0.17 0.25 0.33]
    """
    from scipy import ndimage

    relative = np.asarray(data, dtype=np.float32) / np.float32(white)
    near_dark = ndimage.minimum_filter(relative, 3) < EDGE_DARK
    near_fluid = ndimage.maximum_filter(relative, 3) > EDGE_FLUID
    edge = near_dark & near_fluid
    darkened: FloatArray = np.where(edge, np.minimum(turned, np.float32(FLUID)), turned)
    return darkened


def white_level(head: Volume, template: Template, matrix: Affine) -> float:
    """Measure the intensity of white matter in a T2-weighted head.

    Parameters
    ----------
    head : Volume
        Roughly bias-corrected head.
    template : Template
        With tissue maps.
    matrix : ndarray of float64, shape (4, 4)
        Template points to head points.

    Returns
    -------
    float

    Raises
    ------
    InputError
        If fluid is not brighter.
    """
    _, white, fluid = tissue_levels(head, template, matrix)
    if white <= 0 or fluid < LEAST_FLUID * white:
        raise InputError(
            "Fluid is not brighter than white matter in this image, as it is in a T2-weighted "
            "one; check the suffix of the image."
        )
    return white


def dark_share(volume: Volume, mask: NDArray[np.bool_], white: NDArray[np.bool_]) -> float:
    """Measure which share of a brain mask is too dark for brain in a T2-weighted image.

    White matter is the darkest tissue there, so that bone and air stand out; noise and vessels are
    averaged out.

    Parameters
    ----------
    volume : Volume
        Bias-corrected image.
    mask, white : ndarray of bool, shape (I, J, K)
        Brain, and its white matter.

    Returns
    -------
    float
        Share of the voxels of `mask` whose mean over about 4 mm is less than half of the median of
        `white`; 0 without white matter.
    """
    from scipy import ndimage

    if not white.any():
        return 0.0
    box, _ = crop_to(mask, volume.affine, DARK_MM)
    sizes = [max(1, round(DARK_MM / float(zoom))) for zoom in volume.zooms]
    mean = ndimage.uniform_filter(volume.data[box], sizes)[mask[box]]
    return float(np.mean(mean < DARK_FRACTION * np.median(volume.data[white])))
