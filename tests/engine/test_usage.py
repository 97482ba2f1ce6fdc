"""Steps that really run out of memory or stall: no hang, a clear error."""

import os
import platform
import re
import resource
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from nipype import Function, Node, Workflow, config

from neuroferry.engine import MultiProcPlugin, RunRecord
from neuroferry.engine.record import read_events, summarise
from neuroferry.engine.resources import memory_in_use
from neuroferry.engine.usage import ProcessTable, Watch, headroom_gb, kill_tree
from neuroferry.errors import StepsFailedError

pytestmark = pytest.mark.slow


def take(gb, seconds=1.5, after=None):
    import time

    import numpy as np

    block = np.ones(int(gb * 1e9 / 8))
    time.sleep(seconds)
    return float(block[-1])


def take_and_be_stopped_once(gb, marker):
    """Hold memory until stopped; the second time, only for a moment."""
    import time
    from pathlib import Path

    import numpy as np

    begun = Path(f"{marker}-begun")
    again = begun.exists()
    begun.touch()
    block = np.ones(int(gb * 1e9 / 8))
    Path(marker).touch()
    time.sleep(0.5 if again else 60)
    return float(block[-1])


def take_beside(gb, marker):
    """Hold memory until a few seconds after the other step has taken its own or was stopped."""
    import time
    from pathlib import Path

    import numpy as np

    block = np.ones(int(gb * 1e9 / 8))
    deadline = time.monotonic() + 15
    while not Path(marker).exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(3)
    return float(block[-1])


def take_in_a_child(gb):
    import subprocess
    import sys

    code = f"import time; block = bytearray(int({gb} * 1e9)); time.sleep(2)"
    both = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(2)]
    return [one.wait() for one in both]


def write_on_what_was_inherited(x):
    import sys
    import time

    sys.modules["tests.engine.test_usage"].HELD[0][:] = 2
    time.sleep(0.5)


def share_with_children(gb):
    import os
    import time

    import numpy as np

    block = np.ones(int(gb * 1e9 / 8))
    pids = []
    for _ in range(2):
        pid = os.fork()
        if pid == 0:
            time.sleep(1.5)
            os._exit(0)
        pids.append(pid)
    for pid in pids:
        os.waitpid(pid, 0)
    return float(block[-1])


HELD = []


@pytest.fixture
def large_parent():
    """The process that runs the graph holds 1.2 GB, as a notebook with data does."""
    HELD.append(np.ones(150_000_000))
    yield
    HELD.clear()


def stop_itself(x):
    import os
    import signal

    os.kill(os.getpid(), signal.SIGSTOP)


def lock_itself(x):
    import threading

    lock = threading.Lock()
    lock.acquire()
    lock.acquire()


def give_a_lock(x):
    import threading

    return threading.Lock()


def add_one(x):
    return x + 1


def node(name, function, mem_gb=0.1, **values):
    names = function.__code__.co_varnames[: function.__code__.co_argcount]
    made = Node(Function(list(names), ["out"], function), name=name, mem_gb=mem_gb)
    for key, value in values.items():
        setattr(made.inputs, key, value)
    return made


class Run:
    """Run a graph of nodes; return the steps, the events and the error."""

    def __init__(self, folder):
        self.folder = folder

    def __call__(self, *nodes, connect=(), **arguments):
        workflow = Workflow("w", base_dir=str(self.folder / "work"))
        workflow.config["execution"] = {"hash_method": "content", "create_report": "false"}
        workflow.add_nodes(list(nodes))
        workflow.connect(list(connect))
        record = RunRecord(self.folder / "events.jsonl")
        record.path.unlink(missing_ok=True)
        values = {"n_procs": 2, "memory_gb": 4, "record": record, "crash_dir": self.folder}
        error = ""
        try:
            workflow.run(plugin=MultiProcPlugin({**values, **arguments}))
        except StepsFailedError as err:
            error = str(err)
        events = read_events(record.path)
        steps = {step.step.removeprefix("w."): step for step in summarise(events).steps}
        return steps, events, error


@pytest.fixture
def run(tmp_path):
    before = dict(config._sections["execution"])
    config.update_config({"execution": {"check_version": "false", "create_report": "false"}})
    yield Run(tmp_path)
    config._sections["execution"].update(before)


def retried(events):
    return [
        event["step"].removeprefix("w.") for event in events if event["event"] == "step_retried"
    ]


def test_the_step_furthest_above_its_estimate_is_stopped_and_runs_again_alone(run, tmp_path):
    marker = str(tmp_path / "taken")
    steps, events, error = run(
        node("greedy", take_and_be_stopped_once, gb=0.7, marker=marker),
        node("modest", take_beside, gb=0.4, mem_gb=0.6, marker=marker),
        memory_gb=1.0,
    )
    assert error == ""
    assert {step.state for step in steps.values()} == {"done"}
    assert retried(events) == ["greedy"]
    assert 0.7 < steps["greedy"].peak_gb < 1.1
    assert steps["greedy"].declared_gb == 0.1
    assert steps["greedy"].mem_gb == 1.0


def test_what_was_measured_is_booked_the_next_time(run):
    first = [node(f"_n{i}", take, gb=0.4, seconds=0.3) for i in range(2)]
    steps, _, _ = run(first[0])
    peak = steps["_n0"].peak_gb
    steps, _, _ = run(first[1], history={"w._n0": steps["_n0"]})
    assert steps["_n1"].mem_gb == pytest.approx(1.15 * peak, abs=0.01)


def test_a_step_larger_than_the_whole_budget_fails_and_says_where_to_go(run):
    steps, events, error = run(
        node("large", take, gb=0.8, seconds=20), node("small", add_one, x=1), memory_gb=0.5
    )
    assert steps["large"].state == "failed"
    assert steps["small"].state == "done"
    assert retried(events) in ([], ["large"])
    for text in ("0.5 GB", "--plugin SLURMGraph", "neuroferry move"):
        assert text in error
    needed = re.findall(r"plan with at least ([\d.]+) GB", error)[0]
    assert 0.75 <= float(needed) <= 1.5
    assert Path(steps["large"].crashfile).exists()


def test_processes_of_a_step_count_together(run):
    steps, _, error = run(node("parent", take_in_a_child, gb=0.3))
    assert error == ""
    assert 0.6 < steps["parent"].peak_gb < 1.0


def test_a_step_is_not_charged_with_what_its_parent_holds(run, large_parent):
    steps, events, error = run(
        node("takes", take, gb=0.4, mem_gb=0.5), node("small", take, gb=0.01), memory_gb=1.0
    )
    assert error == ""
    assert retried(events) == []
    assert 0.4 < steps["takes"].peak_gb < 0.6
    assert steps["small"].peak_gb < 0.2


def test_a_step_too_large_is_noticed_below_a_parent_that_is_larger(run, large_parent):
    steps, _, error = run(node("large", take, gb=0.8, seconds=60), memory_gb=0.5)
    assert "0.5 GB" in error
    assert 0.5 < steps["large"].peak_gb < 1.1


def test_programs_that_a_step_starts_do_not_inherit_memory(run, large_parent):
    steps, _, error = run(node("parent", take_in_a_child, gb=0.2))
    assert error == ""
    assert 0.4 < steps["parent"].peak_gb < 0.7


def test_what_a_step_writes_on_becomes_its_own(run, large_parent):
    steps, _, error = run(node("writes", write_on_what_was_inherited, x=1))
    assert error == ""
    assert 1.2 <= steps["writes"].peak_gb < 1.5
    assert HELD[0][0] == 1


def test_what_a_step_shares_with_its_own_forks_counts_once(run, large_parent):
    steps, _, error = run(node("shares", share_with_children, gb=0.4))
    assert error == ""
    assert 0.4 < steps["shares"].peak_gb < 0.6


def test_a_stopped_step_is_a_failure(run):
    started = time.monotonic()
    steps, _, error = run(
        node("stops", stop_itself, x=1), node("goes_on", add_one, x=1), stopped_seconds=1
    )
    assert "SIGSTOP" in error
    assert steps["goes_on"].state == "done"
    assert time.monotonic() - started < 20


def test_a_deadlock_is_a_failure(run):
    steps, _, error = run(
        node("locks", lock_itself, x=1), node("goes_on", add_one, x=1), stall_seconds=1.5
    )
    assert "no processor time" in error
    assert steps["goes_on"].state == "done"


def test_what_cannot_be_pickled_and_lambdas_end_as_failures(run):
    source = node("source", add_one, x=1)
    target = node("target", add_one)
    steps, _, error = run(
        source,
        target,
        node("lock_out", give_a_lock, x=1),
        node("function_in", add_one, x=lambda: 1),
        connect=[(source, target, [(("out", lambda x: x + 1), "x")])],
    )
    assert error
    assert {name: step.state for name, step in steps.items()} == {
        "source": "done",
        "target": "failed",
        "lock_out": "failed",
        "function_in": "failed",
    }
    assert "pickle" in steps["lock_out"].message
    assert "pickle" in steps["function_in"].message
    assert "Functions in connection strings have to be standalone" in steps["target"].message


def test_what_cannot_be_copied_is_refused_at_once(run):
    with pytest.raises(TypeError, match="pickle"):
        run(node("lock_in", add_one, x=threading.Lock()))


def test_a_full_disk_under_the_record_ends_the_run_and_its_steps(run, tmp_path, monkeypatch):
    # the device stands for a full disk; a record that is not a plain file is refused elsewhere
    monkeypatch.setattr("neuroferry.engine.record.open_unlinked", os.open)
    workflow = Workflow("w", base_dir=str(tmp_path / "work"))
    workflow.add_nodes([node("long", take, gb=0.01, seconds=60)])
    record = RunRecord(Path("/dev/full"))
    before = children()
    with pytest.raises(OSError, match="No space left"):
        workflow.run(plugin=MultiProcPlugin({"n_procs": 2, "memory_gb": 2, "record": record}))
    assert children() == before


def children():
    return set(ProcessTable().look([os.getpid()])[os.getpid()])


def test_a_line_that_was_written_in_part_is_no_event(tmp_path):
    path = tmp_path / "events.jsonl"
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            record = RunRecord(path)
            record.write("step_started", step="a")
            size = path.stat().st_size
            resource.setrlimit(resource.RLIMIT_FSIZE, (size + 20, resource.RLIM_INFINITY))
            with pytest.raises(OSError, match="No space left"):
                record.write("step_done", step="a")
            resource.setrlimit(
                resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
            )
            record.write("run_ended", exit_code=74)
            code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert [event["event"] for event in read_events(path)] == ["step_started", "run_ended"]


def test_ended_parents_do_not_hide_their_children():
    process = subprocess.Popen(["sh", "-c", "sh -c 'sleep 0.3; sleep 20 & exec sleep 0.3'"])
    table = ProcessTable()
    try:
        for _ in range(10):
            found = table.look([process.pid])[process.pid]
            time.sleep(0.1)
        names = {Path(f"/proc/{pid}/comm").read_text().strip() for pid in found}
        assert "sleep" in names
    finally:
        for pid in found:
            if pid != process.pid:
                os.kill(pid, signal.SIGKILL)
        kill_tree(process.pid)
        process.wait()


def test_idle_time_starts_anew_with_processor_time():
    process = subprocess.Popen(["sleep", "20"])
    try:
        watch = Watch(process.pid)
        for _ in range(4):
            watch.look((process.pid,), 1.0)
        assert watch.idle_seconds == 3.0
        assert watch.stopped_seconds == 0.0
        process.send_signal(signal.SIGSTOP)
        time.sleep(0.1)
        watch.look((process.pid,), 1.0)
        assert watch.stopped_seconds == 1.0
    finally:
        kill_tree(process.pid)
        process.wait()


def test_headroom_is_that_of_the_tightest_limit(tmp_path):
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/meminfo").write_text("MemTotal: 16000000 kB\nMemAvailable: 9000000 kB\n")
    (tmp_path / "proc/self/cgroup").write_text("0::/job\n")
    job = tmp_path / "sys/fs/cgroup/job"
    job.mkdir(parents=True)
    (job / "memory.max").write_text("4000000000\n")
    (job / "memory.current").write_text("3000000000\n")
    (job / "memory.stat").write_text("anon 1\ninactive_file 500000000\n")
    assert memory_in_use(tmp_path)[1] == (4e9, 2.5e9)
    assert headroom_gb(tmp_path) == pytest.approx(1.5)


SCRIPT = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_usage import Run, add_one, node, retried, take
from nipype import config
config.update_config({{"execution": {{"check_version": "false", "create_report": "false"}}}})
steps, events, error = Run(Path({folder!r}))({call})
print(retried(events), {{name: step.state for name, step in steps.items()}}, error)
"""


def run_script(folder, call, prefix=()):
    code = textwrap.dedent(SCRIPT).format(
        tests=str(Path(__file__).parent), folder=str(folder), call=call
    )
    return subprocess.run(
        [*prefix, sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
        check=True,
    ).stdout.splitlines()[-1]


@pytest.fixture
def limited(request):
    """Create a control group with little memory; return the command words that enter it."""
    name = f"neuroferry-test-{os.getpid()}"
    for base, limit in (
        (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes"),
        (Path("/sys/fs/cgroup"), "memory.max"),
    ):
        group = base / name
        try:
            group.mkdir()
        except OSError:
            continue
        try:
            (group / limit).write_text(str(int(request.param * 1e9)))
        except OSError:
            group.rmdir()
            continue
        yield ("sh", "-c", f'echo $$ > {group}/cgroup.procs; exec "$@"', "sh")
        group.rmdir()
        return
    pytest.skip("no control group can be made here (needs root, or a delegated group)")


@pytest.mark.parametrize("limited", [0.8], indirect=True)
def test_the_kernels_oom_killer_beside_others(limited, tmp_path):
    # the budget is said to be large, so that the kernel acts and not the run itself
    call = "node('a', take, gb=0.5, seconds=3), node('b', take, gb=0.5, seconds=3), memory_gb=8"
    last = run_script(tmp_path, call, limited)
    assert last.startswith(("['a']", "['b']"))
    assert "'a': 'done'" in last
    assert "'b': 'done'" in last


@pytest.mark.parametrize("limited", [0.5], indirect=True)
def test_the_kernels_oom_killer_and_no_way_out(limited, tmp_path):
    call = "node('a', take, gb=0.9), *(node(f'n{i}', add_one, x=i) for i in range(3)), memory_gb=8"
    last = run_script(tmp_path, call, limited)
    assert "'a': 'failed'" in last
    assert last.count("'done'") == 3
    assert "SIGKILL" in last
    assert "--plugin SLURMGraph" in last
    crash = (tmp_path / "crash-w.a.txt").read_text()
    assert "because memory ran out" in crash


def test_a_memory_error_under_ulimit(tmp_path):
    call = "node('a', take, gb=6.0), node('b', add_one, x=1)"
    last = run_script(tmp_path, call, ("sh", "-c", 'ulimit -v 3000000; exec "$@"', "sh"))
    assert last.startswith("['a']")
    assert "'a': 'failed'" in last
    assert "'b': 'done'" in last
    assert "Unable to allocate" in last
    assert "--plugin SLURMGraph" in last


def test_steps_end_with_a_run_that_is_killed(tmp_path):
    code = textwrap.dedent(SCRIPT).format(
        tests=str(Path(__file__).parent),
        folder=str(tmp_path),
        call="node('a', take, gb=0.01, seconds=60)",
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not read_events(tmp_path / "events.jsonl"):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    time.sleep(0.5)
    steps = set(ProcessTable().look([process.pid])[process.pid]) - {process.pid}
    assert steps
    process.kill()
    process.wait()
    while any(Path(f"/proc/{pid}").exists() for pid in steps):
        assert time.monotonic() < deadline
        time.sleep(0.05)


FAULTS = """
import resource, sys
import numpy as np
from neuroferry.engine.usage import reuse_freed_memory
if sys.argv[1] == "reuse":
    reuse_freed_memory()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for value in range(30):
    _ = [np.full(200_000, float(value)) for _ in range(20)]
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_freed_memory_is_used_again():
    plain, reusing = (
        int(subprocess.check_output([sys.executable, "-c", FAULTS, how], text=True))
        for how in ("plain", "reuse")
    )
    assert reusing < plain / 2
