"""Time series of volumes on disk, read and written one volume at a time.

A series can be larger than memory, so at most a few volumes are held at once.
"""

from __future__ import annotations

import gzip
import math
import os
import zlib
from collections import deque
from collections.abc import Callable, Collection, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import IO, Any, TypeVar

import nibabel as nb
import numpy as np
from numpy.typing import NDArray

from neuroferry.bids.headers import check_same_grid, reading_image
from neuroferry.errors import GeometryError, InputError
from neuroferry.files import whole_file
from neuroferry.interfaces.image.images import (
    MIN_EXTENT_VOXELS,
    Affine,
    FloatArray,
    load_volume,
    make_header,
    voxel_sizes,
)

INT16_TOP = 32767
GZIP_LEVEL = 1

Item = TypeVar("Item")
Result = TypeVar("Result")


class Series:
    """Four-dimensional NIfTI file, read volume by volume.

    Created by :func:`open_series`. Reading a compressed file forward decompresses it once;
    going back starts over.

    Attributes
    ----------
    path : Path
        The file.
    shape : tuple of int
        Voxels along the three stored axes, then volumes.
    affine : ndarray of float64, shape (4, 4)
        Voxel indices to RAS+ mm.
    zooms : ndarray of float64, shape (3,)
        Voxel sizes, mm.
    header : nibabel.Nifti1Header
        The file's header, of which only the codes of its space are used: the repetition time is
        settled before any step runs, and steps are told.
    offset : int
        Byte of the first voxel.
    """

    def __init__(self, path: Path, image: Any) -> None:
        proxy = image.dataobj
        self.path = path
        self.header: nb.Nifti1Header = image.header
        x, y, z = (int(n) for n in image.shape[:3])
        self.shape: tuple[int, int, int, int] = (x, y, z, math.prod(image.shape[3:]))
        self.affine: Affine = np.asarray(image.affine, dtype=np.float64)
        self.offset = int(proxy.offset)
        self._dtype = np.dtype(proxy.dtype)
        self._slope, self._inter = float(proxy.slope), float(proxy.inter)
        self._handle: IO[bytes] | None = None
        self._next = 0

    @property
    def zooms(self) -> NDArray[np.float64]:
        """Voxel sizes in mm, shape (3,)."""
        return voxel_sizes(self.affine)

    @property
    def shape3(self) -> tuple[int, int, int]:
        """Numbers of voxels of one volume."""
        return self.shape[:3]

    @property
    def n_volumes(self) -> int:
        """Number of volumes."""
        return self.shape[3]

    @property
    def volume_bytes(self) -> int:
        """Bytes of one stored volume."""
        return math.prod(self.shape3) * int(self._dtype.itemsize)

    def volumes(self, start: int = 0, stop: int | None = None) -> Iterator[FloatArray]:
        """Read volumes in order.

        Parameters
        ----------
        start, stop : int
            First volume, and the one after the last; by default to the end.

        Yields
        ------
        ndarray of float32, shape (I, J, K)
            C order; the caller may change it.

        Raises
        ------
        InputError
            If the file ends early or contains NaN or infinite values.
        """
        stop = self.n_volumes if stop is None else min(stop, self.n_volumes)
        with self._open(start) as handle:
            for index in range(start, stop):
                yield self._read(handle, index)

    def volume(self, index: int) -> FloatArray:
        """Read one volume.

        Parameters
        ----------
        index : int
            Counted from 0; negative from the end.

        Returns
        -------
        ndarray of float32, shape (I, J, K)

        Raises
        ------
        InputError
            If the file ends early or contains NaN or infinite values.
        """
        index = range(self.n_volumes)[index]
        if self._handle is None or index < self._next:
            self.close()
            self._handle, self._next = self._open(index), index
        elif index > self._next:
            self._seek(self._handle, index)
        data = self._read(self._handle, index)
        self._next = index + 1
        return data

    def close(self) -> None:
        """Close the file that :meth:`volume` keeps open."""
        if self._handle is not None:
            self._handle.close()
            self._handle = None

    def _open(self, index: int) -> IO[bytes]:
        """Open the file at the start of a volume."""
        handle: Any = gzip.GzipFile(self.path) if _is_gzip(self.path) else self.path.open("rb")
        try:
            self._seek(handle, index)
        except BaseException:
            handle.close()
            raise
        opened: IO[bytes] = handle
        return opened

    def _seek(self, handle: IO[bytes], index: int) -> None:
        """Seek to the first byte of a volume."""
        try:
            handle.seek(self.offset + index * self.volume_bytes)
        except (OSError, EOFError, zlib.error) as error:
            raise self._truncated(index) from error

    def _read(self, handle: IO[bytes], index: int) -> FloatArray:
        """Read the volume at the handle's position."""
        raw = self._read_stored(handle, index)
        stored = np.frombuffer(raw, dtype=self._dtype).reshape(self.shape3, order="F")
        if (self._slope, self._inter) == (1.0, 0.0):
            data = np.array(stored, dtype=np.float32, order="C")
        else:
            data = np.empty(self.shape3, dtype=np.float32)
            np.multiply(stored, np.float64(self._slope), out=data, casting="unsafe")
            data += np.float32(self._inter)
        if self._dtype.kind == "f" and not np.isfinite(data.sum(dtype=np.float64)):
            raise InputError(
                f"{self.path.name} contains NaN or infinite values in volume {index}; "
                "convert it again."
            )
        return data

    def _read_stored(self, handle: IO[bytes], index: int) -> bytes:
        """Read the stored bytes of the volume at the handle's position."""
        try:
            raw = handle.read(self.volume_bytes)
        except (OSError, EOFError, zlib.error) as error:
            raise self._truncated(index) from error
        if len(raw) < self.volume_bytes:
            raise self._truncated(index)
        return raw

    def _truncated(self, index: int) -> InputError:
        return InputError(
            f"{self.path.name} ends before volume {index} of {self.n_volumes}; it is truncated "
            "or damaged. Copy or convert it again."
        )


def _is_gzip(path: Path) -> bool:
    """Check by its name whether a file is compressed."""
    return path.name.endswith(".gz")


def open_series(path: str | os.PathLike[str], *, min_volumes: int = 2) -> Series:
    """Open a four-dimensional NIfTI file.

    Parameters
    ----------
    path : path
        ``.nii`` or ``.nii.gz``.
    min_volumes : int
        Minimum number of volumes; with 1, a 3-D file counts as a series of one volume.

    Returns
    -------
    Series

    Raises
    ------
    InputError
        If the file cannot be read, is truncated (of a compressed one, found on reading), has
        too few volumes, or does not hold real numbers.
    GeometryError
        If it is not four-dimensional, too small, or its affine is singular.
    """
    path = Path(path)
    with reading_image(path):
        image: Any = nb.load(path)
    if not isinstance(image, nb.Nifti1Image):
        raise InputError(f"{path.name} is not a single-file NIfTI image; convert it to .nii.gz.")
    shape = image.shape
    while len(shape) > 4 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) not in (3, 4):
        raise GeometryError(
            f"{path.name} has shape {shape}; a four-dimensional series is required."
        )
    series = Series(path, image)
    if series.n_volumes < min_volumes:
        raise InputError(
            f"{path.name} has {series.n_volumes} volume(s); a time series needs at least "
            f"{min_volumes}."
        )
    if min(series.shape[:2]) < MIN_EXTENT_VOXELS or series.shape[2] < 2:
        raise GeometryError(f"{path.name} has shape {shape}; the image is too small.")
    if image.get_data_dtype().kind not in "biuf":
        raise InputError(
            f"{path.name} has data type {image.get_data_dtype()}; real numbers are required."
        )
    affine = series.affine
    if not np.all(np.isfinite(affine)) or abs(np.linalg.det(affine[:3, :3])) < 1e-6:
        raise GeometryError(f"{path.name} has a singular affine; correct its header.")
    needed = series.offset + series.n_volumes * series.volume_bytes
    if not _is_gzip(path) and path.stat().st_size < needed:
        raise InputError(
            f"{path.name} has only {path.stat().st_size} of {needed} bytes; it is truncated. Copy "
            "or convert it again."
        )
    return series


class SeriesWriter:
    """Writer of a series, volume by volume; the file appears whole or not at all.

    Values are stored as int16 with one slope, ``ceiling / 32767``: the error is at most
    half a step, 1.6e-5 of the ceiling, and values beyond the ceiling are clipped. The same
    values give the same bytes.

    Parameters
    ----------
    path : path
        ``.nii.gz`` or ``.nii``.
    shape3 : tuple of int
        Voxels of one volume.
    affine : ndarray of float64, shape (4, 4)
        Voxel indices to RAS+ mm.
    tr : float
        Repetition time, s; 0 if unknown.
    n_volumes : int
        Number of volumes to be added.
    ceiling : float
        Largest magnitude that can be stored.
    header : nibabel.Nifti1Header, optional
        Source of the sform code.

    Examples
    --------
    >>> import tempfile
    >>> folder = tempfile.TemporaryDirectory()
    >>> path = Path(folder.name) / "bold.nii.gz"
    >>> with SeriesWriter(path, (8, 8, 8), np.eye(4), 2.0, 3, ceiling=100.0) as writer:
    ...     for value in (0.0, 50.0, 100.0):
    ...         writer.add(np.full((8, 8, 8), value, dtype=np.float32))
    >>> series = open_series(path)
    >>> [round(float(volume[0, 0, 0]), 2) for volume in series.volumes()]
    [0.0, 50.0, 100.0]
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        shape3: tuple[int, int, int],
        affine: Affine,
        tr: float,
        n_volumes: int,
        *,
        ceiling: float,
        header: nb.Nifti1Header | None = None,
    ) -> None:
        if not (np.isfinite(ceiling) and ceiling > 0):
            raise InputError(f"{Path(path).name}: the series has no signal.")
        self.path = Path(path)
        self.shape3 = shape3
        self.n_volumes = n_volumes
        self.n_clipped = 0
        self._added = 0
        self._header = make_header((*shape3, n_volumes), affine, np.int16, header, tr=tr)
        self._header.set_slope_inter(ceiling / INT16_TOP, 0)
        # The header stores the slope as float32: divide by what a reader multiplies with.
        self._slope = np.float32(self._header["scl_slope"])

    def __enter__(self) -> SeriesWriter:
        with ExitStack() as stack:
            beside = stack.enter_context(whole_file(self.path))
            self._stream: Any = stack.enter_context(beside.open("xb"))
            if _is_gzip(self.path):
                zipped = gzip.GzipFile("", "wb", GZIP_LEVEL, fileobj=self._stream, mtime=0)
                self._stream = stack.enter_context(zipped)
            stack.push(self._check_count)
            self._header.write_to(self._stream)
            self._open = stack.pop_all()
        return self

    def add(self, volume: NDArray[Any]) -> None:
        """Append one volume, shape (I, J, K)."""
        if volume.shape != self.shape3:
            raise ValueError(f"volume of shape {volume.shape} for a series of {self.shape3}")
        steps = np.rint(volume / self._slope)
        beyond = np.abs(steps) > INT16_TOP
        if beyond.any():
            self.n_clipped += int(np.count_nonzero(beyond))
            np.clip(steps, -INT16_TOP, INT16_TOP, out=steps)
        self._stream.write(steps.astype("<i2").tobytes(order="F"))
        self._added += 1

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._open.__exit__(kind, error, trace)

    def _check_count(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None and self._added != self.n_volumes:
            raise ValueError(f"{self._added} of {self.n_volumes} volumes were written")


def copy_without(series: Series, volumes: Collection[int], path: Path) -> Path:
    """Copy a series without some volumes; the others keep their stored values.

    Parameters
    ----------
    series : Series
        Series to copy.
    volumes : collection of int
        Volumes to leave out, from 0.
    path : Path
        ``.nii.gz`` file, which appears whole or not at all.

    Returns
    -------
    Path
        Path of the file.
    """
    kept = [t for t in range(series.n_volumes) if t not in volumes]
    header = series.header.copy()
    header.extensions.clear()
    header.set_data_shape((*series.shape3, len(kept)))
    header["vox_offset"] = 0
    header.set_slope_inter(series._slope, series._inter)
    with ExitStack() as stack:
        beside = stack.enter_context(whole_file(path))
        stream = stack.enter_context(beside.open("xb"))
        zipped = gzip.GzipFile("", "wb", GZIP_LEVEL, fileobj=stream, mtime=0)
        target: Any = stack.enter_context(zipped)
        header.write_to(target)
        source = stack.enter_context(series._open(0))
        for index in range(series.n_volumes):
            raw = series._read_stored(source, index)
            if index in kept:
                target.write(raw)
    return path


def ordered_map(
    function: Callable[[Item], Result], items: Iterable[Item], n_threads: int = 1
) -> Generator[Result, None, None]:
    """Apply a function to items in threads and yield the results in order.

    Only a few items are queued at a time. The results do not depend on the number of threads.

    Parameters
    ----------
    function : callable
        Must not modify shared state.
    items : iterable
        Consumed one by one, in the caller's thread.
    n_threads : int
        With 1 everything runs in the caller's thread.

    Yields
    ------
    Result of `function` for each item.
    """
    if n_threads < 2:
        yield from map(function, items)
        return
    with ThreadPoolExecutor(n_threads) as pool:
        waiting: deque[Future[Result]] = deque()
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) > n_threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def temporal_mean_std(
    series: Series,
    start: int = 0,
    mask: NDArray[np.bool_] | None = None,
    *,
    stop: int | None = None,
) -> tuple[FloatArray, FloatArray]:
    """Compute the mean and standard deviation over time in one pass.

    Parameters
    ----------
    series : Series
        Input series.
    start, stop : int
        First volume, and the one after the last.
    mask : ndarray of bool, shape (I, J, K), optional
        Voxels to include; all others are 0 in the results.

    Returns
    -------
    mean, std : ndarray of float32, shape (I, J, K)
        The standard deviation is the population one (divided by N).
    """
    inside = np.ones(series.shape3, dtype=bool) if mask is None else np.asarray(mask, dtype=bool)
    origin: NDArray[np.float64] | None = None
    count = 0
    total = np.zeros(int(np.count_nonzero(inside)))
    squares = np.zeros_like(total)
    for volume in series.volumes(start, stop):
        values = volume[inside].astype(np.float64)
        if origin is None:
            # Sums of differences from the first volume, to avoid cancellation in the squares.
            origin = values
        values = values - origin
        total += values
        squares += values * values
        count += 1
    if origin is None:
        raise InputError(f"{series.path.name} has no volumes from volume {start} on.")
    mean, std = np.zeros(series.shape3, np.float32), np.zeros(series.shape3, np.float32)
    mean[inside] = origin + total / count
    std[inside] = np.sqrt(np.maximum(squares / count - (total / count) ** 2, 0.0))
    return mean, std


# Cubic interpolation can overshoot its samples by about this much.
OVERSHOOT = 1.25


def highest(series: Series, unusable: Collection[int] = ()) -> float:
    """Find the largest magnitude of a series, in other than unusable volumes."""
    return max(
        float(max(volume.max(), -volume.min()))
        for number, volume in enumerate(series.volumes())
        if number not in unusable
    )


def load_on_grid(path: str, series: Series) -> FloatArray:
    """Read a map on the grid of a series."""
    volume = load_volume(path)
    check_same_grid((series.path.name, series), (Path(path).name, volume))
    return volume.data


def grid_of(path: str) -> tuple[tuple[int, int, int], Affine]:
    """Read the shape and affine of an image, without its values."""
    series = open_series(path, min_volumes=1)
    return series.shape3, series.affine
