"""Distributions from a file of MRIQC's Web API."""

import csv
import json

import numpy as np
import pytest
from iqms_study import write_t1w

from neuroferry.errors import InputError
from neuroferry.judgement.reference import summarise_reference
from neuroferry.judgement.tables import read_scans


def records(count=200):
    return [
        {
            "_id": str(n),
            "bids_meta": {"modality": "T1w", "MagneticFieldStrength": 3 if n % 2 else 1.5},
            "provenance": {"md5sum": f"{n:032x}"},
            "cjv": 0.3 + 0.001 * n,
            "efc": None,
        }
        for n in range(count)
    ]


def write(path, form, made):
    if form == "items":
        path.write_text(json.dumps({"_items": made, "_meta": {}}))
    elif form == "list":
        path.write_text(json.dumps(made))
    elif form == "lines":
        path.write_text("\n".join(map(json.dumps, made)))
    else:
        with path.open("w", newline="") as stream:
            writer = csv.writer(stream, delimiter="," if form == "csv" else "\t")
            writer.writerow(
                ["bids_meta.modality", "bids_meta.MagneticFieldStrength", "cjv", "efc"]
            )
            for record in made:
                meta = record["bids_meta"]
                field = meta["MagneticFieldStrength"]
                writer.writerow([meta["modality"], field, record["cjv"], ""])
    return path


@pytest.fixture
def scans(tmp_path):
    write_t1w(tmp_path / "out", 2)
    return read_scans(tmp_path / "out")


@pytest.mark.parametrize("form", ["items", "list", "lines", "csv", "tsv"])
def test_each_form_gives_the_same_distribution(tmp_path, scans, form):
    path = write(tmp_path / "file", form, records())
    made = summarise_reference(path, scans)["T1w"]
    assert made["n"] == 200
    assert set(made["metrics"]) == {"cjv"}
    cjv = made["metrics"]["cjv"]
    assert cjv["median"] == pytest.approx(0.3995)
    values = 0.3 + 0.001 * np.arange(200)
    assert (cjv["low"], cjv["high"]) == pytest.approx(tuple(np.percentile(values, [0.5, 99.5])))
    assert sum(cjv["counts"]) == 198


def test_an_image_that_was_sent_twice_counts_once(tmp_path, scans):
    path = write(tmp_path / "file", "list", records() + records(50))
    assert summarise_reference(path, scans)["T1w"]["n"] == 200


def test_records_are_matched_by_the_protocol_of_the_scans(tmp_path, scans):
    path = write(tmp_path / "file", "list", records())
    made = summarise_reference(path, scans, ["MagneticFieldStrength"])["T1w"]
    assert made["n"] == 100
    assert made["match"] == ["MagneticFieldStrength"]


def test_what_cannot_be_compared_is_said(tmp_path, scans):
    path = write(tmp_path / "file", "list", records())
    with pytest.raises(InputError, match="Sequence cannot be matched"):
        summarise_reference(path, scans, ["Sequence"])
    path = write(tmp_path / "few", "list", records(10))
    with pytest.raises(InputError, match="holds 10 records, but fewer than 20"):
        summarise_reference(path, scans)
    (tmp_path / "text").write_text("hello\n")
    with pytest.raises(InputError, match="neither JSON nor a table"):
        summarise_reference(tmp_path / "text", scans)
    (tmp_path / "broken").write_text("{")
    with pytest.raises(InputError, match="not valid JSON"):
        summarise_reference(tmp_path / "broken", scans)
