"""What is known about a series, and why a metric of it is undefined."""

from __future__ import annotations

import math

import numpy as np

from neuroferry.interfaces.qc.bold import (
    ABOUT_COLUMNS,
    Given,
    about_columns,
    displacement_metrics,
    explain_undefined,
)

NAN = math.nan


def test_dummies_and_unusable_volumes_are_not_measured() -> None:
    given = Given(2.0, 8, 2, frozenset({1, 5}))
    assert given.measured == [2, 3, 4, 6, 7]
    column = given.spread(np.arange(5, dtype=np.float64))
    np.testing.assert_array_equal(column, [NAN, NAN, 0, 1, 2, NAN, 3, 4])
    assert Given(2.0, 3, 3).measured == [0, 1, 2]  # rather than nothing


def test_one_volume_has_no_displacement() -> None:
    found = displacement_metrics(np.array([NAN]))
    assert all(math.isnan(value) for value in found.values())


def test_each_undefined_metric_has_its_reason() -> None:
    values = dict.fromkeys(("aor", "aqi", "fd_mean", "tsnr", "fber", "gsr_x", "fwhm_z"), NAN)
    reasons = explain_undefined({**values, "efc": 0.5}, Given(2.0, 1))
    assert set(reasons) == set(values)
    assert "1 volume" in reasons["tsnr"]
    problems = {"motion": "No signal.", "brain": "No brain was found."}
    reasons = explain_undefined(values, Given(2.0, 30, problems=problems))
    assert reasons["fd_mean"].endswith("No signal.")
    assert reasons["gsr_x"].endswith("No brain was found.")
    assert "no ghost" in explain_undefined(values, Given(2.0, 30))["gsr_x"]
    assert "background is empty" in explain_undefined(values, Given(2.0, 30))["fber"]


def test_the_sidecar_describes_the_columns() -> None:
    about = about_columns(2.5)
    assert all(about[name]["Description"] for name in ABOUT_COLUMNS)
