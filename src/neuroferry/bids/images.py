"""Checks of images before anything is computed from them.

Each file is read once in blocks of one megabyte: memory does not depend on the size of the
image, and a compressed file is read to its end, so that its checksum is verified.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from neuroferry.bids.entities import parse_name
from neuroferry.bids.model import Problem
from neuroferry.errors import InputError
from neuroferry.files import image_errors

if TYPE_CHECKING:
    from numpy.typing import NDArray

_BLOCK = 1 << 20
_MIN_VOXELS = 16
#: Fewest slices of a series or a field map that covers a part of the head.
_MIN_SLICES = 8
_EXTENT_MM = (60.0, 700.0)
#: Distance of corner voxels, mm, above which sform and qform are different positions.
_TOLERANCE_MM = 1.0
#: Largest departure of a voxel's edges from right angles, and of its volume.
_SHEAR_DEGREES = 1.0
_VOLUME_CHANGE = 0.01


@dataclass
class _Values:
    """Statistics of the voxel values."""

    low: float = np.inf
    high: float = -np.inf
    n_voxels: int = 0
    n_not_finite: int = 0

    def add(self, block: NDArray[Any]) -> None:
        finite = block[np.isfinite(block)] if block.dtype.kind == "f" else block
        self.n_voxels += block.size
        self.n_not_finite += block.size - finite.size
        if finite.size:
            self.low = min(self.low, float(finite.min()))
            self.high = max(self.high, float(finite.max()))


def check_image(path: str | Path, *, ndim: int = 3) -> list[Problem]:
    """Check that an image can be read to its end and is what a workflow expects.

    Parameters
    ----------
    path : path
        A ``.nii`` or ``.nii.gz`` file.
    ndim : int
        Expected number of dimensions longer than one voxel; 3 for anatomical images. Extra
        dimensions of length one are a warning (they are squeezed).

    Returns
    -------
    list of Problem
        Empty for a valid image. An error that prevents further checks is the last one.

    Notes
    -----
    ``sform`` and ``qform`` may both be set and differ. The rule here: the sform is used, as
    nibabel does. A difference of up to 1 mm at the corners of the volume is rounding. A
    larger one is a warning. It is an error if the two disagree on the directions of the
    voxel axes (left and right might be swapped) or on the volume of a voxel (by more than 1%:
    brain volumes would be wrong), or if the voxels are sheared (by more than 1 degree).
    Neither set is an error: left and right are unknown then.
    """
    path = Path(path)
    subject = parse_name(path).entities.get("subject")
    try:
        header, values = _read(path)
    except InputError as error:
        return [Problem(str(error), "error", path, subject)]
    found = list(_shape_problems(header, ndim))
    if len(header.get_data_shape()) >= 3:
        found += [*_value_problems(values), *_geometry_problems(header)]
    return [
        Problem(f"{path}: {message}", "error" if fatal else "warning", path, subject)
        for message, fatal in found
    ]


def _read(path: Path) -> tuple[Any, _Values]:
    """Read header and voxels; raise InputError if that is not possible."""
    if path.is_symlink() and not path.exists():
        raise InputError(
            f"{path} links to a file that does not exist ({path.readlink()}); fetch its content"
            " (`datalad get` in a DataLad dataset)"
        )
    try:
        if not path.stat().st_size:
            raise InputError(f"{path} is empty (0 bytes); copy or convert the image again")
        compressed = path.name.endswith(".gz")
        with path.open("rb") as raw:
            is_gzip = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            if compressed and not is_gzip:
                raise InputError(
                    f"{path} is not compressed with gzip, although its name says so;"
                    " compress it, or convert the image again"
                )
            with gzip.GzipFile(fileobj=raw) if compressed else raw as stream:
                return _scan(stream, path)  # type: ignore[arg-type]
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(
            f"{path} is truncated or damaged ({error}); copy it again from its source"
        ) from error
    except OSError as error:
        raise InputError(
            f"{path} cannot be read: {error.strerror or error}; check the file and its permissions"
        ) from error


def _scan(stream: IO[bytes], path: Path) -> tuple[Any, _Values]:
    import nibabel as nb
    from nibabel.spatialimages import HeaderDataError

    start = stream.read(540)
    try:
        size = int.from_bytes(start[:4], "little"), int.from_bytes(start[:4], "big")
        klass = nb.nifti2.Nifti2Header if 540 in size else nb.nifti1.Nifti1Header
        header = klass(start[: klass.sizeof_hdr], check=False)  # type: ignore[no-untyped-call]
        if header["magic"].item().rstrip(b"\x00")[:3] not in (b"n+1", b"n+2"):
            raise HeaderDataError("no NIfTI magic number")
        shape, dtype = header.get_data_shape(), header.get_data_dtype()
        offset = int(header["vox_offset"]) or header.sizeof_hdr + 4
        if offset < header.sizeof_hdr:
            raise HeaderDataError(f"voxels begin at byte {offset}")
    except image_errors() as error:
        raise InputError(
            f"{path} has no readable NIfTI header ({error}); convert the image again"
        ) from error
    if dtype.kind not in "iuf":
        raise InputError(
            f"{path} has values of type {dtype}, not one real number per voxel; convert the image"
            " again"
        )
    values = _Values()
    expected = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    for block in _blocks(stream, start, offset, expected, dtype.itemsize):
        values.add(np.frombuffer(block, dtype))
    present = values.n_voxels * dtype.itemsize
    if present < expected:
        raise InputError(
            f"{path} is truncated: its header declares {expected} bytes of voxels,"
            f" but the file has {present}; copy it again from its source"
        )
    return header, values


def _blocks(
    stream: IO[bytes], start: bytes, offset: int, expected: int, itemsize: int
) -> Iterator[bytes]:
    """Yield the bytes of the voxels in whole items, and read on to the end of the stream."""
    pending = start[offset:]
    position = len(start)
    while position < offset:
        skipped = len(stream.read(min(_BLOCK, offset - position)))
        if not skipped:
            return
        position += skipped
    left = expected
    while True:
        chunk = stream.read(_BLOCK)
        pending += chunk
        usable = min(len(pending) - len(pending) % itemsize, left)
        if usable:
            yield pending[:usable]
            left -= usable
        pending = pending[usable:] if left else b""
        if not chunk:
            return


def _shape_problems(header: Any, ndim: int) -> Iterator[tuple[str, bool]]:
    shape = header.get_data_shape()
    text = " x ".join(str(n) for n in shape)
    essential = len(shape)
    while essential > 0 and shape[essential - 1] == 1:
        essential -= 1
    if essential > ndim:
        yield (
            f"the image has {essential} dimensions ({text}), but {ndim} are expected; save each"
            " volume in its own file (run-1, run-2), or average them",
            True,
        )
    elif len(shape) > ndim:
        yield (
            f"the image has one volume in {len(shape)} dimensions ({text}); it is squeezed",
            False,
        )
    if essential < min(ndim, 3):
        yield f"the image is not a volume ({text} voxels); convert the image again", True
    elif min(shape[:3]) < (_MIN_VOXELS if ndim == 3 else _MIN_SLICES):
        least = _MIN_VOXELS if ndim == 3 else _MIN_SLICES
        yield f"the image has {text} voxels; at least {least} along each axis are needed", True


def _value_problems(values: _Values) -> Iterator[tuple[str, bool]]:
    if values.n_not_finite == values.n_voxels:
        yield "no voxel has a finite value; convert the image again", True
    elif values.low == values.high:
        yield (
            f"every voxel has the same value ({values.low:g}); convert the image again",
            True,
        )
    elif values.n_not_finite:
        yield (
            f"{values.n_not_finite} of {values.n_voxels} voxels are not finite numbers (NaN or"
            " infinity); convert the image again, or write 0 where nothing was measured",
            True,
        )


def _geometry_problems(header: Any) -> Iterator[tuple[str, bool]]:
    zooms = np.asarray(header["pixdim"][1:4], dtype=float)
    if not (np.isfinite(zooms).all() and (zooms > 0).all()):
        yield (
            f"the voxel size in the header is {_mm(zooms)}, but must be positive; convert the"
            " image again",
            True,
        )
        return
    extent = zooms * np.asarray(header.get_data_shape()[:3])
    if extent.min() < _EXTENT_MM[0] or extent.max() > _EXTENT_MM[1]:
        yield (
            f"the field of view is {_mm(extent)}, unusual for a head; check the voxel size"
            f" ({_mm(zooms)})",
            False,
        )
    try:
        forms = {
            name: np.asarray(form, dtype=float)
            for name, form in (
                ("sform", header.get_sform(coded=True)[0]),
                ("qform", header.get_qform(coded=True)[0]),
            )
            if form is not None
        }
    except Exception as error:  # nibabel raises several kinds of exceptions on a bad quaternion
        yield (
            f"the orientation in the header is not valid ({error}); convert the image again",
            True,
        )
        return
    if not forms:
        yield (
            "neither sform nor qform gives the orientation of the image, so left and right are"
            " unknown; convert the image again from the scanner's files",
            True,
        )
        return
    broken = [problem for name, form in forms.items() for problem in _form_problems(name, form)]
    yield from broken
    if len(forms) == 2 and not broken:
        yield from _disagreements(forms["sform"], forms["qform"], header.get_data_shape()[:3])


def _form_problems(name: str, form: NDArray[np.float64]) -> Iterator[tuple[str, bool]]:
    axes = form[:3, :3]
    lengths = np.linalg.norm(axes, axis=0)
    if not np.isfinite(form).all() or lengths.min() <= 0:
        yield f"the {name} is not invertible; convert the image again", True
        return
    cosines = (axes / lengths).T @ (axes / lengths) - np.eye(3)
    shear = float(np.degrees(np.arcsin(min(1.0, np.abs(cosines).max()))))
    if abs(np.linalg.det(axes / lengths)) < 1e-3:
        yield f"the {name} is not invertible; convert the image again", True
    elif shear > _SHEAR_DEGREES:
        yield (
            f"the {name} shears the voxels by {shear:.1f} degrees, which no scanner does; use the"
            " image as it was before it was transformed",
            True,
        )


def _disagreements(
    sform: NDArray[np.float64], qform: NDArray[np.float64], shape: tuple[int, ...]
) -> Iterator[tuple[str, bool]]:
    from nibabel.orientations import aff2axcodes

    corners = np.array(np.meshgrid(*[(0, n - 1) for n in shape], indexing="ij")).reshape(3, -1)
    difference = (sform - qform)[:3, :3] @ corners + (sform - qform)[:3, 3:]
    distance = float(np.linalg.norm(difference, axis=0).max())
    if distance <= _TOLERANCE_MM:
        return
    names = ["".join(aff2axcodes(form)) for form in (sform, qform)]
    volumes = [abs(float(np.linalg.det(form[:3, :3]))) for form in (sform, qform)]
    if names[0] != names[1]:
        yield (
            f"sform and qform disagree on the orientation ({names[0]} by the sform,"
            f" {names[1]} by the qform), so left and right might be swapped; find out which is"
            " right and write it to both",
            True,
        )
    elif abs(volumes[0] / volumes[1] - 1) > _VOLUME_CHANGE:
        yield (
            f"sform and qform disagree on the volume of a voxel ({volumes[0]:.4g} and"
            f" {volumes[1]:.4g} mm3), so brain volumes might be wrong; use the image as it was"
            " before it was transformed, or write the right one to both",
            True,
        )
    else:
        yield (
            f"sform and qform place the voxels up to {distance:.1f} mm apart; the sform is used",
            False,
        )


def _mm(sizes: NDArray[np.float64]) -> str:
    return " x ".join(f"{size:.4g}" for size in sizes) + " mm"
