"""Benchmark of DWI motion and eddy-current estimation against DIPY and ANTs, on a phantom.

    neuroferry phantom BIDS --dwi 30
    python benchmarks/dwi_motion.py BIDS

All tools align the same volumes; errors are distances between estimated and true positions of
brain points, in mm. DIPY aligns to the mean b0 image, ANTs to the first b0 image or to the mean
of all weighted volumes, which is then registered to the first b0 image in the same way. Each runs
on one thread.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["OPENBLAS_NUM_THREADS"] = "1"

import nibabel as nb
import numpy as np
from ants_env import ants_session, to_ants
from motion import ants_way, rst_table, timed
from numpy.typing import NDArray

from neuroferry.interfaces.dwi.eddy import estimate_eddy
from neuroferry.interfaces.dwi.gradients import Gradients, read_gradients
from neuroferry.interfaces.epi.motion_table import read_motion_xfms
from neuroferry.interfaces.image.series import Series, open_series
from neuroferry.phantom.score import motion_error

Ways = NDArray[np.float64]


def align_ours(series: Series, gradients: Gradients, axis: str) -> Ways:
    """Align with this package."""
    return estimate_eddy(series, gradients, axis).matrices


def align_dipy(series: Series, gradients: Gradients, _: str) -> Ways:
    """Align with DIPY, by its default pipeline, to the mean b0 image."""
    from dipy.align import motion_correction
    from dipy.core.gradients import gradient_table

    data = np.stack(list(series.volumes()), axis=-1)
    table = gradient_table(gradients.bvals, bvecs=gradients.bvecs, b0_threshold=50)
    ways: Ways = np.moveaxis(motion_correction(data, table, affine=series.affine)[1], 2, 0)
    return ways


def align_ants(kind: str, *, to_mean: bool) -> Callable[[Series, Gradients, str], Ways]:
    """Register every volume with ANTs, by the name of its recipe."""

    def align(series: Series, gradients: Gradients, _: str) -> Ways:
        weighted = np.flatnonzero(gradients.bvals > 50)
        with ants_session() as ants:
            first = to_ants(ants, series.volume(0), series.affine)
            fixed, back = first, np.eye(4)
            if to_mean:
                mean = np.mean([series.volume(int(v)) for v in weighted], axis=0)
                fixed = to_ants(ants, mean.astype(np.float32), series.affine)
                back = ants_way(ants, first, fixed, kind)
            ways = np.tile(np.eye(4), (series.n_volumes, 1, 1))
            for number, volume in enumerate(series.volumes()):
                moving = to_ants(ants, volume, series.affine)
                if number in weighted:
                    ways[number] = ants_way(ants, fixed, moving, kind) @ back
                elif number:
                    ways[number] = ants_way(ants, first, moving, kind)
        return ways

    return align


TOOLS: dict[str, Callable[[Series, Gradients, str], Ways]] = {
    "neuroferry": align_ours,
    "DIPY motion_correction (affine, to b0)": align_dipy,
    "ANTs Rigid, to b0": align_ants("Rigid", to_mean=False),
    "ANTs Affine, to b0": align_ants("Affine", to_mean=False),
    "ANTs Affine, to mean DWI": align_ants("Affine", to_mean=True),
}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("bids", type=Path, metavar="BIDS")
    parser.add_argument("--tools", nargs="*", choices=TOOLS, default=list(TOOLS))
    arguments = parser.parse_args()
    rows = []
    for path in sorted(arguments.bids.glob("sub-*/dwi/*_dwi.nii.gz")):
        stem = path.name.removesuffix("_dwi.nii.gz")
        known = arguments.bids / "derivatives" / "truth" / path.parts[-3] / "dwi"
        truth = read_motion_xfms(
            known / f"{stem}_from-orig_to-dwiref_mode-image_desc-truth_xfm.txt"
        )
        brain: Any = nb.load(known / f"{stem}_desc-brain_mask.nii.gz")
        mask = np.asarray(brain.dataobj) > 0
        series = open_series(path)
        names = (str(path).replace(".nii.gz", end) for end in (".bval", ".bvec"))
        gradients = read_gradients(*names, series.affine)
        still = np.tile(np.eye(4), (series.n_volumes, 1, 1))
        truth = truth @ np.linalg.inv(truth[0])
        results = {"none": (still, 0.0)}
        results |= {name: timed(TOOLS[name], series, gradients, "j") for name in arguments.tools}
        for name, (found, seconds) in results.items():
            errors = motion_error(found, truth, mask, series.affine, same_reference=True)
            cells = (f"{value:.2f}" for value in (*errors, seconds / series.n_volumes))
            rows.append([stem, name, *cells])
    print(rst_table(["run", "tool", "mean mm", "max mm", "CPU s/volume"], rows))


if __name__ == "__main__":
    main()
