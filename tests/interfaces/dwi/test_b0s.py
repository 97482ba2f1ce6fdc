"""The b0 volumes of a run are aligned before they are averaged."""

from __future__ import annotations

import moving_dwi as md
import nibabel as nb
import numpy as np
import pytest

from neuroferry.errors import InputError
from neuroferry.interfaces.dwi.b0s import AverageB0s

CHOSEN = [0, 2, 3]


@pytest.fixture(scope="module")
def series(tmp_path_factory):
    """Make three b0 volumes of a head that rotates between them, and another volume in between."""
    rigid = md.movements(5, 3, drift=4.0)[[0, 2, 4]]
    rng = np.random.default_rng(1)
    b0s = [md.noisy(md.image(0, np.zeros(3), r, np.eye(4)), 20, rng) for r in rigid]
    path = tmp_path_factory.mktemp("b0s") / "dwi.nii.gz"
    return md.save([b0s[0], 0.1 * b0s[0][::-1], *b0s[1:]], path)


def average(path, volumes, folder):
    made = AverageB0s(in_file=str(path), volumes=volumes).run(cwd=folder)
    return nb.load(made.outputs.out_file)


def test_the_mean_lies_where_the_first_does(series, tmp_path):
    made = average(series, CHOSEN, tmp_path)
    still = md.image(0, np.zeros(3), np.eye(4), np.eye(4))
    inside = still > 300
    plain = nb.load(series).get_fdata()[..., CHOSEN].mean(axis=-1)
    error, before = (
        np.sqrt(np.mean((image - still)[inside] ** 2)) for image in (made.get_fdata(), plain)
    )
    assert error < 0.35 * before
    np.testing.assert_allclose(made.affine, md.AFFINE)


def test_one_volume_is_taken_as_it_is(series, tmp_path):
    made = average(series, [2], tmp_path).get_fdata()
    np.testing.assert_allclose(made, nb.load(series).get_fdata()[..., 2], rtol=1e-6)


def test_a_volume_that_is_not_there(series, tmp_path):
    with pytest.raises(InputError, match="has 4 volumes"):
        average(series, [0, 4], tmp_path)
