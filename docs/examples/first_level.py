"""From preprocessed BOLD to a map of activation, with nilearn.

Usage::

    python first_level.py BOLD EVENTS OUT --contrast "face - 0.5 * house - 0.5 * body"

``BOLD`` is a ``desc-preproc_bold`` that neuroferry has written, in any space, and ``EVENTS``
the run's ``events.tsv``. Everything else (repetition time, moment of the slices, mask,
confounds) is found beside the BOLD by its name. ``OUT`` receives the map of z values, a
picture of it and a table of its peaks.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import matplotlib as mpl
import nibabel as nb
import numpy as np
import pandas as pd
from nilearn.glm import threshold_stats_img
from nilearn.glm.first_level import FirstLevelModel
from nilearn.interfaces.fmriprep import load_confounds
from nilearn.plotting import plot_stat_map
from nilearn.reporting import get_clusters_table

PREPROC = "_desc-preproc_bold.nii.gz"


def read_events(path: Path) -> pd.DataFrame:
    """Read the columns of the events that a model needs."""
    events = pd.read_csv(path, sep="\t")
    missing = {"onset", "duration", "trial_type"} - set(events.columns)
    if missing:
        raise SystemExit(f"{path} has no column {' and '.join(sorted(missing))}.")
    return events[["onset", "duration", "trial_type"]]


def fit(bold: Path, events: pd.DataFrame, smoothing: float) -> FirstLevelModel:
    """Fit the model of one run.

    Motion and its derivatives, the components of white matter and CSF that aCompCor finds,
    and the slow cosines that belong to them are confounds; volumes before the steady state
    and with sudden motion are left out.
    """
    sidecar = json.loads(Path(str(bold).replace(".nii.gz", ".json")).read_text())
    t_r = sidecar["RepetitionTime"]
    mask = str(bold).replace(PREPROC, "_desc-brain_mask.nii.gz")
    confounds, sample_mask = load_confounds(
        str(bold),
        strategy=("motion", "high_pass", "compcor", "scrub"),
        motion="derivatives",
        compcor="anat_combined",
        n_compcor=5,
        scrub=0,
        fd_threshold=0.9,
        std_dvars_threshold=3.0,
    )
    model = FirstLevelModel(
        t_r=t_r,
        slice_time_ref=sidecar.get("StartTime", 0.0) / t_r,
        hrf_model="spm + derivative",
        drift_model=None,  # the cosines are among the confounds
        mask_img=mask,
        smoothing_fwhm=smoothing,
        noise_model="ar1",
        minimize_memory=True,
    )
    return model.fit(str(bold), events, confounds, sample_masks=sample_mask)


def main() -> None:
    """Fit, save the map, draw it and list its peaks."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("bold", type=Path, metavar="BOLD")
    parser.add_argument("events", type=Path, metavar="EVENTS")
    parser.add_argument("out", type=Path, metavar="OUT")
    parser.add_argument("--contrast", required=True, help="such as 'face - house'")
    parser.add_argument("--smoothing", type=float, default=5.0, help="FWHM, mm")
    parser.add_argument("--alpha", type=float, default=0.001, help="threshold, p per voxel")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)

    model = fit(arguments.bold, read_events(arguments.events), arguments.smoothing)
    z_map = model.compute_contrast(arguments.contrast, output_type="z_score")
    z_map.to_filename(arguments.out / "stat-z_statmap.nii.gz")
    _, threshold = threshold_stats_img(
        z_map, alpha=arguments.alpha, height_control="fpr", two_sided=False
    )
    peaks = get_clusters_table(z_map, threshold, cluster_threshold=20)
    peaks.to_csv(arguments.out / "peaks.tsv", sep="\t", index=False)
    values = np.asarray(z_map.dataobj)
    print(f"{(values > threshold).sum()} voxels above z = {threshold:.2f}")
    print(peaks.head(12).to_string(index=False))

    mpl.use("Agg")
    mpl.rcParams["svg.hashsalt"] = "first-level"
    background = nb.load(str(arguments.bold).replace(PREPROC, "_boldref.nii.gz"))
    plot_stat_map(
        z_map,
        bg_img=background,
        threshold=threshold,
        display_mode="mosaic",
        title=arguments.contrast,
        output_file=arguments.out / "map.png",
    )


if __name__ == "__main__":
    main()
