"""Passages of streamlines through the regions of a bundle.

A streamline passes a region if one of its points lies inside; points are a millimetre apart, and
regions are thicker. The measured part of a bundle runs from its first waypoint to its last, as in
[1]_: from where a streamline leaves the first to where it enters the last. There its streamlines
are compact and correspond to each other, wherever they begin and end beyond.

References
----------
.. [1] Yeatman JD et al. (2012). Tract profiles of white matter properties: automating
   fiber-tract quantification. PLoS ONE 7(11):e49790. doi:10.1371/journal.pone.0049790
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from neuroferry.interfaces.tracts.bundle_definitions import BundleDefinition, Region
from neuroferry.interfaces.tracts.streamlines import Points, Streamlines

Spans = NDArray[np.float64]
NEVER = np.iinfo(np.int64).max


def first_passage(
    points: Points, owners: NDArray[np.int64], count: int, regions: Sequence[Region]
) -> NDArray[np.int64]:
    """Find the first point of each streamline in any of some regions.

    Parameters
    ----------
    points : ndarray of float32, shape (M, 3)
        Points of all streamlines, mm of the template.
    owners : ndarray of int64, shape (M,)
        Index of the streamline of each point, ascending.
    count : int
        Number of streamlines.
    regions : sequence of Region
        Regions, any of which counts.

    Returns
    -------
    ndarray of int64, shape (count,)
        Index of the point; ``NEVER`` if there is none.
    """
    inside = np.zeros(len(points), dtype=np.bool_)
    columns = np.ascontiguousarray(points.T)
    for region in regions:
        inside |= region.contains(columns)
    where = np.flatnonzero(inside)
    first = np.full(count, NEVER)
    lines, begins = np.unique(owners[where], return_index=True)
    first[lines] = where[begins]
    return first


def fits(
    bundle: BundleDefinition, points: Points, streamlines: Streamlines
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Find the streamlines that belong to a bundle, and those oriented backwards.

    Parameters
    ----------
    bundle : BundleDefinition
        Bundle to find.
    points : ndarray of float32, shape (M, 3)
        Points of the streamlines in template space, mm.
    streamlines : Streamlines
        In native space.

    Returns
    -------
    belongs, backwards : ndarray of bool, shape (N,)
    """
    count, owners = len(streamlines), streamlines.owners
    lengths = streamlines.lengths()
    belongs = (lengths >= bundle.min_length) & (lengths <= bundle.max_length)
    passages = np.array(
        [first_passage(points, owners, count, [region]) for region in bundle.include]
    )
    belongs &= np.all(passages != NEVER, axis=0)
    rising = np.all(np.diff(passages, axis=0) >= 0, axis=0)
    falling = np.all(np.diff(passages, axis=0) <= 0, axis=0)
    belongs &= rising | falling
    if bundle.exclude:
        belongs &= first_passage(points, owners, count, bundle.exclude) == NEVER
    backwards = belongs & ~rising
    return belongs & _ends_fit(bundle, points, streamlines, backwards), backwards


def _ends_fit(
    bundle: BundleDefinition,
    points: Points,
    streamlines: Streamlines,
    backwards: NDArray[np.bool_],
) -> NDArray[np.bool_]:
    """Find the streamlines that begin and end where the bundle does."""
    fit = np.ones(len(streamlines), dtype=np.bool_)
    if not len(points):
        return fit
    first = points[streamlines.offsets[:-1]].T
    last = points[streamlines.offsets[1:] - 1].T
    for regions, here, there in ((bundle.start, first, last), (bundle.end, last, first)):
        if regions:
            ends = np.where(backwards, there, here)
            fit &= np.any([region.contains(ends) for region in regions], axis=0)
    return fit


def spans(bundle: BundleDefinition, points: Points, streamlines: Streamlines) -> Spans:
    """Find the part of each streamline between the first and the last waypoint.

    Parameters
    ----------
    bundle : BundleDefinition
        Bundle to which all belong.
    points : ndarray of float32, shape (M, 3)
        Points of the streamlines in template space, mm.
    streamlines : Streamlines
        In native space, all oriented from the first waypoint to the last.

    Returns
    -------
    ndarray of float64, shape (N, 2)
        Positions where each leaves the first region for the last time before entering the last
        region, and where it enters that, mm from the beginning of the streamline.
    """
    enters = first_passage(points, streamlines.owners, len(streamlines), bundle.include[-1:])
    inside = np.flatnonzero(bundle.include[0].contains(np.ascontiguousarray(points.T)))
    leaves = inside[np.searchsorted(inside, enters, side="right") - 1]
    along = streamlines.distances()
    return np.stack([along[leaves], along[enters]], axis=-1)
