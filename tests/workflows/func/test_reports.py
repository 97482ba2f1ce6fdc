"""The graphs of a BOLD run's confounds and reportlets, executed on a small run."""

import json
from pathlib import Path
from typing import Any

import nibabel as nb
import numpy as np
import pytest

from neuroferry.interfaces.epi.confound_table import MOTION, read_table, write_table
from neuroferry.interfaces.image.images import inverse
from neuroferry.interfaces.image.transforms import write_itk_affine
from neuroferry.reports.methods import cited_keys, load_references
from neuroferry.workflows.func.confounds import confounds_mem_gb, init_bold_confounds_wf
from neuroferry.workflows.func.reports import init_bold_reports_wf

SHAPE, N_VOLUMES, TR = (16, 18, 12), 40, 2.0
AFFINE = np.diag([-4.0, 4.0, 4.0, 1.0])
AFFINE[:3, 3] = [30, -34, -22]
ENTITIES = {"subject": "01", "session": "a", "task": "rest", "run": "2"}
ALWAYS = {"carpetplot", "motion", "rois", "tsnr", "compcorvar", "confoundcorr"}


def ball(shape, affine, radius):
    index = np.indices(shape).reshape(3, -1)
    world = affine[:3, :3] @ index + affine[:3, 3:]
    return (np.linalg.norm(world, axis=0) < radius).reshape(shape)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Write a spherical brain as BOLD series and as T1w image at another position."""
    folder = tmp_path_factory.mktemp("files")
    rng = np.random.default_rng(5)
    radii = (27, 22, 10)
    brain, inner, middle = (ball(SHAPE, AFFINE, r) for r in radii)
    level = 500 * brain + 200 * (brain & ~inner) + 400 * middle + 10.0
    data = level[..., None] + rng.normal(0, 6, (*SHAPE, N_VOLUMES))
    t1w_shape, t1w_affine = (40, 42, 38), np.diag([2.0, 2.0, 2.0, 1.0])
    t1w_affine[:3, 3] = [-38, -41, -37]
    shift = np.eye(4)
    shift[:3, 3] = [3, -2, 4]  # T1w point = shift @ BOLD point
    moved = np.linalg.inv(shift) @ t1w_affine
    outer, white, fluid = (ball(t1w_shape, moved, r) for r in radii)
    dseg = outer * 1 + white * 1 + fluid * 1
    images = {
        "bold": (data, AFFINE),
        "bold_mask": (brain.astype(np.uint8), AFFINE),
        "bold_ref": (level, AFFINE),
        "bold_ref_sdc": (np.roll(level, 1, 1), AFFINE),
        "fieldmap": (np.indices(SHAPE)[1] * 3.0 - 20, AFFINE),
        "t1w_preproc": (dseg * 100.0, t1w_affine),
        "brain_mask": (outer.astype(np.uint8), t1w_affine),
        "dseg": (dseg.astype(np.uint8), t1w_affine),
        **{f"tpm{n}": ((dseg == n).astype(np.float32), t1w_affine) for n in (1, 2, 3)},
    }
    paths: dict[str, Any] = {}
    for name, (values, affine) in images.items():
        paths[name] = str(folder / f"{name}.nii.gz")
        kind = values.dtype if values.dtype == np.uint8 else np.float32
        nb.save(nb.Nifti1Image(values.astype(kind), affine), paths[name])
    paths["tpms"] = [paths.pop(f"tpm{n}") for n in (1, 2, 3)]
    for name, matrix in (
        ("anat2boldref_xfm", shift),
        ("boldref2anat_xfm", inverse(shift)),
    ):
        paths[name] = str(write_itk_affine(matrix, folder / f"{name}.txt"))
    motion = np.cumsum(rng.normal(0, [0.02] * 3 + [4e-4] * 3, (N_VOLUMES, 6)), axis=0)
    motion[20:, 0] += 1
    write_table(folder / "motion.tsv", dict(zip(MOTION, motion.T, strict=True)))
    paths["motion_tsv"] = str(folder / "motion.tsv")
    for name in ("reference_report", "coreg_report", "sdc_report"):
        paths[name] = str(folder / f"{name}.json")
        Path(paths[name]).write_text(json.dumps({"of": name}))
    return paths


def run(workflow, files, folder):
    workflow.base_dir = str(folder)
    inputnode = workflow.get_node("inputnode")
    for name in inputnode.inputs.copyable_trait_names():
        setattr(inputnode.inputs, name, files[name])
    graph = workflow.run(plugin="Linear")
    return {node.name: node.result.outputs for node in graph.nodes() if node.result}


@pytest.fixture(scope="module")
def computed(files, tmp_path_factory):
    workflow = init_bold_confounds_wf(tr=TR, n_volumes=N_VOLUMES, shape=SHAPE)
    results = run(workflow, {**files, "n_dummy": 2}, tmp_path_factory.mktemp("confounds"))
    found = results["compute_confounds"]
    names = ("confounds_tsv", "confounds_json", "summary_json", "compcor_masks", "tsnr_map")
    outputs = {name: getattr(found, name) for name in names}
    return {**files, **outputs, "bold_tpms": results["carry_tissues"].bold_tpms}


def test_tissues_lie_where_the_transform_puts_them(computed):
    total = sum(nb.load(path).get_fdata() for path in computed["bold_tpms"])
    brain = nb.load(computed["bold_mask"]).get_fdata() > 0
    assert total.max() <= 1.0001
    assert total[ball(SHAPE, AFFINE, 22)].min() > 0.95
    assert total[~ball(SHAPE, AFFINE, 34)].max() < 0.05
    weights = np.where(brain, total, 0)
    centre = [(np.indices(SHAPE)[axis] * weights).sum() / weights.sum() for axis in range(3)]
    world = AFFINE[:3, :3] @ centre + AFFINE[:3, 3]
    np.testing.assert_allclose(world, 0, atol=0.3)


def test_confounds_have_tissue_signals_and_spikes(computed):
    table = read_table(computed["confounds_tsv"])
    assert {"csf", "white_matter", "a_comp_cor_00", "non_steady_state_outlier01"} <= set(table)
    assert table["csf"][5:].mean() > table["white_matter"][5:].mean() + 300
    assert np.flatnonzero(table["motion_outlier00"]).tolist() == [20]


def test_without_a_t1w_image_no_tissue_is_asked_for(files, tmp_path):
    workflow = init_bold_confounds_wf(tr=TR, n_volumes=N_VOLUMES, shape=SHAPE, with_anat=False)
    results = run(workflow, {**files, "n_dummy": 0}, tmp_path)
    table = read_table(results["compute_confounds"].confounds_tsv)
    assert "white_matter" not in table
    assert "t_comp_cor_00" in table
    assert "aCompCor" not in workflow.__desc__


@pytest.mark.parametrize(
    ("with_anat", "with_sdc"), [(True, True), (True, False), (False, True), (False, False)]
)
def test_pictures_lie_under_their_names(computed, tmp_path, with_anat, with_sdc):
    workflow = init_bold_reports_wf(
        out_dir=tmp_path / "out",
        entities=ENTITIES,
        n_volumes=N_VOLUMES,
        shape=SHAPE,
        with_anat=with_anat,
        with_sdc=with_sdc,
    )
    run(workflow, computed, tmp_path / "work")
    stem = "sub-01_ses-a_task-rest_run-2"
    wanted = ALWAYS | ({"coreg"} if with_anat else set())
    wanted |= {"sdc", "fieldmap"} if with_sdc else set()
    folder = tmp_path / "out" / "sub-01" / "figures"
    names = {f"{stem}_desc-{name}_bold.svg" for name in wanted}
    assert {path.name for path in folder.glob("*.svg")} == names
    summary = json.loads((folder / f"{stem}_desc-summary_bold.json").read_text())
    assert summary["Reference"] == {"of": "reference_report"}
    assert ("Coregistration" in summary) == with_anat
    assert ("DistortionCorrection" in summary) == with_sdc
    assert summary["NonSteadyStateVolumes"] == 2
    assert "VarianceExplained" not in summary["CompCor"]["temporal"]


def test_pictures_have_the_same_bytes_and_come_back_when_deleted(computed, tmp_path):
    def draw():
        workflow = init_bold_reports_wf(
            out_dir=tmp_path / "out", entities=ENTITIES, n_volumes=N_VOLUMES, shape=SHAPE
        )
        run(workflow, computed, tmp_path / "work")
        folder = tmp_path / "out" / "sub-01" / "figures"
        return {path.name: path.read_bytes() for path in folder.iterdir()}

    first = draw()
    for path in (tmp_path / "out" / "sub-01" / "figures").iterdir():
        path.unlink()
    assert draw() == first


def test_methods_cite_what_is_known():
    known = load_references()
    for with_anat in (True, False):
        workflow = init_bold_confounds_wf(
            tr=TR, n_volumes=N_VOLUMES, shape=SHAPE, with_anat=with_anat, fd_threshold=0.3
        )
        assert set(cited_keys(workflow.__desc__)) <= set(known)
        assert "0.3 mm" in workflow.__desc__


def test_memory_grows_with_the_run_but_not_with_its_square_alone():
    short, long = (confounds_mem_gb(150_000, n) for n in (500, 2000))
    assert short < long < 2 * short
    assert confounds_mem_gb(10**6, 500) > short
