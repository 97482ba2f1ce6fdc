"""Limits and outliers."""

import numpy as np
import pytest

from neuroferry.judgement.rules import (
    Limit,
    Outliers,
    Rules,
    apply_rules,
    group_scans,
    without_company,
)
from neuroferry.judgement.tables import Scan


def scans(values, metric="cjv", protocol="p"):
    return [
        Scan(f"sub-{n}_T1w", "T1w", {metric: value}, {"protocol": protocol})
        for n, value in enumerate(values)
    ]


def found(made, rules=None, **directions):
    all_of = apply_rules(made, rules or Rules(), directions or {"cjv": "lower"})
    return {name: findings for name, findings in all_of.items() if findings}


USUAL = [1.0, 1.1, 0.9, 1.05, 0.95, 1.02]


@pytest.mark.parametrize(
    ("better", "high", "low"),
    [("lower", 1, 0), ("higher", 0, 1), ("near", 1, 1), ("none", 0, 0)],
)
def test_only_the_worse_side_is_an_outlier(better, high, low):
    assert len(found(scans([*USUAL, 9.0]), cjv=better)) == high
    assert len(found(scans([*USUAL, -9.0]), cjv=better)) == low


def test_the_score_is_that_of_the_median(tmp_path):
    values = [*USUAL, 1.4]
    middle = np.median(values)
    z = (1.4 - middle) / (1.4826 * np.median(np.abs(np.array(values) - middle)))
    assert len(found(scans(values), Rules(outliers=Outliers(k=z - 1e-9)))) == 1
    assert not found(scans(values), Rules(outliers=Outliers(k=z + 1e-9)))


def test_five_scans_alike_are_too_few():
    assert not found(scans([1.0, 1.1, 0.9, 1.05, 9.0]))
    assert found(scans([1.0, 1.1, 0.9, 1.05, 0.95, 9.0]))


def test_scans_without_company_are_counted():
    made = [*scans(USUAL), *scans([1.0, 2.0], protocol="q")]
    assert without_company(made, Outliers()) == 2
    assert without_company(made, Outliers(by=())) == 0
    assert without_company(made, Outliers(on=False)) == 0


def test_protocols_are_judged_apart():
    other = [
        Scan(f"sub-x{n}_T1w", "T1w", {"cjv": v + 5}, {"protocol": "q"})
        for n, v in enumerate(USUAL)
    ]
    assert not found([*scans(USUAL), *other])
    assert len(found([*scans(USUAL), *other[:1]], Rules(outliers=Outliers(by=())))) == 1
    assert set(group_scans(other, ("protocol",))) == {("q",)}


def test_values_all_alike_have_no_outliers():
    assert not found(scans([1.0] * 8 + [2.0]))


def test_outliers_are_rare_in_normal_values():
    rng = np.random.default_rng(0)
    marked = sum(len(found(scans(rng.normal(size=200)))) for _ in range(40))
    assert marked / 8000 < 2 * 0.00023  # one tail beyond 3.5 standard deviations


def test_limits_hold_for_all_or_for_a_protocol():
    made = [*scans([1.0, 3.0]), Scan("sub-q_T1w", "T1w", {"cjv": 3.0}, {"protocol": "q"})]
    rules = Rules(
        (
            Limit("T1w", "cjv", high=2.0),
            Limit("T1w", "cjv", high=4.0, column="protocol", value="q"),
            Limit("bold", "cjv", high=0.0),
        )
    )
    (finding,) = found(made, rules)["sub-1_T1w"]
    assert (finding.level, finding.reason) == ("exclude", "cjv 3 is above 2")
    assert set(found(made, rules)) == {"sub-1_T1w"}


def test_a_value_at_the_limit_is_within():
    rules = Rules((Limit("T1w", "cjv", low=1.0, high=1.0, then="look"),))
    assert not found(scans([1.0]), rules)
    assert found(scans([0.999]), rules)["sub-0_T1w"][0].level == "look"
