"""Files appear whole or not at all; errors of writing are one sentence."""

import errno
import json
import os
import resource
import subprocess
import sys
import threading

import pytest

from neuroferry.errors import ExitCode, InputError, NeuroferryError
from neuroferry.files import (
    copy_file,
    package_toml,
    read_toml,
    whole_file,
    write_bytes,
    write_json,
    write_lines,
    write_text,
)


def unshare(size):
    """Start a shell with a separate file system of a given size below $1."""
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

    def write(content):
        for _ in range(10):
            write_json(path, content)

    threads = [threading.Thread(target=write, args=(content,)) for content in contents]
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


# Each writes a file of 300 kB or more that gzip makes no smaller: (name, code).
WRITERS = {
    "a.json": "write_json(path, {'x': noise.hex()})",
    "a.txt": "write_text(path, noise.hex())",
    "a.tsv": "write_lines(path, [noise.hex()] * 2)",
    "a.bin": "copy_file(source, path)",
    "a.nii.gz": "save_nifti(values, np.eye(4), path)",
    "a.nii": "save_nifti(values, np.eye(4), path)",
    "a_bold.nii.gz": """
with SeriesWriter(path, (50, 50, 50), np.eye(4), 2.0, 3, ceiling=1.0) as writer:
    for _ in range(3):
        writer.add(values)
""",
    "a.h5": "write_itk_composite([DisplacementField(values4, np.eye(4))], path)",
    "a.trk": "write_trk(lines, Volume(values, np.eye(4)), path)",
    "a_xfm.txt": "write_motion_xfms(np.random.default_rng(0).normal(size=(4000, 4, 4)), path)",
    "a_phantom.nii.gz": """
with SeriesFile(path, np.eye(4), (50, 50, 50, 3), 2.0) as file:
    for _ in range(3):
        file.add(30000 * values)
""",
}
WRITE = """
import os, sys
from pathlib import Path
import numpy as np
from neuroferry.errors import NeuroferryError
from neuroferry.files import copy_file, write_json, write_lines, write_text
from neuroferry.interfaces.epi.motion_table import write_motion_xfms
from neuroferry.interfaces.image.images import Volume, save_nifti
from neuroferry.interfaces.image.series import SeriesWriter
from neuroferry.interfaces.image.transforms import DisplacementField, write_itk_composite
from neuroferry.interfaces.tracts.streamlines import join_lines, write_trk
from neuroferry.phantom.files import SeriesFile

noise = os.urandom(300_000)
disk, source = map(Path, sys.argv[1:])
source.write_bytes(noise)
values = np.random.default_rng(0).random((50, 50, 50), np.float32)
values4 = np.random.default_rng(0).normal(size=(50, 50, 50, 3)).astype(np.float32)
lines = join_lines([noise_line[:, :3] for noise_line in [*values] * 10])
for name, code in WRITERS.items():
    path = disk / name
    try:
        exec(code)
    except NeuroferryError as error:
        print(error, int(error.exit_code), [found.name for found in disk.iterdir()])
"""


@pytest.mark.parametrize(
    ("options", "words", "code"),
    [("100k", "no space is left on its disk", 74), ("1m,ro", "make its folder writable", 73)],
)
def test_a_full_disk_and_one_that_cannot_be_written(tmp_path, options, words, code):
    if not can_mount(tmp_path):
        pytest.skip("this machine lets no user mount a file system")
    source, disk = tmp_path / "source", tmp_path / "disk"
    disk.mkdir()
    script = f"WRITERS = {WRITERS!r}\n{WRITE}"
    command = [*unshare(options), str(disk), sys.executable, "-c", script, str(disk), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    said = done.stdout.splitlines()
    assert len(said) == len(WRITERS), done.stdout + done.stderr
    for name, line in zip(WRITERS, said, strict=True):
        assert line.startswith(f"{disk / name} could not be written: "), line
        assert words in line
        assert line.endswith(f"{code} []")


def test_a_limit_on_the_size_of_files_is_named(tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(NeuroferryError, match=r"a\.txt could not be written: File too large"):
            write_text(tmp_path / "a.txt", "x" * 2000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list(tmp_path.iterdir())


def test_what_was_there_stays_when_writing_fails(tmp_path):
    path = tmp_path / "a.txt"
    write_text(path, "before")
    with pytest.raises(TypeError), whole_file(path) as beside:
        raise TypeError(beside.write_text("after"))
    assert path.read_text() == "before"
    assert [file.name for file in tmp_path.iterdir()] == ["a.txt"]


def test_a_source_that_cannot_be_read_is_not_taken_for_a_full_disk(tmp_path):
    with pytest.raises(FileNotFoundError), whole_file(tmp_path / "a") as beside:
        beside.write_bytes((tmp_path / "missing").read_bytes())
    # gzip and nibabel raise errors without a number
    with pytest.raises(OSError, match=r"^damaged$"), whole_file(tmp_path / "a"):
        raise OSError("damaged")
    assert not list(tmp_path.iterdir())


def test_bytes_of_text_and_lines(tmp_path):
    write_text(tmp_path / "a", "µm\n")
    write_lines(tmp_path / "b", ["µm"])
    write_bytes(tmp_path / "c", "µm\n".encode())
    assert len({(tmp_path / name).read_bytes() for name in "abc"}) == 1


def test_toml_of_the_package_and_of_users(tmp_path):
    assert "slurm" in package_toml("slurm.toml")
    path = tmp_path / "a.toml"
    with pytest.raises(InputError, match=r"The settings file .*a\.toml cannot be read \(No such"):
        read_toml(path)
    path.write_bytes(b"x = \xff")
    with pytest.raises(InputError, match="is not valid TOML"):
        read_toml(path)


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_that_cannot_flush(tmp_path, monkeypatch, number):
    def fsync(descriptor):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fsync)
    write_text(tmp_path / "a.txt", "x")
    assert (tmp_path / "a.txt").read_text() == "x"


def test_a_flush_that_fails_is_an_error(tmp_path, monkeypatch):
    def fsync(descriptor):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(NeuroferryError, match="could not be written"):
        write_text(tmp_path / "a.txt", "x")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [errno.EEXIST, errno.EPERM, errno.EINVAL])
def test_a_file_system_that_does_not_replace_files(tmp_path, monkeypatch, number):
    replace = os.replace

    def refuse(source, target):
        if os.path.lexists(target):
            raise OSError(number, os.strerror(number), source)
        replace(source, target)

    monkeypatch.setattr(os, "replace", refuse)
    for text in ("one", "two"):
        write_text(tmp_path / "a.txt", text)
        assert (tmp_path / "a.txt").read_text() == text
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]
