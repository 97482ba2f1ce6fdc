import json

import numpy as np
import pytest

from neuroferry.interfaces.anat.template_fit import judge_fit, write_fit
from neuroferry.templates import load_template


@pytest.fixture(scope="module")
def template():
    found = load_template(3)
    return np.where(found.brain_mask, found.t1w, 0).astype(np.float32), found.brain_mask


def judged(warped, template, *, volume_ratio=0.85, folded=0):
    static, inside = template
    return judge_fit(warped, static, inside, np.ones(9), volume_ratio=volume_ratio, folded=folded)


def test_the_template_itself_fits(template):
    fit = judged(template[0], template)
    assert (fit.verdict, fit.reasons) == ("good", [])
    assert fit.correlation == pytest.approx(1)
    assert fit.overlap > 0.97


def test_half_a_brain_does_not_fit(template):
    half = template[0].copy()
    half[:, : half.shape[1] // 2] = 0
    fit = judged(half, template)
    assert fit.verdict == "bad"
    assert any("overlap" in reason for reason in fit.reasons)


def test_an_empty_image_does_not_fit(template):
    fit = judged(np.zeros_like(template[0]), template)
    assert fit.verdict == "bad"


@pytest.mark.parametrize("odd", [{"volume_ratio": 1.5}, {"folded": 5000}])
def test_an_odd_transform_is_to_be_looked_at(template, odd):
    assert judged(template[0], template, **odd).verdict == "look"


def test_report(template, tmp_path):
    path = write_fit(judged(template[0], template), tmp_path / "norm.json")
    found = json.loads(path.read_text())
    assert found["verdict"] == "good"
    assert {"correlation", "overlap", "folded", "volume_ratio"} <= found.keys()
