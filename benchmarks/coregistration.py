"""Accuracy and confidence of the registration of echo-planar images to the T1w image.

Usage::

    python benchmarks/coregistration.py [--phantoms 60] [--first 0] [--kinds bold dwi gre]

Each phantom is a BOLD reference, a mean b0 image or the magnitude of a gradient-echo field map of
a digital head that moved between scans by up to 15 mm and 10 degrees. Drawn for each: a receive
field from flat to that of many small coils without a filter, the slices (thin or thick, the whole
brain or a part of it), noise, and distortion that is left uncorrected. The error is the mean
distance of the brain's points (of all of them, seen by the slices or not) between the transform
found and the true one. Field maps (``gre``) are placed on the BOLD reference of the same number,
whose distortion stays, as if the head had moved twice. Some BOLD references are also registered
to the T1w image of another head, which has no right answer: it must not be called good.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import ndimage

from neuroferry.interfaces.epi.brain_mask import carry_mask
from neuroferry.interfaces.epi.coregister import coregister
from neuroferry.interfaces.epi.fieldmap_place import check_place, find_place
from neuroferry.interfaces.image.images import Volume, inverse
from neuroferry.phantom.bold import lay_slab
from neuroferry.phantom.epi import (
    EpiGrid,
    EpiHead,
    add_noise,
    render_volume,
    trace,
    undistorted,
)
from neuroferry.phantom.fieldmodel import susceptibility_field
from neuroferry.phantom.motion import rigid
from neuroferry.phantom.relaxation import gradient_echo, relative, spin_echo
from neuroferry.phantom.score import rigid_error
from neuroferry.phantom.subject import SubjectAnatomy, draw_subject, grow_subject
from neuroferry.phantom.t1w import draw_scan, scan_pose, simulate_t1w

HEADS = 12
SEED = 7331
READOUT_PER_LINE = 0.0005  # s
KINDS = ("bold", "dwi", "gre")
STRANGERS = 4  # of so many phantoms, one is also registered to another head
WRONG_MM = 1.5


@dataclass(frozen=True)
class Anatomy:
    """T1w image of a phantom with its true brain and white matter, and the head's position."""

    head: SubjectAnatomy
    pose: NDArray[np.float64]
    t1w: Volume
    mask: NDArray[np.bool_]
    wm: Volume


@dataclass(frozen=True)
class Case:
    """One image to register, and what was drawn for it."""

    kind: str
    number: int
    anatomy: Anatomy
    epi: Volume
    truth: NDArray[np.float64]
    drawn: dict[str, float]


@lru_cache(maxsize=2)
def anatomy_of(number: int) -> Anatomy:
    """Simulate the T1w image of a head, 1.5 mm, with bias field and noise removed in part."""
    head = grow_subject(draw_subject(number, seed=SEED, label=f"{number:02d}"))
    rng = np.random.default_rng([SEED, number])
    scan = draw_scan(head, rng, resolution=1.5)
    made = simulate_t1w(head, scan, rng)
    # A quarter of the bias field is left, as after its correction.
    data = made.t1w / made.bias**0.75
    wm = ndimage.gaussian_filter(made.tissues[1], 0.5)
    return Anatomy(
        head,
        scan_pose(scan),
        Volume(data.astype(np.float32), made.affine),
        made.brain_mask,
        Volume(wm.astype(np.float32), made.affine),
    )


def draw_case(kind: str, number: int) -> Case:
    """Draw and simulate one image."""
    anatomy = anatomy_of(number % HEADS)
    rng = np.random.default_rng([SEED, KINDS.index(kind), number])
    far = 0.2 if rng.random() < 0.4 else 1.0  # as the head lies still, in many sessions
    rotation, shift = rng.uniform(-1, 1, (2, 3))
    rotation *= far * rng.uniform(0, 10) / np.linalg.norm(rotation)
    shift *= far * rng.uniform(0, 15) / np.linalg.norm(shift)
    drawn: dict[str, float] = {
        "rotation": float(np.linalg.norm(rotation)),
        "shift": float(np.linalg.norm(shift)),
        "coils_mm": float(rng.choice([28.0, 34.0, 45.0, 70.0])),
        "snr": float(np.exp(rng.uniform(np.log(8), np.log(60)))),
        "distortion": float(rng.choice([0.0, 0.0, 2.0, 4.0, 6.0])),
        "coverage": float(rng.choice([1.0, 1.0, 0.7, 0.45])),
        "thick": float(rng.choice([1, 1, 2, 3])),
        "zoom": float(rng.uniform(2.2, 3.4)),
    }
    if kind == "gre":
        drawn["distortion"] = 0.0
    motion = rigid(rotation, shift, anatomy.pose[:3, 3])
    pose = motion @ anatomy.pose
    warp = anatomy.head.warp.placed(pose @ anatomy.head.warp.affine)
    grid = _lay_slices(warp, drawn, rng)
    field = None
    if drawn["distortion"]:
        largest = drawn["distortion"] / drawn["zoom"] / grid.readout
        field = susceptibility_field(
            anatomy.head, warp, pose, largest=largest, steepest=0.5 / drawn["zoom"] / grid.readout
        )
    head = EpiHead(anatomy.head, warp, pose, grid, field)
    voxels = head.signal_voxels()
    origin = undistorted(voxels) if field is None else trace(head, grid, np.eye(4), voxels)
    brain = head.tissues.sum(axis=0) >= 0.5
    coil = _receive_field(rng, grid, brain, drawn["coils_mm"])
    drawn["unevenness"] = float(np.log(coil[brain]).std())
    te, contrast = _contrast(kind, rng)
    lost = head.dephasing(te, slice_axis=2) if kind != "dwi" else None
    image = render_volume(head, 1000 * head.image(contrast, lost), origin, np.eye(4), coil=coil)
    image = add_noise(image, 1000 / drawn["snr"] * drawn["thick"] ** 0.5, rng)
    epi = _thick(Volume(image, grid.affine), int(drawn["thick"]))
    drawn["slices"] = float(epi.shape[2])
    # T1w points to image points.
    return Case(kind, number, anatomy, epi, motion, drawn)


def _contrast(kind: str, rng: np.random.Generator) -> tuple[float, dict[str, float]]:
    """Draw the echo time and the brightness of tissues relative to white matter."""
    if kind == "dwi":
        te = float(rng.uniform(0.06, 0.1))
        found = spin_echo(echo_time=te, tr=float(rng.uniform(3, 9)))
    elif kind == "gre":
        te = float(rng.uniform(0.004, 0.008))
        found = gradient_echo(echo_time=te, tr=0.5, flip=float(rng.uniform(40, 60)))
    else:
        te = float(rng.uniform(0.025, 0.035))
        tr = float(rng.uniform(0.8, 3.0))
        found = gradient_echo(echo_time=te, tr=tr, flip=float(rng.uniform(45, 80)))
    return te, relative(found, found["wm"])


def _lay_slices(warp: Any, drawn: dict[str, float], rng: np.random.Generator) -> EpiGrid:
    """Place slices over the brain, or over a part of it anywhere between its ends."""
    tilt = rigid(rng.normal(0, (8, 2, 2)), (0, 0, 0))[:3, :3]
    zoom = drawn["zoom"]
    orientation = str(rng.choice(["LAS", "RAS", "LPS"]))
    whole = lay_slab(warp, orientation, tilt, direction="AP", zoom=zoom, coverage=1.0)
    thick = int(drawn["thick"])
    count = int(np.ceil(whole.shape[2] * drawn["coverage"] / thick)) * thick
    spare = max(whole.shape[2] - count, 0)
    low = int(rng.integers(spare // 3, spare + 1)) if drawn["coverage"] < 1 else 0
    affine = whole.affine.copy()
    affine[:3, 3] += affine[:3, 2] * low
    readout = READOUT_PER_LINE * (whole.shape[1] - 1)
    return EpiGrid(affine, (*whole.shape[:2], count), whole.direction, readout)


def _receive_field(
    rng: np.random.Generator, grid: EpiGrid, brain: NDArray[np.bool_], radius: float
) -> NDArray[np.float32]:
    """Combine many small coils around the head by the root sum of squares; mean 1 in the brain."""
    points = np.moveaxis(np.indices(grid.shape, dtype=np.float64), 0, -1)
    points = points @ grid.affine[:3, :3].T + grid.affine[:3, 3]
    middle = points[brain].mean(axis=0)
    middle[2] = points[brain][:, 2].max() - 75
    total = np.zeros(grid.shape)
    for _ in range(40):
        way = rng.normal(size=3)
        way /= np.linalg.norm(way)
        if way[2] < -0.5:  # the neck
            continue
        place = middle + way * (95, 115, 105) + rng.normal(0, 4, 3) + (0, -10, 0)
        square = ((points - place) ** 2).sum(axis=-1)
        total += rng.uniform(0.5, 1.5) * (1 + square / radius**2) ** -3
    field = np.sqrt(total)
    scaled: NDArray[np.float32] = (field / field[brain].mean()).astype(np.float32)
    return scaled


def _thick(image: Volume, times: int) -> Volume:
    """Average neighbouring slices."""
    if times == 1:
        return image
    slices = image.data.reshape(*image.shape[:2], -1, times).mean(axis=-1, dtype=np.float32)
    affine = image.affine.copy()
    affine[:3, 3] += affine[:3, 2] * (times - 1) / 2
    affine[:3, 2] *= times
    return Volume(np.ascontiguousarray(slices), affine)


def score(case: Case, other: Anatomy | None = None) -> dict[str, Any]:
    """Register one image, to its own T1w image or to that of another head; measure the error."""
    anatomy = other or case.anatomy
    start = time.process_time()
    found = coregister(case.epi, anatomy.t1w, anatomy.mask, anatomy.wm)
    seconds = time.process_time() - start
    mean, _ = rigid_error(found.matrix, case.truth, anatomy.mask, anatomy.t1w.affine)
    return {
        "kind": case.kind if other is None else "other head",
        "number": case.number,
        "slices": case.drawn["slices"],
        "snr": case.drawn["snr"],
        "unevenness": case.drawn["unevenness"],
        "distortion": case.drawn["distortion"],
        "error_mm": mean,
        "expected_mm": found.expected_error_mm or np.nan,
        "cost": found.boundary_cost,
        "rise": found.boundary_rise,
        "verdict": found.verdict,
        "seconds": seconds,
    }


def place_map(bold: Case, fieldmap: Case) -> dict[str, Any]:
    """Place the magnitude of a field map on a BOLD reference of the same head."""
    anatomy = bold.anatomy
    truth = fieldmap.truth @ inverse(bold.truth)
    mask = carry_mask(
        Volume(anatomy.mask.astype(np.float32), anatomy.t1w.affine),
        inverse(fieldmap.truth),
        fieldmap.epi,
    )
    start = time.process_time()
    matrix = find_place(bold.epi, fieldmap.epi, mask)
    found = check_place(bold.epi, fieldmap.epi, mask, matrix)
    seconds = time.process_time() - start
    # Both map points of the BOLD reference.
    mean, _ = rigid_error(found.matrix, truth, anatomy.mask, bold.truth @ anatomy.t1w.affine)
    return {
        "kind": "field map",
        "number": bold.number,
        "slices": min(bold.drawn["slices"], fieldmap.drawn["slices"]),
        "snr": min(bold.drawn["snr"], fieldmap.drawn["snr"]),
        "unevenness": bold.drawn["unevenness"],
        "distortion": bold.drawn["distortion"],
        "error_mm": mean,
        "expected_mm": np.nan,
        "cost": found.sharpness[0],
        "rise": found.sharpness[1],
        "verdict": found.verdict,
        "seconds": seconds,
    }


def summarise(rows: pd.DataFrame) -> pd.DataFrame:
    """Make one row for each kind of registration."""
    found = []
    for kind, part in rows.groupby("kind", sort=False):
        good = part[part.verdict == "good"]
        unmarked = good.error_mm if kind != "other head" else good.error_mm * np.nan
        found.append(
            {
                "kind": kind,
                "phantoms": len(part),
                "good": len(good),
                "look": int((part.verdict == "look").sum()),
                "bad": int((part.verdict == "bad").sum()),
                "median mm": part.error_mm.median() if kind != "other head" else np.nan,
                "worst mm, good": unmarked.max(),
                "good and over 1.5 mm": int((unmarked > WRONG_MM).sum()),
                "CPU s": part.seconds.median(),
            }
        )
    return pd.DataFrame(found)


def main() -> None:
    """Print one row a registration, and a summary."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--phantoms", type=int, default=60, help="of each kind")
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=KINDS)
    arguments = parser.parse_args()
    rows = []
    numbers = range(arguments.first, arguments.first + arguments.phantoms)
    # A head takes the longest to make: all phantoms of one head follow each other.
    for number in sorted(numbers, key=lambda one: (one % HEADS, one)):
        cases = {kind: draw_case(kind, number) for kind in arguments.kinds}
        rows += [score(case) for kind, case in cases.items() if kind != "gre"]
        if number % STRANGERS == 0 and "bold" in cases:
            rows.append(score(cases["bold"], anatomy_of((number + 5) % HEADS)))
        if {"bold", "gre"} <= cases.keys():
            rows.append(place_map(cases["bold"], cases["gre"]))
        print(pd.DataFrame(rows[-1:]).round(2).to_string(header=len(rows) == 1), flush=True)
    table = pd.DataFrame(rows)
    print(table.sort_values(["kind", "number"]).round(2).to_string())
    print(summarise(table).round(2).to_string(index=False))


if __name__ == "__main__":
    main()
