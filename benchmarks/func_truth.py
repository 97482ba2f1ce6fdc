"""Accuracy of the functional workflow on a phantom.

Usage::

    neuroferry phantom BIDS --bold 120
    neuroferry BIDS OUT participant --workflows anat func --output-spaces bold
    python benchmarks/func_truth.py BIDS OUT

Measures head motion and framewise displacement, distortion before and after correction,
coregistration with the T1w image, and how much of the known activation a first-level model
recovers from the preprocessed series.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import nibabel as nb
import numpy as np
import pandas as pd
from nilearn.glm.first_level import FirstLevelModel
from nilearn.interfaces.fmriprep import load_confounds
from numpy.typing import NDArray
from scipy import ndimage

from neuroferry.interfaces.epi.motion_table import read_motion_xfms
from neuroferry.interfaces.image.transforms import read_itk_affine
from neuroferry.phantom.score import (
    course_correlation,
    effect_recovery,
    motion_error,
    rigid_error,
    shift_error,
)

Array = NDArray[np.float64]
AXES = {"i": 0, "j": 1, "k": 2}


def between_references(found: Array, truth: Array) -> Array:
    """Estimate the transform from points of the true reference to points of the estimated one.

    Each reference has its own head position; the volumes, which both motions map to, link them.
    """
    each = np.linalg.inv(found) @ truth
    middle: Array = np.median(each, axis=0)
    left, _, right = np.linalg.svd(middle[:3, :3])
    middle[:3, :3] = left @ right
    return middle


def on_truth(data: Any, affine: Array, way: Array, like: Any, order: int = 1) -> Array:
    """Sample an image of the estimated reference at the voxels of the true one."""
    matrix = np.linalg.inv(affine) @ way @ like.affine
    moved: Array = ndimage.affine_transform(
        np.asarray(data, dtype=float),
        matrix[:3, :3],
        matrix[:3, 3],
        output_shape=like.shape[:3],
        order=order,
        mode="nearest",
    )
    return moved


def activation(bold: Path, events: Path) -> tuple[Any, Any]:
    """Estimate the effects of faces and houses, percent of the mean, on the series' grid."""
    about = json.loads(Path(str(bold).replace(".nii.gz", ".json")).read_text())
    confounds, sample_mask = load_confounds(str(bold), strategy=("motion", "high_pass"))
    model = FirstLevelModel(
        t_r=about["RepetitionTime"],
        slice_time_ref=about.get("StartTime", 0.0) / about["RepetitionTime"],
        hrf_model="spm",
        drift_model=None,
        mask_img=str(bold).replace("desc-preproc_bold", "desc-brain_mask"),
        signal_scaling=0,
        minimize_memory=False,
    )
    table = pd.read_csv(events, sep="\t")[["onset", "duration", "trial_type"]]
    model.fit(str(bold), table, confounds, sample_masks=sample_mask)
    design = model.design_matrices_[0]
    maps = []
    for name in ("face", "house"):
        effect = model.compute_contrast(name, output_type="effect_size")
        # percent at the plateau, as in the truth
        maps.append(np.asarray(effect.dataobj) * float(design[name].max()))
    return maps[0], maps[1]


def score(bids: Path, out: Path, stem: str) -> dict[str, float]:
    """Compare one run with its truth."""
    subject = stem.split("_")[0]
    folder = bids / "derivatives" / "truth" / subject / "func"
    func = out / subject / "func"
    truth_motion = read_motion_xfms(
        folder / f"{stem}_from-orig_to-boldref_mode-image_desc-truth_xfm.txt"
    )
    motion = read_motion_xfms(func / f"{stem}_from-orig_to-boldref_mode-image_desc-hmc_xfm.txt")
    mask_image: Any = nb.load(folder / f"{stem}_desc-brain_mask.nii.gz")
    mask = np.asarray(mask_image.dataobj) > 0
    way = between_references(motion, truth_motion)
    results = dict(
        zip(
            ("motion mean mm", "motion max mm"),
            motion_error(motion, truth_motion, mask, mask_image.affine),
            strict=True,
        )
    )
    table = pd.read_csv(func / f"{stem}_desc-confounds_timeseries.tsv", sep="\t")
    truth_table = pd.read_csv(folder / f"{stem}_desc-truth_motion.tsv", sep="\t")
    results["framewise displacement, correlation"] = course_correlation(
        table["framewise_displacement"], truth_table["framewise_displacement"]
    )
    coreg = func / f"{stem}_from-boldref_to-T1w_mode-image_desc-coreg_xfm.txt"
    if coreg.exists():
        truth_coreg = read_itk_affine(
            folder / f"{stem}_from-boldref_to-T1w_mode-image_desc-truth_xfm.txt"
        )
        # both map points of the reference to the T1w image
        pair = [np.linalg.inv(read_itk_affine(coreg)) @ way, np.linalg.inv(truth_coreg)]
        mean, most = rigid_error(pair[0], pair[1], mask, mask_image.affine)
        results |= {"coregistration mean mm": mean, "coregistration max mm": most}
    results |= _distortion(bids, out, stem, way, mask, mask_image)
    events = bids / subject / "func" / f"{stem}_events.tsv"
    bold = func / f"{stem}_desc-preproc_bold.nii.gz"
    if events.exists() and bold.exists():
        series: Any = nb.load(bold)
        for name, effect in zip(("face", "house"), activation(bold, events), strict=True):
            known = np.asarray(nb.load(folder / f"{stem}_desc-{name}_effect.nii.gz").dataobj)
            moved = on_truth(np.nan_to_num(effect), series.affine, way, mask_image)
            region = mask & (known > known.max() / 2)
            results[f"{name} effect, slope over the brain"] = effect_recovery(moved, known, mask)[
                0
            ]
            results[f"{name} effect in its region, %"] = float(moved[region].mean())
            results[f"{name} effect there, true, %"] = float(known[region].mean())
            elsewhere = mask & (known < known.max() / 100)
            results[f"{name} effect elsewhere, %"] = float(moved[elsewhere].mean())
    return results


def _distortion(
    bids: Path, out: Path, stem: str, way: Array, mask: Any, mask_image: Any
) -> dict[str, float]:
    """Measure the misplacement by distortion, without and with correction."""
    subject = stem.split("_")[0]
    about = json.loads((bids / subject / "func" / f"{stem}_bold.json").read_text())
    folder = bids / "derivatives" / "truth" / subject / "func"
    known = folder / f"{stem}_desc-truth_fieldmap.nii.gz"
    if not known.exists():
        return {}
    axis = AXES[about["PhaseEncodingDirection"][0]]
    scale = {
        "readout": about["TotalReadoutTime"],
        "voxel": float(mask_image.header.get_zooms()[axis]),
    }
    truth = np.asarray(nb.load(known).dataobj)
    before = shift_error(np.zeros_like(truth), truth, mask, **scale)
    results = {"shift before, mean mm": before[0], "shift before, 95 % mm": before[1]}
    path = out / subject / "fmap" / f"{stem}_desc-preproc_fieldmap.nii.gz"
    if path.exists():
        field: Any = nb.load(path)
        moved = on_truth(field.dataobj, field.affine, way, mask_image)
        after = shift_error(moved, truth, mask, **scale)
        results |= {"shift after, mean mm": after[0], "shift after, 95 % mm": after[1]}
    return results


def main() -> None:
    """Print a table: one row for each measure, one column for each run."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("bids", type=Path, metavar="BIDS")
    parser.add_argument("out", type=Path, metavar="OUT")
    arguments = parser.parse_args()
    columns = {}
    for path in sorted(arguments.out.glob("sub-*/func/*_desc-confounds_timeseries.tsv")):
        stem = path.name.removesuffix("_desc-confounds_timeseries.tsv")
        columns[stem] = score(arguments.bids, arguments.out, stem)
    print(pd.DataFrame(columns).round(3).to_string())


if __name__ == "__main__":
    main()
