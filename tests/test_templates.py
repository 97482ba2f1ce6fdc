"""Templates of a user's own folder: which files make one, and what is said where one is not."""

from pathlib import Path

import pytest
from other_template import NAME, write_template

from neuroferry.errors import ExitCode, InputError, UsageError
from neuroferry.templates import SpaceName, find_templates


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("templates")
    write_template(folder, 4, 8)
    write_template(folder, 8, name="Children", cohort="2")
    return folder


def test_the_grids_of_a_template(home):
    wanted = [SpaceName(NAME, None, "8"), SpaceName(NAME), SpaceName("Children", "2")]
    moved, children = find_templates(wanted, home)
    assert (moved.label, moved.node, moved.entities) == (NAME, NAME.lower(), {"space": NAME})
    assert set(moved.grids) == {"4", "8"}
    assert moved.registration == moved.grids["4"] == moved.grid(None)
    grid = moved.grid("8")
    assert grid.t1w == home / f"tpl-{NAME}" / f"tpl-{NAME}_res-08_T1w.nii.gz"
    assert grid.mask.name == f"tpl-{NAME}_res-08_desc-brain_mask.nii.gz"
    assert grid.zooms == pytest.approx((8 * 1.06, 8 * 0.95, 8 * 1.04))
    assert grid.size == "8.48 x 7.6 x 8.32 mm"
    assert children.label == "Children+2"
    assert children.node == "children_cohort_2"
    assert children.entities == {"space": "Children", "cohort": "2"}


def test_a_skull_stripped_image_will_do(tmp_path):
    folder = write_template(tmp_path, 8)
    t1w = folder / f"tpl-{NAME}_res-08_T1w.nii.gz"
    t1w.rename(folder / f"tpl-{NAME}_res-08_desc-brain_T1w.nii.gz")
    (found,) = find_templates([SpaceName(NAME)], tmp_path)
    assert found.registration.t1w.name == f"tpl-{NAME}_res-08_desc-brain_T1w.nii.gz"


@pytest.mark.parametrize(
    ("space", "missing"),
    [
        (SpaceName("Nowhere"), "tpl-Nowhere_T1w.nii.gz and tpl-Nowhere_desc-brain_mask.nii.gz is"),
        (SpaceName(NAME, None, "2"), f"tpl-{NAME}_res-02_T1w.nii.gz and "),
        (SpaceName("Children", "1", "8"), "tpl-Children_cohort-1_res-08_T1w.nii.gz"),
    ],
)
def test_what_is_said_of_a_template_that_is_not_there(home, space, missing):
    with pytest.raises(InputError, match="Nothing is downloaded while it runs") as caught:
        find_templates([space], home)
    assert caught.value.exit_code == ExitCode.NO_INPUT
    text = str(caught.value)
    assert "from templateflow.api import get; get('" in text
    assert missing in text
    folder = home / f"tpl-{space.name}"
    assert f" in {folder if space.cohort is None else folder / f'cohort-{space.cohort}'}." in text
    assert f"TEMPLATEFLOW_HOME={home} python" in text


def test_a_mask_that_is_missing_is_named(tmp_path):
    folder = write_template(tmp_path, 8)
    mask = folder / f"tpl-{NAME}_res-08_desc-brain_mask.nii.gz"
    mask.unlink()
    with pytest.raises(InputError, match=f"and {mask.name} is not there in"):
        find_templates([SpaceName(NAME, None, "8")], tmp_path)
    mask.touch()
    with pytest.raises(InputError, match="is an empty placeholder"):
        find_templates([SpaceName(NAME, None, "8")], tmp_path)


def test_a_file_that_is_no_image(tmp_path):
    folder = write_template(tmp_path, 8)
    (folder / f"tpl-{NAME}_res-08_T1w.nii.gz").write_text("no image")
    with pytest.raises(InputError, match="cannot be read"):
        find_templates([SpaceName(NAME)], tmp_path)


def test_without_a_folder():
    with pytest.raises(UsageError, match="not an output space that comes with neuroferry"):
        find_templates([SpaceName("MNI152NLin6Asym")], None)
    assert find_templates([], None) == ()
    with pytest.raises(InputError, match="is not there in /nowhere/tpl-A"):
        find_templates([SpaceName("A")], Path("/nowhere"))
