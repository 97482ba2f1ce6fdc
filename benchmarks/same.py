"""Comparison of graphs and results of two versions, which a change of layout must not alter.

    python benchmarks/same.py graphs PHANTOMS BEFORE   # with the old checkout on PYTHONPATH
    python benchmarks/same.py graphs PHANTOMS AFTER    # with the new one
    python benchmarks/same.py compare BEFORE AFTER

``graphs`` makes small phantoms once, builds the flattened graph of each case in ``CASES`` with
the neuroferry that this Python imports, and writes one text file per case: every node with its
interface, inputs, memory, threads and edges, then the methods text. It runs no steps. ``compare``
takes two folders of graphs, or two output folders of the same command. The exit code is 1 if
anything differs. Lines that begin with ``#`` are informative and not compared: modules of
interfaces and functions, kinds of nodes, and printed output.
"""

from __future__ import annotations

import argparse
import contextlib
import difflib
import gzip
import hashlib
import io
import json
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nb
import numpy as np

TEMPLATE = "MNI152NLin2009aSym"
OTHER = "MNI152Other"

#: Arguments of ``neuroferry phantom`` for each dataset.
DATASETS = {
    "sessions": ("--sessions", "2", "--runs", "2"),
    "echoes": (
        *("--bold", "6", "--bold-resolution", "6", "--bold-runs", "2"),
        *("--bold-echo-times", "0.012", "0.030", "0.048"),
    ),
    "direct": ("--bold", "6", "--bold-resolution", "6", "--bold-fieldmaps", "direct"),
    "phases": ("--bold", "6", "--bold-resolution", "6", "--bold-fieldmaps", "phases"),
    "nofmap": ("--bold", "6", "--bold-resolution", "6", "--bold-fieldmaps"),
    "one-shell": ("--dwi", "12", "--dwi-b0", "2", "--dwi-resolution", "6"),
    "two-shells": (
        *("--dwi", "12", "--dwi-b0", "2", "--dwi-resolution", "6"),
        *("--dwi-bvals", "1000", "2000", "--dwi-fieldmaps", "phasediff"),
    ),
    "joined": (
        *("--dwi", "12", "--dwi-b0", "2", "--dwi-resolution", "6"),
        *("--dwi-direction", "AP", "PA", "--dwi-fieldmaps"),
    ),
}


@dataclass(frozen=True)
class Case:
    """Command whose graph is compared."""

    dataset: str
    arguments: tuple[str, ...] = ()
    precomputed: str = ""  #: name in PRECOMPUTED


CASES = {
    "anat": Case("sessions", ("--workflows", "anat", "qc")),
    "anat-first": Case("sessions", ("--workflows", "anat", "--no-average-t1w", "--sloppy")),
    "anat-other": Case(
        "sessions", ("--output-spaces", f"{TEMPLATE}:res-2", f"{OTHER}:res-8", "T1w")
    ),
    "bold-echoes": Case("echoes", ("--output-spaces", f"{TEMPLATE}:res-2", "T1w", "bold")),
    "bold-direct": Case("direct"),
    "bold-phases": Case("phases", ("--sloppy",)),
    "bold-nofmap": Case("nofmap", ("--workflows", "func", "--output-spaces", "bold")),
    "bold-other": Case("direct", ("--output-spaces", f"{OTHER}:res-8", "T1w")),
    "bold-ignore": Case(
        "echoes",
        (
            *("--workflows", "func", "--ignore", "fieldmaps", "slicetiming"),
            *("--dummy-scans", "2", "--slice-time-ref", "0"),
        ),
    ),
    "bold-anatomy": Case("direct", ("--workflows", "func"), "anatomy"),
    "bold-mask": Case("direct", (), "mask"),
    "bold-precomputed": Case(
        "nofmap", ("--workflows", "func", "--output-spaces", "T1w"), "anatomy bold"
    ),
    "bold-no-way-to-template": Case(
        "direct", ("--workflows", "func", "--output-spaces", f"{OTHER}:res-8", "T1w"), "anatomy"
    ),
    "dwi": Case("one-shell"),
    "dwi-sloppy": Case(
        "one-shell", ("--workflows", "dwi", "--sloppy", "--fix-gradients", "--streamlines", "0")
    ),
    "dwi-shells": Case(
        "two-shells", ("--output-spaces", TEMPLATE, "T1w", "--profile-extent", "whole")
    ),
    "dwi-joined": Case("joined", ("--output-spaces", TEMPLATE, "T1w")),
    "dwi-not-joined": Case(
        "joined", ("--output-spaces", "T1w", "--ignore", "dwi-joining", "fieldmaps")
    ),
    "dwi-anatomy": Case(
        "joined", ("--workflows", "dwi", "--output-spaces", TEMPLATE, "T1w"), "anatomy"
    ),
}

#: Files of ``sub-01`` that stand in for a part of the graph. Building a graph reads their headers
#: at most.
PRECOMPUTED = {
    "mask": ("anat/sub-01_desc-brain_mask.nii.gz",),
    "anatomy": (
        "anat/sub-01_desc-preproc_T1w.nii.gz",
        "anat/sub-01_desc-brain_mask.nii.gz",
        "anat/sub-01_dseg.nii.gz",
        *(f"anat/sub-01_label-{tissue}_probseg.nii.gz" for tissue in ("GM", "WM", "CSF")),
        f"anat/sub-01_from-T1w_to-{TEMPLATE}_mode-image_xfm.h5",
        f"anat/sub-01_from-{TEMPLATE}_to-T1w_mode-image_xfm.h5",
    ),
    "bold": (
        "func/sub-01_task-blocks_desc-hmc_boldref.nii.gz",
        "func/sub-01_task-blocks_desc-brain_mask.nii.gz",
        "func/sub-01_task-blocks_from-orig_to-boldref_mode-image_desc-hmc_xfm.txt",
        "func/sub-01_task-blocks_from-boldref_to-T1w_mode-image_desc-coreg_xfm.txt",
    ),
}


# --- inputs -----------------------------------------------------------------------------------


def make_dataset(root: Path, options: Sequence[str]) -> None:
    """Write one phantom participant, unless it exists."""
    if root.exists():
        return
    command = ("phantom", str(root), "--subjects", "1", "--resolution", "3", "--seed", "1")
    subprocess.run([sys.executable, "-m", "neuroferry", *command, *options], check=True)


def make_template(home: Path) -> None:
    """Write an empty template with 8 mm voxels."""
    folder = home / f"tpl-{OTHER}"
    folder.mkdir(parents=True, exist_ok=True)
    for suffix, kind in (("T1w", np.float32), ("desc-brain_mask", np.uint8)):
        image = nb.nifti1.Nifti1Image(np.ones((24, 28, 24), kind), np.diag([8.0, 8, 8, 1]))
        image.to_filename(folder / f"tpl-{OTHER}_res-08_{suffix}.nii.gz")


def make_precomputed(root: Path, kinds: Sequence[str], bids: Path) -> None:
    """Write placeholder derivatives, on the grids of their images."""
    for name in (name for kind in kinds for name in PRECOMPUTED[kind]):
        path = root / "sub-01" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith(".nii.gz"):
            suffix = "bold" if name.startswith("func") else "T1w"
            like = nb.nifti1.load(next((bids / "sub-01").rglob(f"*_{suffix}.nii.gz")))
            nb.nifti1.Nifti1Image(np.ones(like.shape[:3], np.uint8), like.affine).to_filename(path)
        elif "hmc" in name:
            path.write_text("#Insight Transform File V1.0\n" + 6 * "Parameters: 1 0\n")
        else:
            path.touch()


# --- graphs -----------------------------------------------------------------------------------


@contextlib.contextmanager
def captured() -> Iterator[list[tuple[Any, str]]]:
    """Record each flattened graph and methods text, by patching Nipype's entry points.

    No function of neuroferry is named here, so that versions with any layout can be compared.
    """
    from nipype.pipeline.engine import Workflow

    found: list[tuple[Any, str]] = []
    texts: list[str] = []
    flatten, configure = Workflow._generate_flatgraph, Workflow._configure_exec_nodes
    depth = 0

    def _generate_flatgraph(self: Any) -> None:
        nonlocal depth
        if depth == 0:
            texts.append(self.visit_desc())
        depth += 1
        try:
            flatten(self)
        finally:
            depth -= 1

    def _configure_exec_nodes(self: Any, graph: Any) -> None:
        configure(self, graph)
        found.append((graph, texts[-1]))

    Workflow._generate_flatgraph = _generate_flatgraph
    Workflow._configure_exec_nodes = _configure_exec_nodes
    try:
        yield found
    finally:
        Workflow._generate_flatgraph, Workflow._configure_exec_nodes = flatten, configure


def write_graphs(phantoms: Path, out: Path, names: Sequence[str]) -> None:
    """Write the graph of each case as text."""
    from neuroferry.cli.main import main

    out.mkdir(parents=True, exist_ok=True)
    make_template(phantoms / "templates")
    for name in names or CASES:
        case = CASES[name]
        bids = phantoms / case.dataset
        make_dataset(bids, DATASETS[case.dataset])
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch).resolve()
            command = [str(bids), str(folder / "out"), "participant", *case.arguments, "--dry-run"]
            command += ["--templateflow-home", str(phantoms / "templates"), "--nprocs", "2"]
            command += ["--mem", "64GB", "--skip-bids-validation"]
            if case.precomputed:
                make_precomputed(folder / "precomputed", case.precomputed.split(), bids)
                command += ["--derivatives", f"mine={folder / 'precomputed'}"]
            said = io.StringIO()
            with captured() as found, contextlib.redirect_stdout(said):  # noqa: SIM117
                with contextlib.redirect_stderr(said):
                    code = main(command)
            places = {str(bids): "<bids>", str(phantoms): "<phantoms>", str(folder): "<run>"}
            lines = [f"exit code {code}", *(f"# {line}" for line in said.getvalue().splitlines())]
            for graph, methods in found:
                lines += [*describe_graph(graph), "methods", f"  {methods!r}"]
        text = "\n".join(lines) + "\n"
        for place, word in {**places, **_code_places()}.items():
            text = text.replace(place, word)
        (out / f"{name}.txt").write_text(text, encoding="utf-8")
        count = sum(len(graph) for graph, _ in found)
        print(f"{name}: exit code {code}, {count} nodes", flush=True)


def _code_places() -> dict[str, str]:
    import neuroferry

    root = Path(neuroferry.__file__).parent
    return {
        str(root): "<neuroferry>",
        str(root.resolve().parents[1]): "<neuroferry>",
        sysconfig.get_paths()["purelib"]: "<site-packages>",
    }


def describe_graph(graph: Any) -> Iterator[str]:
    """Describe each node of a flattened graph, sorted by name."""
    for node in sorted(graph.nodes(), key=str):
        yield f"node {node}"
        interface = type(node.interface)
        yield f"  interface {interface.__name__}, {type(node).__name__}"
        yield f"# module {interface.__module__}"
        if hasattr(node, "kind"):
            yield f"# kind {node.kind}"
        yield f"  mem_gb {node.mem_gb:.6g}, n_procs {node.n_procs}"
        if node.run_without_submitting:
            yield "  run_without_submitting"
        for name in ("iterfield", "joinfield", "needed_outputs"):
            if getattr(node, name, None):
                yield f"  {name} {' '.join(map(str, getattr(node, name)))}"
        yield from _inputs(node)
        sources = (
            f"  {field} <- {source}:{_name(output)}"
            for source, _, data in graph.in_edges(node, data=True)
            for output, field in data["connect"]
        )
        yield from sorted(sources)


def _inputs(node: Any) -> Iterator[str]:
    from nipype.interfaces.base import isdefined

    for name, value in sorted(node.inputs.get().items()):
        if not isdefined(value):
            continue
        if name == "function_str":  # the source names modules, which may have moved
            yield f"# source {hashlib.sha256(str(value).encode()).hexdigest()[:12]}"
            yield f"  function {str(value).partition('(')[0].rpartition(' ')[2]}"
        else:
            yield f"  {name} = {_value(value)}"


def _name(output: Any) -> str:
    """Name an output, or the function that an edge applies to it."""
    return str(output) if isinstance(output, str) else f"{output[0]} via {output[1:]}"


def _value(value: Any) -> str:
    if isinstance(value, np.ndarray):
        digest = hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()[:12]
        return f"array {value.dtype} {value.shape} {digest}"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key!r}: {_value(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        inside = ", ".join(map(_value, value))
        return f"[{inside}]" if isinstance(value, list) else f"({inside})"
    if callable(value):
        return str(getattr(value, "__qualname__", value))
    return repr(value)


# --- comparison -------------------------------------------------------------------------------


def compare(one: Path, other: Path, *, everything: bool) -> int:
    """Print the differences between two folders; return the exit code."""
    here, there = _files(one, everything), _files(other, everything)
    differences = 0
    for name in sorted(here | there):
        if name not in there or name not in here:
            print(f"only in {one if name in here else other}: {name}")
            differences += 1
            continue
        found = list(_differences(one / name, other / name))
        if found:
            differences += 1
            print(f"differs: {name}")
            for line in found:
                print(f"    {line}")
    print(f"{len(here & there)} files in both, {differences} differences")
    return 1 if differences else 0


def _files(root: Path, everything: bool) -> set[str]:
    """List the files of a folder; logs and pages contain times and so always differ."""
    names = {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}
    if everything:
        return names
    return {name for name in names if not name.startswith("logs/") and not name.endswith(".html")}


def _differences(one: Path, other: Path) -> Iterator[str]:
    data = one.read_bytes(), other.read_bytes()
    if data[0] == data[1]:
        return
    if one.name.endswith(".json"):
        yield from json_differences(*map(json.loads, data))
    elif one.name.endswith((".nii", ".nii.gz")):
        yield from _image_differences(one, other)
    elif one.name.endswith((".txt", ".tsv", ".csv", ".bval", ".bvec", ".svg", ".html", ".md")):
        before, after = (part.decode("utf-8", "replace") for part in data)
        yield from _text_differences(before, after)
    elif one.name.endswith(".gz") and gzip.decompress(data[0]) == gzip.decompress(data[1]):
        yield "compressed differently, same content"
    else:
        yield f"{len(data[0]):,} and {len(data[1]):,} bytes"


def _text_differences(one: str, other: str, shown: int = 40) -> Iterator[str]:
    before, after = ([ln for ln in text.splitlines() if ln[:1] != "#"] for text in (one, other))
    changes = [
        line
        for line in difflib.unified_diff(before, after, lineterm="", n=0)
        if not line.startswith(("---", "+++"))
    ]
    yield from (f"{line:.400}" for line in changes[:shown])
    if len(changes) > shown:
        yield f"and {len(changes) - shown} more lines"


def json_differences(one: Any, other: Any, where: str = "") -> Iterator[str]:
    """List the values in which two JSON documents differ.

    Examples
    --------
    >>> list(json_differences({"a": [1, 2], "b": 3}, {"a": [1, 4], "c": 5}))
    ['a.1: 2 -> 4', 'b: 3 -> nothing', 'c: nothing -> 5']
    """
    if isinstance(one, list) and isinstance(other, list):
        one, other = (dict(enumerate(values)) for values in (one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        for key in [*one, *(key for key in other if key not in one)]:
            place = f"{where}.{key}" if where else str(key)
            if key not in other:
                yield f"{place}: {one[key]!r} -> nothing"
            elif key not in one:
                yield f"{place}: nothing -> {other[key]!r}"
            else:
                yield from json_differences(one[key], other[key], place)
    elif one != other or type(one) is not type(other):
        yield f"{where}: {one!r} -> {other!r}"


def _image_differences(one: Path, other: Path) -> Iterator[str]:
    images = nb.nifti1.load(one), nb.nifti1.load(other)
    before, after = (
        {key: np.asarray(image.header[key]).tolist() for key in image.header} for image in images
    )
    yield from json_differences(before, after)
    arrays = [np.asarray(image.dataobj) for image in images]
    if arrays[0].shape != arrays[1].shape:
        return
    unequal = ~np.isclose(arrays[0], arrays[1], rtol=0, atol=0, equal_nan=True)
    if unequal.any():
        largest = np.nanmax(np.abs(np.subtract(*(a[unequal].astype(float) for a in arrays))))
        yield f"{unequal.sum():,} of {unequal.size:,} voxels, by at most {largest:.6g}"
    else:
        yield "same values"


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    graphs = commands.add_parser("graphs", help="write the graphs of the version in use")
    graphs.add_argument("phantoms", type=Path, help="folder for the inputs, reused in later calls")
    graphs.add_argument("out", type=Path, help="folder for the descriptions")
    graphs.add_argument("--cases", nargs="+", choices=CASES, default=[], metavar="CASE")
    both = commands.add_parser("compare", help="compare two folders")
    both.add_argument("one", type=Path)
    both.add_argument("other", type=Path)
    both.add_argument("--all", action="store_true", help="logs and reports as well")
    return parser.parse_args()


def main() -> int:
    """Run the command."""
    arguments = parse_arguments()
    if arguments.command == "compare":
        return compare(arguments.one, arguments.other, everything=arguments.all)
    write_graphs(arguments.phantoms.resolve(), arguments.out, arguments.cases)
    return 0


if __name__ == "__main__":
    sys.exit(main())
