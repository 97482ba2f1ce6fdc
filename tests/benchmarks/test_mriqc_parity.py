"""The benchmark against MRIQC's published metrics, on made-up figures."""

from __future__ import annotations

import importlib.util
import json
import math
import sys
from pathlib import Path
from typing import Any

import pytest

from neuroferry.judgement.metric_table import metric_table

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "mriqc_parity.py"


@pytest.fixture(scope="module")
def parity() -> Any:
    spec = importlib.util.spec_from_file_location("mriqc_parity", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def _metrics(**changed: float | None) -> dict[str, Any]:
    values: dict[str, Any] = dict.fromkeys(metric_table(), 2.0)
    for index, tissue in enumerate(("csf", "gm", "wm")):
        values[f"summary_{tissue}_median"] = 400.0 + 300 * index
        values[f"summary_{tissue}_stdv"] = (2.0, 3.0, 6.0)[index]
        values[f"summary_{tissue}_n"] = 1000
    return {**values, **changed}


def _lay_out(folder: Path, published: dict[str, Any], computed: dict[str, Any]) -> list[str]:
    reference = folder / "reference" / "sub-01"
    reference.mkdir(parents=True)
    (reference / "sub-01_T1w.nii.gz").write_bytes(b"")
    (reference / "mriqc_T1w_iqms.json").write_text(json.dumps(published))
    anat = folder / "out" / "sub-01" / "anat"
    anat.mkdir(parents=True)
    (anat / "sub-01_desc-iqms_T1w.json").write_text(json.dumps(computed))
    return [str(SCRIPT), str(folder / "reference"), str(folder / "out")]


def test_stand_in_for_missing_air(parity: Any) -> None:
    filled = parity.stand_in_air(_metrics(cnr=None, snrd_wm=None, summary_bg_stdv=None))
    assert filled["summary_bg_stdv"] == pytest.approx(7.0)  # 2, 3, 6
    assert filled["summary_bg_n"] == 3000
    assert filled["cnr"] == pytest.approx(300.0 / math.sqrt(49.0 + 9.0 + 36.0))
    assert math.isfinite(filled["snrd_wm"])


def test_every_metric_has_a_reason(parity: Any) -> None:
    reasons = {name: parity.reason(name) for name in metric_table()}
    assert all(reasons.values())
    assert set(reasons.values()) == set(parity.WHY.values())


@pytest.mark.parametrize(("efc", "code"), [(2.0, 0), (2.1, 1)])
def test_tables_and_targets(
    parity: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    efc: float,
    code: int,
) -> None:
    published = parity.stand_in_air(_metrics(qi_1=math.nan))
    arguments = _lay_out(tmp_path, published, _metrics(efc=efc, qi_1=None))
    table = tmp_path / "table.rst"
    monkeypatch.setattr(sys, "argv", [*arguments, "--table", str(table)])
    assert parity.main() == code
    text = table.read_text()
    assert text == capsys.readouterr().out
    assert ('"efc", "5 %", "1 %", "no"' in text) == bool(code)
    assert '"size_x", "2", "2", "0.00 %"' in text
    assert '"qi_1", "n/a", "n/a", "n/a"' in text


def test_metric_that_is_not_computed_is_an_error(
    parity: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    computed = _metrics()
    del computed["efc"]
    monkeypatch.setattr(sys, "argv", _lay_out(tmp_path, _metrics(), computed))
    with pytest.raises(SystemExit, match="efc"):
        parity.main()
