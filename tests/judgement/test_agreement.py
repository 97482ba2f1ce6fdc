"""Agreement of raters."""

import math

import pytest

from neuroferry.judgement.agreement import agreements, kappa, write_agreement
from neuroferry.judgement.ratings import Rating


def test_kappa_of_a_known_table():
    # Cohen 1960: p_o = 0.7, p_e = 0.5
    first = [1] * 25 + [0] * 25
    second = [1] * 20 + [0] * 5 + [1] * 10 + [0] * 15
    assert kappa(first, second, [0, 1]) == pytest.approx(0.4)


def test_weighted_kappa_by_its_definition():
    first, second = [1, 2, 3, 4, 4, 2], [1, 3, 3, 4, 2, 1]
    observed = sum((a - b) ** 2 for a, b in zip(first, second, strict=True)) / 6
    expected = sum((a - b) ** 2 for a in first for b in second) / 36
    assert kappa(first, second, [1, 2, 3, 4], "quadratic") == pytest.approx(
        1 - observed / expected
    )


def test_pairs_are_compared_on_what_both_rated(tmp_path):
    ratings = [
        Rating("sub-1_T1w", 1, "ann", ("inu",)),
        Rating("sub-2_T1w", 4, "ann"),
        Rating("sub-3_T1w", 2, "ann"),
        Rating("sub-1_T1w", 1.4, "bob", ("inu",)),
        Rating("sub-2_T1w", 4, "bob", ("ghost-other",)),
        Rating("sub-2_T1w", 4, "eve"),
    ]
    found = {(one.raters, one.what): one for one in agreements(ratings)}
    both = ("ann", "bob")
    assert found[both, "rating"].n == 2
    assert found[both, "rating"].kappa == 1
    assert found[both, "inu"].kappa == 1
    assert found[both, "ghost-other"].observed == 0.5
    assert (both, "head-motion") not in found
    assert math.isnan(found[("ann", "eve"), "rating"].kappa)
    path = write_agreement(tmp_path, list(found.values()))
    assert "ann\teve\trating\t1\t1\tn/a" in path.read_text()
