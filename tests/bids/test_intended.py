"""What IntendedFor names, however it is written and wherever the dataset lies."""

from pathlib import Path

import pytest

from neuroferry.bids.intended import is_intended, lost_targets, texts_of
from neuroferry.bids.model import Image

RUN = "ses-1/func/sub-01_ses-1_task-rest_bold.nii.gz"


def image(root, path, **metadata):
    entities = {"subject": "01"} | ({"session": "1"} if path.startswith("ses-1/") else {})
    return Image(Path(root) / "sub-01" / path, entities, "", "", metadata)


@pytest.mark.parametrize("root", ["/data", "/job/sub-01/ds", "/data/func/fmap"])
@pytest.mark.parametrize(
    ("text", "meant"),
    [
        (RUN, True),
        (f"bids::sub-01/{RUN}", True),
        (f"/sub-01/{RUN}", True),
        (f"/elsewhere/sub-01/{RUN}", True),
        ("func/sub-01_ses-1_task-rest_bold.nii.gz", True),
        ("../func/sub-01_ses-1_task-rest_bold.nii.gz", True),
        (RUN.removesuffix(".gz"), True),
        (RUN.replace("/", "\\"), True),
        (RUN.replace("ses-1", "ses-2"), False),
        (RUN.replace("rest", "res"), False),
        (f"bids::{RUN}", False),
        (f"bids:deriv:sub-01/{RUN}", False),
        (f"sub-02/{RUN}", False),
        ("", False),
    ],
)
def test_names_of_a_run(root, text, meant):
    fieldmap = image(root, "ses-1/fmap/sub-01_ses-1_epi.nii.gz", IntendedFor=["x", text])
    assert is_intended(fieldmap, image(root, RUN)) is meant


def test_other_types_name_nothing():
    for value in (None, 3, {"a": 1}, [1, None], True):
        assert texts_of({"IntendedFor": value}, "IntendedFor") == []
        fieldmap = image("/data", "fmap/sub-01_epi.nii.gz", IntendedFor=value)
        assert not is_intended(fieldmap, image("/data", RUN))
        assert lost_targets(fieldmap) == []


def test_files_that_do_not_exist(tmp_path):
    path = tmp_path / "sub-01" / RUN
    path.parent.mkdir(parents=True)
    path.touch()
    named = [RUN, f"bids::sub-01/{RUN}", "func/lost.nii.gz", "bids::sub-01/lost.nii.gz"]
    fieldmap = image(tmp_path, "ses-1/fmap/sub-01_ses-1_epi.nii.gz", IntendedFor=named)
    assert lost_targets(fieldmap) == named[2:]
