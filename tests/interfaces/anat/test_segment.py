from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from neuroferry.errors import InputError
from neuroferry.interfaces.anat.segment import (
    MixtureSettings,
    neighbour_support,
    segment_tissues,
    tissue_report,
)
from neuroferry.interfaces.image.images import Volume

SHAPE = (40, 40, 40)
LEVELS = np.array([60.0, 90.0, 25.0])


@pytest.fixture(scope="module")
def scene():
    """Simulate white matter in grey matter in fluid: noisy shells, and blurred priors."""
    centred = (np.indices(SHAPE).T - 19.5).T
    radius = np.sqrt((centred**2).sum(axis=0))
    labels = np.select([radius < 10, radius < 14, radius < 18], [2, 1, 3], 0)
    rng = np.random.default_rng(0)
    data = np.where(labels > 0, LEVELS[np.maximum(labels, 1) - 1], 0.0)
    data = data + rng.normal(0, 9, SHAPE) * (labels > 0)
    priors = np.stack(
        [ndimage.gaussian_filter((labels == k).astype(np.float32), 2.5) for k in (1, 2, 3)]
    )
    return Volume(data.astype(np.float32), np.eye(4)), labels, priors


def test_shells_are_found(scene):
    volume, labels, priors = scene
    found = segment_tissues(volume, labels > 0, priors)
    for label in (1, 2, 3):
        overlap = 2 * np.sum((found.dseg == label) & (labels == label))
        assert overlap / (np.sum(found.dseg == label) + np.sum(labels == label)) > 0.95
    np.testing.assert_allclose(found.means, LEVELS, atol=3)


def test_probabilities_add_up_and_agree_with_the_labels(scene):
    volume, labels, priors = scene
    found = segment_tissues(volume, labels > 0, priors)
    stack = np.stack(found.tpms)
    np.testing.assert_allclose(stack.sum(axis=0)[labels > 0], 1, atol=1e-5)
    assert (stack[:, labels == 0] == 0).all()
    np.testing.assert_array_equal(stack.argmax(axis=0)[labels > 0] + 1, found.dseg[labels > 0])
    assert (found.dseg[labels == 0] == 0).all()


def test_neighbours_take_out_noise(scene):
    volume, labels, priors = scene
    alone = MixtureSettings(field_weight=0.0, prior_weight=0.0)
    lonely = segment_tissues(volume, labels > 0, priors, alone)
    together = segment_tissues(volume, labels > 0, priors)
    wrong = [np.mean((s.dseg != labels)[labels > 0]) for s in (lonely, together)]
    assert wrong[1] < 0.7 * wrong[0]


def test_vessels_and_fat_neither_widen_white_matter_nor_count_as_such(scene):
    volume, labels, priors = scene
    rng = np.random.default_rng(6)
    bright = np.zeros(SHAPE, dtype=bool)
    bright[labels == 2] = rng.random(np.count_nonzero(labels == 2)) < 0.004
    data = volume.data.copy()
    data[bright] *= rng.uniform(2.0, 3.3, np.count_nonzero(bright)).astype(np.float32)
    clean = segment_tissues(volume, labels > 0, priors)
    found = segment_tissues(volume.with_data(data), labels > 0, priors)
    assert bright.sum() > 10
    np.testing.assert_allclose(found.deviations, clean.deviations, rtol=0.1)
    assert not np.stack(found.tpms)[:, bright].any()
    others = (labels > 0) & ~bright
    assert np.mean(found.dseg[others] != clean.dseg[others]) < 0.002


def test_the_contrast_of_a_t1w_image_is_recognised(scene):
    volume, labels, priors = scene
    mask = labels > 0
    report = tissue_report(volume, mask, priors, segment_tissues(volume, mask, priors))
    assert 2 < report["Contrast"] < 5
    assert not any("White matter" in reason for reason in report["reasons"])
    inverted = volume.with_data(np.where(mask, 130 - volume.data, 0).astype(np.float32))
    found = segment_tissues(inverted, mask, priors)
    report = tissue_report(inverted, mask, priors, found)
    assert report["verdict"] == "look"
    assert "White matter is not brighter than grey matter" in report["reasons"][0]


def test_fractions_that_no_brain_has_are_named(scene):
    volume, labels, priors = scene
    found = segment_tissues(volume, labels > 0, priors)
    empty = np.zeros_like(found.tpms[0])
    flat = replace(found, tpms=(found.tpms[0], empty, found.tpms[2]))
    report = tissue_report(volume, labels > 0, priors, flat)
    assert any("0% of the brain is WM" in reason for reason in report["reasons"])


def test_intensity_scale_does_not_matter(scene):
    volume, labels, priors = scene
    one = segment_tissues(volume, labels > 0, priors)
    other = segment_tissues(volume.with_data(volume.data * 1000), labels > 0, priors)
    assert np.mean(one.dseg != other.dseg) < 1e-4


def test_a_template_that_is_off_does_little_harm(scene):
    volume, labels, priors = scene
    found = segment_tissues(volume, labels > 0, np.roll(priors, 3, axis=1))
    assert np.mean((found.dseg != labels)[labels > 0]) < 0.06


def test_useless_brains_are_refused(scene):
    volume, labels, priors = scene
    tiny = np.zeros(SHAPE, dtype=bool)
    tiny[:3, :3, :3] = True
    with pytest.raises(InputError, match="voxels"):
        segment_tissues(volume, tiny, priors)
    with pytest.raises(InputError, match="uniform intensity"):
        segment_tissues(volume.with_data(np.full(SHAPE, 3, "f4")), labels > 0, priors)


def test_support_counts_near_neighbours_more():
    probabilities = np.zeros((1, 5, 5, 5), dtype=np.float32)
    probabilities[0, 2, 2, 2] = 1
    support = neighbour_support(probabilities, np.array([1.0, 1.0, 2.0]))[0]
    assert support[1, 2, 2] == pytest.approx(0.2)
    assert support[2, 2, 1] == pytest.approx(0.1)
    assert support.sum() == pytest.approx(1.0)
