"""Accuracy on images that were left out."""

import numpy as np
import pytest

from neuroferry.judgement import accuracy
from neuroferry.judgement.accuracy import auc, balanced_accuracy, measure

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch):
    monkeypatch.setattr(accuracy, "_RESAMPLES", 200)


def noise(seed, n=60, metrics=12):
    rng = np.random.default_rng(seed)
    bad = np.zeros(n, bool)
    bad[rng.choice(n, n // 3, False)] = True
    return rng.normal(size=(n, metrics)), bad, np.arange(n)


def test_noise_is_predicted_by_chance():
    found = [measure(*noise(seed)) for seed in range(8)]
    assert np.mean([one.auc.value for one in found]) == pytest.approx(0.5, abs=0.1)
    assert np.mean([one.balanced.value for one in found]) == pytest.approx(0.5, abs=0.06)
    assert sum(one.auc.low > 0.5 for one in found) <= 2


def test_two_images_of_one_person_do_not_help_each_other():
    # what tells people apart tells their class apart, if they are on both sides
    found = []
    for seed in range(4):
        rng = np.random.default_rng(seed)
        people = np.repeat(np.arange(30), 2)
        bad = np.repeat(np.arange(30) % 2 == 0, 2)
        values = np.repeat(rng.normal(size=(30, 40)), 2, axis=0)
        found.append(measure(values, bad, people, seed=seed).auc.value)
    assert np.mean(found) == pytest.approx(0.5, abs=0.14)


def test_a_site_does_not_help_itself():
    # quality differs by site alone: with whole sites left out nothing is left to learn
    rng = np.random.default_rng(0)
    sites = np.repeat(np.arange(6), 20)
    rate = np.array([0.9, 0.1, 0.9, 0.1, 0.9, 0.1])[sites]
    bad = rng.random(120) < rate
    values = np.eye(6)[sites] + 0.1 * rng.normal(size=(120, 6))
    people = np.arange(120)
    assert measure(values, bad, people).auc.value > 0.75
    assert measure(values, bad, people, sites).auc.value < 0.65


def test_a_true_difference_is_found_within_and_between_sites():
    rng = np.random.default_rng(1)
    bad = np.arange(120) % 4 == 0
    values = rng.normal(size=(120, 8))
    values[bad, :2] += 1.5
    # AUC of two independent metrics that differ by 1.5 standard deviations: Phi(1.5) = 0.93
    for sites in (None, np.arange(120) // 30):
        found = measure(values, bad, np.arange(120), sites)
        assert found.auc.low < 0.93 < found.auc.high
        assert found.majority == 0.75
        assert found.balanced.low > 0.6


def test_missing_values_are_filled():
    values, bad, people = noise(3)
    values[bad, 0] += 6
    values[::7, 0] = np.nan
    values[:, 1] = np.nan
    assert measure(values, bad, people).auc.value > 0.75


def test_figures_by_their_definitions():
    rng = np.random.default_rng(2)
    scores, bad = rng.integers(0, 5, 40).astype(float), rng.random(40) < 0.4
    pairs = [(a > b) + 0.5 * (a == b) for a in scores[bad] for b in scores[~bad]]
    assert auc(scores, bad) == pytest.approx(np.mean(pairs))
    assert balanced_accuracy(np.ones(40, bool), bad) == 0.5
