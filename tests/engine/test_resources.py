"""Processors and memory, against control-group files written by the test."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuroferry.engine.resources import available_resources, parse_memory
from neuroferry.errors import UsageError


@pytest.fixture
def root(tmp_path):
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/meminfo").write_text("MemTotal:       16000000 kB\nMemFree: 1 kB\n")
    (tmp_path / "proc/self/cgroup").write_text("")
    return tmp_path


def test_the_machine_alone(root):
    found = available_resources({}, root)
    assert found.n_procs == len(os.sched_getaffinity(0))
    assert found.memory_gb == pytest.approx(16.384)


def test_cgroup_v2_limits_of_the_group_and_of_its_parents(root):
    (root / "proc/self/cgroup").write_text("0::/user/job\n")
    job = root / "sys/fs/cgroup/user/job"
    job.mkdir(parents=True)
    (job / "cpu.max").write_text("max 100000\n")
    (job / "memory.max").write_text("max\n")
    (job.parent / "cpu.max").write_text("100000 100000\n")
    (job.parent / "memory.max").write_text("4000000000\n")
    found = available_resources({}, root)
    assert found.n_procs == 1
    assert found.memory_gb == pytest.approx(4.0)


def test_cgroup_v1_limits(root):
    (root / "proc/self/cgroup").write_text("3:cpu,cpuacct:/a\n2:memory:/b\n")
    (root / "sys/fs/cgroup/cpu/a").mkdir(parents=True)
    (root / "sys/fs/cgroup/cpu/a/cpu.cfs_quota_us").write_text("100000")
    (root / "sys/fs/cgroup/cpu/a/cpu.cfs_period_us").write_text("100000")
    (root / "sys/fs/cgroup/memory/b").mkdir(parents=True)
    (root / "sys/fs/cgroup/memory/b/memory.limit_in_bytes").write_text("2000000000")
    (root / "sys/fs/cgroup/memory/memory.limit_in_bytes").write_text(str(2**63 - 4096))
    found = available_resources({}, root)
    assert found.n_procs == 1
    assert found.memory_gb == pytest.approx(2.0)


def test_slurm_allocation(root):
    environ = {"SLURM_CPUS_PER_TASK": "1", "SLURM_MEM_PER_NODE": "3000"}
    found = available_resources(environ, root)
    assert found.n_procs == 1
    assert found.memory_gb == pytest.approx(3000 * 2**20 / 1e9)


def test_slurm_memory_per_processor(root):
    environ = {"SLURM_CPUS_ON_NODE": "4", "SLURM_MEM_PER_CPU": "1000"}
    assert available_resources(environ, root).memory_gb == pytest.approx(4000 * 2**20 / 1e9)


@given(
    st.floats(0.01, 1e4), st.sampled_from(["k", "M", "g", "T"]), st.sampled_from(["", "b", "B"])
)
def test_amounts_round_trip(number, unit, ending):
    factor = {"k": 1e-6, "m": 1e-3, "g": 1.0, "t": 1e3}[unit.lower()]
    assert parse_memory(f"{number:f} {unit}{ending}") == pytest.approx(
        float(f"{number:f}") * factor
    )


@pytest.mark.parametrize("text", ["8", "8000", "", "GB", "-1GB", "0GB", "8 bananas", "nanGB"])
def test_amounts_without_a_unit_or_sense_are_refused(text):
    with pytest.raises(UsageError, match=r"8GB"):
        parse_memory(text)
