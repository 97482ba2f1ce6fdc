"""Images whose headers lie about everything but the grid and the values of the voxels."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import re
from collections.abc import Iterator
from pathlib import Path

import nibabel as nb
import numpy as np

from neuroferry.engine.record import list_runs, read_run

#: Metrics name the file that they are of by its digest.
_MD5SUM = re.compile(rb'"md5sum": "[0-9a-f]{32}"')
UNITS = (("unknown", 2000.0), ("msec", 0.0), ("sec", 1.0), ("usec", 2.5))


def lie(path: Path, number: int = 0) -> None:
    """Write an image again with the same values and another header.

    Parameters
    ----------
    path : Path
        The image.
    number : int
        Chooses the kind of lie about time.
    """
    image = nb.load(path)
    header = nb.Nifti1Header()
    slope = 1.0 if np.asarray(image.dataobj).dtype.kind == "i" else 0.5
    data = np.asarray(image.dataobj) / slope
    header.set_data_shape(data.shape)
    header.set_data_dtype(image.get_data_dtype() if slope == 1 else np.float32)
    header.set_sform(image.affine, code=1)
    header["qform_code"] = 0
    unit, tr = UNITS[number % len(UNITS)]
    header.set_xyzt_units("mm", unit)
    header["pixdim"][1:4] = 17.0
    header["pixdim"][4] = tr
    header["pixdim"][5:8] = 3.0
    header["toffset"] = 11.0
    header.set_dim_info(freq=2, phase=1, slice=0)
    header["slice_code"], header["slice_start"], header["slice_end"] = 5, 3, 7
    header["slice_duration"] = 0.9
    header["cal_min"], header["cal_max"] = -5, 7
    header["descrip"], header["aux_file"] = b"TE=2;TR=9;phase=i", b"none.nii"
    header["intent_code"], header["intent_name"] = 1006, b"displacement"
    header["intent_p1"] = 4.0
    header["db_name"], header["session_error"], header["glmax"] = b"somebody", 8, 99
    header.set_slope_inter(slope, 0)
    header["magic"], header["vox_offset"] = b"n+1", 352
    raw = header.binaryblock + b"\0" * 4 + data.astype(header.get_data_dtype()).tobytes(order="F")
    path.write_bytes(gzip.compress(raw, 1, mtime=0))


@contextlib.contextmanager
def lying(root: Path) -> Iterator[list[Path]]:
    """Let the headers of all raw images of a dataset lie, for a while."""
    paths = sorted(root.glob("sub-*/**/*.nii.gz"))
    before = {path: path.read_bytes() for path in paths}
    try:
        for number, path in enumerate(paths):
            lie(path, number)
        yield paths
    finally:
        for path, content in before.items():
            path.write_bytes(content)


def again(out: Path) -> set[str]:
    """Name the steps that the last run of an output folder ran."""
    ran = [step for step in read_run(list_runs(out)[-1]).steps if step.state == "done"]
    return {step.kind.rpartition(".")[2] for step in ran}


def whole(out: Path) -> dict[Path, str]:
    """Compute the SHA-256 of all derivatives of participants, without the digests of inputs."""
    return {
        path: hashlib.sha256(_MD5SUM.sub(b"", path.read_bytes())).hexdigest()
        for path in sorted(out.glob("sub-*/**/*"))
        if path.is_file()
    }


def is_honest(path: Path, tr: float) -> bool:
    """Check the header of an output: the settled repetition time in seconds, voxels in mm."""
    header = nb.load(path).header
    time = header["pixdim"][4]
    return (
        header.get_xyzt_units() == ("mm", "sec")
        and np.isclose(time, tr, rtol=1e-6)
        and not int(header["slice_code"])
        and header.get_dim_info() == (None, None, None)
        and not int(header["intent_code"])
        and not bytes(header["descrip"]).strip(b"\0")
        and float(header["cal_max"]) == 0
    )
