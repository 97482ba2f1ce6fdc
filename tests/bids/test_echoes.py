"""Echoes of one run whose headers or sidecars contradict each other."""

from pathlib import Path

import numpy as np
import pytest

from neuroferry.bids.echoes import echo_findings
from neuroferry.bids.headers import ImageFacts
from neuroferry.bids.model import Image

AFFINE = np.array([[-4.0, 0, 0, 40], [0, 4, 0, -40], [0, 0, 6, -50], [0, 0, 0, 1]])


def found(affine=AFFINE, **more):
    """Return what is found about two echoes, of which the second differs."""
    echoes, facts = [], []
    for number, matrix in ((1, AFFINE), (2, affine)):
        metadata = {"EchoTime": 0.012 * number, "RepetitionTime": 2.0}
        metadata |= more if number == 2 else {}
        path = Path(f"sub-01_task-rest_echo-{number}_bold.nii.gz")
        echoes.append(Image(path, {"echo": str(number)}, "bold", "func", metadata))
        rows = tuple(tuple(map(float, row)) for row in matrix)
        facts.append(ImageFacts((20, 20, 10, 6), (4.0, 4.0, 6.0, 2.0), rows))
    return list(echo_findings(echoes, facts))


def test_sound_echoes():
    assert found() == []


@pytest.mark.parametrize("change", [np.diag([-1.0, 1, 1, 1]), np.diag([1.0, 1, 1.2, 1])])
def test_echoes_on_different_grids_are_not_combined(change):
    (finding,) = found(AFFINE @ change)
    assert finding.fatal
    assert "echo-2_bold.nii.gz is on another grid than" in finding.message


def test_what_echoes_share_is_compared():
    (finding,) = found(RepetitionTime=3.0)
    assert not finding.fatal
    assert "differ in RepetitionTime (2.0 and 3.0)" in finding.message


def test_what_one_sidecar_alone_says_is_no_contradiction():
    assert found(PhaseEncodingDirection="j") == []
