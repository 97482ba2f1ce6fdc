"""Volumes with motion, counted again."""

import pytest
from iqms_study import write_bold

from neuroferry.judgement.motion import count_motion, read_displacement
from neuroferry.judgement.rules import Rules
from neuroferry.judgement.tables import read_scans


@pytest.mark.parametrize("threshold", [0.05, 0.2, 0.35])
def test_counts_are_those_above_the_threshold(tmp_path, threshold):
    moved = write_bold(tmp_path, 3)
    scans = count_motion(read_scans(tmp_path), Rules(fd_threshold=threshold))
    for scan in scans:
        values = moved[scan.name]
        assert scan.metrics["fd_num"] == (values > threshold).sum()
        assert scan.metrics["fd_perc"] == pytest.approx(100 * (values > threshold).sum() / 50)


def test_the_threshold_of_the_measurement_gives_its_values(tmp_path):
    write_bold(tmp_path, 3)
    measured = read_scans(tmp_path)
    again = count_motion(measured, Rules(fd_threshold=0.2))
    assert [s.metrics for s in again] == [s.metrics for s in measured]


def test_without_a_threshold_or_a_table_nothing_changes(tmp_path):
    write_bold(tmp_path, 2)
    scans = read_scans(tmp_path)
    assert count_motion(scans, Rules()) is scans
    for path in tmp_path.rglob("*_timeseries.tsv"):
        path.write_text("other\n1\n")
    scans = read_scans(tmp_path)
    assert [read_displacement(scan) for scan in scans] == [[], []]
    again = count_motion(scans, Rules(fd_threshold=0.01))
    assert [s.metrics for s in again] == [s.metrics for s in scans]
