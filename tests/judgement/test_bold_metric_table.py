"""The explanations of the metrics of BOLD series."""

from __future__ import annotations

import pytest

from neuroferry.judgement.metric_table import metric_table

STATISTICS = ("mean", "median", "p05", "p95", "k", "stdv", "mad", "n")
MRIQC_NAMES = {
    *("aor", "aqi", "dummy_trs", "efc", "fber", "gcor", "gsr_x", "gsr_y", "snr", "tsnr"),
    *("dvars_nstd", "dvars_std", "dvars_vstd", "fd_mean", "fd_num", "fd_perc", "fwhm_avg"),
    *(f"{kind}_{axis}" for kind in ("fwhm", "size", "spacing") for axis in "xyz"),
    *("size_t", "spacing_tr"),
    *(f"summary_{r}_{s}" for r in ("bg", "fg") for s in STATISTICS),
}


def test_names_are_those_of_mriqc() -> None:
    assert set(metric_table("bold")) == MRIQC_NAMES


@pytest.mark.parametrize("metric", metric_table("bold").values(), ids=lambda m: m.name)
def test_each_metric_is_explained(metric) -> None:
    assert metric.title
    assert metric.meaning.endswith(".")
    assert "{" not in metric.name + metric.title + metric.meaning
    assert "doi:" in metric.reference or metric.group == "Geometry"
    assert not metric.needs_air
