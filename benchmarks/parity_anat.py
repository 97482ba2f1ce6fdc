"""T1w and T2w metrics against MRIQC's own functions, on the same images and the same masks.

A phantom's T1w and T2w images, or others, are segmented once. MRIQC's functions get the arrays
that ours get: the image divided by its bias field, with white matter at 1000, and the cores of the
tissues. AFNI's ``3dFWHMx``, which MRIQC calls for ``fwhm_*``, is not there: its published
definition is written out in ``parity_bold.py``.

    python benchmarks/parity_anat.py [--t1w T1W] [--t2w T2W] [--table table.rst]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
from mriqc_env import Call, call_mriqc
from numpy.typing import NDArray
from parity_bold import forman
from qc_quick import run

from neuroferry.interfaces.anat.quick import FindAnatomy, SegmentQuickly
from neuroferry.interfaces.qc import regions
from neuroferry.interfaces.qc.head_regions import Regions, find_regions
from neuroferry.interfaces.qc.maps import AnatMaps, gather_maps
from neuroferry.interfaces.qc.metrics import compute_metrics
from neuroferry.templates import load_template

BOUND = 1e-6
QUANTILE_BOUND = 2e-3
#: MRIQC rounds some results; its functions are asked for more digits where they allow it.
DIGITS = {"decimals": 12}
QUANTILES = ("p05", "p95", "median", "mad")
#: Probabilities below this are no tissue, as in ``rpve`` of the package.
FLOOR = 0.01
#: Not compared: the definition is another one.
OTHERS = {"qi_2"}
WHY = {
    "mriqc": "MRIQC's function",
    "quantile": "MRIQC's function; its quantiles are those of a weighted sample",
    "floor": f"MRIQC's function, given the maps without probabilities below {FLOOR}",
    "summaries": "MRIQC's function, given the summaries of neuroferry",
    "formula": "the formula in MRIQC's StructuralQC",
    "definition": "the published definition",
}
Row = tuple[str, float, float, float, str]


def phantom(folder: Path) -> dict[str, Path]:
    """Write a T1w and a T2w image of one head; return their paths by contrast."""
    from neuroferry.phantom import write_phantom_dataset

    write_phantom_dataset(folder, subjects=1, resolution=1.5, seed=3, t2w=True)
    return {c: next(folder.glob(f"sub-*/anat/*_{c}.nii.gz")) for c in ("T1w", "T2w")}


def find_maps(path: Path, contrast: str, folder: Path) -> tuple[AnatMaps, Regions]:
    """Find the maps and the regions of an image as the quality workflow does."""
    seconds: dict[str, float] = {}
    found = run(FindAnatomy, folder, seconds, in_file=str(path), contrast=contrast)
    tissues = run(
        SegmentQuickly,
        folder,
        seconds,
        in_file=found.preproc,
        in_mask=found.brain_mask,
        priors=found.priors,
        contrast=contrast,
    )
    maps, _ = gather_maps(
        t1w=found.image,
        run2ref_xfm=None,
        bias_field=found.bias_field,
        brain_mask=found.brain_mask,
        dseg=tissues.dseg,
        tpms=tissues.tpms,
        std2anat_xfm=found.std2anat_xfm,
        template=load_template(2),
        template_tpms=found.priors,
        bright_wm=contrast == "T1w",
    )
    around = find_regions(maps.t1w, maps.corrected, maps.brain, maps.above_face, maps.spacing)
    return maps, around


def tissue_cores(
    maps: AnatMaps, image: NDArray[np.float32], air: NDArray[np.bool_]
) -> dict[str, NDArray[np.uint8]]:
    """Choose the voxels that the summaries are taken of, on the whole image."""
    erode = regions.should_erode(maps.spacing)
    cores = {}
    for name in regions.TISSUES:
        core = np.zeros(image.shape, dtype=bool)
        core[maps.box] = regions.tissue_core(maps.tpms[name], erode=erode)
        if name == "wm" and maps.bright_wm:
            core = regions.without_bright_outliers(image, core)
        cores[name] = core.astype(np.uint8)
    cores["bg"] = regions.tissue_core(air.astype(np.float32), erode=erode).astype(np.uint8)
    return cores


def whole_map(part: NDArray[np.float32], maps: AnatMaps) -> NDArray[np.float64]:
    """Put a cropped map back into the field of view."""
    whole = np.zeros(maps.t1w.shape)
    whole[maps.box] = part
    return whole


def theirs(maps: AnatMaps, around: Regions, ours: dict[str, float]) -> dict[str, float]:
    """Compute MRIQC's values."""
    erode = regions.should_erode(maps.spacing)
    factor = regions.harmonization_factor(maps.corrected[maps.box], maps.tpms["wm"], erode=erode)
    image = maps.corrected * np.float32(factor)
    wide = image.astype(np.float64)
    frame, head = around.frame.astype(np.uint8), around.head.astype(np.uint8)
    tissues = [whole_map(maps.tpms[name], maps) for name in regions.TISSUES]
    template = [whole_map(maps.template_tpms[name], maps) for name in regions.TISSUES]
    anat = "mriqc.qc.anatomical"
    found = call_mriqc(
        {
            "summary": Call(
                f"{anat}:summary_stats",
                (wide, tissue_cores(maps, image, around.air)),
                {**DIGITS, "rprec_data": 9},
            ),
            "efc": Call(f"{anat}:efc", (wide, frame), DIGITS),
            "fber": Call(f"{anat}:fber", (wide, head, frame), DIGITS),
            "qi_1": Call(
                f"{anat}:art_qi1", (around.air.astype(int), around.artifacts.astype(int))
            ),
            "icvs": Call(f"{anat}:volume_fraction", (tissues,)),
            "rpve": Call(f"{anat}:rpve", ([np.where(p < FLOOR, 0, p) for p in tissues], None)),
            "overlap": Call("mriqc.interfaces.anatomical:fuzzy_jaccard", (tissues, template)),
        }
    )
    summary, overlap = found.pop("summary"), found.pop("overlap")
    values = {f"summary_{r}_{key}": v for r in summary for key, v in summary[r].items()}
    for kind in ("icvs", "rpve"):
        values |= {f"{kind}_{name}": value for name, value in found.pop(kind).items()}
    values |= {f"tpm_overlap_{n}": v for n, v in zip(regions.TISSUES, overlap, strict=True)}
    bias = maps.bias_field[maps.dseg > 0].astype(np.float64)
    low, middle, high = np.percentile(bias, (5, 50, 95))
    smooth = forman(maps.t1w.astype(np.float64), maps.brain)
    formulas = {"inu_med": float(middle), "inu_range": float(high - low)}
    return values | found | from_summaries(ours, wide) | smooth | formulas


def from_summaries(ours: dict[str, float], image: NDArray[np.float64]) -> dict[str, float]:
    """Compute MRIQC's values that rest on summaries of the tissues, from ours."""
    anat = "mriqc.qc.anatomical"
    summary = {
        name: {key: ours[f"summary_{name}_{key}"] for key in ("median", "mad", "stdv", "n")}
        for name in (*regions.TISSUES, "bg")
    }
    gm, wm, air = summary["gm"], summary["wm"], summary["bg"]
    calls = {
        "cjv": Call(f"{anat}:cjv", (wm["median"], gm["median"], wm["mad"], gm["mad"])),
        "cnr": Call(
            f"{anat}:cnr", (wm["median"], gm["median"], air["stdv"], wm["stdv"], gm["stdv"])
        ),
        "wm2max": Call(f"{anat}:wm2max", (image, wm["median"])),
    }
    for name in regions.TISSUES:
        own = summary[name]
        calls[f"snr_{name}"] = Call(f"{anat}:snr", (own["median"], own["stdv"], own["n"]))
        calls[f"snrd_{name}"] = Call(
            f"{anat}:snr_dietrich", (own["median"], air["mad"], air["stdv"])
        )
    values: dict[str, float] = call_mriqc(calls)
    for kind in ("snr", "snrd"):
        values[f"{kind}_total"] = float(np.mean([values[f"{kind}_{n}"] for n in regions.TISSUES]))
    return values


def reason(name: str) -> str:
    """Say what a metric is compared with."""
    if name.startswith("summary") and name.endswith(QUANTILES):
        return "quantile"
    kinds = dict.fromkeys(("cjv", "cnr", "snr", "snrd", "wm2max"), "summaries")
    kinds |= {"rpve": "floor", "inu": "formula", "fwhm": "definition"}
    return kinds.get(name.partition("_")[0], "mriqc")


def compare(path: Path, contrast: str, folder: Path) -> list[Row]:
    """Measure an image both ways: name, their value, ours, relative difference, what it is."""
    maps, around = find_maps(path, contrast, folder)
    ours = compute_metrics(maps, around).values
    expected = theirs(maps, around, ours)
    compared = {name for name in ours if not name.startswith(("size_", "spacing_"))} - OTHERS
    if compared != set(expected):
        raise SystemExit(f"Not compared: {sorted(compared ^ set(expected))}")
    rows = []
    for name, value in sorted(expected.items()):
        difference = abs(ours[name] - value) / abs(value) if value else abs(ours[name])
        rows.append((name, float(value), float(ours[name]), difference, reason(name)))
    return rows


def table(contrast: str, rows: list[Row]) -> str:
    """Format the comparison as reStructuredText."""
    lines = [["metric", "reference", "neuroferry", "relative difference", "the reference is"]]
    for name, value, mine, difference, why in rows:
        lines.append([name, f"{value:.8g}", f"{mine:.8g}", f"{difference:.1e}", WHY[why]])
    cells = "\n   ".join(", ".join(f'"{cell}"' for cell in line) for line in lines)
    return f".. csv-table:: {contrast}\n   :header-rows: 1\n\n   {cells}\n"


def main() -> int:
    """Compare, print the tables, check the bound."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--t1w", type=Path, help="a T1w image")
    parser.add_argument("--t2w", type=Path, help="a T2w image; without either, a phantom's")
    parser.add_argument("--table", type=Path, help="also write the tables to this file")
    arguments = parser.parse_args()
    given = {"T1w": arguments.t1w, "T2w": arguments.t2w}
    parts, failed = [], []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        images = {c: path.absolute() for c, path in given.items() if path}
        for contrast, path in (images or phantom(folder / "bids")).items():
            rows = compare(path, contrast, folder / contrast)
            parts.append(table(contrast, rows))
            failed += [
                f"{contrast}: {row[0]}"
                for row in rows
                if not row[3] <= (QUANTILE_BOUND if row[4] == "quantile" else BOUND)
            ]
    text = "\n".join(parts)
    sys.stdout.write(text)
    if arguments.table:
        arguments.table.write_text(text, encoding="utf-8")
    sys.stderr.write("".join(f"beyond the bound: {line}\n" for line in failed))
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
