"""Writers of files that appear whole or not at all, with reproducible bytes."""

from __future__ import annotations

import io
import json
import zlib
from contextlib import ExitStack
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import nibabel as nb
import numpy as np

from neuroferry import files
from neuroferry.files import whole_file
from neuroferry.phantom.deform import DisplacementField

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import TracebackType

    from numpy.typing import DTypeLike, NDArray

_LPS = np.array([-1.0, -1.0, 1.0], dtype=np.float32)


def write_bytes(path: Path, content: bytes) -> Path:
    """Write a file; return its path."""
    files.write_bytes(path, content)
    return path


def write_text(path: Path, content: str) -> Path:
    """Write UTF-8 text; return its path."""
    return write_bytes(path, content.encode())


def write_json(path: Path, content: Mapping[str, Any]) -> Path:
    """Write JSON with keys in the given order, indented by two; return its path."""
    return write_text(path, json.dumps(content, indent=2) + "\n")


def write_table(path: Path, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> Path:
    """Write tab-separated values with a header line."""
    lines = ["\t".join(columns), *("\t".join(map(str, row)) for row in rows)]
    return write_text(path, "\n".join(lines) + "\n")


def write_image(
    path: Path,
    data: NDArray[Any],
    affine: NDArray[np.float64],
    *,
    dtype: DTypeLike,
    slope: float = 1.0,
) -> Path:
    """Write a compressed NIfTI-1 image in scanner coordinates.

    Parameters
    ----------
    path : Path
        Ends in ``.nii.gz``.
    data : ndarray
        Values; stored as ``round(data / slope)`` where `dtype` is an integer type.
    affine : ndarray of float64, shape (4, 4)
        Voxel indices to RAS+ mm; becomes both sform and qform.
    dtype : dtype_like
    slope : float
        Value of one stored integer step.
    """
    kind = np.dtype(dtype)
    stored = data
    if np.issubdtype(kind, np.integer):
        info = np.iinfo(kind)
        stored = np.clip(np.rint(data / slope if slope != 1.0 else data), info.min, info.max)
    return _write(path, stored.astype(kind), affine, slope=slope)


def write_displacement(path: Path, field: DisplacementField) -> Path:
    """Write a dense transform in ITK's format: 5-D float32 NIfTI, vectors in LPS mm."""
    data = (field.data * _LPS)[:, :, :, None, :].astype(np.float32)
    return _write(path, data, field.affine, intent="vector")


def write_streamlines(path: Path, lines: Sequence[NDArray[np.floating]]) -> Path:
    """Write streamlines, each of shape (P, 3), RAS+ mm, as MRtrix does (``.tck``)."""
    from nibabel.streamlines.tck import TckFile
    from nibabel.streamlines.tractogram import Tractogram

    content = io.BytesIO()
    TckFile(Tractogram(lines, affine_to_rasmm=np.eye(4))).save(content)
    return write_bytes(path, content.getvalue())


class SeriesFile:
    """Context manager that writes a compressed 4-D int16 NIfTI volume by volume.

    Parameters
    ----------
    path : Path
        Ends in ``.nii.gz``; appears after the last volume, or not at all.
    affine : ndarray of float64, shape (4, 4)
        Voxel indices to RAS+ mm.
    shape : sequence of 4 ints
        Three axes, and the number of volumes.
    tr : float
        Seconds between volumes.
    """

    def __init__(
        self, path: Path, affine: NDArray[np.float64], shape: Sequence[int], tr: float
    ) -> None:
        self.path = path
        self._shape = tuple(int(n) for n in shape)
        header = _header(self._shape, np.dtype(np.int16), affine)
        header.set_xyzt_units("mm", "sec")
        header["pixdim"][4] = tr
        self._start = header.binaryblock + bytes(4)
        self._gzip = zlib.compressobj(1, zlib.DEFLATED, 31)
        self._left = self._shape[3]

    def __enter__(self) -> SeriesFile:
        with ExitStack() as stack:
            beside = stack.enter_context(whole_file(self.path))
            self._file: IO[bytes] = stack.enter_context(beside.open("xb"))
            stack.push(self._finish)
            self._file.write(self._gzip.compress(self._start))
            self._open = stack.pop_all()
        return self

    def add(self, volume: NDArray[np.float32]) -> None:
        """Append the next volume, rounded to integers."""
        if volume.shape != self._shape[:3] or self._left == 0:
            raise ValueError(f"{self.path.name} takes {self._shape}, not more {volume.shape}")
        stored = np.clip(np.rint(volume), -32768, 32767).astype(np.int16)
        self._file.write(self._gzip.compress(stored.tobytes(order="F")))
        self._left -= 1

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._open.__exit__(kind, error, trace)

    def _finish(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            if self._left:
                raise ValueError(f"{self.path.name} lacks {self._left} volumes")
            self._file.write(self._gzip.flush())


def write_affines(path: Path, matrices: NDArray[np.float64]) -> Path:
    """Write a series of linear transforms in ITK's format (text, LPS mm).

    Parameters
    ----------
    path : Path
    matrices : ndarray of float64, shape (T, 4, 4)
        Map points to points, RAS+ mm.
    """
    flip = np.diag([-1.0, -1.0, 1.0, 1.0])
    lines = ["#Insight Transform File V1.0"]
    for number, matrix in enumerate(matrices):
        lps = flip @ matrix @ flip
        values = " ".join(repr(float(v)) for v in [*lps[:3, :3].ravel(), *lps[:3, 3]])
        lines += [
            f"#Transform {number}",
            "Transform: AffineTransform_double_3_3",
            f"Parameters: {values}",
            "FixedParameters: 0 0 0",
        ]
    return write_text(path, "\n".join(lines) + "\n")


def read_affines(path: Path) -> NDArray[np.float64]:
    """Read a file of :func:`write_affines`; shape (T, 4, 4), RAS+ mm."""
    flip = np.diag([-1.0, -1.0, 1.0, 1.0])
    matrices = []
    for line in path.read_text().splitlines():
        if line.startswith("Parameters:"):
            values = np.array(line.split(":")[1].split(), dtype=np.float64)
            lps = np.eye(4)
            lps[:3, :3], lps[:3, 3] = values[:9].reshape(3, 3), values[9:]
            matrices.append(flip @ lps @ flip)
    return np.stack(matrices)


def read_displacement(path: Path) -> DisplacementField:
    """Read a file of :func:`write_displacement`; displacements are returned in RAS+ mm."""
    image: Any = nb.load(path)
    data = np.asarray(image.dataobj, dtype=np.float32)[:, :, :, 0, :] * _LPS
    return DisplacementField(data, np.asarray(image.affine, dtype=np.float64))


def _write(
    path: Path,
    data: NDArray[Any],
    affine: NDArray[np.float64],
    *,
    slope: float = 1.0,
    intent: str | None = None,
) -> Path:
    header = _header(data.shape, data.dtype, affine, slope=slope)
    if intent is not None:
        header.set_intent(intent)
    # ITK reads the four bytes after the header: no extensions.
    content = header.binaryblock + bytes(4) + data.tobytes(order="F")
    return write_bytes(path, _gzip(content))


def _header(
    shape: Sequence[int], dtype: np.dtype[Any], affine: NDArray[np.float64], *, slope: float = 1.0
) -> Any:  # nibabel has no types
    header: Any = nb.Nifti1Header()
    header.set_data_shape(shape)
    header.set_data_dtype(dtype)
    header.set_slope_inter(slope, 0.0)
    header.set_xyzt_units("mm")
    header.set_zooms([*np.linalg.norm(affine[:3, :3], axis=0), *[1.0] * (len(shape) - 3)])
    header.set_qform(affine, code="scanner")
    header.set_sform(affine, code="scanner")
    header["vox_offset"] = 352
    header["magic"] = b"n+1"
    return header


def _gzip(content: bytes) -> bytes:
    """Compress without file name or time in the header."""
    stream = zlib.compressobj(3, zlib.DEFLATED, 31)
    return stream.compress(content) + stream.flush()
