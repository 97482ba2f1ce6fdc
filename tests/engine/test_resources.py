"""Available processors and memory, with control-group files written by the test."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuroferry.engine.resources import available_resources, memory_in_use, parse_memory
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


def write(root, files):
    """Write files below ``sys/fs/cgroup`` from a mapping of their names to their text."""
    for name, text in files.items():
        path = root / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")


SLURM_V2 = "system.slice/slurmstepd.scope/job_7"


@pytest.mark.parametrize(
    ("membership", "files", "n_procs", "gigabytes"),
    [
        pytest.param(
            f"0::/{SLURM_V2}/step_batch/user/task_0",
            {
                f"{SLURM_V2}/memory.max": 3_000_000_000,
                f"{SLURM_V2}/memory.high": "max",
                f"{SLURM_V2}/step_batch/memory.max": 2_500_000_000,
                f"{SLURM_V2}/step_batch/user/memory.max": "max",
                f"{SLURM_V2}/step_batch/user/cpu.max": "max 100000",
                f"{SLURM_V2}/cpu.max": "150000 100000",
            },
            1,
            2.5,
            id="a SLURM step in version 2",
        ),
        pytest.param(
            "0::/user.slice/user-1000.slice/session-2.scope",
            {
                "user.slice/user-1000.slice/memory.max": 9_000_000_000,
                "user.slice/user-1000.slice/memory.high": 5_000_000_000,
                "user.slice/user-1000.slice/cpu.max": "50000 100000",
            },
            1,
            5.0,
            id="a login node that throttles each person",
        ),
        pytest.param(
            "0::/",
            {"memory.max": 6_000_000_000, "cpu.max": "100000 100000"},
            1,
            6.0,
            id="a container with a namespace of its own",
        ),
        pytest.param(
            "0::/../../elsewhere",
            {"memory.max": 6_000_000_000},
            None,
            6.0,
            id="a group outside the namespace",
        ),
        pytest.param(
            "9:memory:/slurm/uid_1000/job_7/step_0\n4:cpu,cpuacct:/\n0::/",
            {
                "memory/slurm/uid_1000/job_7/step_0/memory.limit_in_bytes": 2**63 - 4096,
                "memory/slurm/uid_1000/job_7/memory.limit_in_bytes": 2_000_000_000,
                "memory/memory.limit_in_bytes": 2**63 - 4096,
                "cpu/cpu.cfs_quota_us": -1,
                "cpu/cpu.cfs_period_us": 100_000,
            },
            None,
            2.0,
            id="a SLURM job in version 1, without a quota",
        ),
        pytest.param(
            "9:memory:/docker/abc\n4:cpu,cpuacct:/docker/abc",
            {
                "memory/memory.limit_in_bytes": 3_000_000_000,
                "cpu,cpuacct/cpu.cfs_quota_us": 100_000,
                "cpu,cpuacct/cpu.cfs_period_us": 100_000,
            },
            1,
            3.0,
            id="a container in version 1 that sees its own group as the root",
        ),
    ],
)
def test_control_groups_as_they_come(root, membership, files, n_procs, gigabytes):
    (root / "proc/self/cgroup").write_text(f"{membership}\n")
    write(root, files)
    found = available_resources({}, root)
    assert found.n_procs == (n_procs or len(os.sched_getaffinity(0)))
    assert found.memory_gb == pytest.approx(gigabytes)


def test_a_quota_of_many_processors_is_rounded_down(root, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)))
    (root / "proc/self/cgroup").write_text("0::/pod/container\n")
    write(root, {"pod/container/cpu.max": "max 100000", "pod/cpu.max": "790000 100000"})
    assert available_resources({}, root).n_procs == 7


def test_what_is_used_of_each_limit(root):
    """Page cache that can be released does not count; a group includes its subgroups."""
    (root / "proc/self/cgroup").write_text("0::/job/step\n")
    write(
        root,
        {
            "job/memory.max": 4_000_000_000,
            "job/memory.high": 3_500_000_000,
            "job/memory.current": 3_000_000_000,
            "job/memory.stat": "anon 1\ninactive_file 600000000",
            "job/step/memory.max": "max",
            "job/step/memory.current": 1_000_000_000,
        },
    )
    (root / "proc/meminfo").write_text("MemTotal: 16000000 kB\nMemAvailable: 9000000 kB\n")
    machine = (16_384_000_000, 7_168_000_000)
    assert memory_in_use(root) == [machine, (4e9, 2.4e9), (3.5e9, 2.4e9)]


def test_what_is_used_in_version_1(root):
    (root / "proc/self/cgroup").write_text("3:memory:/job\n")
    write(
        root,
        {
            "memory/job/memory.limit_in_bytes": 2_000_000_000,
            "memory/job/memory.usage_in_bytes": 1_500_000_000,
            "memory/job/memory.stat": "inactive_file 1\ntotal_inactive_file 500000000",
            "memory/memory.limit_in_bytes": 2**63 - 4096,
            "memory/memory.usage_in_bytes": 9_000_000_000,
        },
    )
    assert memory_in_use(root) == [(2e9, 1e9)]


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


@pytest.mark.parametrize(
    "text", ["8", "8000", "", "GB", "-1GB", "0GB", "8 bananas", "nanGB", "infGB", f"{10**400}GB"]
)
def test_amounts_without_a_unit_or_sense_are_refused(text):
    with pytest.raises(UsageError, match=r"8GB"):
        parse_memory(text)
