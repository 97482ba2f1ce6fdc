"""Drift of a scanner: known changes are found, and none in stationary noise."""

from collections.abc import Sequence
from datetime import date, datetime, timedelta

import numpy as np
import pytest

from neuroferry.judgement.drift import (
    Alarm,
    Chart,
    Floats,
    control_chart,
    follow,
    hodges_lehmann,
    qn_spread,
    undated,
    write_drift,
)
from neuroferry.judgement.tables import Scan, Scans


def chart_of(values: Sequence[float] | Floats, n_baseline: int) -> Chart:
    """Make the chart of a series that has one."""
    chart = control_chart(values, n_baseline)
    assert chart is not None
    return chart


def test_estimates_are_those_of_normal_values():
    rng = np.random.default_rng(0)
    made = [(hodges_lehmann(x), qn_spread(x)) for x in rng.normal(5, 2, (300, 20))]
    assert np.mean([centre for centre, _ in made]) == pytest.approx(5, abs=0.08)
    assert np.mean([spread for _, spread in made]) == pytest.approx(2, rel=0.03)


def test_three_outliers_in_the_baseline_do_not_move_it_much():
    rng = np.random.default_rng(1)
    values = rng.normal(0, 1, 20)
    clean = hodges_lehmann(values), qn_spread(values)
    values[:3] = 50
    assert abs(hodges_lehmann(values) - clean[0]) < 0.6
    assert qn_spread(values) < 2 * clean[1]


@pytest.mark.parametrize(("n_baseline", "most"), [(10, 0.014), (20, 0.0095), (50, 0.0085)])
def test_stationary_noise_gives_no_more_alarms_than_expected(n_baseline, most):
    # three rules of at most 0.0027 each a point; less exact limits of ten scans cost more
    rng = np.random.default_rng(2)
    charts = [chart_of(rng.normal(10, 2, n_baseline + 60), n_baseline) for _ in range(400)]
    assert sum(len(chart.alarms) for chart in charts) / (400 * 60) < most


@pytest.mark.parametrize(("step", "within"), [(2, 12), (3, 6), (6, 1)])
def test_a_step_is_found_soon(step, within):
    rng = np.random.default_rng(3)
    delays = []
    for _ in range(100):
        values = rng.normal(0, 1, 80)
        values[40:] += step
        chart = chart_of(values, 25)
        delays.append(next((a.place - 39 for a in chart.alarms if a.place >= 40), 99))
    assert np.percentile(delays, 90) <= within


@pytest.mark.parametrize("slope", [0.1, -0.1])
def test_a_slope_is_found_before_it_is_large(slope):
    rng = np.random.default_rng(4)
    found = []
    for _ in range(100):
        values = rng.normal(0, 1, 100)
        values[30:] += slope * np.arange(70)
        chart = chart_of(values, 30)
        found.append(next((a.place - 30 for a in chart.alarms), 99))
    assert np.percentile(found, 90) <= 35  # 3.5 standard deviations away


def test_rules_by_hand():
    base = np.linspace(-1, 1, 20).tolist()
    chart = chart_of([*base, 0, 0], 20)
    limit = chart.limit
    assert chart.alarms == ()
    far = chart_of([*base, 1.01 * limit + chart.centre, 0], 20)
    assert Alarm(20, "beyond") in far.alarms
    twice = chart_of([*base, 0.7 * limit, 0, 0.7 * limit], 20)
    assert Alarm(22, "two of three") in twice.alarms
    sides = chart_of([*base, 0.7 * limit, 0, -0.7 * limit], 20)
    assert not [alarm for alarm in sides.alarms if alarm.rule == "two of three"]
    shifted = chart_of([*base, *[0.6 * limit] * 8], 20)
    assert [alarm.rule for alarm in shifted.alarms] == ["average"]


def test_too_short_or_constant_series_have_no_limits():
    assert control_chart(np.arange(20.0).tolist(), 9) is None
    assert control_chart([1.0] * 40, 20) is None


def made_scans(changes=None, n=60, dated=True):
    rng = np.random.default_rng(5)
    scans = []
    for k in range(n):
        for scanner in ("A", "B"):
            value = 50 + rng.normal() + (8 if changes == scanner and k >= 40 else 0)
            when = datetime(2026, 1, 1) + timedelta(days=k)
            columns = {"scanner": scanner, "protocol": "p", "acq_time": when.isoformat()}
            if not dated:
                del columns["acq_time"]
            scans.append(Scan(f"sub-{k}{scanner}_T1w", "T1w", {"cnr": value}, columns))
    return Scans({"T1w": tuple(scans[::-1])})


def test_the_scanner_that_changed_is_named_with_its_date(tmp_path):
    followed = follow(made_scans("B"), {"T1w": {"cnr": "higher", "size_x": "none"}})
    by = {series.scanner: series for series in followed}
    assert len(followed) == 2
    chart = by["B"].chart
    assert chart is not None
    late = [a for a in chart.alarms if by["B"].times[a.place] >= datetime(2026, 2, 10)]
    assert late[0].place == 40
    path = write_drift(tmp_path, followed)
    lines = [line.split("\t") for line in path.read_text().splitlines()]
    assert any(
        row[1] == "B" and row[4] == "2026-02-10T00:00:00" and row[6] == "beyond" for row in lines
    )


def test_the_baseline_can_end_at_a_date():
    scans = made_scans()
    (one, _) = follow(scans, {"T1w": {"cnr": "higher"}}, baseline=date(2026, 1, 31))
    assert one.chart is not None
    assert one.chart.n_baseline == 30


def test_scans_without_a_date_are_counted():
    scans = made_scans(dated=False, n=3)
    assert undated(scans) == 6
    assert follow(scans, {"T1w": {"cnr": "higher"}}) == ()
