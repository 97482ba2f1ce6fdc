"""Graphs on Dask: the same events, bytes and failures as with MultiProc."""

import gzip
import hashlib
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from contextlib import suppress
from pathlib import Path

import nibabel as nb
import numpy as np
import psutil
import pytest
from nipype import Function, MapNode, Node, Workflow, config

from neuroferry.engine import DaskPlugin, MultiProcPlugin, RunRecord
from neuroferry.engine.record import read_events, summarise
from neuroferry.errors import SchedulerError, StepsFailedError, UsageError

pytestmark = pytest.mark.slow

pytest.importorskip("distributed")


def add_one(x, after=None):
    return x + 1


def fail(x):
    raise ValueError("no good")


def be_killed(x):
    import os
    import signal

    os.kill(os.getpid(), signal.SIGKILL)


def stop_itself(x):
    import os
    import signal

    os.kill(os.getpid(), signal.SIGSTOP)


def take(gb):
    import time

    import numpy as np

    block = np.ones(int(gb * 1e9 / 8))
    time.sleep(1.0)
    return float(block[-1])


def sleep_long(x):
    import subprocess

    subprocess.run(["sleep", "61"])


def smooth(t1w, fwhm):
    from pathlib import Path

    import nibabel as nb
    import numpy as np
    from scipy.ndimage import gaussian_filter

    image = nb.load(t1w)
    data = gaussian_filter(image.get_fdata(dtype=np.float32), fwhm / 2.3548)
    path = Path.cwd() / f"smooth_{fwhm}.nii.gz"
    nb.Nifti1Image(data, image.affine).to_filename(path)
    return str(path)


def average(images):
    from pathlib import Path

    import nibabel as nb
    import numpy as np

    data = np.mean([nb.load(path).get_fdata(dtype=np.float32) for path in images], axis=0)
    path = Path.cwd() / "average.nii.gz"
    nb.Nifti1Image(data, nb.load(images[0]).affine).to_filename(path)
    return str(path)


def node(name, function, mem_gb=0.1, **values):
    names = function.__code__.co_varnames[: function.__code__.co_argcount]
    made = Node(Function(list(names), ["out"], function), name=name, mem_gb=mem_gb)
    for key, value in values.items():
        setattr(made.inputs, key, value)
    return made


@pytest.fixture(autouse=True)
def settings():
    before = dict(config._sections["execution"])
    config.update_config(
        {
            "execution": {
                "check_version": "false",
                "create_report": "false",
                "hash_method": "content",
            }
        }
    )
    yield
    config._sections["execution"].update(before)


class Run:
    def __init__(self, folder):
        self.folder = folder

    def __call__(self, workflow, plugin=DaskPlugin, **arguments):
        folder = self.folder / plugin.__name__
        workflow.base_dir = str(folder / "work")
        record = RunRecord(folder / "events.jsonl")
        record.path.unlink(missing_ok=True)
        values = {"n_procs": 2, "memory_gb": 2, "record": record, "crash_dir": folder}
        error = ""
        try:
            workflow.run(plugin=plugin({**values, **arguments}))
        except StepsFailedError as err:
            error = str(err)
        events = read_events(record.path)
        steps = {step.step.split(".", 1)[1]: step for step in summarise(events).steps}
        return steps, events, error


@pytest.fixture
def run(tmp_path):
    return Run(tmp_path)


def images(folder):
    image = folder / "image.nii.gz"
    data = np.random.default_rng(1).normal(100, 10, (32, 32, 24)).astype(np.float32)
    nb.Nifti1Image(data, np.diag([2.0, 2.0, 2.0, 1.0])).to_filename(image)
    workflow = Workflow("images")
    items = MapNode(
        Function(["t1w", "fwhm"], ["out"], smooth), iterfield=["fwhm"], name="smooth", mem_gb=0.2
    )
    items.inputs.t1w = str(image)
    items.inputs.fwhm = [2.0, 4.0, 8.0]
    workflow.connect(items, "out", node("average", average, mem_gb=0.2), "images")
    return workflow


def digests(folder):
    found = {}
    for path in sorted(folder.rglob("*.nii.gz")):
        data = gzip.decompress(path.read_bytes())
        found[str(path.relative_to(folder))] = hashlib.sha256(data).hexdigest()
    return found


def test_the_same_bytes_and_events_as_multiproc(run, tmp_path):
    kinds = []
    for plugin in (MultiProcPlugin, DaskPlugin):
        steps, events, error = run(images(tmp_path), plugin)
        assert error == ""
        assert {step.state for step in steps.values()} == {"done"}
        assert all(step.peak_gb > 0.01 and step.disk_gb > 0 for step in steps.values())
        kinds.append(sorted((e["event"], e["step"], *sorted(e)) for e in events))
    assert kinds[0] == kinds[1]
    dask, multiproc = (digests(run.folder / f"{name}Plugin") for name in ("Dask", "MultiProc"))
    assert len(dask) == 4
    assert dask == multiproc
    again, _, _ = run(images(tmp_path))
    assert {step.state for step in again.values()} == {"cached"}


def test_failures_take_only_what_depends_on_them(run):
    workflow = Workflow("w")
    workflow.connect(node("killed", be_killed, x=1), "out", node("after", add_one), "x")
    workflow.add_nodes(
        [
            node("bad", fail, x=1),
            node("stops", stop_itself, x=1),
            node("function_in", add_one, x=lambda: 1),
            node("free", add_one, x=1),
        ]
    )
    steps, events, error = run(workflow, stopped_seconds=1)
    assert error
    assert {name: step.state for name, step in steps.items()} == {
        "killed": "failed",
        "after": "skipped",
        "bad": "failed",
        "stops": "failed",
        "function_in": "failed",
        "free": "done",
    }
    assert "ValueError: no good" in steps["bad"].message
    assert "SIGKILL" in steps["killed"].message
    assert "SIGSTOP" in steps["stops"].message
    assert [e["step"] for e in events if e["event"] == "step_retried"] == ["w.killed"]
    assert "no good" in Path(steps["bad"].crashfile).read_text()


def test_memory_is_respected_and_enforced(run):
    workflow = Workflow("w")
    workflow.add_nodes([node(f"n{i}", take, mem_gb=1.2, gb=0.1) for i in range(2)])
    workflow.add_nodes([node("large", take, gb=3.0)])
    steps, events, _ = run(workflow)
    assert {name: step.state for name, step in steps.items()} == {
        "n0": "done",
        "n1": "done",
        "large": "failed",
    }
    assert "--plugin SLURMGraph" in steps["large"].message
    running: set[str] = set()
    most = 0
    for event in events:
        if event["step"] in ("w.n0", "w.n1"):
            (running.add if event["event"] == "step_started" else running.discard)(event["step"])
            most = max(most, len(running))
    assert most == 1


SCRIPT = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_plugin import add_one, node, sleep_long
from nipype import Workflow
from neuroferry.engine import DaskPlugin, RunRecord
from neuroferry.errors import RunInterrupted
workflow = Workflow("w", base_dir={folder!r})
workflow.connect(node("first", add_one, x=1), "out", node("long", sleep_long), "x")
record = RunRecord(Path({folder!r}) / "events.jsonl")
arguments = {{"n_procs": 2, "memory_gb": 2, "record": record, "scheduler": {scheduler!r}}}
try:
    workflow.run(plugin=DaskPlugin(arguments))
except RunInterrupted as err:
    print(err)
    sys.exit(128 + err.signal_number)
"""


def interrupt(folder, scheduler=None):
    """Start a graph, send Ctrl-C during its long step; return exit code and output."""
    code = textwrap.dedent(SCRIPT).format(
        tests=str(Path(__file__).parent), folder=str(folder), scheduler=scheduler
    )
    folder.mkdir(exist_ok=True)
    # crash files go to the folder that the program was started in
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=folder
    )
    wait_for(lambda: sleepers(folder) or process.poll() is not None)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    return process.returncode, out


def wait_for(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def sleepers(folder):
    """List the long steps of the graph in this folder, as other graphs may run as well."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.cmdline() == ["sleep", "61"] and process.cwd().startswith(str(folder)):
                found.append(process.pid)
    return found


def test_ctrl_c_ends_the_steps(tmp_path):
    code, out = interrupt(tmp_path)
    assert code == 130
    assert "to continue" in out
    wait_for(lambda: not sleepers(tmp_path), 10)
    assert summarise(read_events(tmp_path / "events.jsonl")).count("done") == 1


@pytest.fixture
def cluster(tmp_path):
    """A scheduler and a worker in separate processes, as in a SLURM allocation."""
    path = tmp_path / "scheduler.json"
    environ = {key: value for key, value in os.environ.items() if not key.startswith("SLURM_")}
    command = [sys.executable, "-m", "neuroferry", "dask-worker", str(path)]
    process = subprocess.Popen(
        [*command, "--nprocs", "2", "--mem", "2GB"], env={**environ, "SLURM_PROCID": "0"}
    )
    yield path
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=30) == 0


def test_a_cluster_that_is_there(cluster, run):
    workflow = Workflow("w")
    workflow.connect(node("first", add_one, x=1), "out", node("killed", be_killed), "x")
    workflow.add_nodes([node(f"n{i}", add_one, x=i) for i in range(4)])
    steps, _, error = run(workflow, scheduler=cluster)
    assert "SIGKILL" in error
    assert [step.state for step in steps.values()].count("done") == 5
    code, _ = interrupt(run.folder / "stopped", str(cluster))
    assert code == 130
    wait_for(lambda: not sleepers(run.folder), 10)
    steps, _, error = run(workflow, scheduler=cluster)
    assert [step.state for step in steps.values()].count("cached") == 5


def test_no_cluster_and_workers_without_resources_are_said(run, monkeypatch, tmp_path):
    from distributed import LocalCluster

    from neuroferry.engine.dask import plugin as module

    monkeypatch.setattr(module, "_CONNECT_SECONDS", 1.0)
    workflow = Workflow("w")
    workflow.add_nodes([node("first", add_one, x=1)])
    for nowhere in ("tcp://127.0.0.1:9", tmp_path / "nowhere.json"):
        with pytest.raises(SchedulerError, match="neuroferry dask-worker"):
            run(workflow, scheduler=nowhere)
    with (
        LocalCluster(
            n_workers=1, processes=False, threads_per_worker=1, dashboard_address=None
        ) as cluster,
        pytest.raises(UsageError, match="--resources"),
    ):
        run(workflow, scheduler=cluster.scheduler_address)


@pytest.fixture
def scheduler_without_neuroferry(tmp_path):
    """A scheduler of another environment, which cannot import neuroferry; no worker yet."""
    path = tmp_path / "elsewhere.json"
    code = (
        "import asyncio, sys\n"
        "sys.modules['neuroferry'] = None\n"
        "from distributed import Scheduler\n"
        "async def serve():\n"
        f"    path = {str(path)!r}\n"
        "    async with Scheduler(port=0, dashboard=False, scheduler_file=path) as scheduler:\n"
        "        await scheduler.finished()\n"
        "asyncio.run(serve())\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code])
    wait_for(path.exists)
    yield path
    process.kill()
    process.wait()


def test_a_worker_may_come_later_and_the_scheduler_need_not_know_us(
    scheduler_without_neuroferry, run, monkeypatch
):
    """As on an adaptive cluster of another environment."""
    from neuroferry.engine.dask import plugin as module

    monkeypatch.setattr(module, "_PATIENCE_SECONDS", 0.5)
    command = [sys.executable, "-m", "neuroferry", "dask-worker", "--no-scheduler"]
    events = run.folder / "DaskPlugin" / "events.jsonl"
    workers = []

    def come():
        wait_for(lambda: events.exists() and "no worker yet" in events.read_text())
        arguments = [str(scheduler_without_neuroferry), "--nprocs", "2", "--mem", "2GB"]
        workers.append(subprocess.Popen([*command, *arguments]))

    workflow = Workflow("w")
    workflow.connect(node("first", add_one, x=1), "out", node("second", add_one), "x")
    coming = threading.Thread(target=come)
    coming.start()
    steps, _, error = run(workflow, scheduler=scheduler_without_neuroferry, wait_seconds=120)
    coming.join()
    assert not error
    assert {step.state for step in steps.values()} == {"done"}
    workers[0].send_signal(signal.SIGTERM)
    assert workers[0].wait(timeout=30) == 0


def test_no_worker_in_time_is_an_error_and_can_be_interrupted(
    scheduler_without_neuroferry, run, tmp_path
):
    workflow = Workflow("w")
    workflow.add_nodes([node("first", add_one, x=1)])
    with pytest.raises(SchedulerError, match="--dask-wait-minutes"):
        run(workflow, scheduler=scheduler_without_neuroferry, wait_seconds=1)
    code = textwrap.dedent(SCRIPT).format(
        tests=str(Path(__file__).parent),
        folder=str(tmp_path),
        scheduler=str(scheduler_without_neuroferry),
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, cwd=tmp_path)
    events = tmp_path / "events.jsonl"
    wait_for(lambda: events.exists() and "no worker yet" in events.read_text())
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode == 143


@pytest.mark.parametrize("known", [None, "tcp://127.0.0.1:9"])
def test_a_worker_without_a_scheduler_ends(tmp_path, monkeypatch, known):
    """It would fill a slot of the queue for nothing."""
    from neuroferry.engine.dask import plugin as module

    monkeypatch.setattr(module, "_WORKER_PATIENCE_SECONDS", 1.0)
    path = tmp_path / "dask.json"
    if known is not None:
        path.write_text(f'{{"type": "Scheduler", "address": "{known}"}}')
    with pytest.raises(SchedulerError, match="No Dask scheduler answers"):
        module.offer(path, n_procs=1, memory_gb=1.0, with_scheduler=False)
