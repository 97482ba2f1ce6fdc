"""Metrics of an output folder, whoever wrote them."""

import csv
import json

from iqms_study import write_bold, write_scan, write_t1w

from neuroferry.config import MODALITIES as ALL
from neuroferry.judgement.tables import (
    MODALITIES,
    group_table,
    read_scans,
    write_group_table,
)


def rows(path):
    with path.open() as stream:
        return {row["bids_name"]: row for row in csv.DictReader(stream, delimiter="\t")}


def test_modalities_are_those_of_the_settings():
    assert tuple(MODALITIES) == tuple(ALL)


def test_our_files_and_mriqcs_read_alike(tmp_path):
    write_t1w(tmp_path / "ours", 3)
    write_t1w(tmp_path / "theirs", 3, ours=False)
    ours, theirs = (read_scans(tmp_path / name).of["T1w"] for name in ("ours", "theirs"))
    assert [scan.name for scan in ours] == ["sub-001_T1w", "sub-002_T1w", "sub-003_T1w"]
    assert [(s.name, s.metrics, s.columns) for s in ours] == [
        (s.name, s.metrics, s.columns) for s in theirs
    ]
    assert ours[0].columns["scanner"] == "A"
    assert ours[0].columns["protocol"] == "Model A, 3 T, mprage"
    assert ours[0].columns["acq_time"] == "2026-01-05T09:00:00"


def test_sidecars_of_derivatives_are_no_metrics(tmp_path):
    write_t1w(tmp_path, 1)
    anat = tmp_path / "sub-001" / "anat"
    (anat / "sub-001_desc-preproc_T1w.json").write_text('{"RepetitionTime": 2.0}')
    (anat / "sub-001_rec-x_T1w.json").write_text('{"RepetitionTime": 2.0}')
    assert [scan.name for scan in read_scans(tmp_path)] == ["sub-001_T1w"]


def test_a_broken_file_is_named_and_left_out(tmp_path):
    write_t1w(tmp_path, 2)
    bad = tmp_path / "sub-001" / "anat" / "sub-001_desc-iqms_T1w.json"
    bad.write_text("{")
    scans = read_scans(tmp_path)
    assert [scan.name for scan in scans] == ["sub-002_T1w"]
    assert str(bad) in scans.notes[0]


def test_what_is_not_finite_is_undefined(tmp_path):
    path = write_scan(tmp_path, "sub-01_T1w", {"cjv": 0.5})
    path.write_text(path.read_text().replace("{", '{"qi_1": NaN, "cnr": null, "x": true, ', 1))
    (scan,) = read_scans(tmp_path)
    assert dict(scan.metrics) == {"cjv": 0.5}


def make_dataset(folder):
    raw = folder / "raw"
    (raw / "sub-01" / "ses-a").mkdir(parents=True)
    (raw / "participants.tsv").write_text("participant_id\tsite\tage\nsub-01\tnorth\t33\n")
    (raw / "sub-01" / "ses-a" / "sub-01_ses-a_scans.tsv").write_text(
        "filename\tacq_time\toperator\nanat/sub-01_ses-a_T1w.nii.gz\t2026-02-03T04:05:06\tn/a\n"
    )
    return raw


def test_tables_of_the_dataset_become_columns_and_last_without_it(tmp_path):
    raw, out = make_dataset(tmp_path), tmp_path / "out"
    write_scan(out, "sub-01_ses-a_T1w", {"cjv": 0.5})
    scans = read_scans(out, raw)
    columns = scans.of["T1w"][0].columns
    expected = {"subject": "01", "session": "a", "site": "north", "age": "33"}
    assert columns == expected | {"acq_time": "2026-02-03T04:05:06"}
    write_group_table(group_table(out, "T1w"), scans.of["T1w"])
    again = read_scans(out, tmp_path / "gone")
    assert again.of["T1w"][0].columns == columns
    # what is measured again counts, not what the table said
    write_scan(out, "sub-01_ses-a_T1w", {"cjv": 0.5}, meta={"StationName": "old"})
    write_group_table(group_table(out, "T1w"), read_scans(out).of["T1w"])
    write_scan(out, "sub-01_ses-a_T1w", {"cjv": 0.5}, meta={"StationName": "new"})
    (scan,) = read_scans(out)
    assert scan.columns == {**columns, "StationName": "new", "scanner": "new"}


def test_a_table_without_its_key_is_named(tmp_path):
    raw, out = make_dataset(tmp_path), tmp_path / "out"
    (raw / "participants.tsv").write_text("id\tsite\nsub-01\tnorth\n")
    write_scan(out, "sub-01_ses-a_T1w", {"cjv": 0.5})
    scans = read_scans(out, raw)
    assert "site" not in scans.of["T1w"][0].columns
    assert "participant_id" in scans.notes[0]


def test_the_group_table_has_metrics_first_then_extras(tmp_path):
    write_bold(tmp_path, 2)
    scans = read_scans(tmp_path).of["bold"]
    extras = {
        scans[0].name: {"alignment": "good", "tsnr": "61"},
        "sub-09_task-x_bold": {"alignment": "look", "tsnr": ""},
    }
    write_group_table(tmp_path / "t.tsv", scans, order=["tsnr", "fd_mean"], extras=extras)
    table = rows(tmp_path / "t.tsv")
    header = list(table["sub-001_task-rest_bold"])
    assert header[:3] == ["bids_name", "tsnr", "fd_mean"]
    at = header.index("alignment")
    assert header[at : at + 3] == ["alignment", "processed_tsnr", "subject"]
    assert table["sub-001_task-rest_bold"]["processed_tsnr"] == "61"
    assert table["sub-002_task-rest_bold"]["alignment"] == "n/a"
    assert table["sub-09_task-x_bold"]["fd_mean"] == "n/a"


def test_identity_does_not_become_a_column(tmp_path):
    meta = {"PatientName": "Doe", "StationName": "MR\t1", "Comment": "x"}
    write_scan(tmp_path, "sub-01_T1w", {"cjv": 0.5}, meta=meta)
    (scan,) = read_scans(tmp_path)
    assert "Doe" not in json.dumps(dict(scan.columns))
    assert scan.columns["StationName"] == "MR 1"
