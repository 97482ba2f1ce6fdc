"""T2w images that are aligned with an anatomy."""

import re

import pytest
from plans import plan_of
from tiny_dataset import write_anatomy, write_dataset

from neuroferry.selection.describe import describe_plan, plan_as_json


def aligned(plan):
    """Return the names of the T2w images of each anatomy."""
    return {
        anatomy.node: [t2w.image.path.name[7:-7] for t2w in anatomy.t2w]
        for anatomy in plan.anatomies
    }


def messages(plan):
    return " ".join(problem.message for problem in plan.problems)


def test_every_t2w_image_is_aligned_on_its_own(tmp_path):
    names = ("T2w", "run-1_T2w", "run-2_T2w", "acq-fine_T2w", "part-mag_T2w")
    subject = write_dataset(tmp_path, {f"anat/{name}": {} for name in ("T1w", *names)})
    plan = plan_of(subject, workflows=("anat",))
    assert aligned(plan) == {"anatomy_wf": sorted(names)}
    assert plan.problems == ()
    assert {path.name[7:-7] for path in plan.inputs if path.name.endswith("gz")} == {"T1w", *names}
    assert any("aligned with it: " in line for line in describe_plan(plan))
    assert len(plan_as_json(plan)["anatomies"][0]["t2w"]) == len(names)


@pytest.mark.parametrize("name", ["part-phase", "part-real", "part-imag", "chunk-1"])
def test_images_that_show_no_head_are_left_out_and_named(tmp_path, name):
    subject = write_dataset(tmp_path, {f"anat/{n}": {} for n in ("T1w", "T2w", f"{name}_T2w")})
    plan = plan_of(subject, workflows=("anat",))
    assert aligned(plan) == {"anatomy_wf": ["T2w"]}
    (problem,) = plan.problems
    assert re.search(rf"sub-01_{name}_T2w.nii.gz is not used: {name}", problem.message)


def test_a_session_without_t1w_image_uses_the_anatomy_of_another(tmp_path):
    images = ("ses-a/anat/T1w", "ses-a/anat/T2w", "ses-b/anat/T2w", "ses-c/anat/T1w")
    plan = plan_of(write_dataset(tmp_path, {name: {} for name in images}), workflows=("anat",))
    assert aligned(plan) == {
        "ses_a_anatomy_wf": ["ses-a_T2w", "ses-b_T2w"],
        "ses_c_anatomy_wf": [],
    }
    assert "the T2w images of ses-b use the T1w image of ses-a" in messages(plan)


@pytest.mark.parametrize(
    "settings",
    [{"ignore": ("t2w",), "workflows": ("anat",)}, {"workflows": ("qc",)}],
)
def test_what_is_not_asked_for_is_not_done(tmp_path, settings):
    subject = write_dataset(tmp_path, {"anat/T1w": {}, "anat/part-phase_T2w": {}, "anat/T2w": {}})
    plan = plan_of(subject, **settings)
    assert not any(anatomy.t2w for anatomy in plan.anatomies)
    assert "is not used" not in messages(plan)


def test_without_any_t1w_image(tmp_path):
    subject = write_dataset(tmp_path / "bids", {"anat/T2w": {}})
    plan = plan_of(subject, workflows=("anat",))
    assert not plan.has_work
    assert "sub-01 has no usable T1w image, so nothing was run" in messages(plan)
    assert "without a T1w image to align them with" in messages(plan)
    # its quality is measured all the same
    plan = plan_of(subject, workflows=("anat", "qc"))
    assert plan.has_work
    assert "there is no T1w image to align sub-01_T2w.nii.gz with" in messages(plan)
    # a precomputed anatomy serves as well as an image
    derivatives = {"mine": write_anatomy(tmp_path / "deriv")}
    plan = plan_of(subject, workflows=("anat",), derivatives=derivatives)
    assert plan.has_work
    assert aligned(plan) == {"given_anatomy": ["T2w"]}
    assert "to align" not in messages(plan)
