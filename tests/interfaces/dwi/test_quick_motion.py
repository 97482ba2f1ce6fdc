"""Quick head motion of a DWI run, against a head whose motion is known."""

from __future__ import annotations

import moving_dwi as md
import numpy as np
import pytest

from neuroferry.bids.gradients import Shell
from neuroferry.interfaces.dwi.gradients import Gradients
from neuroferry.interfaces.dwi.quick_motion import count_singles, estimate_motion, feigned_motion
from neuroferry.interfaces.epi.motion_table import framewise_displacement, motion_parameters
from neuroferry.interfaces.image.images import Volume

N = 16
BVALS = np.r_[0, 0, np.full(N, 1000.0)]
BVECS = np.vstack([np.zeros((2, 3)), md.directions(N)])


def displacement(rigid, reference):
    parameters = motion_parameters(rigid, Volume(reference, md.AFFINE))
    return framewise_displacement(parameters)[1:]


@pytest.mark.slow
def test_framewise_displacement_is_that_of_the_head():
    volumes, truth = md.scan(BVALS, BVECS, 3)
    data = np.stack(volumes).astype(np.float32)
    data[9][..., 12] *= 0.4
    gradients = Gradients(BVALS, BVECS)
    found = estimate_motion(data, md.AFFINE, gradients, md.ALONG)
    told = displacement(found, data[0])
    true = displacement(truth.rigid @ np.linalg.inv(truth.rigid[0]), data[0])
    assert true.mean() > 0.5
    assert abs(told.mean() - true.mean()) < 0.2 * true.mean()
    assert np.corrcoef(told, true)[0, 1] > 0.97
    assert np.allclose(found[0], np.eye(4), atol=1e-12)
    again = estimate_motion(data, md.AFFINE, gradients, md.ALONG, n_threads=2)
    assert np.array_equal(found, again)


def test_single_volumes_are_counted():
    shells = (Shell(0, (0, 1)), Shell(700, (2, 3)), Shell(1000, (4, 5, 6, 7, 8, 9)))
    assert count_singles(shells) == 2


def test_motion_that_does_not_follow_the_gradients_stays():
    rng = np.random.default_rng(0)
    still = rng.normal(0, 0.01, (N, 6)).cumsum(axis=0)
    directions, shells = md.directions(N), np.ones(N, int)
    found = feigned_motion(still, directions, shells, range(N))
    assert np.abs(np.diff(found, axis=0)).max() < 0.02
    assert not feigned_motion(still[:8], directions[:8], shells[:8], range(8)).any()
    assert not feigned_motion(still, directions, shells, range(0, 10 * N, 10)).any()
