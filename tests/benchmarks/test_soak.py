"""A small soak: SLURM fails around a run, and each step is executed once."""

import pytest
from slurm_cluster import running_slurm
from soak import count, soak

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]


def test_each_step_runs_once_while_slurm_fails(tmp_path):
    with running_slurm():
        row = soak(tmp_path / "soak", 1, 8, 0.5, every=2.0, down=1, hurry=True)
    assert row["verdict"] == "right"
    assert row["steps"] == 8 * 4
    assert (row["twice"], row["at once"]) == (0, 0)
    assert int(str(row["ended once"])) + int(str(row["unsaved"])) >= row["steps"]


def test_executions_are_counted_from_their_log(tmp_path):
    (tmp_path / "exec.log").write_text(
        "start a 1 10\nend a 1 10\n"  # once
        "start b 1 11\nstart b 2 12\nend b 2 12\n"  # killed, then once
        "start c 1 13\nstart c 2 14\nend c 1 13\nend c 2 14\n"  # at once
    )
    found = count(tmp_path)
    assert (found["steps"], found["starts"], found["ended once"]) == (3, 5, 2)
    assert found["at once"] == 1
