"""Benchmark of the plugins against Nipype's: time of trivial nodes, and handling of failures.

Usage: ``python benchmarks/engine.py [--nodes 200] [--slow-nodes 20] [--skip-broken]``

Each figure is one fresh Python process, excluding imports. "fan" means independent nodes, "chain"
sequential ones; two processes. "first" runs them all, "again" finds all of them done. CPU is user
and system time of the process and all its children, which a busy machine inflates less than wall
time.

Nipype's MultiProc with its default poll of 2 s takes about a second per node, first and again; it
is measured on ``--slow-nodes`` nodes, as marked in the table.

The second table: a graph with one bad node and four good ones that do not depend on it, or
the bad node alone. "hangs" means that it did not end within ``--timeout`` seconds.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

OURS = ("neuroferry MultiProc", "neuroferry Dask", "neuroferry Linear")
THEIRS = (
    "Nipype MultiProc, poll 2 s",
    "Nipype MultiProc, poll 0.01 s",
    "Nipype LegacyMultiProc",
    "Nipype Linear",
)
BROKEN = {
    "killed": "worker killed (SIGKILL)",
    "stopped": "worker stopped (SIGSTOP)",
    "wrong_type": "input of the wrong type",
    "lambda": "lambda in a connection",
    "unpicklable": "result cannot be pickled",
    "raises": "step raises an error",
}
GOOD = 4


def add_one(x: int, after: object = None) -> int:
    return x + 1


def be_killed(x: int) -> None:
    import os
    import signal

    os.kill(os.getpid(), signal.SIGKILL)


def be_stopped(x: int) -> None:
    import os
    import signal

    os.kill(os.getpid(), signal.SIGSTOP)


def give_a_lock(x: int) -> object:
    import threading

    return threading.Lock()


def fail(x: int) -> None:
    raise ValueError("no good")


def make_node(name: str, function: Any, **values: Any) -> Any:
    from nipype import Function, Node

    count = function.__code__.co_argcount
    node = Node(Function(list(function.__code__.co_varnames[:count]), ["out"], function), name)
    for key, value in values.items():
        setattr(node.inputs, key, value)
    return node


def trivial(shape: str, count: int, folder: str) -> Any:
    from nipype import Workflow

    workflow = Workflow(shape, base_dir=folder)
    before = None
    for i in range(count):
        node = make_node(f"n{i}", add_one, x=i)
        workflow.add_nodes([node])
        if shape == "chain" and before is not None:
            workflow.connect(before, "out", node, "after")
        before = node
    return workflow


def broken(kind: str, with_others: bool, folder: str) -> Any:
    from nipype import Function, MapNode, Workflow

    workflow = Workflow("broken", base_dir=folder)
    if kind == "wrong_type":
        # the list that it iterates over is never set
        bad = MapNode(Function(["x"], ["out"], add_one), iterfield=["x"], name="bad")
        workflow.add_nodes([bad])
    elif kind == "lambda":
        source, bad = make_node("source", add_one, x=1), make_node("bad", add_one)
        workflow.connect([(source, bad, [(("out", lambda x: x + 1), "x")])])
    else:
        functions = {
            "killed": be_killed,
            "stopped": be_stopped,
            "unpicklable": give_a_lock,
            "raises": fail,
        }
        workflow.add_nodes([make_node("bad", functions[kind], x=1)])
    if with_others:
        workflow.add_nodes([make_node(f"good{i}", add_one, x=i) for i in range(GOOD)])
    return workflow


def configure(plugin: str, folder: str) -> None:
    """Configure Nipype; a workflow copies the settings when it is created."""
    from nipype import config

    execution = {"hash_method": "content", "create_report": "false", "check_version": "false"}
    execution["crashdump_dir"] = folder
    if "0.01" in plugin:
        execution["poll_sleep_duration"] = "0.01"
    config.update_config({"execution": execution})


def run_workflow(workflow: Any, plugin: str) -> None:
    """Run a workflow with the named plugin, as its users would."""
    owner, name = plugin.split(",")[0].split()
    arguments: dict[str, Any] = {"n_procs": 2, "memory_gb": 4}
    if owner == "neuroferry":
        from neuroferry import engine

        arguments["stopped_seconds"] = 5
        workflow.run(plugin=getattr(engine, f"{name}Plugin")(arguments))
    else:
        workflow.run(plugin=name, plugin_args=arguments)


def measure(plugin: str, shape: str, count: int, folder: str) -> None:
    """Run inside a fresh process: print wall and CPU seconds of a first and a second run."""
    import logging

    import nipype.pipeline.plugins  # noqa: F401

    logging.getLogger("nipype.workflow").setLevel(logging.ERROR)
    configure(plugin, folder)
    figures = []
    for _ in range(2):
        workflow = trivial(shape, count, folder)
        wall, cpu = time.perf_counter(), cpu_seconds()
        run_workflow(workflow, plugin)
        figures.append((time.perf_counter() - wall, cpu_seconds() - cpu))
    print("FIGURES", json.dumps(figures))


def cpu_seconds() -> float:
    total = 0.0
    for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN):
        usage = resource.getrusage(who)
        total += usage.ru_utime + usage.ru_stime
    return total


def in_process(timeout: float, *arguments: str) -> tuple[str, str]:
    """Call this file in a new process; return how it ended and what it printed."""
    process = subprocess.Popen(
        [sys.executable, __file__, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    try:
        out, _ = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return "hangs", ""
    return f"exit {process.returncode}", out


def print_rst(head: list[str], rows: list[list[str]]) -> None:
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    line = "  ".join("=" * width for width in widths)
    for row in (None, head, None, *rows, None):
        cells = zip(row, widths, strict=True) if row else ()
        print("  ".join(text.ljust(width) for text, width in cells).rstrip() if row else line)
    print(flush=True)


def time_table(count: int, slow_count: int) -> None:
    rows = []
    for plugin in (*OURS, *THEIRS):
        nodes = slow_count if "poll 2 s" in plugin or "Legacy" in plugin else count
        for shape in ("fan", "chain"):
            with tempfile.TemporaryDirectory() as folder:
                end, out = in_process(1200, "--measure", plugin, shape, str(nodes), folder)
            figures = [line for line in out.splitlines() if line.startswith("FIGURES")]
            row = [plugin, shape, str(nodes)]
            if not figures:
                rows.append([*row, end, "", "", ""])
                continue
            first, again = json.loads(figures[0].removeprefix("FIGURES"))
            rows.append([*row, *(f"{value:.2f}" for value in (*first, *again))])
    print_rst(["plugin", "graph", "nodes", "first s", "CPU s", "again s", "CPU s "], rows)


def broken_table(timeout: float) -> None:
    rows = []
    for kind, title in BROKEN.items():
        for with_others in (False, True):
            row = [title, "with 4 others" if with_others else "alone"]
            for plugin in ("neuroferry MultiProc", "neuroferry Dask", *THEIRS[:3]):
                with tempfile.TemporaryDirectory() as folder:
                    end, _ = in_process(
                        timeout, "--broken", plugin, kind, str(int(with_others)), folder
                    )
                    done = len(list(Path(folder).rglob("result_good*.pklz")))
                    crashes = len(list(Path(folder).glob("crash*")))
                text = "ends" if end == "exit 1" else end
                text += f", {done}/{GOOD} done" if with_others else ""
                row.append(text if crashes else f"{text}, no crash file")
            rows.append(row)
    names = ["neuroferry MultiProc", "neuroferry Dask", *(name[7:] for name in THEIRS[:3])]
    print_rst(["case", "", *names], rows)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, default=200)
    parser.add_argument("--slow-nodes", type=int, default=20)
    parser.add_argument("--timeout", type=float, default=40.0)
    parser.add_argument("--skip-broken", action="store_true")
    parser.add_argument("--measure", nargs=4, help=argparse.SUPPRESS)
    parser.add_argument("--broken", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        plugin, shape, count, folder = arguments.measure
        measure(plugin, shape, int(count), folder)
    elif arguments.broken:
        plugin, kind, with_others, folder = arguments.broken
        os.chdir(folder)
        configure(plugin, folder)
        run_workflow(broken(kind, with_others == "1", folder), plugin)
    else:
        load = os.getloadavg()[0]
        print(f"{os.cpu_count()} processors, load {load:.1f} at the start\n")
        time_table(arguments.nodes, arguments.slow_nodes)
        if not arguments.skip_broken:
            broken_table(arguments.timeout)


if __name__ == "__main__":
    main()
