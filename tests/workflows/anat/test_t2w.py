import json
import shutil
from dataclasses import replace
from pathlib import Path

import nibabel as nb
import numpy as np
import pytest

from neuroferry.bids.model import Image
from neuroferry.config import WorkflowConfig
from neuroferry.interfaces.epi.heads import mask_points, rms_distance
from neuroferry.interfaces.image.images import load_mask, load_volume
from neuroferry.interfaces.image.transforms import read_itk_affine
from neuroferry.phantom import write_phantom_dataset
from neuroferry.reports.gather import find_inputs, find_sessions
from neuroferry.selection.t2w import T2wPlan
from neuroferry.workflows.anat.t2w import init_t2w_wf

pytestmark = pytest.mark.slow
NAME = "sub-01/anat/sub-01"


@pytest.fixture(scope="module")
def head(tmp_path_factory):
    """A phantom participant with a T2w image: its dataset, and what is known of it."""
    root = tmp_path_factory.mktemp("t2w") / "bids"
    (subject,) = write_phantom_dataset(root, subjects=1, resolution=3.5, seed=3, t2w=True)
    return root, subject


def align(folder, root, subject, **settings):
    """Align the T2w image of sub-01 with its T1w image, whose anatomy is known; return outputs."""
    t2w = subject.t2w[0].t2w
    entities = {"subject": "01"}
    workflow = init_t2w_wf(
        plan=T2wPlan(Image(t2w, entities, "T2w", "anat"), nb.load(t2w).shape),
        t1w_shape=nb.load(subject.t1w).shape,
        bids_dir=root,
        out_dir=folder / "out",
        config=WorkflowConfig(**settings),
        name="t2w_wf",
    )
    workflow.base_dir = str(folder / "work")
    truth = subject.truth
    workflow.get_node("inputnode").inputs.trait_set(
        t1w_preproc=str(subject.t1w),
        brain_mask=str(truth["brain_mask"]),
        dseg=str(truth["dseg"]),
        tpms=[str(truth[tissue]) for tissue in ("gm", "wm", "csf")],
    )
    workflow.run()
    return folder / "out"


@pytest.fixture(scope="module")
def aligned(head, tmp_path_factory):
    """Align an image, and return its outputs."""
    return align(tmp_path_factory.mktemp("aligned"), *head)


def test_the_image_lies_where_the_truth_says(aligned, head):
    subject = head[1]
    t1w = load_volume(subject.t1w)
    points = mask_points(load_mask(subject.truth["brain_mask"], t1w), t1w.affine)
    truth = read_itk_affine(subject.t2w[0].truth["to_t1w"])
    there, back = (
        read_itk_affine(aligned / f"{NAME}_from-{way}_mode-image_xfm.txt")
        for way in ("T2w_to-T1w", "T1w_to-T2w")
    )
    assert rms_distance(there, np.eye(4), points) > 2
    assert rms_distance(there, truth, points) < 0.3
    np.testing.assert_allclose(there @ back, np.eye(4), atol=1e-6)


def test_it_is_on_the_t1w_grid_in_its_own_contrast_and_evenly_bright(aligned, head):
    subject = head[1]
    image = nb.load(aligned / f"{NAME}_space-T1w_desc-preproc_T2w.nii.gz")
    t1w = nb.load(subject.t1w)
    assert image.shape == t1w.shape
    np.testing.assert_allclose(image.affine, t1w.affine, atol=1e-4)
    data, dseg = image.get_fdata(), np.asanyarray(nb.load(subject.truth["dseg"]).dataobj)
    grey, white, fluid = (data[dseg == label] for label in (1, 2, 3))
    assert np.median(fluid) > 1.2 * np.median(grey) > 1.3 * np.median(white)
    x = np.indices(data.shape)
    ends = [np.median(white[x[axis][dseg == 2] > data.shape[axis] / 2]) for axis in range(3)]
    starts = [np.median(white[x[axis][dseg == 2] <= data.shape[axis] / 2]) for axis in range(3)]
    np.testing.assert_allclose(ends, starts, rtol=0.06)


def test_sidecars_and_report_know_it(aligned):
    about = json.loads((aligned / f"{NAME}_space-T1w_desc-preproc_T2w.json").read_text())
    assert about["Sources"] == [
        f"bids:raw:{NAME}_T2w.nii.gz",
        f"bids::{NAME}_from-T2w_to-T1w_mode-image_xfm.txt",
    ]
    assert (about["SkullStripped"], about["SpatialReference"]) == (False, "T1w")
    xfm = json.loads((aligned / f"{NAME}_from-T2w_to-T1w_mode-image_xfm.json").read_text())
    assert xfm["Coregistration"]["verdict"] == "good"
    assert xfm["Coregistration"]["method"] == "boundary"
    (session,) = find_sessions(aligned, "01")
    (picture,) = session.reportlets  # there is no T1w image in this folder
    assert picture.path == aligned / "sub-01/figures/sub-01_desc-coreg_T2w.svg"
    assert session.t2w == {"sub-01_T2w": xfm["Coregistration"]}
    assert [image.name for image in find_inputs(aligned, "01", None)] == [f"{NAME}_T2w.nii.gz"]


def test_what_cannot_be_aligned_is_held_back(head, tmp_path):
    root, subject = head
    raw = Path(shutil.copytree(root / "sub-01", tmp_path / "bids" / "sub-01"))
    # a head upside down fits nowhere
    image = nb.as_closest_canonical(nb.load(subject.t2w[0].t2w))
    t2w = raw / "anat" / "sub-01_T2w.nii.gz"
    nb.Nifti1Image(np.asanyarray(image.dataobj)[:, :, ::-1], image.affine).to_filename(t2w)
    swapped = replace(subject, t2w=(replace(subject.t2w[0], t2w=t2w),))
    out = align(tmp_path, tmp_path / "bids", swapped, sloppy=True)
    (session,) = find_sessions(out, "01")
    assert session.t2w["sub-01_T2w"]["verdict"] == "bad"
    assert not (out / f"{NAME}_space-T1w_desc-preproc_T2w.nii.gz").exists()
    assert session.reportlets[0].path is not None
