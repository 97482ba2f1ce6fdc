import json
import os
import subprocess
import sys
import threading

import pytest

from neuroferry.bids.outputs import (
    bids_uri,
    derivative_path,
    prepare_dataset,
    write_dataset_description,
)
from neuroferry.errors import ExitCode, InputError, NeuroferryError
from neuroferry.files import copy_file, write_json


def unshare(size):
    """Start a shell that has a file system of its own, of some size, below $1."""
    return [
        *("unshare", "--user", "--map-root-user", "--mount", "sh", "-ec"),
        f'mount -t tmpfs -o size={size} none "$1"; shift; exec "$@"',
        "sh",
    ]


def can_mount(tmp_path):
    try:
        done = subprocess.run([*unshare("1m"), str(tmp_path), "true"], capture_output=True)
    except FileNotFoundError:
        return False
    return done.returncode == 0


def test_names_have_their_folders_and_order(tmp_path):
    entities = {"description": "preproc", "run": "02", "session": "b", "subject": "01"}
    path = derivative_path(tmp_path, entities, suffix="T1w", extension=".nii.gz", datatype="anat")
    assert path == tmp_path / "sub-01/ses-b/anat/sub-01_ses-b_run-02_desc-preproc_T1w.nii.gz"
    entities = {"subject": "01", "mode": "image", "to": "T1w", "from": "orig", "acquisition": "x"}
    path = derivative_path(tmp_path, entities, suffix="xfm", extension=".txt", datatype="anat")
    assert path.name == "sub-01_acq-x_from-orig_to-T1w_mode-image_xfm.txt"
    with pytest.raises(ValueError, match="needs a subject"):
        derivative_path(tmp_path, {"run": "1"}, suffix="T1w", extension=".nii", datatype="anat")
    with pytest.raises(ValueError, match="not in the subpath"):
        bids_uri("/elsewhere/x", tmp_path)


def test_the_description_says_what_made_it_from_what(make_dataset, tmp_path):
    raw = make_dataset(
        {
            "dataset_description.json": {
                "Name": "toy",
                "BIDSVersion": "1.8.0",
                "License": "CC0",
                "DatasetDOI": "doi:10.1/2",
            }
        }
    )
    container = {"Type": "apptainer", "Tag": "1.2", "Digest": "sha256:ab"}
    path = write_dataset_description(
        tmp_path / "out", bids_dir=raw, version="1.2", container=container
    )
    content = json.loads(path.read_text())
    assert content["DatasetType"] == "derivative"
    assert content["GeneratedBy"] == [
        {"Name": "neuroferry", "Version": "1.2", "Container": container}
    ]
    assert content["SourceDatasets"] == [{"URL": raw.as_uri(), "DOI": "doi:10.1/2"}]
    assert content["DatasetLinks"] == {"raw": raw.as_uri()}
    assert content["License"] == "CC0"


def test_the_description_names_the_datasets_of_precomputed_results(make_dataset, tmp_path):
    raw, out = make_dataset({}), tmp_path / "out"

    def describe(**derivatives):
        prepare_dataset(out, bids_dir=raw, version="1", derivatives=derivatives)
        return json.loads((out / "dataset_description.json").read_text())

    mine, old = tmp_path / "mine", tmp_path / "old"
    first = describe(mine=old)
    assert first["DatasetLinks"] == {"raw": raw.as_uri(), "mine": old.as_uri()}
    assert first["SourceDatasets"] == [{"URL": raw.as_uri()}, {"URL": old.as_uri()}]
    # A later run names others: what sidecars of the first cite stays, what moved is followed.
    later = describe(mine=mine, other=old)
    assert later["DatasetLinks"] == {
        "raw": raw.as_uri(),
        "mine": mine.as_uri(),
        "other": old.as_uri(),
    }
    assert describe() == later


def test_preparing_twice_changes_no_byte_and_keeps_what_is_not_ours(make_dataset, tmp_path):
    raw, out = make_dataset({}), tmp_path / "out"
    out.mkdir()
    (out / ".bidsignore").write_text("mine.txt\n*.html\n")
    (out / "README.md").write_text("my own")
    prepare_dataset(out, bids_dir=raw, version="1")
    before = {path.name: (path.read_bytes(), path.stat().st_ino) for path in out.iterdir()}
    prepare_dataset(out, bids_dir=raw, version="1")
    after = {path.name: (path.read_bytes(), path.stat().st_ino) for path in out.iterdir()}
    assert before == after
    assert set(after) == {".bidsignore", "README.md", "dataset_description.json", "dseg.tsv"}
    ignored = (out / ".bidsignore").read_text().splitlines()
    assert ignored[:2] == ["mine.txt", "*.html"]
    assert ignored.count("*.html") == 1
    table = [row.split("\t") for row in (out / "dseg.tsv").read_text().splitlines()]
    assert [row[0] + row[2] for row in table[2:]] == ["1GM", "2WM", "3CSF"]


@pytest.mark.parametrize(
    "theirs", [{"Name": "raw"}, {"Name": "x", "GeneratedBy": [{"Name": "other"}]}]
)
def test_a_folder_with_another_dataset_is_refused(make_dataset, tmp_path, theirs):
    out = tmp_path / "out"
    write_json(out / "dataset_description.json", theirs)
    with pytest.raises(InputError, match="choose another output folder") as caught:
        prepare_dataset(out, bids_dir=make_dataset({}), version="1")
    assert caught.value.exit_code == ExitCode.CANNOT_CREATE
    assert json.loads((out / "dataset_description.json").read_text()) == theirs


def test_a_copy_is_no_link_and_an_equal_file_is_left_alone(tmp_path):
    source, path = tmp_path / "a", tmp_path / "deep" / "b"
    source.write_bytes(b"x" * 3_000_000)
    copy_file(source, path)
    assert path.read_bytes() == source.read_bytes()
    assert not path.is_symlink()
    assert path.stat().st_nlink == 1
    inode = path.stat().st_ino
    copy_file(source, path)
    assert path.stat().st_ino == inode
    source.write_bytes(b"y")
    copy_file(source, path)
    assert path.read_bytes() == b"y"
    assert [file.name for file in path.parent.iterdir()] == ["b"]


def test_the_mode_follows_the_umask(tmp_path):
    old = os.umask(0o027)
    try:
        write_json(tmp_path / "a.json", {})
    finally:
        os.umask(old)
    assert (tmp_path / "a.json").stat().st_mode & 0o777 == 0o640


def test_writers_of_the_same_file_never_show_a_part_of_it(tmp_path):
    path = tmp_path / "out" / "x.json"
    contents = [{"n": n, "fill": "x" * 100_000} for n in range(4)]
    write_json(path, contents[0])
    seen, stop = [], threading.Event()

    def read():
        while not stop.is_set():
            seen.append(json.loads(path.read_text()))

    threads = [
        threading.Thread(target=lambda c=c: [write_json(path, c) for _ in range(10)])
        for c in contents
    ]
    reader = threading.Thread(target=read)
    for thread in [reader, *threads]:
        thread.start()
    for thread in threads:
        thread.join()
    stop.set()
    reader.join()
    assert seen
    assert all(content in contents for content in seen)
    assert [file.name for file in path.parent.iterdir()] == ["x.json"]


def test_a_file_in_the_way_is_named(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(NeuroferryError, match=r"a\.json could not be written") as caught:
        write_json(tmp_path / "file" / "a.json", {})
    assert caught.value.exit_code == ExitCode.IO


def test_no_permission_is_named(tmp_path):
    tmp_path.chmod(0o500)
    if os.access(tmp_path, os.W_OK):
        pytest.skip("nothing is forbidden to root")
    with pytest.raises(NeuroferryError, match="make its folder writable") as caught:
        write_json(tmp_path / "a.json", {})
    assert caught.value.exit_code == ExitCode.CANNOT_CREATE


WRITE = """
import sys
from pathlib import Path
from neuroferry.files import copy_file
from neuroferry.errors import NeuroferryError
source, folder = Path(sys.argv[1]), Path(sys.argv[2])
try:
    copy_file(source, folder / "sub-01_T1w.nii.gz")
except NeuroferryError as error:
    print(error, int(error.exit_code), [path.name for path in folder.iterdir()])
"""


@pytest.mark.parametrize(
    ("options", "words", "code"),
    [("100k", "no space is left on its disk", 74), ("1m,ro", "make its folder writable", 73)],
)
def test_a_full_disk_and_one_that_cannot_be_written(tmp_path, options, words, code):
    if not can_mount(tmp_path):
        pytest.skip("this machine lets no user mount a file system")
    source, disk = tmp_path / "source", tmp_path / "disk"
    source.write_bytes(os.urandom(300_000))
    disk.mkdir()
    command = [*unshare(options), str(disk), sys.executable, "-c", WRITE, str(source), str(disk)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert f"{disk}/sub-01_T1w.nii.gz could not be written" in done.stdout
    assert words in done.stdout
    assert done.stdout.rstrip().endswith(f"{code} []")
