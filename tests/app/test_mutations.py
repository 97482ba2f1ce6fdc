"""Thousands of damaged files, planned as a user's are: each is named, and stays alone."""

import gzip
import json
import subprocess
import sys
from pathlib import Path

import nibabel as nb
import numpy as np
import pytest
from mutations import (
    EVENTS,
    IMAGES,
    SIDECARS,
    gradient_files,
    mutate_bytes,
    mutate_image,
    mutate_json,
    mutate_table,
    name_of,
    sound_images,
    write_shared,
    write_sound,
)

from neuroferry.errors import ExitCode

pytestmark = pytest.mark.slow

PLAN = Path(__file__).parents[1] / "helpers" / "plan_people.py"
SERIES = ("T1w", "bold", "dwi")
#: Bytes of voxels beyond which the images of these tests, of at most 40 kB, cannot be sound.
LARGE = 1_000_000


def plan_people(root, *labels):
    done = subprocess.run(
        [sys.executable, str(PLAN), str(root), str(root.parent / "out"), *labels],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    for sign in ("Traceback", "Warning:", "a bug in neuroferry"):
        assert sign not in done.stderr, done.stderr[-4000:]
    told = json.loads(done.stdout)
    assert told["grown_mb"] < 150
    assert "sound" in told["with_work"]
    errors = [who for severity, _, _, who in told["problems"] if severity == "error"]
    assert "sound" not in errors
    assert all("\n" not in message for _, message, _, _ in told["problems"])
    assert set(told["codes"].values()) <= {ExitCode.OK, ExitCode.STEP_FAILED, ExitCode.DATA}
    assert not (root.parent / "out").exists()
    return told


def named_as_error(told):
    return {
        path: message for severity, message, path, _ in told["problems"] if severity == "error"
    }


def read_voxels(path):
    """Read an image as the steps do; None for one that cannot be used."""
    try:
        image = nb.load(path)
        if np.prod(image.shape, dtype=float) * image.get_data_dtype().itemsize > LARGE:
            return None
        data = np.asarray(image.dataobj, dtype=np.float32)
        if path.endswith(".gz"):
            gzip.decompress(Path(path).read_bytes())
    except Exception:
        return None
    return data if np.isfinite(data).all() and np.linalg.det(image.affine[:3, :3]) else None


@pytest.mark.filterwarnings("ignore")
def test_damaged_images(tmp_path, caplog):
    rng = np.random.default_rng(10)
    root = tmp_path / "bids"
    write_shared(root)
    sound = sound_images(rng)
    write_sound(root, "sound", sound)
    images = []
    for person in range(250):
        for where, raw in sound.items():
            data, ending = mutate_image(rng, raw)
            path = root / name_of(f"{person:03d}", where, ending)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
            images.append(str(path))
    assert len(images) == 2500
    told = plan_people(root, "sound", "000", "001", "002")
    named, used = named_as_error(told), set(told["used"])
    assert 500 < len(used) < 2000
    for path in images:
        if path in used:
            assert read_voxels(path) is not None, path
        elif any(f"_{suffix}." in path for suffix in SERIES) or read_voxels(path) is None:
            assert path in named, path
            assert path in named[path]


def test_damaged_sidecars_and_tables(tmp_path):
    rng = np.random.default_rng(20)
    root = tmp_path / "bids"
    write_shared(root)
    sound, tables = sound_images(rng), gradient_files()
    write_sound(root, "sound", sound)
    written = []

    def write(label, where, ending, content):
        path = root / name_of(label, where, ending)
        path.write_bytes(content)
        written.append(path)

    for person in range(150):
        label = f"{person:03d}"
        write_sound(root, label, sound)
        for where in IMAGES:
            sidecar = SIDECARS[where.rpartition("_")[2].rpartition("/")[2]]
            write(label, where, ".json", mutate_json(rng, sidecar))
        for run in (1, 2):
            where = f"func/task-x_run-{run}_events"
            write(label, where, ".tsv", mutate_table(rng, EVENTS))
        for ending, text in tables.items():
            write(label, "dwi/dir-AP_dwi", ending, mutate_table(rng, text))
    (root / "participants.tsv").write_bytes(b'participant_id\tage\n"sub-000\t\xe9\n\t\t\n')
    assert len(written) == 2100
    told = plan_people(root, "sound", "000", "001", "002")
    named, used = named_as_error(told), set(told["used"])
    every = "\n".join(message for _, message, _, _ in told["problems"])
    for path in written:
        if path.suffix == ".json" and not is_object(path):
            assert str(path) in every, path
        image = str(path.with_suffix(".nii.gz"))
        if path.suffix in (".bval", ".bvec") and image not in used:
            assert image in named, path
    assert f"{root / 'participants.tsv'}: it is not UTF-8 text" in every


def is_object(path):
    """Check with Python's own reader that a file is one JSON object in UTF-8."""
    try:
        content = json.loads(path.read_bytes().decode("utf-8-sig"), parse_int=float)
    except (ValueError, RecursionError):
        return False
    return isinstance(content, dict)


DATASET_FILES = {
    "dataset_description.json": b'{"Name": "odd", "BIDSVersion": "1.10.0", "GeneratedBy": []}',
    "participants.tsv": b"participant_id\tage\tsex\nsub-sound\t31\tn/a\n",
    ".bidsignore": b"extra_data/\n**/*_x.nii.gz\n",
    "participants.json": b'{"age": {"Units": "years"}}',
}


def test_damaged_files_of_the_dataset(tmp_path):
    """The very command, in this process, with each of them damaged many times."""
    rng = np.random.default_rng(30)
    root = tmp_path / "bids"
    write_shared(root)
    write_sound(root, "sound", {"anat/T1w": sound_images(rng)["anat/run-1_T1w"]})
    for name, content in DATASET_FILES.items():
        (root / name).write_bytes(content)
    ends = subprocess.run(
        [sys.executable, str(PLAN), "--damage", str(root), str(tmp_path / "out")],
        input=json.dumps(
            [
                (name, mutate_bytes(rng, content).hex())
                for name, content in DATASET_FILES.items()
                for _ in range(25)
            ]
        ),
        capture_output=True,
        text=True,
        check=False,
    )
    assert ends.returncode == 0, ends.stderr[-3000:]
    assert "Traceback" not in ends.stderr
    codes = json.loads(ends.stdout)
    assert len(codes) == 100
    allowed = {
        "dataset_description.json": {ExitCode.OK, ExitCode.INVALID_BIDS},
        # a damaged pattern may name everybody
        ".bidsignore": {ExitCode.OK, ExitCode.INVALID_BIDS},
    }
    for name, code in codes:
        assert code in allowed.get(name, {ExitCode.OK}), (name, code, ends.stderr[-3000:])
    assert {code for name, code in codes if name not in allowed} == {ExitCode.OK}
    assert {code for name, code in codes if name in allowed} == {
        ExitCode.OK,
        ExitCode.INVALID_BIDS,
    }
