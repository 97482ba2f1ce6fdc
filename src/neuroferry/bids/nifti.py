"""The one place where headers of images are read before a step runs.

Any bytes can be read: what nibabel makes of a damaged header depends on where the damage is, and
some of it ends in reading a whole file as one extension of the header.
"""

from __future__ import annotations

import gzip
import logging
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from neuroferry.errors import InputError
from neuroferry.files import open_input, refuse_pointer, unreadable

_GZIP = b"\x1f\x8b"
#: Bytes of the longest header, that of NIfTI-2.
_LONGEST = 540
#: Largest extensions of a header that are read, in bytes.
_MOST_EXTENSIONS = 64 << 20

# nibabel's own logger prints what it corrects in a header
_SILENT = logging.Logger("headers")
_SILENT.addHandler(logging.NullHandler())


class Opened(NamedTuple):
    """An image whose header has been read.

    Attributes
    ----------
    header : nibabel.Nifti1Header
        As nibabel uses it, or a ``Nifti2Header``: with its corrections, such as 1 for a ``qfac``
        of 0.
    voxel_size : tuple of 3 float
        As written.
    offset : int
        Byte at which the voxels begin.
    stream : file
        The bytes of the image, decompressed.
    """

    header: Any
    voxel_size: tuple[float, float, float]
    offset: int
    stream: IO[bytes]


@contextmanager
def open_image(path: Path) -> Iterator[Opened]:
    """Open an image, and read its header.

    Parameters
    ----------
    path : pathlib.Path
        A ``.nii`` or ``.nii.gz`` file.

    Yields
    ------
    Opened

    Raises
    ------
    InputError
        Naming the file, for any file that is not a sound NIfTI image with real numbers; also for
        damage that is found while the block reads on.
    """
    with open_input(path) as raw:
        try:
            with _decompressed(path, raw) as stream, np.errstate(all="ignore"):
                yield _read(path, stream)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise InputError(
                f"{path} is truncated or damaged ({error}); copy it again from its source"
            ) from error
        except OSError as error:
            raise unreadable(path, error) from error


def _decompressed(path: Path, raw: IO[bytes]) -> IO[bytes]:
    start = raw.read(400)
    raw.seek(0)
    if not start:
        raise InputError(f"{path} is empty (0 bytes); copy or convert the image again")
    refuse_pointer(path, start)
    if not path.name.endswith(".gz"):
        return raw
    if not start.startswith(_GZIP):
        raise InputError(
            f"{path} is not compressed with gzip, although its name says so; compress it, or"
            " convert the image again"
        )
    return gzip.GzipFile(fileobj=raw)  # type: ignore[return-value]


def _read(path: Path, stream: IO[bytes]) -> Opened:
    start = stream.read(_LONGEST)
    try:
        header, voxel_size = _parse(start)
        offset = int(header["vox_offset"])
        _check_extensions(header, stream, offset)
    except (EOFError, zlib.error, OSError):
        raise  # the file's, not the header's
    except Exception as error:  # nibabel raises a dozen kinds
        raise InputError(
            f"{path} has no readable NIfTI header ({error}); convert the image again"
        ) from error
    dtype = header.get_data_dtype()
    if dtype.kind not in "iuf":
        kind = header.get_value_label("datatype")
        raise InputError(
            f"{path} has values of type {kind}, not one real number per voxel; convert the image"
            " again"
        )
    return Opened(header, voxel_size, offset, stream)


def _parse(start: bytes) -> tuple[Any, tuple[float, float, float]]:
    import nibabel as nb

    size = int.from_bytes(start[:4], "little"), int.from_bytes(start[:4], "big")
    klass: Any = nb.nifti2.Nifti2Header if _LONGEST in size else nb.nifti1.Nifti1Header
    if len(start) < klass.sizeof_hdr:
        raise ValueError(f"the file has {len(start)} bytes")
    header = klass(start[: klass.sizeof_hdr], check=False)
    if header["magic"].item().rstrip(b"\x00")[:3] not in (b"n+1", b"n+2"):
        raise ValueError("no NIfTI magic number")
    x, y, z = (float(size) for size in header["pixdim"][1:4])
    header.check_fix(logger=_SILENT)
    shape = header.get_data_shape()
    if not shape or min(shape) < 1:
        raise ValueError(f"it declares {' x '.join(map(str, shape)) or 'no'} voxels")
    header.get_slope_inter()
    return header, (x, y, z)


def _check_extensions(header: Any, stream: IO[bytes], offset: int) -> None:
    """Check that nibabel can read the extensions, which lie between header and voxels."""
    import nibabel as nb

    stream.seek(header.sizeof_hdr)
    present = stream.read(4)
    left = offset - header.sizeof_hdr - 4
    if len(present) < 4 or not present[0]:
        return
    if left > _MOST_EXTENSIONS:
        raise ValueError(f"its extensions would take {left} bytes")
    order = "little" if header.endianness == "<" else "big"
    while left >= 16:
        about = stream.read(8)
        size = int.from_bytes(about[:4], order, signed=True)  # type: ignore[arg-type]
        code = int.from_bytes(about[4:], order, signed=True)  # type: ignore[arg-type]
        content = stream.read(size - 8) if 8 <= size <= left else b""
        if len(about) < 8 or len(content) != size - 8:
            raise ValueError("its extensions are damaged")
        kind: Any = nb.nifti1.extension_codes.handler.get(code, nb.nifti1.Nifti1Extension)
        kind(code, content.rstrip(b"\0"))
        left -= size
