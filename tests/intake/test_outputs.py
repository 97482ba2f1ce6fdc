"""Which of a converter's images gets which name."""

from __future__ import annotations

from pathlib import Path

import pytest

from neuroferry.intake.dcm2niix import Converted
from neuroferry.intake.outputs import assign
from neuroferry.intake.reproin import Name


def image(kind="", *words, te=0.03):
    content = {"ImageType": ["ORIGINAL", "PRIMARY", *(words or ("M",))], "EchoTime": te}
    return Converted(Path(f"image{kind}.nii.gz"), content, (), (4, 4, 4), kind)


def names(suffix, *images, datatype="func", **entities):
    items, reason, notes = assign(Name(datatype, suffix, "test", entities), images)
    return [(item.suffix, item.entities) for item in items], reason, notes


def test_echoes_and_parts():
    found, _, _ = names("bold", image("_e1", te=0.01), image("_e2", te=0.02), task="x")
    assert found == [("bold", {"task": "x", "echo": "1"}), ("bold", {"task": "x", "echo": "2"})]
    found, _, _ = names("bold", image(), image("_ph", "P"))
    assert found == [("bold", {}), ("bold", {"part": "phase"})]
    found, _, _ = names("bold", image("_imaginary", "I"), image("_real", "R"))
    assert [entities["part"] for _, entities in found] == ["imag", "real"]


def test_field_maps():
    found, _, _ = names("magnitude", image("_e1", te=1), image("_e2", te=2), datatype="fmap")
    assert [suffix for suffix, _ in found] == ["magnitude1", "magnitude2"]
    found, _, _ = names("phasediff", image("_ph", "P"), datatype="fmap")
    assert [suffix for suffix, _ in found] == ["phasediff"]
    both = (image("_e1_ph", "P", te=1), image("_e2_ph", "P", te=2))
    found, _, _ = names("phasediff", *both, datatype="fmap")
    assert [suffix for suffix, _ in found] == ["phase1", "phase2"]
    mixed = (image("_e1", te=1), image("_e2", te=2), image("_e2_ph", "P", te=2))
    found, reason, _ = names("magnitude", *mixed, datatype="fmap")
    assert reason == ""
    assert {suffix for suffix, _ in found} == {"magnitude1", "magnitude2", "phasediff"}


@pytest.mark.parametrize("kind", ["_Eq_1", "_ROI1", "_Tilt_1"])
def test_what_is_made_beside_an_image_is_left_out(kind):
    found, reason, notes = names("T1w", image(), image(kind), datatype="anat")
    assert found == [("T1w", {})]
    assert reason == ""
    assert "1 of 2 images" in notes[0]


def test_images_that_cannot_be_told_apart_get_no_name():
    found, reason, _ = names("T1w", image(), image("a"), datatype="anat")
    assert found == []
    assert "2 images" in reason
    assert "interpolated images only" in names("T1w", image("_Eq_1"), datatype="anat")[1]
