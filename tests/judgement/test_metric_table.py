"""The table of the metrics' explanations."""

from __future__ import annotations

import pytest

from neuroferry.judgement.metric_table import metric_table

STATISTICS = ("mean", "median", "p05", "p95", "k", "stdv", "mad", "n")
MRIQC_NAMES = {
    "cjv",
    "cnr",
    "efc",
    "fber",
    "qi_1",
    "qi_2",
    "wm2max",
    "inu_med",
    "inu_range",
    "fwhm_avg",
    *(f"{kind}_{axis}" for kind in ("fwhm", "size", "spacing") for axis in "xyz"),
    *(f"{kind}_{t}" for kind in ("snr", "snrd") for t in ("csf", "gm", "wm", "total")),
    *(f"{k}_{t}" for k in ("icvs", "rpve", "tpm_overlap") for t in ("csf", "gm", "wm")),
    *(f"summary_{r}_{s}" for r in ("bg", "csf", "gm", "wm") for s in STATISTICS),
}
BOLD_NAMES = {
    *("aor", "aqi", "dummy_trs", "efc", "fber", "gcor", "gsr_x", "gsr_y", "snr", "tsnr"),
    *("dvars_nstd", "dvars_std", "dvars_vstd", "fd_mean", "fd_num", "fd_perc", "fwhm_avg"),
    *(f"{kind}_{axis}" for kind in ("fwhm", "size", "spacing") for axis in "xyz"),
    *("size_t", "spacing_tr"),
    *(f"summary_{r}_{s}" for r in ("bg", "fg") for s in STATISTICS),
}


def test_names_are_those_that_mriqc_publishes() -> None:
    assert set(metric_table()) == MRIQC_NAMES
    assert len(MRIQC_NAMES) == 68
    assert set(metric_table("bold")) == BOLD_NAMES


@pytest.mark.parametrize(
    "metric", [*metric_table().values(), *metric_table("bold").values()], ids=lambda m: m.name
)
def test_each_metric_is_explained(metric) -> None:
    assert metric.title
    assert metric.meaning.endswith(".")
    assert len(metric.meaning) > 30
    assert "{" not in metric.name + metric.title + metric.meaning
    assert metric.better in {"higher", "lower", "near", "none"}
    assert (metric.better == "near") <= (metric.typical is not None)
    assert "doi:" in metric.reference or metric.group == "Geometry"
    if metric.typical is not None:
        assert metric.typical[0] < metric.typical[1]


def test_metrics_that_need_air_are_marked() -> None:
    marked = {name for name, metric in metric_table().items() if metric.needs_air}
    expected = {"cnr", "fber", "qi_1", "qi_2"}
    expected |= {f"snrd_{t}" for t in ("csf", "gm", "wm", "total")}
    expected |= {f"summary_bg_{s}" for s in STATISTICS}
    assert marked == expected


def test_table_is_read_only() -> None:
    with pytest.raises(TypeError):
        metric_table()["cjv"] = None  # type: ignore[index]
