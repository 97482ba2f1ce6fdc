"""Region metrics against closed forms and against values published by MRIQC."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuroferry.interfaces.qc import regions

# Summaries and metrics that MRIQC 21.0.0rc2 published for two skull-stripped T1-weighted
# images of OpenNeuro ds002748 (CC0). Without air, MRIQC replaces the spread of the air by the
# square root of the summed squares of the spreads of the tissues.
PUBLISHED = [
    {
        "csf": {"median": 384.782470703125, "stdv": 68.71598052978516, "n": 32971},
        "gm": {
            "median": 708.78369140625,
            "mad": 45.438581768078684,
            "stdv": 46.141788482666016,
            "n": 10452,
        },
        "wm": {
            "median": 1000.0039672851562,
            "mad": 46.715181548203674,
            "stdv": 50.851497650146484,
            "n": 208082,
        },
        "bg": {"mad": 92.25347772684337, "stdv": 97.14332420610155},
        "cjv": 0.31644006598840413,
        "cnr": 2.448027580571354,
        "snr_csf": 5.599521865613044,
        "snr_gm": 15.360258180184713,
        "snr_wm": 19.665134963257046,
        "snr_total": 13.541638336351602,
        "snrd_csf": 2.732525648000199,
        "snrd_gm": 5.03341436555755,
        "snrd_wm": 7.101509805567266,
        "snrd_total": 4.955816606375006,
    },
    {
        "csf": {"median": 411.28863525390625, "stdv": 79.28482818603516, "n": 36194},
        "gm": {
            "median": 760.4961547851562,
            "mad": 46.105725619148785,
            "stdv": 47.543399810791016,
            "n": 21854,
        },
        "wm": {
            "median": 1000.0072021484375,
            "mad": 34.79708308700492,
            "stdv": 39.209659576416016,
            "n": 255927,
        },
        "bg": {"mad": 95.38008563041915, "stdv": 100.41840593315685},
        "cjv": 0.3377832028910274,
        "cnr": 2.032850031265606,
        "snr_csf": 5.187410541215313,
        "snr_gm": 15.995464315548508,
        "snr_wm": 25.504053318836796,
        "snr_total": 15.562309391866874,
        "snrd_csf": 2.8250147276733215,
        "snrd_gm": 5.223613427297082,
        "snrd_wm": 6.868740907719738,
        "snrd_total": 4.972456354230047,
    },
]


def _summary(**known: float) -> regions.RegionSummary:
    blank: dict[str, Any] = dict.fromkeys(
        ("mean", "median", "p05", "p95", "k", "stdv", "mad"), math.nan
    )
    return regions.RegionSummary(**{**blank, "n": 0, **known})


@pytest.mark.parametrize("published", PUBLISHED, ids=["first", "second"])
def test_metrics_follow_from_the_summaries_that_mriqc_published(published: dict) -> None:
    summaries = {name: _summary(**published[name]) for name in ("csf", "gm", "wm", "bg")}
    metrics = regions.contrast_metrics(summaries)
    assert set(metrics) == {key for key in published if not isinstance(published[key], dict)}
    for name, value in metrics.items():
        assert value == pytest.approx(published[name], rel=2e-6), name


def test_summary_of_normal_intensities() -> None:
    rng = np.random.default_rng(1)
    image = rng.normal(500.0, 20.0, (60, 60, 60))
    summary = regions.summarize_region(image, np.ones(image.shape, dtype=bool))
    assert summary.n == image.size
    assert summary.mean == pytest.approx(500.0, abs=0.2)
    assert summary.median == pytest.approx(500.0, abs=0.2)
    assert summary.stdv == pytest.approx(20.0, rel=0.01)
    assert summary.mad == pytest.approx(20.0, rel=0.01)
    assert summary.p05 == pytest.approx(500.0 - 1.6449 * 20.0, abs=0.5)
    assert summary.p95 == pytest.approx(500.0 + 1.6449 * 20.0, abs=0.5)
    assert summary.k == pytest.approx(0.0, abs=0.05)


def test_kurtosis_of_a_uniform_distribution() -> None:
    values = np.linspace(0.0, 1.0, 100_001).reshape(1, 1, -1)
    summary = regions.summarize_region(values, np.ones(values.shape, dtype=bool))
    assert summary.k == pytest.approx(-1.2, abs=1e-3)


def test_summary_agrees_with_scipy() -> None:
    from scipy import stats

    rng = np.random.default_rng(2)
    image = rng.gamma(2.0, 30.0, (20, 20, 20))
    mask = image > 10
    summary = regions.summarize_region(image, mask)
    assert summary.k == pytest.approx(stats.kurtosis(image[mask]))
    assert summary.mad == pytest.approx(stats.median_abs_deviation(image[mask], scale="normal"))


def test_empty_region_is_undefined_and_says_so() -> None:
    summary = regions.summarize_region(np.ones((4, 4, 4)), np.zeros((4, 4, 4), dtype=bool))
    assert summary.n == 0
    assert all(math.isnan(value) for key, value in vars(summary).items() if key != "n")


def test_constant_region_has_no_kurtosis() -> None:
    summary = regions.summarize_region(np.full((4, 4, 4), 7.0), np.ones((4, 4, 4), dtype=bool))
    assert summary.stdv == 0
    assert math.isnan(summary.k)


def test_summary_names() -> None:
    names = set(_summary(n=3).as_metrics("gm"))
    assert names == {
        f"summary_gm_{s}" for s in ("mean", "median", "p05", "p95", "k", "stdv", "mad", "n")
    }


def test_snr_of_synthetic_noise() -> None:
    rng = np.random.default_rng(3)
    image = rng.normal(1000.0, 25.0, (50, 50, 50))
    s = regions.summarize_region(image, np.ones(image.shape, dtype=bool))
    assert regions.snr(s.median, s.stdv, s.n) == pytest.approx(40.0, rel=0.01)


def test_dietrich_recovers_the_noise_of_the_receiver() -> None:
    rng = np.random.default_rng(4)
    sigma = 12.0
    channels = rng.normal(0.0, sigma, (2, 60, 60, 60))
    air = np.hypot(channels[0], channels[1])
    s = regions.summarize_region(air, np.ones(air.shape, dtype=bool))
    assert regions.snr_dietrich(1000.0, 0.0, s.stdv) == pytest.approx(1000.0 / sigma, rel=0.01)
    # the robust spread of a Rayleigh variable differs from its standard deviation: 0.6647 / 0.6551
    assert regions.snr_dietrich(1000.0, s.mad, s.stdv) == pytest.approx(
        1000.0 / sigma * regions.DIETRICH_FACTOR / 0.6647, rel=0.01
    )


@given(st.floats(-1e4, 1e4), st.floats(1.0, 1e3), st.floats(0.1, 100), st.floats(0.1, 100))
def test_cjv_does_not_depend_on_scale_or_on_the_order_of_tissues(
    wm: float, gap: float, mad_wm: float, mad_gm: float
) -> None:
    value = regions.cjv(wm, wm - gap, mad_wm, mad_gm)
    assert value == pytest.approx((mad_wm + mad_gm) / gap, rel=1e-6)
    assert regions.cjv(wm - gap, wm, mad_gm, mad_wm) == pytest.approx(value, rel=1e-9)
    assert regions.cjv(3 * wm, 3 * (wm - gap), 3 * mad_wm, 3 * mad_gm) == pytest.approx(
        value, rel=1e-6
    )


def test_cnr_closed_form() -> None:
    assert regions.cnr(1000.0, 700.0, 0.0, 30.0, 40.0) == pytest.approx(6.0)


def test_undefined_contrasts_are_nan() -> None:
    assert math.isnan(regions.cjv(5.0, 5.0, 1.0, 1.0))
    assert math.isnan(regions.cnr(5.0, 5.0, 0.0, 0.0, 0.0))
    assert math.isnan(regions.cnr(5.0, 4.0, math.nan, 1.0, 1.0))
    assert math.isnan(regions.snr(5.0, 0.0, 100))
    assert math.isnan(regions.snr(5.0, 1.0, 1))
    assert math.isnan(regions.snr_dietrich(5.0, 0.0, 0.0))
    assert math.isnan(regions.snr_dietrich(5.0, math.nan, math.nan))


def test_core_drops_the_border_and_the_unsure() -> None:
    probability = np.zeros((9, 9, 9))
    probability[1:8, 1:8, 1:8] = 1.0
    probability[4, 4, 4] = 0.8
    core = regions.tissue_core(probability)
    assert core.sum() == 5**3 - 19  # one uncertain voxel removes itself and its 18 neighbours
    assert regions.tissue_core(probability, erode=False).sum() == 7**3 - 1


def test_erosion_needs_small_voxels() -> None:
    assert regions.should_erode((1.0, 1.0, 1.8))
    assert not regions.should_erode((1.0, 1.0, 2.0))


def test_harmonization_brings_white_matter_to_a_thousand() -> None:
    rng = np.random.default_rng(5)
    wm = np.zeros((20, 20, 20))
    wm[4:16, 4:16, 4:16] = 1.0
    image = np.where(wm > 0, rng.normal(37.0, 1.0, wm.shape), 5.0)
    factor = regions.harmonization_factor(image, wm)
    assert np.median(image[regions.tissue_core(wm)]) * factor == pytest.approx(1000.0)
    assert math.isnan(regions.harmonization_factor(image, np.zeros_like(wm)))
    assert math.isnan(regions.harmonization_factor(-image, wm))


def test_a_few_vessels_do_not_set_the_spread_of_white_matter():
    """Two voxels of a thousand at up to 3.3 times the median, as vessels and fat are."""
    rng = np.random.default_rng(2)
    image = rng.normal(1000, 45, (60, 60, 60))
    truth = regions.summarize_region(image, image > 0)
    bright = rng.random(image.shape) < 0.002
    image[bright] *= rng.uniform(1.5, 3.3, int(bright.sum()))
    everything = regions.summarize_region(image, image > 0)
    assert everything.stdv > 1.2 * truth.stdv
    assert everything.k > 50
    found = regions.summarize_region(image, regions.without_bright_outliers(image, image > 0))
    assert found.stdv == pytest.approx(truth.stdv, rel=0.02)
    assert abs(found.k) < 0.2
    for summary, off in ((everything, True), (found, False)):
        ratio = regions.snr(summary.median, summary.stdv, summary.n)
        ratio /= regions.snr(truth.median, truth.stdv, truth.n)
        assert (abs(ratio - 1) > 0.15) is off
