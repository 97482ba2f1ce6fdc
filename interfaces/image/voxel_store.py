"""Time series of the voxels of a mask, stored on disk and read back in blocks of voxels.

A series is stored volume by volume, but quantiles, autocorrelations and components need
whole time series. Transposing through a scratch file limits memory to one block, however
long the series.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Collection, Iterator
from types import TracebackType
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

BLOCK_VALUES = 1 << 21
"""Values in one block: 8 MB as float32."""
BLOCK_VOXELS = 4096


class VoxelStore:
    """Scratch file that takes volumes in order and returns blocks of whole time series.

    Parameters
    ----------
    n_volumes, n_voxels : int
        Size of the matrix.
    folder : path, optional
        Folder of the scratch file, which has no name and disappears when the store is closed.
    block_voxels : int, optional
        Voxels in one block; by default 4096, fewer in long series.

    Examples
    --------
    >>> with VoxelStore(2, 3) as store:
    ...     store.add(np.array([1.0, 2.0, 3.0]))
    ...     store.add(np.array([4.0, 5.0, 6.0]))
    ...     [(where, block.tolist()) for where, block in store.blocks()]
    [(slice(0, 3, None), [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])]
    """

    def __init__(
        self,
        n_volumes: int,
        n_voxels: int,
        *,
        folder: str | os.PathLike[str] | None = None,
        block_voxels: int | None = None,
    ) -> None:
        self.n_volumes = n_volumes
        self.n_voxels = n_voxels
        fitting = max(1, min(BLOCK_VOXELS, BLOCK_VALUES // max(n_volumes, 1)))
        self.block_voxels = block_voxels or fitting
        self._folder = folder
        self._added = 0

    def __enter__(self) -> VoxelStore:
        self._file: IO[bytes] = tempfile.TemporaryFile(dir=self._folder, prefix=".voxels.")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()

    def _spans(self) -> Iterator[slice]:
        for start in range(0, self.n_voxels, self.block_voxels):
            yield slice(start, min(start + self.block_voxels, self.n_voxels))

    def add(self, values: NDArray[Any]) -> None:
        """Store the next volume: one value for each voxel, shape (V,)."""
        if values.shape != (self.n_voxels,):
            raise ValueError(f"{values.shape} values for {self.n_voxels} voxels")
        if self._added == self.n_volumes:
            raise ValueError(f"more than {self.n_volumes} volumes")
        row = np.ascontiguousarray(values, dtype="<f4")
        for span in self._spans():
            width = span.stop - span.start
            # blocks before this one, then this block's earlier volumes
            self._file.seek(4 * (span.start * self.n_volumes + self._added * width))
            self._file.write(row[span].tobytes())
        self._added += 1

    def blocks(
        self, start: int = 0, without: Collection[int] = ()
    ) -> Iterator[tuple[slice, NDArray[np.float32]]]:
        """Read the matrix in blocks of voxels.

        Parameters
        ----------
        start : int
            First volume.
        without : collection of int
            Volumes to leave out.

        Yields
        ------
        where : slice
            Voxels of the block.
        block : ndarray of float32, shape (T, B)
            Their time series, in the volumes that are used.
        """
        if self._added != self.n_volumes:
            raise ValueError(f"{self._added} of {self.n_volumes} volumes are stored")
        used = [t - start for t in range(start, self.n_volumes) if t not in without]
        for span in self._spans():
            width = span.stop - span.start
            self._file.seek(4 * (span.start * self.n_volumes + start * width))
            raw = self._file.read(4 * (self.n_volumes - start) * width)
            block = np.frombuffer(raw, dtype="<f4").reshape(-1, width)
            yield span, (block[used] if without else block).astype(np.float32)


def exact_median(store: VoxelStore, start: int = 0, without: Collection[int] = ()) -> float:
    """Compute the exact median of all values of a store in little memory.

    The bits of floating-point numbers sort like integers: a first pass counts their upper
    halves, a second one the lower halves of those that share the median's upper half.

    Parameters
    ----------
    store : VoxelStore
        The values.
    start : int
        First volume used.
    without : collection of int
        Volumes that are not used.

    Returns
    -------
    float

    Examples
    --------
    >>> with VoxelStore(2, 2) as store:
    ...     store.add(np.array([-3.0, 7.0]))
    ...     store.add(np.array([1.0, 2.0]))
    ...     exact_median(store)
    1.5
    """
    upper = np.zeros(1 << 16, dtype=np.int64)
    for _, block in store.blocks(start, without):
        upper += np.bincount(_sortable(block) >> 16, minlength=1 << 16)
    before = np.cumsum(upper) - upper
    total = int(upper.sum())
    ranks = {(total - 1) // 2, total // 2}
    buckets = {rank: int(np.searchsorted(before + upper, rank, side="right")) for rank in ranks}
    lower = {bucket: np.zeros(1 << 16, dtype=np.int64) for bucket in buckets.values()}
    for _, block in store.blocks(start, without):
        keys = _sortable(block)
        for bucket, counts in lower.items():
            inside = keys[keys >> 16 == bucket]
            counts += np.bincount(inside & 0xFFFF, minlength=1 << 16)
    found = []
    for rank, bucket in buckets.items():
        place = rank - int(before[bucket])
        low = int(np.searchsorted(np.cumsum(lower[bucket]), place, side="right"))
        found.append(_from_sortable(bucket << 16 | low))
    return float(np.mean(found))


def _sortable(values: NDArray[np.float32]) -> NDArray[np.uint32]:
    """Convert floats to integers of the same order."""
    bits = values.reshape(-1).view(np.uint32)
    sign = np.uint32(1 << 31)
    return np.asarray(np.where(bits & sign, ~bits, bits | sign), dtype=np.uint32)


def _from_sortable(key: int) -> float:
    """Convert one such integer back to its float."""
    sign = 1 << 31
    bits = key ^ sign if key & sign else ~key & 0xFFFFFFFF
    return float(np.array([bits], dtype=np.uint32).view(np.float32)[0])
