"""A session of scans for export as DICOM: random voxels, so that each is known again."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.spatial.transform import Rotation

from neuroferry.phantom import files
from neuroferry.phantom.gradient_table import bval_text, bvec_text, draw_table

if TYPE_CHECKING:
    from pathlib import Path

TR, SLICES = 2.0, 9
EPI = {"FlipAngle": 90, "EffectiveEchoSpacing": 0.00025, "TotalReadoutTime": 0.00025 * 17}


def write(folder: Path, name: str, shape, zooms, sidecar, *, low=0, turn=(0, 0, 0), flip=-1):
    """Write an image of random voxels, turned by angles in degrees, and its sidecar."""
    rng = np.random.default_rng(len(name))
    data = rng.integers(low, 4000, shape)
    affine = np.eye(4)
    rotation = Rotation.from_euler("xyz", turn, degrees=True).as_matrix()
    affine[:3, :3] = rotation @ np.diag([flip * zooms[0], *zooms[1:]])
    affine[:3, 3] = (20.5, -31.25, 12.125)
    path = files.write_image(folder / f"{name}.nii.gz", data, affine, dtype=np.int16)
    files.write_json(folder / f"{name}.json", sidecar)
    return path, affine


def write_session(root: Path) -> Path:
    """Write one session: an oblique T1w, field maps, BOLD of two echoes, DWI."""
    person = root / "sub-01"
    epi, zooms = (16, 18, SLICES), (3.0, 3.25, 3.5)
    order = np.r_[np.arange(0, SLICES, 2), np.arange(1, SLICES, 2)]
    times = np.round(np.argsort(order) * TR / SLICES, 5).tolist()
    mprage = {"RepetitionTimePreparation": 2.3, "EchoTime": 0.00298, "InversionTime": 0.9}
    turn = (8, -5, 11)
    write(person / "anat", "sub-01_T1w", (14, 20, 17), (1, 1.5, 1.25), mprage, turn=turn, flip=1)
    for way, axis in (("AP", "j-"), ("PA", "j")):
        opposed = {**EPI, "RepetitionTime": 8, "EchoTime": 0.066, "PhaseEncodingDirection": axis}
        write(person / "fmap", f"sub-01_dir-{way}_epi", (*epi, 2), zooms, opposed, turn=turn)
    gre = {"RepetitionTime": 0.6, "FlipAngle": 60}
    for echo, te in enumerate((0.00492, 0.00738), 1):
        write(person / "fmap", f"sub-01_magnitude{echo}", epi, zooms, {**gre, "EchoTime": te})
    both = {**gre, "EchoTime1": 0.00492, "EchoTime2": 0.00738}
    write(person / "fmap", "sub-01_phasediff", epi, zooms, both, low=-4000)
    for echo, te in enumerate((0.013, 0.03), 1):
        sidecar = {**EPI, "RepetitionTime": TR, "EchoTime": te, "SliceTiming": times}
        sidecar["PhaseEncodingDirection"] = "j-"
        name = f"sub-01_task-blocks_echo-{echo}_bold"
        write(person / "func", name, (*epi, 6), zooms, sidecar)
    table = draw_table(6, (1000.0,), 2)
    sidecar = {**EPI, "RepetitionTime": 3 * TR, "EchoTime": 0.08, "PhaseEncodingDirection": "j"}
    sidecar["SliceTiming"] = [round(3 * time, 5) for time in times]
    shape = (*epi, len(table.bvals))
    path, affine = write(person / "dwi", "sub-01_dwi", shape, zooms, sidecar, turn=turn)
    stem = path.name.removesuffix(".nii.gz")
    files.write_text(path.with_name(f"{stem}.bval"), bval_text(table.bvals))
    files.write_text(path.with_name(f"{stem}.bvec"), bvec_text(table.bvecs, affine))
    return root
