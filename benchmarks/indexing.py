"""Benchmark of indexing one participant of a large dataset, against pybids on all of it.

Usage: ``python benchmarks/indexing.py [--subjects 1000]``. Each figure is the wall and CPU time
of a fresh Python process, including imports, and its peak memory.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

IMAGES = (
    "anat/{sub}_T1w",
    "anat/{sub}_T2w",
    "func/{sub}_task-rest_bold",
    "func/{sub}_task-nback_bold",
    "fmap/{sub}_dir-AP_epi",
)
OURS = "from neuroferry.bids.index import index_subjects\nfound = index_subjects({root!r}, {how})"
CASES = {
    "pybids, all, with metadata": (
        "from bids.layout import BIDSLayout\nfound = BIDSLayout({root!r}, validate=False).get()"
    ),
    "neuroferry, one participant": OURS.replace("{how}", "participant_labels=[{label!r}]"),
    "neuroferry, ten participants": OURS.replace("{how}", "participant_labels={labels!r}"),
    "neuroferry, all": OURS.replace("{how}", ""),
    "neuroferry, one, new database": OURS.replace(
        "{how}", "participant_labels=[{label!r}], database_dir={database!r}"
    ),
    "neuroferry, one, existing database": OURS.replace(
        "{how}", "participant_labels=[{label!r}], database_dir={database!r}"
    ),
}
MEASURE = """
import json, resource, time
start = time.perf_counter()
{code}
usage = resource.getrusage(resource.RUSAGE_SELF)
print(json.dumps([time.perf_counter() - start, usage.ru_utime + usage.ru_stime,
                  usage.ru_maxrss / 1024]))
"""


def make_dataset(root: Path, n_subjects: int) -> int:
    """Write a dataset of empty images with sidecars; return its number of files."""
    root.mkdir()
    (root / "dataset_description.json").write_text('{"Name": "big", "BIDSVersion": "1.10.0"}')
    for number in range(1, n_subjects + 1):
        sub = f"sub-{number:04d}"
        for image in IMAGES:
            path = root / sub / (image.format(sub=sub) + ".nii.gz")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
            sidecar = path.with_name(path.name.replace(".nii.gz", ".json"))
            sidecar.write_text('{"EchoTime": 0.003, "RepetitionTime": 2.0}')
    return n_subjects * 2 * len(IMAGES) + 1


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--subjects", type=int, default=1000)
    n_subjects = parser.parse_args().subjects
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "bids"
        n_files = make_dataset(root, n_subjects)
        middle = n_subjects // 2
        values = {
            "root": str(root),
            "label": f"{middle:04d}",
            "labels": [f"{middle + i:04d}" for i in range(10)],
            "database": str(Path(folder) / "database"),
        }
        print(f"{n_subjects} participants, {n_files} files\n")
        print(f"{'':34}{'wall s':>8}{'CPU s':>8}{'MB':>7}")
        for name, code in CASES.items():
            done = subprocess.run(
                [sys.executable, "-c", MEASURE.format(code=code.format(**values))],
                capture_output=True,
                text=True,
                check=True,
            )
            wall, cpu, memory = json.loads(done.stdout.splitlines()[-1])
            print(f"{name:34}{wall:8.2f}{cpu:8.2f}{memory:7.0f}")


if __name__ == "__main__":
    main()
