"""Accuracy of the DWI workflow on a phantom.

Usage::

    neuroferry phantom BIDS --dwi 30
    neuroferry BIDS OUT participant --workflows anat dwi
    python benchmarks/dwi_truth.py BIDS OUT

Measures motion with eddy currents, gradients, distortion before and after correction,
coregistration with the T1w image, anisotropy, diffusivity and direction in white matter, slices
with signal dropout, and profiles along the bundles. With ``--output-spaces T1w`` also the maps in
T1w space, including those of joined runs; with ``--ignore slice-replacement`` the effect of
signal dropout on the maps.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import nibabel as nb
import numpy as np
import pandas as pd
from func_truth import AXES, between_references, on_truth
from scipy import ndimage

from neuroferry.interfaces.dwi.gradients import read_gradients
from neuroferry.interfaces.dwi.tensor_maps import tensor_maps
from neuroferry.interfaces.epi.motion_table import read_motion_xfms
from neuroferry.interfaces.image.images import Volume
from neuroferry.interfaces.image.transforms import DisplacementField, Transform, read_itk_affine
from neuroferry.interfaces.tracts.bundle_definitions import load_bundles
from neuroferry.interfaces.tracts.bundles import (
    N_NODES,
    Cleaning,
    FoundBundle,
    clean,
    read_bundle,
    segment,
)
from neuroferry.interfaces.tracts.profiles import METRICS, measure_profile, read_profiles
from neuroferry.interfaces.tracts.streamlines import Streamlines, read_streamlines
from neuroferry.phantom.score import motion_error, rigid_error, shift_error
from neuroferry.phantom.score_dwi import (
    direction_error,
    fa_error,
    gradient_error,
    md_error,
    profile_along,
    profile_correlation,
)

PURE = 0.9
"""Smallest white matter share of a voxel that counts."""
DIRECTED = 0.3
"""Smallest anisotropy of a voxel with a direction."""
LOST_REACH = 0.75
"""Distance from the middle of a slice with dropout within which voxels are affected, slices."""


class Scan:
    """One run with its truth, and the transform between the two references."""

    def __init__(self, bids: Path, out: Path, stem: str) -> None:
        self.bids, self.out, self.stem = bids, out, stem
        self.subject = stem.split("_")[0]
        self.known = bids / "derivatives" / "truth" / self.subject / "dwi"
        self.found = out / self.subject / "dwi"
        self.mask_image: Any = nb.load(self.known / f"{stem}_desc-brain_mask.nii.gz")
        self.mask = np.asarray(self.mask_image.dataobj) > 0
        self.motion = read_motion_xfms(self._xfm(self.found, "orig", "dwiref", "hmc"))
        self.true_motion = read_motion_xfms(self._xfm(self.known, "orig", "dwiref", "truth"))
        self.way = between_references(self.motion[:1], self.true_motion[:1])

    def _xfm(self, folder: Path, origin: str, target: str, desc: str) -> Path:
        return folder / f"{self.stem}_from-{origin}_to-{target}_mode-image_desc-{desc}_xfm.txt"

    def truth(self, name: str) -> Any:
        """Read a true image."""
        return np.asarray(nb.load(self.known / f"{self.stem}_{name}.nii.gz").dataobj)

    def result(self, name: str) -> Any:
        """Sample a result image on the grid of the true one, channel by channel."""
        image: Any = nb.load(self.found / f"{self.stem}_{name}.nii.gz")
        data = np.asarray(image.dataobj)
        if data.ndim == 3:
            return on_truth(data, image.affine, self.way, self.mask_image)
        return np.stack(
            [
                on_truth(data[..., n], image.affine, self.way, self.mask_image)
                for n in range(data.shape[3])
            ],
            axis=-1,
        )

    def positions(self) -> dict[str, float]:
        """Compare motion, gradients, distortion and coregistration."""
        affine = self.mask_image.affine
        mean, most = motion_error(self.motion, self.true_motion, self.mask, affine)
        results = {"motion and eddy currents, mean mm": mean, "the same, max mm": most}
        bvec = self.found / f"{self.stem}_desc-preproc_dwi.bvec"
        turned = read_gradients(bvec.with_suffix(".bval"), bvec, affine)
        table = pd.read_csv(self.known / f"{self.stem}_desc-truth_gradients.tsv", sep="\t")
        head = table[[c for c in table.columns if c.startswith("head")]].to_numpy()
        angles = gradient_error(turned.bvecs @ self.way[:3, :3], head)
        results |= {"gradients, mean degrees": angles[0], "gradients, max degrees": angles[1]}
        raw = self.bids / self.subject / "dwi" / f"{self.stem}_dwi"
        measured = read_gradients(raw.with_suffix(".bval"), raw.with_suffix(".bvec"), affine)
        results["gradients if not rotated, max degrees"] = gradient_error(measured.bvecs, head)[1]
        coreg = self._xfm(self.found, "dwiref", "T1w", "coreg")
        if coreg.exists():
            true = read_itk_affine(self._xfm(self.known, "dwiref", "T1w", "truth"))
            pair = [np.linalg.inv(read_itk_affine(coreg)) @ self.way, np.linalg.inv(true)]
            mean, most = rigid_error(pair[0], pair[1], self.mask, affine)
            results |= {"coregistration mean mm": mean, "coregistration max mm": most}
        return results | self._distortion()

    def _distortion(self) -> dict[str, float]:
        about = json.loads(
            (self.bids / self.subject / "dwi" / f"{self.stem}_dwi.json").read_text()
        )
        axis = AXES[about["PhaseEncodingDirection"][0]]
        scale = {
            "readout": about["TotalReadoutTime"],
            "voxel": float(self.mask_image.header.get_zooms()[axis]),
        }
        truth = self.truth("desc-truth_fieldmap")
        before = shift_error(np.zeros_like(truth), truth, self.mask, **scale)
        results = {"shift before, mean mm": before[0], "shift before, 95 % mm": before[1]}
        path = self.out / self.subject / "fmap" / f"{self.stem}_desc-preproc_fieldmap.nii.gz"
        if path.exists():
            field: Any = nb.load(path)
            moved = on_truth(field.dataobj, field.affine, self.way, self.mask_image)
            after = shift_error(moved, truth, self.mask, **scale)
            results |= {"shift after, mean mm": after[0], "shift after, 95 % mm": after[1]}
        return results

    def maps(self) -> dict[str, float]:
        """Compare the maps of the tensor in white matter."""
        white = self.mask & (self.truth("label-WM_probseg") >= PURE)
        fa, true_fa = (
            self.result("model-DTI_param-FA_dwimap"),
            self.truth("model-DTI_param-FA_dwimap"),
        )
        md, true_md = (
            self.result("model-DTI_param-MD_dwimap"),
            self.truth("model-DTI_param-MD_dwimap"),
        )
        directed = white & (true_fa >= DIRECTED)
        tensors = self.result("model-DTI_param-tensor_dwimap")[directed].T
        vectors = np.zeros((*true_fa.shape, 3))
        vectors[directed] = tensor_maps(tensors).vectors[:, 0].T @ self.way[:3, :3]
        median, high = direction_error(
            vectors, self.truth("model-DTI_param-direction_dwimap"), directed
        )
        return {
            "FA, mean absolute error": fa_error(fa, true_fa, white),
            "FA, mean difference": float((fa - true_fa)[white].mean()),
            "MD, mean absolute error %": 100 * md_error(md, true_md, white),
            "MD, mean difference %": 100 * float((md[white] / true_md[white] - 1).mean()),
            "principal direction, median degrees": median,
            "principal direction, 95 % degrees": high,
        }

    def lost_slices(self) -> dict[str, float]:
        """Count the detected slices with dropout, and compare the FA error there and elsewhere."""
        table = pd.read_csv(self.known / f"{self.stem}_desc-truth_dropped.tsv", sep="\t")
        confounds = pd.read_csv(
            self.found / f"{self.stem}_desc-confounds_timeseries.tsv", sep="\t"
        )
        counts = np.bincount(table["volume"], minlength=len(confounds))
        found = confounds["outlier_slices"].fillna(0).to_numpy()
        results = {
            "slices with dropout": float(len(table)),
            "volumes with missed slices": float((found < counts).sum()),
            "false detections": float(np.maximum(found - counts, 0).sum()),
        }
        voxels = np.argwhere(self.mask).T
        affine = self.mask_image.affine
        moves = np.linalg.inv(affine) @ self.true_motion @ affine
        hit = np.zeros(self.mask.shape, dtype=bool)
        for volume, k in zip(table["volume"], table["slice"], strict=True):
            z = moves[volume][2, :3] @ voxels + moves[volume][2, 3]
            hit[tuple(voxels[:, np.abs(z - k) < LOST_REACH])] = True
        white = self.mask & (self.truth("label-WM_probseg") >= PURE)
        fa = self.result("model-DTI_param-FA_dwimap")
        true = self.truth("model-DTI_param-FA_dwimap")
        if (white & hit).any():
            results["FA in dropout slices, mean absolute error"] = fa_error(fa, true, white & hit)
        results["FA elsewhere, mean absolute error"] = fa_error(fa, true, white & ~hit)
        return results

    def in_t1w(self) -> dict[str, float]:
        """Compare the maps in T1w space, if any, including those of joined runs."""
        end = "_space-T1w_model-DTI_param-tensor_dwimap.nii.gz"
        own = self.found / f"{self.stem}{end}"
        found = self._in_t1w(own, "in T1w space") if own.exists() else {}
        for path in self.found.glob(f"*_rec-joined{end}"):
            found |= self._in_t1w(path, "joined")
        return found

    def _in_t1w(self, path: Path, words: str) -> dict[str, float]:
        image: Any = nb.load(path)
        way = read_itk_affine(self._xfm(self.known, "dwiref", "T1w", "truth"))
        full = np.linalg.inv(self.mask_image.affine) @ way @ image.affine
        index = np.indices(image.shape[:3]).reshape(3, -1)
        where = full[:3, :3] @ index + full[:3, 3:]
        place = np.rint(where).astype(int)
        inside = ((place >= 0) & (place < np.array(self.mask.shape)[:, None])).all(axis=0)
        there = tuple(place[:, inside])

        def between(name: str) -> Any:
            data = self.truth(name).astype(np.float64)
            return ndimage.map_coordinates(data, where[:, inside], order=1)

        white = self.mask[there] & (between("label-WM_probseg") >= PURE)
        true_fa = between("model-DTI_param-FA_dwimap")
        directed = white & (true_fa >= DIRECTED)
        tensors = np.asarray(image.dataobj).reshape(-1, 6)[inside]
        vectors = tensor_maps(tensors[directed].T).vectors[:, 0].T
        truth = self.truth("model-DTI_param-direction_dwimap")[there][directed]
        everywhere = np.ones(len(truth), dtype=bool)
        fa_image: Any = nb.load(str(path).replace("param-tensor", "param-FA"))
        fa = np.asarray(fa_image.dataobj).reshape(-1)[inside]
        median, high = direction_error(vectors, truth @ way[:3, :3], everywhere)
        unturned, _ = direction_error(vectors, truth, everywhere)
        return {
            f"{words}: FA, mean absolute error": fa_error(fa, true_fa, white),
            f"{words}: direction, median degrees": median,
            f"{words}: direction, 95 % degrees": high,
            f"{words}: if not rotated, median degrees": unturned,
        }

    def profiles(self) -> dict[str, float]:
        """Correlate the profiles with those of a perfect tractography.

        That is: the phantom's own fibres and maps, mapped to the template by the true
        deformation, and processed by the rules of the workflow (bundle definitions, cleaning,
        measured part). As a check that does not depend on the workflow's code, also with the
        phantom's own profile of the bundle at the same positions. And with the true map along the
        estimated streamlines, which compares the maps alone.
        """
        path = self.found / f"{self.stem}_desc-profiles_tractometry.tsv"
        if not path.exists():
            return {}
        extent = json.loads(path.with_suffix(".json").read_text())["ProfileExtent"]
        found, maps = read_profiles(path), {name: self.true_map(name) for name in METRICS}
        moved = {name: Volume(m.data, self.way @ m.affine) for name, m in maps.items()}
        bundles: dict[str, dict[str, float]] = {name: {} for name in METRICS}
        along, own = {}, {}
        for definition in load_bundles():
            fibres = f"{self.stem}_bundle-{definition.label}_desc-truth_tractogram.tck"
            perfect = segment(read_streamlines(self.known / fibres), self.chain(), [definition])[0]
            perfect = perfect.take(clean(perfect, Cleaning()))
            true = measured(perfect, extent, maps)
            profile = found[definition.name]
            trk = self.found / f"{self.stem}_bundle-{definition.label}_tractogram.trk"
            if not trk.exists():
                bundles["fa"][definition.name] = np.nan
                continue
            for name, values in bundles.items():
                values[definition.name] = profile_correlation(profile[name], true[name])
            tube = self.tube(definition.name, part(perfect, extent))
            own[definition.name] = profile_correlation(profile["fa"], tube)
            here = measured(read_bundle(trk), extent, moved)
            along[definition.name] = profile_correlation(profile["fa"], here["fa"])
        results = {f"profile of {name}, FA": value for name, value in bundles["fa"].items()}
        for name, each in bundles.items():
            results[f"profiles of {name}, median"] = float(np.nanmedian([*each.values()]))
        results["profiles of fa, minimum"] = float(np.nanmin([*bundles["fa"].values()]))
        results["phantom's own profiles of fa, median"] = float(np.median([*own.values()]))
        results["true map along the same streamlines, median"] = float(
            np.median([*along.values()])
        )
        results["true map along the same streamlines, minimum"] = min(along.values())
        return results

    def tube(self, name: str, lines: Streamlines) -> Any:
        """Sample the phantom's own FA profile along the core of some streamlines."""
        known = read_profiles(self.known / f"{self.stem}_desc-truth_tractometry.tsv")
        table = pd.read_csv(self.known / f"{self.stem}_desc-centre_streamlines.tsv", sep="\t")
        course = table[table["tractID"] == name][["x", "y", "z"]].to_numpy()
        return profile_along(lines.resampled(N_NODES).mean(axis=0), course, known[name]["fa"])

    def true_map(self, name: str) -> Volume:
        """Read a true tensor map."""
        data = self.truth(f"model-DTI_param-{name.upper()}_dwimap")
        return Volume(data.astype(np.float32), self.mask_image.affine)

    def chain(self) -> list[Transform]:
        """List the true transforms from points of the scan to the template."""
        to_dwi = read_itk_affine(self._xfm(self.known, "dwiref", "T1w", "truth"))
        (path,) = (self.known.parent / "anat").glob("*_from-MNI*_to-T1w_*_desc-truth_xfm.nii.gz")
        field: Any = nb.load(path)
        shifts = np.squeeze(np.asarray(field.dataobj)) * np.float32([-1, -1, 1])
        return [np.linalg.inv(to_dwi), DisplacementField(shifts, field.affine)]


def part(bundle: FoundBundle, extent: str) -> Streamlines:
    """Cut the part of a bundle covered by profiles."""
    return bundle.core() if extent == "waypoints" else bundle.lines


def measured(bundle: FoundBundle, extent: str, maps: dict[str, Volume]) -> dict[str, Any]:
    """Measure a bundle as the workflow does; NaN if there is none."""
    return measure_profile(part(bundle, extent), maps)


def main() -> None:
    """Print a table: one row for each measure, one column for each run."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("bids", type=Path, metavar="BIDS")
    parser.add_argument("out", type=Path, metavar="OUT")
    arguments = parser.parse_args()
    columns = {}
    for path in sorted(arguments.out.glob("sub-*/dwi/*_desc-confounds_timeseries.tsv")):
        stem = path.name.removesuffix("_desc-confounds_timeseries.tsv")
        scan = Scan(arguments.bids, arguments.out, stem)
        columns[stem] = scan.positions() | scan.maps() | scan.lost_slices()
        columns[stem] |= scan.in_t1w() | scan.profiles()
    print(pd.DataFrame(columns).round(3).to_string())


if __name__ == "__main__":
    main()
