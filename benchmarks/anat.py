"""Benchmark of the anatomical workflow: quality on phantoms, time and memory on any head.

Phantoms have a known truth; on them other tools run the same step on the same input, in the same
run. They are derived from the template that they are registered to, so their template overlap is
optimistic; images of real heads are given as paths.

    python benchmarks/anat.py WORK_DIR --subjects 4 --resolution 1 --heads T1W ... --table T.rst
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nb
import numpy as np
from ants_env import ants_session, to_ants

from neuroferry.interfaces.anat.average import AverageRuns
from neuroferry.interfaces.anat.brain import ExtractBrain
from neuroferry.interfaces.anat.normalise import Normalise
from neuroferry.interfaces.anat.segment import SegmentTissues
from neuroferry.interfaces.image.bias import CorrectBias, foreground
from neuroferry.interfaces.image.images import Volume, load_volume, to_canonical
from neuroferry.interfaces.image.to_template import CarryToTemplate
from neuroferry.interfaces.image.transforms import (
    DisplacementField,
    jacobian_determinant,
    read_itk_composite,
)
from neuroferry.phantom import write_phantom_dataset
from neuroferry.phantom.score import bias_error, dice, template_overlap, tissue_dice
from neuroferry.templates import load_template


@dataclass(frozen=True)
class Cost:
    """Cost of one step, in a process of its own.

    Attributes
    ----------
    wall, cpu : float
        Seconds.
    peak_gb : float
        Largest resident memory.
    """

    wall: float
    cpu: float
    peak_gb: float


def _measured(function: Callable[..., Any], args: tuple[Any, ...], cwd: str) -> tuple[Any, Cost]:
    os.chdir(cwd)
    wall, cpu = time.perf_counter(), time.process_time()
    result = function(*args)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return result, Cost(wall, cpu, _peak_gb())


def _peak_gb() -> float:
    """Read the peak resident memory of this process; getrusage would count its parent's too."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024 / 1e9


def measured(function: Callable[..., Any], *args: Any, cwd: Path) -> tuple[Any, Cost]:
    """Call a function in a fresh process; return its result and its cost."""
    cwd.mkdir(parents=True, exist_ok=True)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(_measured, function, args, str(cwd)).result()


def run_interface(kind: str, inputs: dict[str, Any]) -> dict[str, Any]:
    """Run the interface of one step in the current folder; return its outputs."""
    interface = {
        "average_runs": AverageRuns,
        "extract_brain": ExtractBrain,
        "correct_bias": CorrectBias,
        "register_template": Normalise,
        "segment_tissues": SegmentTissues,
        "carry_to_template": CarryToTemplate,
    }[kind]
    outputs: dict[str, Any] = interface(**inputs).run().outputs.get()
    return outputs


def run_workflow(t1w: Path, work: Path) -> tuple[dict[str, Any], dict[str, Cost]]:
    """Run every step of the anatomical workflow on one head, one after the other."""
    costs: dict[str, Cost] = {}

    def step(kind: str, **inputs: Any) -> dict[str, Any]:
        outputs, costs[kind] = measured(run_interface, kind, inputs, cwd=work / kind)
        return dict(outputs)

    ref = step("average_runs", t1w=[str(t1w)])["t1w_ref"]
    brain = step("extract_brain", in_file=ref)
    mask = brain["out_mask"]
    bias = step("correct_bias", in_file=ref, in_mask=mask)
    preproc = bias["out_file"]
    norm = step("register_template", in_file=preproc, in_mask=mask, start=brain["std2anat_affine"])
    tissues = step(
        "segment_tissues", in_file=preproc, in_mask=mask, std2anat_xfm=norm["std2anat_xfm"]
    )
    std = step(
        "carry_to_template",
        t1w=preproc,
        mask=mask,
        dseg=tissues["dseg"],
        tpms=tissues["tpms"],
        anat2std_xfm=norm["anat2std_xfm"],
    )
    return {"t1w_ref": ref, **brain, **bias, **norm, **tissues, **std, "preproc": preproc}, costs


def array(path: str | Path) -> np.ndarray[Any, Any]:
    """Read an image in canonical axis order."""
    return np.asanyarray(nb.as_closest_canonical(nb.load(path)).dataobj)


def folded(outputs: dict[str, Any]) -> int:
    """Count template brain voxels where the displacements fold, summed over both directions."""
    inside = load_template(1).brain_mask
    chains = [*read_itk_composite(outputs["anat2std_xfm"])]
    chains += read_itk_composite(outputs["std2anat_xfm"])
    fields = [field for field in chains if isinstance(field, DisplacementField)]
    return sum(int(np.sum(jacobian_determinant(field)[inside] <= 0)) for field in fields)


# Other tools, each with the inputs of our step. -----------------------------------------


def ants_n4(t1w: str) -> np.ndarray[Any, Any]:
    """Estimate the field by N4 of antspyx over the head; also stored for the masks below."""
    volume = to_canonical(load_volume(t1w))
    mask = foreground(volume.data)
    with ants_session() as ants:
        field = ants.n4_bias_field_correction(
            to_ants(ants, volume.data, volume.affine),
            mask=to_ants(ants, mask, volume.affine),
            shrink_factor=4,
            return_bias_field=True,
            spline_param=200,
        ).numpy()
    np.save("field.npy", field)
    return np.asarray(field)


def _corrected(t1w: str) -> Volume:
    volume = to_canonical(load_volume(t1w))
    return volume.with_data(volume.data / np.load("field.npy"))


def ants_mask(t1w: str) -> np.ndarray[Any, Any]:
    """Extract the brain by ``ants.get_mask`` of the N4-corrected head."""
    volume = _corrected(t1w)
    with ants_session() as ants:
        mask = ants.get_mask(to_ants(ants, volume.data, volume.affine), cleanup=2)
    return np.asarray(mask.numpy()) > 0.5


def otsu_mask(t1w: str) -> np.ndarray[Any, Any]:
    """Extract the brain by Otsu's threshold, opening and the largest component, after N4."""
    from scipy import ndimage
    from skimage.filters import threshold_otsu

    volume = _corrected(t1w)
    bright = volume.data > threshold_otsu(volume.data)
    steps = max(1, round(4 / float(volume.zooms.mean())))
    labels, _ = ndimage.label(ndimage.binary_erosion(bright, iterations=steps))
    largest = labels == 1 + np.argmax(np.bincount(labels.ravel())[1:])
    grown = ndimage.binary_dilation(largest, iterations=steps)
    return np.asarray(ndimage.binary_fill_holes(grown))


def dipy_mask(t1w: str) -> np.ndarray[Any, Any]:
    """Extract the brain by ``median_otsu`` of DIPY."""
    from dipy.segment.mask import median_otsu

    volume = to_canonical(load_volume(t1w))
    return np.asarray(median_otsu(volume.data, median_radius=2, numpass=1)[1])


def nilearn_mask(t1w: str) -> np.ndarray[Any, Any]:
    """Extract the brain by ``compute_brain_mask`` of nilearn (the template's mask, in place)."""
    from nilearn.masking import compute_brain_mask

    image = nb.as_closest_canonical(nb.load(t1w))
    return np.asanyarray(compute_brain_mask(image).dataobj) > 0


def atropos(preproc: str, mask: str, std2anat: str) -> np.ndarray[Any, Any]:
    """Segment tissues by Atropos of antspyx with the priors of our segmentation."""
    from neuroferry.interfaces.anat.segment import warp_priors
    from neuroferry.interfaces.image.images import load_mask

    volume = load_volume(preproc)
    inside = load_mask(mask, volume)
    priors = warp_priors(volume, inside, std2anat)
    # Atropos numbers classes by brightness: CSF, GM, WM.
    with ants_session() as ants:
        found = ants.atropos(
            a=to_ants(ants, volume.data, volume.affine),
            x=to_ants(ants, inside, volume.affine),
            i=[to_ants(ants, priors[k], volume.affine) for k in (2, 0, 1)],
            m="[0.1,1x1x1]",
            c="[10,0]",
            priorweight=0.25,
        )
    labels = np.rint(found["segmentation"].numpy()).astype(int)
    return np.asarray(np.array([0, 3, 1, 2])[labels])


PEER_MASKS: dict[str, Callable[[str], np.ndarray[Any, Any]]] = {
    "ants.get_mask after N4": ants_mask,
    "N4, Otsu, opening": otsu_mask,
    "DIPY median_otsu": dipy_mask,
    "nilearn compute_brain_mask": nilearn_mask,
}


def rst_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Format a table in reStructuredText.

    >>> print(rst_table(["a", "b"], [["1", "22"]]))
    =  ==
    a  b
    =  ==
    1  22
    =  ==
    """
    body = [list(header), *map(list, rows)]
    widths = [max(len(row[column]) for row in body) for column in range(len(header))]
    rule = "  ".join("=" * width for width in widths)
    lines = ["  ".join(c.ljust(w) for c, w in zip(r, widths, strict=True)).rstrip() for r in body]
    return "\n".join([rule, lines[0], rule, *lines[1:], rule])


def measure_phantom(
    root: Path, label: str, work: Path, *, peers: bool
) -> tuple[list[str], list[list[str]]]:
    """Measure the quality on one phantom: our row, and a row for each peer."""
    t1w = root / f"sub-{label}/anat/sub-{label}_T1w.nii.gz"
    truth = root / f"derivatives/truth/sub-{label}/anat"
    brain = array(truth / f"sub-{label}_desc-brain_mask.nii.gz") > 0
    field = array(truth / f"sub-{label}_desc-biasfield_T1w.nii.gz")
    labels = array(truth / f"sub-{label}_dseg.nii.gz")
    outputs, costs = run_workflow(t1w, work / f"sub-{label}")
    tissue = tissue_dice(array(outputs["dseg"]), labels)
    overlap = template_overlap(array(outputs["std_tpms"][0]), load_template(1).gm)
    score = json.loads(Path(outputs["out_score"]).read_text())
    ours = [
        f"sub-{label}",
        f"{dice(array(outputs['out_mask']), brain):.3f}",
        *(f"{tissue[name]:.3f}" for name in ("GM", "WM", "CSF")),
        f"{100 * bias_error(array(outputs['bias_field']), field, brain):.1f} %",
        f"{100 * bias_error(np.ones_like(field), field, brain):.1f} %",
        f"{overlap:.3f}",
        str(folded(outputs)),
        f"{score['confidence']:.2f}",
        f"{sum(cost.cpu for cost in costs.values()):.0f}",
    ]
    rows = [
        ["brain mask", f"sub-{label}", "neuroferry", ours[1], _seconds(costs["extract_brain"])]
    ]
    rows.append(
        ["GM / WM", f"sub-{label}", "neuroferry", f"{ours[2]} / {ours[3]}",
         _seconds(costs["segment_tissues"])]
    )  # fmt: skip
    rows.append(
        ["bias error", f"sub-{label}", "neuroferry", ours[5], _seconds(costs["correct_bias"])]
    )
    if peers:
        rows += _measure_peers(label, t1w, outputs, (brain, field, labels), work)
    return ours, rows


def _seconds(cost: Cost) -> str:
    return f"{cost.cpu:.0f} s"


def _measure_peers(
    label: str,
    t1w: Path,
    outputs: dict[str, Any],
    truth: tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], np.ndarray[Any, Any]],
    work: Path,
) -> list[list[str]]:
    """Measure the same steps by other tools, on the same phantom."""
    brain, field, labels = truth
    folder = work / f"sub-{label}" / "peers"
    estimated, cost = measured(ants_n4, str(t1w), cwd=folder)
    error = f"{100 * bias_error(estimated, field, brain):.1f} %"
    rows = [["bias error", f"sub-{label}", "antspyx N4 over the head", error, _seconds(cost)]]
    for name, function in PEER_MASKS.items():
        mask, cost = measured(function, str(t1w), cwd=folder)
        rows.append(
            ["brain mask", f"sub-{label}", name, f"{dice(mask, brain):.3f}", _seconds(cost)]
        )
    found, cost = measured(
        atropos, outputs["preproc"], outputs["out_mask"], outputs["std2anat_xfm"], cwd=folder
    )
    tissue = tissue_dice(found, labels)
    rows.append(
        ["GM / WM", f"sub-{label}", "antspyx Atropos, same priors",
         f"{tissue['GM']:.3f} / {tissue['WM']:.3f}", _seconds(cost)]
    )  # fmt: skip
    return rows


def measure_head(path: Path, work: Path) -> tuple[list[list[str]], list[str]]:
    """Measure the cost of each step on one head, and a row of values that need no truth."""
    name = path.name.split("_")[0]
    outputs, costs = run_workflow(path, work / f"head-{path.parent.parent.name}-{name}")
    rows = [
        [name, step, f"{cost.wall:.0f}", f"{cost.cpu:.0f}", f"{cost.peak_gb:.2f}"]
        for step, cost in costs.items()
    ]
    rows.append(
        [name, "all, one after the other", f"{sum(c.wall for c in costs.values()):.0f}",
         f"{sum(c.cpu for c in costs.values()):.0f}",
         f"{max(c.peak_gb for c in costs.values()):.2f}"]
    )  # fmt: skip
    score = json.loads(Path(outputs["out_score"]).read_text())
    volume = Volume(array(outputs["dseg"]).astype(np.float32), nb.load(outputs["dseg"]).affine)
    voxel = float(np.prod(volume.zooms)) / 1000
    millilitres = [f"{np.sum(volume.data == label) * voxel:.0f}" for label in (1, 2, 3)]
    overlap = template_overlap(array(outputs["std_tpms"][0]), load_template(1).gm)
    figures = [name, f"{overlap:.3f}", str(folded(outputs)), f"{score['volume_ml']:.0f}"]
    return rows, [*figures, *millilitres, f"{score['confidence']:.2f}", score["verdict"]]


def main() -> int:
    """Run the requested benchmarks and print or write the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work_dir", type=Path)
    parser.add_argument(
        "--subjects", type=int, default=4, help="number of phantoms; every third is a child"
    )
    parser.add_argument(
        "--resolution", type=float, default=1.0, help="voxel size of the phantoms, mm"
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--peers", type=int, default=2, help="number of phantoms processed by other tools too"
    )
    parser.add_argument("--heads", type=Path, nargs="*", default=[], help="T1w images")
    parser.add_argument("--table", type=Path, help="write here instead of printing")
    options = parser.parse_args()
    work = options.work_dir.resolve()
    parts = []
    if options.subjects:
        parts += _phantom_tables(options, work)
    if options.heads:
        measured_heads = [measure_head(path.resolve(), work) for path in options.heads]
        header = ["head", "GM overlap", "folded", "brain ml", "GM", "WM", "CSF", "confidence",
                  "verdict"]  # fmt: skip
        parts.append(rst_table(header, [figures for _, figures in measured_heads]))
        header = ["head", "step", "wall s", "CPU s", "peak GB"]
        parts.append(rst_table(header, [row for rows, _ in measured_heads for row in rows]))
    text = "\n\n".join(parts) + "\n"
    if options.table:
        options.table.write_text(text, encoding="utf-8")
    else:
        sys.stdout.write(text)
    return 0


def _phantom_tables(options: argparse.Namespace, work: Path) -> list[str]:
    root = work / f"phantom-{options.resolution:g}mm"
    people = write_phantom_dataset(
        root,
        subjects=options.subjects,
        resolution=options.resolution,
        seed=options.seed,
        overwrite=True,
    )
    results = [
        measure_phantom(root, person.label, work / root.name, peers=index < options.peers)
        for index, person in enumerate(people)
    ]
    header = ["phantom", "mask Dice", "GM", "WM", "CSF", "bias error", "uncorrected",
              "GM overlap", "folded", "confidence", "CPU s"]  # fmt: skip
    peer_rows = sorted(
        (row for _, rows in results[: options.peers] for row in rows),
        key=lambda row: (row[0], row[1]),
    )
    peer_header = ["step", "phantom", "tool", "result", "CPU"]
    return [
        rst_table(header, [ours for ours, _ in results]),
        rst_table(peer_header, peer_rows),
    ]


if __name__ == "__main__":
    raise SystemExit(main())
