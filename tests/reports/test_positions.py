import re

import pytest

from neuroferry.engine.record import RunSummary
from neuroferry.reports.functional import FUNCTIONAL
from neuroferry.reports.gather import Session
from neuroferry.reports.positions import position_doubts
from neuroferry.reports.scans import (
    ScanRun,
    alignment_doubts,
    alignment_text,
    fieldmap_doubts,
    volume_doubts,
)
from neuroferry.reports.verdict import judge

HEAD = [[0.0, 0.0, 0.0], [-50.0, 0.0, 0.0], [0.0, 50.0, 0.0], [0.0, 0.0, 50.0]]


def run_at(name, z=0.0, *, session="", head=None):
    """Make a run whose head lies higher by `z` mm."""
    start = f"sub-01_ses-{session}_" if session else "sub-01_"
    points = [[x, y, h + z] for x, y, h in HEAD] if head is None else head
    return ScanRun(
        FUNCTIONAL, name, f"{start}task-{name}", (), {"Coregistration": {"head_mm": points}}
    )


def test_runs_in_one_place_raise_no_doubt():
    assert position_doubts([run_at("a"), run_at("b", 2.9)]) == []


def test_two_runs_apart_are_named_together():
    (doubt,) = position_doubts([run_at("a"), run_at("b", 5.0)])
    assert "5 mm apart in a and b" in doubt


def test_the_odd_one_out_of_three_is_named_alone():
    (doubt,) = position_doubts([run_at("a"), run_at("b", 7.0), run_at("c", 0.5)])
    assert doubt.startswith("The head of b lies")


def test_sessions_are_not_compared_with_each_other():
    assert position_doubts([run_at("a", session="1"), run_at("b", 40.0, session="2")]) == []


@pytest.mark.parametrize("head", [None, "x", [[1, 2, 3]], [[1, 2, None]] * 4, {"a": 1}])
def test_positions_that_are_no_points_are_left_aside(head):
    known = run_at("a")
    odd = ScanRun(FUNCTIONAL, "b", "sub-01_task-b", (), {"Coregistration": {"head_mm": head}})
    assert position_doubts([known, odd]) == []


def judged(part, verdict):
    found = {"verdict": verdict, "reasons": ["It looks odd."], "method": "mutual information"}
    return ScanRun(FUNCTIONAL, "rest", "sub-01_task-rest", (), {part: found})


def test_what_could_not_be_aligned_says_what_follows():
    (doubt,) = alignment_doubts(judged("Coregistration", "bad"))
    assert "could not be aligned" in doubt
    assert "It looks odd." in doubt
    assert "--write-doubtful" in doubt
    assert "failed" in alignment_text(judged("Coregistration", "bad"))
    assert alignment_doubts(judged("Coregistration", "good")) == []


def test_a_doubtful_field_map_is_named():
    (doubt,) = fieldmap_doubts(judged("DistortionCorrection", "look"))
    assert "field map of rest" in doubt
    assert fieldmap_doubts(judged("DistortionCorrection", "good")) == []


def test_a_doubtful_template_and_runs_apart_raise_the_verdict():
    def verdict(fit, runs=()):
        session = Session(None, (), {}, templates={"MNI": fit})
        found = judge(RunSummary(), [session], runs, any_output=True)
        return [reason for reason in found.reasons if "figures" not in reason]

    (reason,) = verdict({"verdict": "bad", "reasons": ["Half of it is missing."]})
    assert "template MNI" in reason
    assert "Half of it is missing." in reason
    assert verdict({"verdict": "good", "reasons": []}) == []
    (reason,) = verdict({"verdict": "good"}, [run_at("a"), run_at("b", 5.0)])
    assert "5 mm apart" in reason


@pytest.mark.parametrize(
    ("level", "words"),
    [("bad", "could not be aligned .*: It looks odd. It is not"), ("look", "may be wrong: It")],
)
def test_a_doubtful_t2w_image_is_named(level, words):
    found = {"verdict": level, "reasons": ["It looks odd."]}
    session = Session(None, (), {}, t2w={"sub-01_T2w": found, "sub-01_acq-x_T2w": {}})
    reasons = judge(RunSummary(), [session], any_output=True).reasons
    (reason,) = (reason for reason in reasons if "figures" not in reason)
    assert re.search(f"sub-01_T2w.*{words}", reason)


def with_mask(name, volume, session="1"):
    stem = f"sub-01_ses-{session}_task-{name}"
    return ScanRun(FUNCTIONAL, name, stem, (), {"BrainMask": {"VolumeML": volume}})


def test_masks_of_one_session_that_differ_are_named():
    alike = [with_mask("a", 1500.0), with_mask("b", 1700.0), with_mask("c", 900.0, session="2")]
    assert volume_doubts(alike) == []
    (doubt,) = volume_doubts([*alike, with_mask("d", 2063.0)])
    assert "a (1500 ml) and d (2063 ml) differ by 38%" in doubt
