"""Comparison of estimated and measured needs of steps.

Usage: ``python benchmarks/estimates.py OUT [OUT ...] [--write configs/steps.toml]``. Each OUT is
the output folder of completed runs, best of images of different sizes. For each kind of step and
each OUT the table shows the measured peak and, as ratios to it, the estimates: by the formula
that the step declares, by the table in the package, and from the record of the other OUTs alone
("like"). A ratio below 0.9 underestimates by more than 10%; above 2 it overestimates more than
twofold.

``--write`` updates the package's table with the measured needs of each kind of step on the largest
image; kinds that are in no OUT stay unchanged. Its times are processor seconds over processors,
because a busy machine inflates wall time.
"""

from __future__ import annotations

import argparse
import tomllib
from dataclasses import replace
from pathlib import Path

import tomli_w

from neuroferry.engine.estimate import Estimator, read_table
from neuroferry.engine.record import StepSummary, list_runs, read_run

HEAD = """\
# Measured resources of each kind of step, for the estimates of a first run (docs/planning.rst).
# Written by benchmarks/estimates.py from the record of a run; a run's own record takes precedence.

"""
TABLE = Path(__file__).parents[1] / "configs" / "steps.toml"


def measured_steps(out: Path) -> dict[str, StepSummary]:
    """Read the completed steps, with their time on an idle machine."""
    found = {}
    for run_dir in list_runs(out):
        for step in read_run(run_dir).steps:
            if step.state == "done" and step.peak_gb is not None:
                quiet = (step.cpu_seconds or 0.0) / (step.n_procs or 1)
                found[step.step] = replace(step, seconds=min(step.seconds or 0.0, quiet))
    return found


def write_table(outs: list[Path], path: Path) -> None:
    """Update the package's table; kinds that are in none of the runs stay unchanged."""
    table = tomllib.loads(path.read_text(encoding="utf-8"))
    measured: dict[str, dict[str, float]] = {}
    size = work = 0.0
    files = n_steps = 0
    for out in outs:
        steps = measured_steps(out)
        for kind, row in _rows(steps).items():
            # Python's own share is smallest on the largest image
            if row["declared_gb"] >= measured.get(kind, row)["declared_gb"]:
                measured[kind] = row
        made = [file for file in out.glob("sub-*/**/*") if file.is_file()]
        size += sum(file.stat().st_blocks * 512 for file in made) / 1e9
        work += sum(step.disk_gb or 0.0 for step in steps.values())
        files += len(made) + len({step.subject for step in steps.values()})
        n_steps += len(steps)
    output = {
        "of_work": round(size / work, 2),
        "files_per_step": round(files / n_steps, 2),
    }
    rows = dict(sorted({**table["steps"], **measured}.items()))
    path.write_text(HEAD + tomli_w.dumps({"output": output, "steps": rows}), encoding="utf-8")


def _rows(steps: dict[str, StepSummary]) -> dict[str, dict[str, float]]:
    """Make the rows of one run: the maximum of each figure over the steps of a kind."""
    rows: dict[str, dict[str, float]] = {}
    for step in steps.values():
        row = {
            "seconds": round(step.seconds or 0.0, 1),
            "peak_gb": round(step.peak_gb or 0.0, 3),
            "declared_gb": round(step.declared_gb or 0.0, 3),
            "disk_gb": round(step.disk_gb or 0.0, 6),
            "files": step.files or 0,
            **({"volumes": step.volumes} if step.volumes else {}),
        }
        known = rows.setdefault(step.kind, row)
        known.update({key: max(value, known[key]) for key, value in row.items()})
    return rows


def compare(outs: list[Path]) -> list[list[str]]:
    """Make the rows: kind of step, OUT, measured peak, three ratios, time and its ratio."""
    runs = {out: measured_steps(out) for out in outs}
    table = read_table(tomllib.loads(TABLE.read_text(encoding="utf-8")))
    rows = []
    for out, steps in runs.items():
        others = {k: s for other, found in runs.items() if other != out for k, s in found.items()}
        by_table = Estimator(table=table)
        by_like = Estimator(others)
        for name, step in steps.items():
            declared = step.declared_gb or 0.0
            peak, seconds = step.peak_gb or 0.0, max(step.seconds or 0.0, 0.1)
            from_table = by_table.estimate(name, declared, step.volumes, kind=step.kind)
            row = [step.kind, out.name, f"{peak:.2f}"]
            row.append(f"{declared / peak:.2f}")
            row.append(f"{from_table.mem_gb / peak:.2f}")
            # the same participant in another OUT is another image, not the same step
            like = by_like.estimate(_as_other(name), declared, step.volumes, kind=step.kind)
            row.append(f"{like.mem_gb / peak:.2f}" if others else "")
            row += [f"{seconds:.1f}", f"{from_table.seconds / seconds:.2f}"]
            rows.append(row)
    return sorted(rows)


def _as_other(name: str) -> str:
    return name.replace("sub_", "sub_other", 1)


def print_rst(rows: list[list[str]]) -> None:
    head = ["step", "run", "peak GB", "formula", "table", "like", "CPU s", "time, table"]
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    line = "  ".join("=" * width for width in widths)
    print(line)
    print("  ".join(text.ljust(width) for text, width in zip(head, widths, strict=True)))
    print(line)
    for row in rows:
        print("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)))
    print(line)


def main() -> None:
    """Print the comparison, or write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("outs", nargs="+", type=Path, metavar="OUT")
    parser.add_argument("--write", type=Path, metavar="TOML")
    arguments = parser.parse_args()
    if arguments.write:
        write_table(arguments.outs, arguments.write)
    print_rst(compare(arguments.outs))


if __name__ == "__main__":
    main()
