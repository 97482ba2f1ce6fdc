"""Streamlines in memory and on disk.

All points of all streamlines are in one array, so that operations apply to all at once. In memory
they take 12 bytes per point.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nb
import numpy as np
from nibabel.streamlines.tck import TckFile
from nibabel.streamlines.tractogram import Tractogram
from nibabel.streamlines.tractogram_file import HeaderError
from nibabel.streamlines.trk import TrkFile
from numpy.typing import NDArray

from neuroferry.errors import InputError
from neuroferry.files import whole_file
from neuroferry.interfaces.image.images import Volume

Points = NDArray[np.float32]
# Gap between consecutive streamlines when all are interpolated as one line, mm.
GAP_MM = 1.0


@dataclass(frozen=True)
class Streamlines:
    """Set of streamlines.

    Attributes
    ----------
    points : ndarray of float32, shape (M, 3)
        Points of all streamlines, one streamline after the other; RAS+ mm.
    offsets : ndarray of int64, shape (N + 1,)
        Streamline `n` is ``points[offsets[n]:offsets[n + 1]]``.

    Examples
    --------
    >>> lines = join_lines([np.zeros((2, 3)), np.ones((3, 3))])
    >>> len(lines), lines[1].tolist()[0]
    (2, [1.0, 1.0, 1.0])
    """

    points: Points
    offsets: NDArray[np.int64]

    def __len__(self) -> int:
        """Return the number of streamlines."""
        return int(self.offsets.size - 1)

    def __getitem__(self, number: int) -> Points:
        """Return the points of one streamline, shape (P, 3)."""
        return self.points[self.offsets[number] : self.offsets[number + 1]]

    def __iter__(self) -> Iterator[Points]:
        """Iterate over the streamlines."""
        return (self[number] for number in range(len(self)))

    @property
    def owners(self) -> NDArray[np.int64]:
        """Index of the streamline of each point, shape (M,)."""
        return np.repeat(np.arange(len(self)), np.diff(self.offsets))

    def lengths(self) -> NDArray[np.float64]:
        """Measure the length of each streamline in mm, shape (N,)."""
        along = self._along()
        first, last = self.offsets[:-1], np.maximum(self.offsets[1:] - 1, self.offsets[:-1])
        if not along.size:
            return np.zeros(len(self))
        return np.asarray(along[last] - along[first])

    def _along(self) -> NDArray[np.float64]:
        """Measure the position of each point along the line through all streamlines, mm."""
        if not len(self.points):
            return np.zeros(0)
        steps = np.sqrt(np.sum(np.diff(self.points.astype(np.float64), axis=0) ** 2, axis=1))
        borders = self.offsets[1:-1]
        steps[borders[(borders > 0) & (borders < len(self.points))] - 1] = GAP_MM
        return np.concatenate([[0.0], np.cumsum(steps)])

    def take(self, which: NDArray[Any]) -> Streamlines:
        """Select some streamlines.

        Parameters
        ----------
        which : ndarray of bool, shape (N,), or of int
            Streamlines to select, in this order.
        """
        numbers = np.flatnonzero(which) if which.dtype == np.bool_ else which
        return join_lines([self[int(n)] for n in numbers])

    def turned(self, which: NDArray[np.bool_]) -> Streamlines:
        """Reverse the order of the points of some streamlines.

        Parameters
        ----------
        which : ndarray of bool, shape (N,)
            Streamlines to reverse.
        """
        return join_lines(
            [line[::-1] if turn else line for line, turn in zip(self, which, strict=True)]
        )

    def distances(self) -> NDArray[np.float64]:
        """Measure the distance of each point from the beginning of its streamline.

        Returns
        -------
        ndarray of float64, shape (M,)
            Distance in mm along the streamline.
        """
        along = self._along()
        begins = np.minimum(self.offsets[:-1], max(len(along) - 1, 0))
        return along - np.repeat(along[begins], np.diff(self.offsets)) if along.size else along

    def between(self, spans: NDArray[np.float64]) -> Streamlines:
        """Cut out a part of each streamline.

        Parameters
        ----------
        spans : ndarray of float64, shape (N, 2)
            Beginning and end of the part, mm from the beginning of the streamline.

        Returns
        -------
        Streamlines
            The points in between, and the two ends themselves.

        Examples
        --------
        >>> line = join_lines([np.array([[0.0, 0, 0], [4, 0, 0], [8, 0, 0]])])
        >>> line.between(np.array([[1.0, 6.0]]))[0][:, 0].tolist()
        [1.0, 4.0, 6.0]
        """
        along, parts = self.distances(), []
        for number, (begin, end) in enumerate(spans):
            here = slice(self.offsets[number], self.offsets[number + 1])
            way, line = along[here], self.points[here]
            inner = way[(way > begin) & (way < end)]
            places = np.concatenate([[begin], inner, [end]])
            parts.append(np.stack([np.interp(places, way, axis) for axis in line.T], axis=-1))
        return join_lines(parts)

    def resampled(self, count: int) -> NDArray[np.float64]:
        """Resample each streamline to the same number of equidistant points.

        Parameters
        ----------
        count : int
            Number of points, at least two.

        Returns
        -------
        ndarray of float64, shape (N, count, 3)
            RAS+ mm; the end points are those of the streamline.
        """
        if not len(self):
            return np.zeros((0, count, 3))
        along = self._along()
        start = along[self.offsets[:-1]]
        wanted = start[:, None] + np.linspace(0, 1, count) * self.lengths()[:, None]
        axes = [np.interp(wanted, along, self.points[:, axis]) for axis in range(3)]
        return np.stack(axes, axis=-1)


def join_lines(lines: Sequence[NDArray[Any]]) -> Streamlines:
    """Combine single streamlines, each of shape (P, 3), into one array."""
    sizes = np.array([len(line) for line in lines], dtype=np.int64)
    offsets = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(sizes)])
    points = np.concatenate(lines) if lines else np.zeros((0, 3))
    return Streamlines(np.ascontiguousarray(points, dtype=np.float32), offsets)


def join(parts: Sequence[Streamlines]) -> Streamlines:
    """Concatenate several sets of streamlines."""
    return join_lines([line for part in parts for line in part])


def read_streamlines(path: str | os.PathLike[str]) -> Streamlines:
    """Read a ``.tck`` or ``.trk`` file.

    Parameters
    ----------
    path : path
        File of MRtrix, DIPY, TrackVis or this package.

    Returns
    -------
    Streamlines
        RAS+ mm.

    Raises
    ------
    InputError
        If the file cannot be read.
    """
    try:
        sequence = nb.streamlines.load(path).streamlines
    except (OSError, ValueError, KeyError, HeaderError) as error:
        raise InputError(
            f"{Path(path).name} cannot be read as streamlines ({error}); use .tck or .trk."
        ) from error
    sizes = np.asarray(sequence._lengths, dtype=np.int64)
    if sizes.size == 0:
        return join_lines([])
    points = np.asarray(sequence.get_data(), dtype=np.float32)
    return Streamlines(points, np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(sizes)]))


def write_tck(streamlines: Streamlines, path: str | os.PathLike[str]) -> Path:
    """Write a ``.tck`` file as MRtrix does; the same streamlines give the same bytes.

    Parameters
    ----------
    streamlines : Streamlines
        RAS+ mm.
    path : path
        ``.tck`` file; it appears whole or not at all.

    Returns
    -------
    Path
        Path of the file.
    """
    return _save(TckFile(_tractogram(streamlines)), path)


def read_properties(path: str | os.PathLike[str]) -> dict[str, NDArray[np.float64]]:
    """Read the per-streamline properties of a ``.trk`` file.

    Parameters
    ----------
    path : path
        Written by :func:`write_trk`.

    Returns
    -------
    dict of str to ndarray of float64, shape (N,)
        Keyed by name; only scalar properties.
    """
    held = nb.streamlines.load(path).tractogram.data_per_streamline
    numbers = {name: np.asarray(held[name], dtype=np.float64) for name in sorted(held)}
    return {name: of[:, 0] for name, of in numbers.items() if of.ndim == 2 and of.shape[1] == 1}


def write_trk(
    streamlines: Streamlines,
    like: Volume,
    path: str | os.PathLike[str],
    properties: Mapping[str, NDArray[np.float64]] | None = None,
) -> Path:
    """Write a ``.trk`` file as TrackVis and DIPY do; the same streamlines give the same bytes.

    Parameters
    ----------
    streamlines : Streamlines
        RAS+ mm.
    like : Volume
        Reference image of the streamlines: its grid is stored in the header.
    path : path
        ``.trk`` file; it appears whole or not at all.
    properties : mapping of str to ndarray, shape (N,), optional
        Per-streamline values, keyed by a name of at most 18 characters; stored as float32.

    Returns
    -------
    Path
        Path of the file.
    """
    header = {
        "voxel_to_rasmm": like.affine.astype(np.float32),
        "voxel_sizes": like.zooms.astype(np.float32),
        "dimensions": np.array(like.shape, dtype=np.int16),
        "voxel_order": "".join(nb.aff2axcodes(like.affine)),
    }
    return _save(TrkFile(_tractogram(streamlines, properties), header), path)


def _tractogram(
    streamlines: Streamlines, properties: Mapping[str, NDArray[np.float64]] | None = None
) -> Any:
    """Convert streamlines to nibabel's tractogram."""
    held = {name: values[:, None] for name, values in (properties or {}).items()}
    return Tractogram(list(streamlines), data_per_streamline=held, affine_to_rasmm=np.eye(4))


def _save(file: Any, path: str | os.PathLike[str]) -> Path:
    """Write a file of streamlines, whole or not at all."""
    path = Path(path)
    with whole_file(path) as beside, beside.open("xb") as stream:
        file.save(stream)
    return path
