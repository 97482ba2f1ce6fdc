"""Metrics of a T1w image, from files to the JSON document."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from neuroferry.bids.model import Image
from neuroferry.errors import GeometryError
from neuroferry.interfaces.image.images import Volume, save_nifti
from neuroferry.interfaces.image.transforms import write_itk_affine, write_itk_composite
from neuroferry.interfaces.qc import maps as iqm_maps
from neuroferry.interfaces.qc import metrics as iqms
from neuroferry.interfaces.qc.head_regions import REGION_LABELS
from neuroferry.judgement.metric_table import metric_table
from neuroferry.templates import load_template

if TYPE_CHECKING:
    from numpy.typing import NDArray

RESOLUTION = 4  # mm
SHAPE = (60, 72, 60)
SIGMA = 12.0


def _write(folder: Path, name: str, data: NDArray[Any], affine: NDArray[np.float64]) -> str:
    return str(save_nifti(data, affine, folder / f"{name}.nii.gz"))


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Write a head built around the template's tissues, with bias and Rician noise."""
    folder = tmp_path_factory.mktemp("head")
    template = load_template(RESOLUTION)
    affine = np.diag([4.0, 4.0, 4.0, 1.0])
    affine[:3, 3] = (-118.0, -150.0, -110.0)
    grid = iqm_maps.RunGrid(SHAPE, affine, np.eye(4))
    tpms = iqm_maps.template_on_run(template, grid, [np.eye(4)])
    brain = np.asarray(sum(tpms.values()) > 0.5)
    points = affine[:3, :3] @ np.indices(SHAPE).reshape(3, -1) + affine[:3, 3:]
    radius = np.linalg.norm((points.T - (0, -18, 8)) / (88, 108, 92), axis=1).reshape(SHAPE)
    truth = np.where(radius < 1, 900.0, 0.0)
    truth[radius < 0.93] = 60.0
    tissue = 1000 * tpms["wm"] + 700 * tpms["gm"] + 300 * tpms["csf"]
    truth[brain] = tissue[brain]
    bias = 1 + 0.1 * np.linspace(-1, 1, SHAPE[1])[None, :, None] * np.ones(SHAPE)
    rng = np.random.default_rng(1)
    real = truth * bias + rng.normal(0, SIGMA, SHAPE)
    t1w = np.hypot(real, rng.normal(0, SIGMA, SHAPE)).astype(np.float32)
    stacked = np.stack([tpms["gm"], tpms["wm"], tpms["csf"]])
    dseg = np.where(brain, stacked.argmax(axis=0) + 1, 0)
    return {
        "folder": folder,
        "affine": affine,
        "arrays": {"t1w": t1w, "brain": brain, "bias": bias},
        "files": {
            "t1w": _write(folder, "t1w", t1w, affine),
            "run2ref_xfm": str(write_itk_affine(np.eye(4), folder / "run2ref.txt")),
            "bias_field": _write(folder, "bias", bias, affine),
            "brain_mask": _write(folder, "mask", brain.astype(np.uint8), affine),
            "dseg": _write(folder, "dseg", dseg.astype(np.uint8), affine),
            "tpms": [_write(folder, n, tpms[n], affine) for n in ("gm", "wm", "csf")],
            "std2anat_xfm": str(write_itk_composite([np.eye(4)], folder / "std2anat.h5")),
        },
    }


def _measure(files: dict[str, Any]) -> iqms.AnatMetrics:
    maps, _ = iqm_maps.gather_maps(**files, template=load_template(RESOLUTION))
    return iqms.compute_metrics(maps)


@pytest.fixture(scope="module")
def measured(head: dict[str, Any]) -> iqms.AnatMetrics:
    return _measure(head["files"])


def test_every_metric_of_the_table_is_there_and_no_other(measured: iqms.AnatMetrics) -> None:
    assert set(measured.values) == set(metric_table())
    assert measured.undefined == {}


def test_metrics_of_a_head_whose_truth_is_known(measured: iqms.AnatMetrics) -> None:
    values = measured.values
    assert values["summary_wm_median"] == pytest.approx(1000.0, rel=0.01)
    assert values["summary_gm_median"] == pytest.approx(700.0, rel=0.1)
    assert values["inu_med"] == pytest.approx(1.0, abs=0.05)
    assert 0.02 < values["inu_range"] < 0.2
    for tissue in ("csf", "gm", "wm"):
        assert values[f"tpm_overlap_{tissue}"] == pytest.approx(1.0, abs=1e-4)
    assert sum(values[f"icvs_{t}"] for t in ("csf", "gm", "wm")) == pytest.approx(1.0)
    # noise in the air is Rayleigh: its standard deviation is 0.655 sigma, apart from bias
    assert values["summary_bg_stdv"] == pytest.approx(0.655 * SIGMA, rel=0.1)
    assert values["snrd_wm"] == pytest.approx(1000.0 / SIGMA, rel=0.1)
    assert values["qi_1"] == 0.0
    assert [values[f"size_{a}"] for a in "xyz"] == list(SHAPE)
    assert [values[f"spacing_{a}"] for a in "xyz"] == [4.0, 4.0, 4.0]


def test_regions_do_not_overlap_and_cover_the_air_above_the_face(
    head: dict[str, Any], measured: iqms.AnatMetrics
) -> None:
    labels, affine = measured.labels, head["affine"]
    assert (labels[head["arrays"]["brain"]] == REGION_LABELS["head"]).all()
    air = np.argwhere(labels == REGION_LABELS["air"]) @ affine[:3, :3].T + affine[:3, 3]
    assert len(air) > 10_000
    slope = 8.0 / 206.0  # from inion to glabella
    assert (air[:, 2] > -15 + slope * (air[:, 1] - 88) - 1e-6).all()


def test_more_noise_worse_metrics(head: dict[str, Any], measured: iqms.AnatMetrics) -> None:
    rng = np.random.default_rng(2)
    t1w = head["arrays"]["t1w"]
    noisy = np.hypot(t1w + rng.normal(0, 60, SHAPE), rng.normal(0, 60, SHAPE))
    files = {**head["files"], "t1w": _write(head["folder"], "noisy", noisy, head["affine"])}
    worse = _measure(files).values
    for name in ("cnr", "snr_wm", "snr_gm", "snrd_wm", "fber", "fwhm_avg"):
        assert worse[name] < measured.values[name], name
    for name in ("cjv", "efc", "summary_bg_stdv"):
        assert worse[name] > measured.values[name], name


def test_skull_stripped_image_has_no_air_metrics_and_says_why(head: dict[str, Any]) -> None:
    stripped = np.where(head["arrays"]["brain"], head["arrays"]["t1w"], 0)
    files = {**head["files"], "t1w": _write(head["folder"], "strip", stripped, head["affine"])}
    metrics = _measure(files)
    undefined = {name for name, value in metrics.values.items() if not math.isfinite(value)}
    statistics = ("mean", "median", "p05", "p95", "k", "stdv", "mad")
    assert undefined == {
        "cnr",
        "fber",
        "qi_1",
        "qi_2",
        *(f"snrd_{t}" for t in ("csf", "gm", "wm", "total")),
        *(f"summary_bg_{s}" for s in statistics),
    }
    assert set(metrics.undefined) == undefined
    assert set(metrics.undefined.values()) == {iqms.NO_AIR}
    assert metrics.values["summary_bg_n"] == 0
    assert iqms.mask_warnings(metrics) == {"large_rot_frame": True, "small_air_mask": True}


def test_tissue_that_is_missing_is_named(head: dict[str, Any]) -> None:
    maps, _ = iqm_maps.gather_maps(**head["files"], template=load_template(RESOLUTION))
    nothing = {**maps.tpms, "csf": np.zeros_like(maps.tpms["csf"])}
    metrics = iqms.compute_metrics(replace(maps, tpms=nothing))
    assert math.isnan(metrics.values["snr_csf"])
    assert "csf" in metrics.undefined["snr_csf"]
    assert math.isfinite(metrics.values["snr_wm"])


def test_run_that_moved_keeps_its_voxels_and_its_metrics(
    head: dict[str, Any], measured: iqms.AnatMetrics
) -> None:
    """Same head, acquired with the field of view shifted by whole voxels."""
    shift = np.array([2, -3, 1])
    moved = np.roll(head["arrays"]["t1w"], shift, axis=(0, 1, 2))
    run2ref = np.eye(4)  # points of the reference to points of the run
    run2ref[:3, 3] = 4.0 * shift
    files = {
        **head["files"],
        "t1w": _write(head["folder"], "moved", moved, head["affine"]),
        "run2ref_xfm": str(write_itk_affine(run2ref, head["folder"] / "moved.txt")),
    }
    values = _measure(files).values
    for name in ("summary_wm_median", "cjv", "snr_gm", "inu_range", "tpm_overlap_wm", "icvs_gm"):
        assert values[name] == pytest.approx(measured.values[name], rel=1e-3), name
    assert values["efc"] == pytest.approx(measured.values["efc"], rel=0.01)


def test_identity_interpolates_nothing() -> None:
    rng = np.random.default_rng(3)
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    volume = Volume(rng.random((8, 9, 10), dtype=np.float32), affine)
    grid = iqm_maps.RunGrid((8, 9, 10), affine, np.eye(4))
    assert iqm_maps.to_run_grid(volume, grid, order=1) is volume.data


def test_field_of_view_outside_the_reference_repeats_the_border_of_the_field() -> None:
    volume = Volume(np.full((8, 8, 8), 1.25, dtype=np.float32), np.eye(4))
    to_reference = np.eye(4)
    to_reference[0, 3] = 5.0
    grid = iqm_maps.RunGrid((8, 8, 8), np.eye(4), to_reference)
    assert (iqm_maps.to_run_grid(volume, grid, order=1, extend=True) == 1.25).all()
    assert (iqm_maps.to_run_grid(volume, grid, order=0)[5:] == 0).all()


def test_affine_fit_recovers_a_linear_way_to_the_template() -> None:
    rng = np.random.default_rng(4)
    std2anat = np.eye(4)
    std2anat[:3] = rng.normal(np.eye(4)[:3], 0.1)
    grid = iqm_maps.RunGrid((20, 20, 20), np.diag([3.0, 3.0, 3.0, 1.0]), np.eye(4))
    fitted = iqm_maps.fit_to_template(np.ones(grid.shape, dtype=bool), grid, [std2anat])
    assert np.allclose(fitted, std2anat @ grid.affine)


def test_mask_that_misses_the_run_is_an_error(head: dict[str, Any]) -> None:
    far = np.eye(4)
    far[0, 3] = 5000.0
    files = {
        **head["files"],
        "run2ref_xfm": str(write_itk_affine(far, head["folder"] / "far.txt")),
    }
    with pytest.raises(GeometryError, match=r"t1w\.nii\.gz"):
        _measure(files)


def _in_dataset(t1w: Path, root: Path) -> Image:
    """Copy an image into a dataset."""
    path = root / "sub-01" / "anat" / "sub-01_T1w.nii.gz"
    path.parent.mkdir(parents=True)
    shutil.copy(t1w, path)
    (root / "dataset_description.json").write_text('{"Name": "heads", "BIDSVersion": "1.10.0"}')
    return Image(path, {"subject": "01"}, "T1w", "anat")


def test_workflow_writes_the_same_bytes_each_time(head: dict[str, Any], tmp_path: Path) -> None:
    from neuroferry.workflows.qc.anat import init_anat_qc_wf

    image = _in_dataset(Path(head["files"]["t1w"]), tmp_path / "bids")
    written = []
    for attempt in ("first", "second"):
        workflow = init_anat_qc_wf(
            image=image, template_resolution=RESOLUTION, n_voxels=60 * 72 * 60
        )
        workflow.base_dir = str(tmp_path / attempt)
        for name, value in head["files"].items():
            setattr(workflow.inputs.inputnode, name, value)
        workflow.run()
        folder = tmp_path / attempt / "anat_qc_wf" / "compute_iqms"
        written.append([(folder / f).read_bytes() for f in ("iqms.json", "regions.nii.gz")])
    assert written[0] == written[1]
    document = json.loads(written[0][0])
    assert list(document) == sorted(document)
    assert set(document) == {*metric_table(), "bids_meta", "provenance"}
    assert document["provenance"]["software"] == "neuroferry"
    assert document["provenance"]["warnings"]["undefined"] == {}


def test_memory_of_the_step_follows_the_number_of_voxels(
    head: dict[str, Any], tmp_path: Path
) -> None:
    from neuroferry.workflows.qc.anat import init_anat_qc_wf

    image = _in_dataset(Path(head["files"]["t1w"]), tmp_path)

    def declared(n_voxels: int) -> float:
        node = init_anat_qc_wf(image=image, n_voxels=n_voxels).get_node("compute_iqms")
        assert node.n_procs == 1
        return float(node.mem_gb)

    base = declared(0)
    per_voxel = (declared(10**8) - base) / 10**8
    assert base > 0.3  # an interpreter with NumPy and SciPy, and the template
    assert per_voxel > 20e-9  # the image, its maps and masks
    assert declared(10**7) == pytest.approx(base + 10**7 * per_voxel)


@pytest.mark.parametrize(
    ("shape", "peak_gb"), [((59, 80, 64), 0.5), ((170, 256, 256), 1.0), ((274, 384, 384), 2.09)]
)
def test_memory_of_the_step_is_near_what_was_measured(
    shape: tuple[int, int, int], peak_gb: float, head: dict[str, Any], tmp_path: Path
) -> None:
    from neuroferry.workflows.qc.anat import init_anat_qc_wf

    image = _in_dataset(Path(head["files"]["t1w"]), tmp_path)
    node = init_anat_qc_wf(image=image, n_voxels=int(np.prod(shape))).get_node("compute_iqms")
    assert 0.9 * peak_gb <= node.mem_gb < 2 * peak_gb
