"""Plan every participant of a dataset in a process of its own, and print what came of it.

``python plan_people.py BIDS OUT LABEL...``: all are planned as ``--dry-run`` plans them; LABELs
go through the whole command, too. With ``--damage BIDS OUT``: see `damage`.
"""

import contextlib
import io
import json
import sys
from pathlib import Path

from neuroferry.app.inputs import check_input, find_subjects
from neuroferry.cli.main import main
from neuroferry.config import make_config
from neuroferry.selection.describe import describe_plan, plan_as_json


def peak_mb():
    """Read the largest memory of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def plan(bids, out, labels=()):
    """Plan as the command does; return the plans and the problems."""
    config = make_config(
        {
            "bids_dir": bids,
            "output_dir": out,
            "input": {"skip_bids_validation": True, "participant_label": list(labels)},
            "execution": {"dry_run": True},
            "workflow": {"workflows": ["anat", "qc", "func", "dwi"]},
        }
    )
    plans, problems = check_input(config, find_subjects(config), 2)
    for each in plans:
        json.dumps(plan_as_json(each), allow_nan=False)
        "\n".join(describe_plan(each)).encode()
    return plans, problems


def run_command(bids, out, *options):
    """Run the whole command in this process; return its exit code."""
    command = [bids, out, "participant", "--dry-run", "--skip-bids-validation", "--sloppy"]
    with contextlib.redirect_stdout(io.StringIO()):
        return main([*command, *options])


def plan_all(bids, out, *labels):
    """Plan all, and print what came of it."""
    plan(bids, out, ["sound"])
    before = peak_mb()
    plans, problems = plan(bids, out)
    told = {
        "used": [str(path) for each in plans for path in each.inputs],
        "with_work": [each.label for each in plans if each.has_work],
        "problems": [[p.severity, p.message, str(p.path), p.subject] for p in problems],
        "grown_mb": peak_mb() - before,
    }
    codes = {label: run_command(bids, out, "--participant-label", label) for label in labels}
    print(json.dumps({**told, "codes": codes}))


def damage(bids, out):
    """Run the command with each of the files on standard input in place of the dataset's own."""
    codes = []
    for name, content in json.load(sys.stdin):
        path = Path(bids) / name
        sound = path.read_bytes()
        path.write_bytes(bytes.fromhex(content))
        codes.append((name, run_command(bids, out, "--workflows", "qc")))
        path.write_bytes(sound)
    print(json.dumps(codes))


if __name__ == "__main__":
    damage(*sys.argv[2:]) if sys.argv[1] == "--damage" else plan_all(*sys.argv[1:])
