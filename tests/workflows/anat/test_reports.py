"""The reportlets of the anatomical steps, run on small images."""

import math

import nibabel as nb
import numpy as np
import pytest

from neuroferry.templates import load_template
from neuroferry.workflows.anat.reports import init_anat_reports_wf, picture_mem_gb

NAMES = ("conform", "bias", "brain", "tissues", "norm")


@pytest.fixture
def images(tmp_path):
    shape = (24, 28, 26)
    grid = np.indices(shape)
    distance = sum((g - n / 2) ** 2 for g, n in zip(grid, shape, strict=True))
    t1w = np.where(distance < 110, 900, 5 + grid[0] % 3).astype(np.float32)
    arrays = {
        "t1w_ref": t1w,
        "t1w_preproc": t1w,
        "bias_field": np.ones(shape, np.float32),
        "brain_mask": (distance < 80).astype(np.uint8),
        "dseg": ((distance < 80).astype(np.uint8) + (distance < 40)).astype(np.uint8),
    }
    affine = np.diag([7.0, 7.0, 7.0, 1.0])
    paths = {}
    for name, data in arrays.items():
        paths[name] = str(tmp_path / f"{name}.nii.gz")
        nb.save(nb.Nifti1Image(data, affine), paths[name])
    template = load_template(3)
    paths["std_t1w"] = str(tmp_path / "std.nii.gz")
    nb.save(nb.Nifti1Image(np.asarray(template.t1w), template.affine), paths["std_t1w"])
    return paths


def build(tmp_path, images, **arguments):
    workflow = init_anat_reports_wf(out_dir=tmp_path / "out", subject="01", **arguments)
    workflow.base_dir = str(tmp_path / "work")
    for name, path in images.items():
        setattr(workflow.inputs.inputnode, name, path)
    return workflow


def test_pictures_lie_under_their_names_and_come_back_when_deleted(tmp_path, images):
    build(tmp_path, images, session="a").run(plugin="Linear")
    folder = tmp_path / "out" / "sub-01" / "figures"
    wanted = {f"sub-01_ses-a_desc-{name}_T1w.svg" for name in NAMES}
    assert {path.name for path in folder.iterdir()} == wanted
    first = {path.name: path.read_bytes() for path in folder.iterdir()}
    for path in folder.iterdir():
        path.unlink()
    build(tmp_path, images, session="a").run(plugin="Linear")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == first


def test_without_a_session_no_name_has_one(tmp_path):
    workflow = init_anat_reports_wf(out_dir=tmp_path, subject="01")
    paths = [workflow.get_node(f"save_{name}").inputs.out_path for name in NAMES]
    folder = tmp_path / "sub-01" / "figures"
    assert paths == [str(folder / f"sub-01_desc-{name}_T1w.svg") for name in NAMES]


def test_memory_grows_with_the_image():
    small = init_anat_reports_wf(out_dir="out", subject="01", shape=(64, 64, 64))
    large = init_anat_reports_wf(out_dir="out", subject="01", shape=(320, 512, 512))
    for name in ("conform", "bias", "brain", "tissues"):
        assert small.get_node(f"draw_{name}").mem_gb < large.get_node(f"draw_{name}").mem_gb


@pytest.mark.parametrize(
    ("shape", "images", "peak_gb"),
    [
        ((170, 256, 256), 1, 0.27),
        ((170, 256, 256), 2, 0.32),
        ((170, 256, 256), 4, 0.36),
        ((274, 384, 384), 1, 0.66),
        ((274, 384, 384), 2, 0.66),
        ((274, 384, 384), 4, 0.98),
    ],
)
def test_memory_of_a_picture_is_near_what_was_measured(shape, images, peak_gb):
    expected = picture_mem_gb(math.prod(shape), images)
    assert 0.9 * peak_gb <= expected < 2 * peak_gb
