"""T2* decay of the echoes and their combination."""

from __future__ import annotations

from pathlib import Path

import moving_head as mh
import nibabel as nb
import numpy as np
import pytest

from neuroferry.errors import InputError
from neuroferry.interfaces.epi.motion_table import write_motion_xfms
from neuroferry.interfaces.func.echoes import check_echo_times, combination_weights, fit_t2star
from neuroferry.interfaces.func.t2star import FitT2Star

TIMES = (0.012, 0.028, 0.044)


def test_decay_is_fitted() -> None:
    rng = np.random.default_rng(0)
    truth = rng.uniform(0.015, 0.08, (10, 10, 10)).astype(np.float32)
    head = np.ones(truth.shape, dtype=bool)
    head[0] = False
    means = [
        np.where(head, 1000 * np.exp(-te / truth) + rng.normal(0, 1, truth.shape), 2).astype(
            np.float32
        )
        for te in TIMES
    ]
    found = fit_t2star(means, TIMES, head)
    assert not found[~head].any()
    error = np.abs(found / truth - 1)[head]
    assert np.median(error) < 0.01
    assert np.percentile(error, 99) < 0.05


def test_lost_echoes_take_no_part() -> None:
    """T2* of 9 ms above a sinus: the last echo is noise and would mimic a slow decay."""
    head = np.zeros((8, 8, 8), dtype=bool)
    head[2:6, 2:6, 2:6] = True
    noise = 12.5
    means = [
        np.where(head, np.hypot(1000 * np.exp(-te / 0.009), noise), noise).astype(np.float32)
        for te in TIMES
    ]
    found = fit_t2star(means, TIMES, head)[head]
    np.testing.assert_allclose(found, 0.009, rtol=0.05)
    one = fit_t2star([means[0], means[2], means[2]], TIMES, head)[head]
    np.testing.assert_array_equal(one, 0)


def test_weights_favour_the_echo_near_t2star() -> None:
    weights = combination_weights(np.array([0.012, 0.028, 0.3, 0.0], np.float32), TIMES)
    stack = np.stack(weights)
    np.testing.assert_allclose(stack.sum(axis=0), 1, rtol=1e-5)
    assert stack.argmax(axis=0)[:3].tolist() == [0, 1, 2]
    np.testing.assert_allclose(stack[:, 3], 1 / 3, rtol=1e-5)


@pytest.mark.parametrize(
    ("times", "count", "says"),
    [
        ([0.012, 0.028], 3, "3 echoes, but 2"),
        ([0.028, 0.012], 2, "increase"),
        ([12.0, 28.0], 2, "milliseconds"),
        ([0.03], 1, "two echoes"),
    ],
)
def test_impossible_echo_times(times: list[float], count: int, says: str) -> None:
    with pytest.raises(InputError, match=says):
        check_echo_times(times, count)


def test_map_of_a_moving_run(tmp_path: Path) -> None:
    truth = mh.motions(6, 2)
    shapes = [mh.head(m) for m in truth]
    write_motion_xfms(truth, tmp_path / "xfms.txt")
    rng = np.random.default_rng(0)
    files = [
        mh.save(
            [mh.noisy(v * np.exp(-te / 0.035), 100, rng) for v in shapes],
            tmp_path / f"echo-{n}.nii.gz",
        )
        for n, te in enumerate(TIMES)
    ]
    result = FitT2Star(
        in_file=files, echo_times=list(TIMES), motion_xfms=tmp_path / "xfms.txt"
    ).run(cwd=tmp_path)
    found = nb.load(result.outputs.t2star).get_fdata()
    inside = shapes[0] > 700
    assert np.median(np.abs(found[inside] - 0.035)) < 0.001
    assert not found[:2].any()
