"""Series as a scanner would send them, of random voxels, for tests of the intake."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

import numpy as np

from neuroferry.intake.headers import read_instance
from neuroferry.intake.model import Series
from neuroferry.phantom.dicom import Patient, ScannedSeries, Scanner, objects, write_objects

PATIENT = Patient("MRN-778812", "Mustermann^Erika", "19640812")
START = datetime(2024, 3, 5, 9, 30)
TR, SLICES, VOLUMES = 2.0, 5, 6


def scan(protocol, number=2, *, minutes=0.0, volumes=None, seed=None, study="study", **changes):
    """Make a series named as ReproIn names it."""
    kind = protocol.split("_")[0]
    suffix = {"func": "bold", "func-bold": "bold", "dwi": "dwi", "fmap": "epi"}.get(
        kind, kind.partition("-")[2] or "T1w"
    )
    timed = suffix in ("bold", "dwi", "epi")
    n_volumes = volumes or (VOLUMES if suffix in ("bold", "dwi") else 1)
    rng = np.random.default_rng(number if seed is None else seed)
    shape = (8, 10, SLICES, n_volumes)
    times = np.array([0.0, 0.8, 0.4, 1.2, 1.6]) if timed else None
    sidecar = {"RepetitionTime": TR, "EchoTime": 0.03, "FlipAngle": 70}
    if timed:
        sidecar |= {"EffectiveEchoSpacing": 0.0005, "TotalReadoutTime": 0.0045}
    gradients = np.array([0.0, *[1000.0] * (n_volumes - 1)])
    directions = np.vstack([np.zeros(3), np.eye(3)[np.arange(n_volumes - 1) % 3]])
    values = {
        "data": rng.integers(1, 3000, shape).astype(np.int16),
        "affine": np.diag([3.0, 3.0, 3.5, 1.0]),
        "sidecar": sidecar,
        "protocol": protocol,
        "suffix": suffix,
        "number": number,
        "started": START + timedelta(minutes=minutes or 5 * number),
        "study": study,
        "uid": f"{protocol}/{number}/{seed}",
        "volume_times": np.arange(n_volumes) * TR,
        "slice_times": times,
        "phase_axis": 1 if timed else None,
    }
    if suffix == "dwi":
        values |= {"bvals": gradients, "bvecs": directions}
    return ScannedSeries(**(values | changes))


def made(series, form="mosaic", vendor="siemens", patient=PATIENT, **scanner):
    """Make its objects."""
    return list(objects(series, patient, Scanner(vendor, **scanner), form))


def received(folder: Path, *groups, key="") -> Series:
    """Write objects as the intake has received them, and group them."""
    paths = [
        path
        for number, group in enumerate(groups)
        for path in write_objects(folder, group, prefix=f"{number}-")
    ]
    instances = sorted(map(read_instance, paths), key=lambda one: one.instance_number or 0)
    digits = instances[0].series_uid.rpartition(".")[2]
    return Series(key or f"{int(digits):x}"[-24:], tuple(instances))
