"""Brain masks that are too large, too small or cut are named."""

import numpy as np
import pytest

from neuroferry.interfaces.epi.mask_report import describe_mask


def ellipsoid(ml, shape=(64, 72, 60), zoom=3.0):
    """Make an ellipsoid of a volume in the middle of a field of view."""
    grid = (np.indices(shape).T - (np.array(shape) - 1) / 2).T * zoom
    axes = np.array([70.0, 88.0, 62.0])
    axes *= (ml * 1000 / (4 / 3 * np.pi * np.prod(axes))) ** (1 / 3)
    return np.linalg.norm((grid.T / axes).T, axis=0) < 1, np.diag([-zoom, zoom, zoom, 1])


@pytest.mark.parametrize("ml", [800, 1100, 1450, 1800])
def test_brains_of_children_and_adults_are_plausible(ml):
    mask, affine = ellipsoid(ml)
    found = describe_mask(mask, affine)
    assert found["verdict"] == "good"
    assert found["VolumeML"] == pytest.approx(ml, rel=0.02)


@pytest.mark.parametrize(("ml", "word"), [(2063, "more than a brain"), (400, "less than a brain")])
def test_what_no_brain_holds_needs_review(ml, word):
    found = describe_mask(*ellipsoid(ml))
    assert found["verdict"] == "look"
    assert word in found["reasons"][0]


@pytest.mark.parametrize(
    ("where", "end"),
    [
        (np.s_[:, :, :32], "upper"),
        (np.s_[:, :, 28:], "lower"),
        (np.s_[:, 36:], "posterior"),
        (np.s_[34:], "right"),
    ],
)
def test_a_cut_brain_needs_review(where, end):
    mask, affine = ellipsoid(1400)
    found = describe_mask(mask[where], affine)
    (reason,) = found["reasons"]
    assert f"The {end} end of the field of view cuts the brain" in reason
    assert found["AreaAtEdge"] > 0.5


def test_a_cut_through_the_lower_cerebellum_is_usual():
    mask, affine = ellipsoid(1400)
    low = int(np.flatnonzero(mask.any(axis=(0, 1)))[0])
    assert describe_mask(mask[:, :, low + 4 :], affine)["verdict"] == "good"
