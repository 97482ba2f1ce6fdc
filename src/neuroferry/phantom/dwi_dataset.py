"""DWI runs of a session written as BIDS, with their truth."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import ndimage

from neuroferry import __version__
from neuroferry.phantom import files
from neuroferry.phantom.bold import draw_session
from neuroferry.phantom.bundles import BUNDLES
from neuroferry.phantom.dwi import (
    TRUE_DIRECTIONS,
    draw_dwi_run,
    dwi_noise_level,
    dwi_volumes,
    noiseless_b0,
    true_maps,
)
from neuroferry.phantom.fmap import between_scans
from neuroferry.phantom.fmap_dataset import (
    DWI_NAMES,
    PhantomFieldmaps,
    field_sources,
    readout_metadata,
    write_fieldmaps,
)
from neuroferry.phantom.gradient_table import bval_text, bvec_text
from neuroferry.phantom.motion import (
    MOTION_COLUMNS,
    framewise_displacement,
    motion_parameters,
)
from neuroferry.phantom.profiles import PROFILE_COLUMNS, fibre_profile, true_profile
from neuroferry.phantom.subject import STREAM_DWI

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import ArrayLike, NDArray

    from neuroferry.phantom.bold import BoldSession
    from neuroferry.phantom.dwi import DwiRun
    from neuroferry.phantom.dwi_options import DwiOptions
    from neuroferry.phantom.place import Place
    from neuroferry.phantom.subject import SubjectAnatomy

_LEAST_SHARE = 0.1  # of a voxel that a bundle fills to be counted there
_FIBRES = 100  # of each bundle that are written
_SCALARS = ("fa", "md", "ad", "rd")


@dataclass(frozen=True)
class PhantomDwi:
    """Files of one DWI run of a phantom dataset and of its truth.

    Attributes
    ----------
    session : str or None
        Label without ``ses-``.
    direction : str
        Phase encoding, from ... to.
    dwi, bval, bvec : Path
    truth : mapping of str to Path
        On the run's grid, head as in the first volume, undistorted: ``fa``, ``md``, ``ad``,
        ``rd`` (mm2/s), ``tensor`` (Dxx Dxy Dxz Dyy Dyz Dzz) and ``direction`` along scanner
        axes, ``fibres`` (bundles in a voxel), ``fraction`` (of the voxel that the largest of
        them fills), ``bundles`` (its label), ``fieldmap`` (Hz), ``brain_mask``, ``dseg``,
        ``gm``, ``wm``, ``csf``, ``noiseless`` (b0). Distorted: ``dwiref``. Tables and
        transforms: ``motion``, ``motion_xfms`` (rigid), ``eddy_xfms`` (rigid, then eddy
        currents), ``dwiref_to_t1w``, ``gradients``, ``dropped``, ``centre_lines``,
        ``profiles``, ``fibre_profiles``, ``bundle_table``, ``parameters``, and fibres of each
        bundle, ``tract <name>``.
    """

    session: str | None
    direction: str
    dwi: Path
    bval: Path
    bvec: Path
    truth: Mapping[str, Path]


def write_dwi_session(
    place: Place,
    anatomy: SubjectAnatomy,
    anatomical: NDArray[np.float64],
    options: DwiOptions,
) -> tuple[tuple[PhantomDwi, ...], PhantomFieldmaps | None]:
    """Simulate and write the DWI runs of a session, and its field maps.

    Parameters
    ----------
    place : Place
    anatomy : SubjectAnatomy
    anatomical : ndarray of float64, shape (4, 4)
        Pose of the head in the session's first T1w scan.
    options : DwiOptions
    """
    number = int(place.session or 0)
    person = anatomy.parameters
    session = draw_session(anatomy, anatomical, options, person.stream(STREAM_DWI, number))
    written: list[PhantomDwi] = []
    coil = None
    names = _run_names(options.run_directions)
    for index, (way, name) in enumerate(zip(options.run_directions, names, strict=True), 1):
        rng = person.stream(STREAM_DWI, number, index)
        lying = session if index == 1 else _lie_again(session, rng)
        if way != options.direction:
            lying = replace(lying, grid=lying.grid.reversed())
        run = draw_dwi_run(anatomy, lying, options, rng, coil)
        coil = run.coil
        written.append(_write_run(replace(place, run=name), run, way, options, anatomical, rng))
    if not options.fieldmaps:
        return tuple(written), None
    targets = [run.dwi for run in written]
    return tuple(written), write_fieldmaps(place, anatomy, session, options, targets, DWI_NAMES)


def _run_names(directions: Sequence[str]) -> list[str]:
    """Name the runs of a session by their entities; a single run has none.

    >>> _run_names(["AP", "PA"]), _run_names(["AP", "AP"]), _run_names(["AP"])
    (['dir-AP', 'dir-PA'], ['dir-AP_run-1', 'dir-AP_run-2'], [''])
    """
    if len(directions) == 1:
        return [""]
    names = []
    for index, way in enumerate(directions):
        number = directions[: index + 1].count(way)
        names.append(f"dir-{way}_run-{number}" if directions.count(way) > 1 else f"dir-{way}")
    return names


def _lie_again(session: BoldSession, rng: np.random.Generator) -> BoldSession:
    """Change the head position slightly, as between two runs."""
    pose, warp = session.moved(between_scans(rng, session))
    return replace(session, pose=pose, warp=warp)


def _write_run(
    place: Place,
    run: DwiRun,
    way: str,
    options: DwiOptions,
    anatomical: NDArray[np.float64],
    rng: np.random.Generator,
) -> PhantomDwi:
    path = place.raw("dwi", "dwi.nii.gz")
    stem = path.name.removesuffix(".nii.gz")
    files.write_json(path.with_name(f"{stem}.json"), _sidecar(run, options))
    bval = files.write_text(path.with_name(f"{stem}.bval"), bval_text(run.table.bvals))
    text = bvec_text(run.table.bvecs, run.grid.affine)
    bvec = files.write_text(path.with_name(f"{stem}.bvec"), text)
    shape = (*run.grid.shape, options.n_volumes)
    with files.SeriesFile(path, run.grid.affine, shape, options.tr) as series:
        for volume in dwi_volumes(run, options, rng):
            series.add(volume)
    truth = _write_truth(place, run, options, anatomical)
    return PhantomDwi(place.session, way, path, bval, bvec, truth)


def _sidecar(run: DwiRun, options: DwiOptions) -> dict[str, Any]:
    return {
        "Manufacturer": "neuroferry",
        "ManufacturersModelName": "digital phantom",
        "SoftwareVersions": __version__,
        "MagneticFieldStrength": 3,
        "PulseSequenceType": "Spin echo EPI",
        "MRAcquisitionType": "2D",
        "RepetitionTime": options.tr,
        "EchoTime": options.echo_time,
        "FlipAngle": 90,
        "SliceTiming": [round(float(t), 5) for t in run.slice_times],
        **readout_metadata(run.grid.direction, run.grid.readout),
        **field_sources(options, DWI_NAMES),
    }


def _write_truth(
    place: Place, run: DwiRun, options: DwiOptions, anatomical: NDArray[np.float64]
) -> dict[str, Path]:
    affine, tissues, brain = run.grid.affine, run.head.head.tissues, run.brain
    source = f"bids:raw:{place.within}/dwi/{place.prefix}_dwi.nii.gz"

    def image(name: str, data: NDArray[Any], dtype: type, slope: float = 1.0) -> Path:
        path = place.truth("dwi", f"{name}.nii.gz")
        sidecar = {"Sources": [source], **_IMAGE_SIDECARS.get(name, {})}
        files.write_json(path.with_name(path.name.replace(".nii.gz", ".json")), sidecar)
        return files.write_image(path, data, affine, dtype=dtype, slope=slope)

    maps, shares = true_maps(run), run.head.shares()
    shares *= brain
    bent = noiseless_b0(run, distorted=True)
    some = shares.max(axis=0) >= _LEAST_SHARE
    truth = {
        **{
            tissue.lower(): image(f"label-{tissue}_probseg", share, np.uint8, 1 / 255)
            for tissue, share in zip(("GM", "WM", "CSF"), tissues, strict=True)
        },
        "dseg": image("dseg", np.where(brain, tissues.argmax(axis=0) + 1, 0), np.uint8),
        "brain_mask": image("desc-brain_mask", brain, np.uint8),
        "fieldmap": image("desc-truth_fieldmap", run.head.head.field_on_grid(), np.float32),
        "noiseless": image(
            "desc-undistorted_dwiref", noiseless_b0(run, distorted=False), np.float32
        ),
        "dwiref": image("desc-distorted_dwiref", bent, np.float32),
        **{
            name: image(f"model-DTI_param-{name.upper()}_dwimap", maps[name], np.float32)
            for name in _SCALARS
        },
        "tensor": image("model-DTI_param-tensor_dwimap", maps["tensor"], np.float32),
        "direction": image("model-DTI_param-direction_dwimap", maps["direction"], np.float32),
        "fibres": image("desc-fibres_dwimap", (shares >= _LEAST_SHARE).sum(axis=0), np.uint8),
        "fraction": image("desc-fraction_dwimap", shares.max(axis=0), np.uint8, 1 / 255),
        "bundles": image("desc-bundles_dseg", (shares.argmax(axis=0) + 1) * some, np.uint8),
    }
    mass = ndimage.center_of_mass(bent)
    tables = _write_tables(place, run, options, anatomical, mass)
    return truth | tables | _write_bundles(place, run, maps, shares)


def _write_bundles(
    place: Place,
    run: DwiRun,
    maps: Mapping[str, NDArray[np.float32]],
    shares: NDArray[np.float32],
) -> dict[str, Path]:
    """Write tables of the bundles (labels, centre lines and profiles), and their fibres."""

    def table(name: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> Path:
        return files.write_table(place.truth("dwi", f"{name}.tsv"), columns, rows)

    person = f"sub-{place.label}"
    lines: list[list[object]] = []
    profiles: list[list[object]] = []
    fibres: list[list[object]] = []
    for number, bundle in enumerate(BUNDLES):
        line = run.head.head.warp.to_subject(bundle.curve())
        for node, point in enumerate(line):
            lines.append([bundle.name, node, *(f"{value:.3f}" for value in point)])
        measured = true_profile(bundle, run, maps, shares[number])
        own = fibre_profile(run.head.courses[bundle.name])
        for rows, profile in ((profiles, measured), (fibres, own)):
            for node, values in enumerate(profile):
                cells = ["n/a" if np.isnan(value) else f"{value:.6g}" for value in values]
                rows.append([person, bundle.name, node, *cells])
    columns = ("subjectID", "tractID", "nodeID", *PROFILE_COLUMNS)
    tracts = {}
    for bundle in BUNDLES:
        tract = run.head.head.warp.to_subject(bundle.fibres(_FIBRES))
        label = bundle.name.replace(" ", "")
        path = place.truth("dwi", f"bundle-{label}_desc-truth_tractogram.tck")
        tracts[f"tract {bundle.name}"] = files.write_streamlines(path, list(tract))
    return tracts | {
        "bundle_table": table(
            "desc-bundles_dseg", ("index", "name"), [(n, b.name) for n, b in enumerate(BUNDLES, 1)]
        ),
        "centre_lines": table("desc-centre_streamlines", ("tractID", "nodeID", *"xyz"), lines),
        "profiles": table("desc-truth_tractometry", columns, profiles),
        "fibre_profiles": table("desc-fibre_tractometry", columns, fibres),
    }


def _write_tables(
    place: Place,
    run: DwiRun,
    options: DwiOptions,
    anatomical: NDArray[np.float64],
    mass: ArrayLike,
) -> dict[str, Path]:
    grid, table = run.grid, run.table
    parameters = motion_parameters(run.motion, grid.affine, grid.shape, mass)
    fd = framewise_displacement(parameters)
    motion = [
        [*(f"{v:.6f}" for v in row), "n/a" if np.isnan(step) else f"{step:.6f}"]
        for row, step in zip(parameters, fd, strict=True)
    ]
    gradients = [
        [f"{bval:g}", *(f"{v:.8f}" for v in (*played, *seen))]
        for bval, played, seen in zip(table.bvals, table.bvecs, run.seen, strict=True)
    ]
    dropped = [(t, k, f"{run.kept[t, k]:.4f}") for t, k in np.argwhere(run.kept < 1)]
    to_t1w = run.head.head.pose @ np.linalg.inv(anatomical)  # T1w points to dwiref points

    def transform(name: str, matrices: NDArray[np.float64]) -> Path:
        return files.write_affines(place.truth("dwi", f"{name}_xfm.txt"), matrices)

    return {
        "motion": files.write_table(
            place.truth("dwi", "desc-truth_motion.tsv"),
            (*MOTION_COLUMNS, "framewise_displacement"),
            motion,
        ),
        "motion_xfms": transform("from-orig_to-dwiref_mode-image_desc-truthRigid", run.motion),
        "eddy_xfms": transform("from-orig_to-dwiref_mode-image_desc-truth", run.eddy @ run.motion),
        "dwiref_to_t1w": transform("from-dwiref_to-T1w_mode-image_desc-truth", to_t1w[None]),
        "gradients": files.write_table(
            place.truth("dwi", "desc-truth_gradients.tsv"),
            ("bval", "x", "y", "z", "head_x", "head_y", "head_z"),
            gradients,
        ),
        "dropped": files.write_table(
            place.truth("dwi", "desc-truth_dropped.tsv"), ("volume", "slice", "kept"), dropped
        ),
        "parameters": files.write_json(
            place.truth("dwi", "dwi_parameters.json"),
            {
                "options": asdict(options),
                "reference_volume": 0,
                "noise": dwi_noise_level(options),
                "direction": grid.direction,
                "readout": grid.readout,
                "truth_bval": float(min(options.bvals)),
                "truth_directions": TRUE_DIRECTIONS,
                "courses": {name: asdict(course) for name, course in run.head.courses.items()},
            },
        ),
    }


_DIFFUSIVITY = {"Units": "mm2/s"}
_IMAGE_SIDECARS: dict[str, dict[str, Any]] = {
    "desc-brain_mask": {"Type": "Brain"},
    "desc-truth_fieldmap": {"Units": "Hz"},
    "model-DTI_param-MD_dwimap": _DIFFUSIVITY,
    "model-DTI_param-AD_dwimap": _DIFFUSIVITY,
    "model-DTI_param-RD_dwimap": _DIFFUSIVITY,
    "model-DTI_param-tensor_dwimap": {
        **_DIFFUSIVITY,
        "Description": "Dxx Dxy Dxz Dyy Dyz Dzz, scanner axes (RAS+)",
    },
    "model-DTI_param-direction_dwimap": {
        "Description": "Unit vector of the largest eigenvalue, scanner axes (RAS+)"
    },
}
