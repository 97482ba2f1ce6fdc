"""Small Nipype studies that the tests submit: slurm_study.py BASE NAME [SETTING=VALUE...]."""

import json
import sys
from pathlib import Path

from nipype import Function, MapNode, Node, Workflow, config

from neuroferry.engine import SLURMGraphPlugin


def start(x):
    return x


def work(x, limit):
    if x >= limit:
        raise ValueError(f"{x} is too much")
    return x * 2


def other(x):
    return x + 1


def join(a, b):
    return a + b


def be_hungry(x):
    """Take 1.2 GB that no process holds, so that nobody but the kernel can step in."""
    import os

    held = os.memfd_create("held")
    for _ in range(1200):
        os.write(held, bytes(1_000_000))
    return x


def sleep_once(x, marker, seconds):
    import time
    from pathlib import Path

    if not Path(marker).exists():
        Path(marker).touch()
        time.sleep(seconds)
    return x


def sleep(x, seconds):
    import time

    time.sleep(seconds)
    return x


def count(x, name, folder, seconds):
    """Leave a line when it starts and one when it ends, apart from any record."""
    import os
    import time
    from pathlib import Path

    log = Path(folder, "exec.log")  # as an input, its content would count
    with log.open("a") as stream:
        stream.write(f"start {name} {os.environ.get('SLURM_JOB_ID')} {os.getpid()}\n")
    time.sleep(seconds)
    with log.open("a") as stream:
        stream.write(f"end {name} {os.environ.get('SLURM_JOB_ID')} {os.getpid()}\n")
    return x + 1


def refuse_two(x):
    if x == 2:
        raise ValueError("bad item")
    return x


def fill(x, megabytes):
    """Leave a file of so many MB behind."""
    from pathlib import Path

    with Path("large").open("wb") as stream:
        for _ in range(megabytes):
            stream.write(bytes(1_000_000))
    return x


def node(name, function, inputs, **options):
    return Node(Function(list(inputs), ["out"], function), name=name, **options)


def subject_wf(label, *, longer=False, limit=3):
    """A diamond; a longer one has one step more."""
    wf = Workflow(f"sub_{label}_wf")
    first = node("start", start, ["x"])
    first.inputs.x = int(label)
    working = node("work", work, ["x", "limit"])
    working.inputs.limit = limit
    side = node("other", other, ["x"])
    last = node("join", join, ["a", "b"])
    wf.connect(first, "out", working, "x")
    wf.connect(first, "out", side, "x")
    wf.connect(working, "out", last, "a")
    wf.connect(side, "out", last, "b")
    if longer:
        wf.connect(last, "out", node("extra", other, ["x"]), "x")
    return wf


def diamonds(limit):
    """Four subjects, the last with another structure; those from ``limit`` on fail."""
    for label in ("01", "02", "03", "04"):
        yield subject_wf(label, longer=label == "04", limit=limit)


def chain(label, function, inputs, **values):
    """Three steps, the middle one the interesting one."""
    options = {key: values.pop(key) for key in ("mem_gb",) if key in values}
    wf = Workflow(f"sub_{label}_wf")
    first = node("start", start, ["x"])
    first.inputs.x = 1
    middle = node("middle", function, inputs, **options)
    for key, value in values.items():
        setattr(middle.inputs, key, value)
    wf.connect(first, "out", middle, "x")
    wf.connect(middle, "out", node("end", other, ["x"]), "x")
    return wf


def counted(base, subjects, seconds):
    """Chains of four steps that count their executions in ``exec.log``."""
    for number in range(1, subjects + 1):
        wf = Workflow(f"sub_{number:03d}_wf")
        before = None
        for name in "abcd":
            step = node(name, count, ["x", "name", "folder", "seconds"], mem_gb=0.2)
            step.inputs.name, step.inputs.seconds = f"{number:03d}{name}", seconds
            step.inputs.folder = str(base)
            if before is None:
                step.inputs.x = number
                wf.add_nodes([step])
            else:
                wf.connect(before, "out", step, "x")
            before = step
        yield wf


def items():
    """A MapNode of which one item fails, and a step after it."""
    wf = Workflow("sub_01_wf")
    many = MapNode(Function(["x"], ["out"], refuse_two), name="many", iterfield=["x"])
    many.inputs.x = [1, 2, 3]
    wf.connect(many, "out", node("last", start, ["x"]), "x")
    return wf


def study(name, base, limit, subjects, seconds):
    wf = Workflow("study_wf", base_dir=str(base))
    marker = str(base / "marker")
    parts = {
        "diamonds": lambda: list(diamonds(limit)),
        "hungry": lambda: [chain("01", be_hungry, ["x"])],
        "slow": lambda: [
            chain("01", sleep_once, ["x", "marker", "seconds"], marker=marker, seconds=150)
        ],
        "node": lambda: [
            chain("01", sleep_once, ["x", "marker", "seconds"], marker=marker, seconds=60)
        ],
        "long": lambda: [chain("01", sleep, ["x", "seconds"], seconds=300)],
        "large": lambda: [chain("01", fill, ["x", "megabytes"], megabytes=30)],
        "counted": lambda: list(counted(base, subjects, seconds)),
        "items": lambda: [items()],
        "short": lambda: [chain("01", other, ["x"])],
        "impossible": lambda: [chain("01", other, ["x"], mem_gb=50_000.0)],
    }
    wf.add_nodes(parts[name]())
    return wf


def main(base, name, *settings):
    config.update_config(
        {
            "execution": {
                "hash_method": "content",
                "create_report": "false",
                "check_version": "false",
                "remove_unnecessary_outputs": "false",
            }
        }
    )
    values = {key: json.loads(text) for key, text in (s.split("=", 1) for s in settings)}
    own = {
        key: values.pop(key, default)
        for key, default in (("limit", 3), ("subjects", 2), ("seconds", 2.0))
    }
    wf = study(name, Path(base), **own)
    plugin = SLURMGraphPlugin(plugin_args=values)
    wf.run(plugin=plugin)
    script = plugin.submit_script
    print(json.dumps({"script": script and str(script), "jobs": plugin.n_jobs}))


if __name__ == "__main__":
    main(*sys.argv[1:])
