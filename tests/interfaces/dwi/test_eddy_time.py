"""Use of the order of volumes: eddy-current shifts, and the offset to the b0 volumes."""

import numpy as np
import pytest

from neuroferry.interfaces.dwi.eddy_time import caused_shifts, offset_in_time, parameters_of
from neuroferry.interfaces.epi.realign import rigid_step
from neuroferry.interfaces.image.images import inverse

CENTRE = np.array([3.0, -20.0, 15.0])
OFFSET = np.array([0.4, -0.9, 0.7, 0.004, -0.006, 0.002])


def head(count=34, every=9, seed=0, step=0.05, jerk=()):
    """Make the true motion of a drifting head with jerks before some volumes, and the b0 mask."""
    rng = np.random.default_rng(seed)
    change = rng.normal(size=(count, 6)) * np.array([step] * 3 + [step / 100] * 3)
    for volume in jerk:
        change[volume] += [3.0, 0, 0, 0.03, 0, 0]
    change[0] = 0
    course = np.cumsum(change, axis=0)
    b0s = list(range(0, count, every))
    shell = [v for v in range(count) if v not in b0s]
    return np.array([rigid_step(p, CENTRE) for p in course]), b0s, shell


def spoil(truth, shell):
    """Move a shell as a whole, as registration between contrasts does."""
    found = truth.copy()
    found[shell] = found[shell] @ inverse(rigid_step(OFFSET, CENTRE))
    return found


@pytest.mark.parametrize(("jerk", "tolerance"), [((), 0.15), ((9, 20), 0.2)])
def test_a_shell_finds_its_b0s(jerk, tolerance):
    truth, b0s, shell = head(jerk=jerk)
    offset = parameters_of(offset_in_time(spoil(truth, shell), b0s, shell, CENTRE), CENTRE)
    np.testing.assert_allclose(offset[:3], OFFSET[:3], atol=tolerance)
    np.testing.assert_allclose(offset[3:], OFFSET[3:], atol=tolerance / 50)


def test_the_sign_is_that_of_a_product_from_the_right():
    truth, b0s, shell = head(step=1e-4)
    found = spoil(truth, shell)
    found[shell] = found[shell] @ offset_in_time(found, b0s, shell, CENTRE)
    np.testing.assert_allclose(found, truth, atol=0.06)


def test_a_head_that_moved_in_between_says_nothing():
    """One b0, and a jerk right after it."""
    truth, b0s, shell = head(20, 20, jerk=(1,))
    np.testing.assert_array_equal(offset_in_time(truth, b0s, shell, CENTRE), np.eye(4))


def test_a_restless_head_is_trusted_less():
    shares = []
    for step in (0.01, 2.0):
        truth, b0s, shell = head(step=step, seed=3)
        still = truth.copy()
        still[b0s] = truth[[b + 1 if b + 1 < len(truth) else b - 1 for b in b0s]]
        spoilt = spoil(still, shell)
        offset = parameters_of(offset_in_time(spoilt, b0s, shell, CENTRE), CENTRE)
        shares.append(np.linalg.norm(offset[:3]) / np.linalg.norm(OFFSET[:3]))
    assert shares[0] > 0.9
    assert shares[1] < 0.8


def test_too_little_is_known():
    truth, _, shell = head(8, 8)
    assert np.array_equal(offset_in_time(truth, [], shell, CENTRE), np.eye(4))
    assert np.array_equal(offset_in_time(truth, [0], [1, 2, 3], CENTRE), np.eye(4))
    assert not caused_shifts(np.arange(4, dtype=np.float64), np.eye(4, 3), [1, 2, 3, 4]).any()


def test_shifts_by_the_gradient_and_by_the_head_are_told_apart():
    rng = np.random.default_rng(2)
    directions = rng.normal(size=(30, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    volumes = [v for v in range(34) if v % 9]
    motion = np.cumsum(rng.normal(size=30) * 0.05)
    motion[12:] += 2.5  # a jerk
    caused = directions @ [0.8, -1.5, 0.4]
    found = caused_shifts(motion + caused, directions, volumes)
    assert np.abs(found - caused).max() < 0.15
