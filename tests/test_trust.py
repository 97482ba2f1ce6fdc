"""Other users' files: detected, refused with a message, and never written through."""

import os
import pickle
import stat
from pathlib import Path

import pytest
from strangers import STRANGER, by_root

from neuroferry import trust
from neuroferry.errors import ExitCode, NeuroferryError, UsageError
from neuroferry.trust import (
    find_doubt,
    make_own_folder,
    make_work_folder,
    open_own,
    open_unlinked,
    parse_trust,
    read_own,
    refuse_foreign_links,
    write_own,
)


@pytest.fixture(autouse=True)
def nobody_is_trusted(monkeypatch):
    monkeypatch.delenv(trust.VARIABLE, raising=False)


@pytest.fixture
def file(shared_folder):
    """Create a file below a folder that others can enter."""
    path = shared_folder / "plan"
    path.write_text("text")
    path.chmod(0o644)
    return path


def refused(path, *says):
    with pytest.raises(NeuroferryError) as info:
        read_own(path, "The plan")
    assert info.value.exit_code == ExitCode.NO_PERMISSION
    for text in (str(path), *says):
        assert text in str(info.value)


def test_one_s_own_file_is_read(file):
    assert read_own(file, "The plan") == "text"


def test_a_missing_file_is_missing(tmp_path):
    with pytest.raises(FileNotFoundError):
        open_own(tmp_path / "nowhere", "The plan")


@by_root
def test_a_stranger_s_file_is_refused_unless_they_are_trusted(file, monkeypatch):
    os.chown(file, STRANGER, STRANGER)
    refused(file, f"belongs to user {STRANGER}", f"NEUROFERRY_TRUST={STRANGER}")
    for text in (str(STRANGER), f"root,{STRANGER}", f"@{STRANGER}", "all"):
        monkeypatch.setenv(trust.VARIABLE, text)
        assert read_own(file, "The plan") == "text"
    monkeypatch.setenv(trust.VARIABLE, "1")
    refused(file, "belongs to")


def test_a_file_that_everybody_can_write_is_refused(file, monkeypatch):
    file.chmod(0o666)
    refused(file, "can be written by everybody", "chmod -R go-w")
    monkeypatch.setenv(trust.VARIABLE, "all")
    assert read_own(file, "The plan") == "text"


@by_root
def test_a_file_that_a_group_can_write_is_refused(file, monkeypatch):
    os.chown(file, -1, STRANGER)
    file.chmod(0o664)
    refused(file, "can be written by the group", f"NEUROFERRY_TRUST=@{STRANGER}")
    monkeypatch.setenv(trust.VARIABLE, f"@{STRANGER}")
    assert read_own(file, "The plan") == "text"


def test_what_others_cannot_reach_they_cannot_write(file):
    """Below a folder of mode 0700, such as the work folder, a umask of 002 is no danger."""
    file.chmod(0o666)
    file.parent.chmod(0o700)
    assert read_own(file, "The plan") == "text"


def test_where_permissions_are_not_kept_they_say_nothing(file, monkeypatch):
    """exFAT and CIFS show the same permissions for every file, whatever is requested."""
    file.chmod(0o666)
    monkeypatch.setattr(trust, "_keeps_modes", lambda folder: False)
    assert read_own(file, "The plan") == "text"


def test_this_file_system_keeps_permissions(tmp_path):
    assert trust._keeps_modes(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_links_and_pipes_are_refused(file):
    link = file.with_name("link")
    link.symlink_to(file)
    refused(link, "is a symbolic link")
    pipe = file.with_name("pipe")
    os.mkfifo(pipe)
    refused(pipe, "is not a file")


def test_people_whom_nobody_knows():
    with pytest.raises(UsageError, match="names 'nobody-of-that-name'"):
        parse_trust("nobody-of-that-name")
    with pytest.raises(UsageError, match="names '@nobodies'"):
        parse_trust("@nobodies")


def test_names_and_numbers_are_the_same():
    assert parse_trust("root @root") == parse_trust("0,@0")


def test_a_written_file_is_for_its_owner_to_write(tmp_path):
    before = os.umask(0)
    try:
        write_own(tmp_path / "plan", "text")
        make_own_folder(tmp_path / "logs" / "run")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "plan").stat().st_mode) == 0o644
    assert stat.S_IMODE((tmp_path / "logs" / "run").stat().st_mode) == 0o755
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["plan"]


def test_a_link_is_replaced_not_followed(file):
    link = file.with_name("link")
    link.symlink_to(file)
    write_own(link, "new")
    assert file.read_text() == "text"
    assert not link.is_symlink()


def test_nothing_is_opened_through_a_link(file, tmp_path):
    link = file.with_name("link")
    link.symlink_to(file)
    dangling = file.with_name("dangling")
    dangling.symlink_to(tmp_path / "made")
    for path in (link, dangling):
        with pytest.raises(NeuroferryError, match="is a symbolic link") as info:
            open_unlinked(path, os.O_WRONLY | os.O_CREAT)
        assert info.value.exit_code == ExitCode.CANNOT_CREATE
    assert not (tmp_path / "made").exists()


def test_the_work_folder_is_private(tmp_path, monkeypatch):
    make_work_folder(tmp_path / "a" / "wf")
    assert stat.S_IMODE((tmp_path / "a" / "wf").stat().st_mode) == 0o700
    make_work_folder(tmp_path / "a" / "wf")
    monkeypatch.setenv(trust.VARIABLE, "1")
    make_work_folder(tmp_path / "b" / "wf")
    assert (tmp_path / "b" / "wf").stat().st_mode & 0o055


def test_a_work_folder_that_everybody_can_write_is_refused(file):
    folder = file.parent / "wf"
    folder.mkdir()
    folder.chmod(0o777)
    with pytest.raises(NeuroferryError, match=r"wf can be written by everybody"):
        make_work_folder(folder)


@by_root
def test_a_work_folder_of_others_is_refused(file):
    folder = file.parent / "wf"
    folder.mkdir()
    os.chown(folder, STRANGER, STRANGER)
    with pytest.raises(NeuroferryError, match=r"wf belongs to user 54321"):
        make_work_folder(folder)


@by_root
def test_results_are_not_written_where_a_stranger_s_link_leads(tmp_path):
    out = tmp_path / "out"
    (tmp_path / "elsewhere").mkdir()
    (out / "sub-01").mkdir(parents=True)
    link = out / "sub-01" / "anat"
    link.symlink_to(tmp_path / "elsewhere")
    refuse_foreign_links(out, [out / "logs", out / "sub-01"])
    os.lchown(link, STRANGER, STRANGER)
    with pytest.raises(NeuroferryError, match=r"sub-01/anat belongs to user 54321") as info:
        refuse_foreign_links(out, [out / "logs", out / "sub-01"])
    assert info.value.exit_code == ExitCode.NO_PERMISSION


def test_doubt_of_an_open_file(file):
    file.chmod(0o602)
    with file.open() as stream:
        assert find_doubt(os.fstat(stream.fileno())) == "can be written by everybody"


class Marks:
    """Unpickling it makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@by_root
def test_nipype_loads_no_pickle_of_others(file):
    from nipype.pipeline.engine import nodes, utils

    from neuroferry.engine.guards import guard_nipype

    guard_nipype()
    guard_nipype()
    mark, result = file.parent / "mark", file.parent / "result_a.pklz"
    result.with_suffix(".pkl").write_bytes(pickle.dumps(Marks(mark)))
    result = result.with_suffix(".pkl")
    os.chown(result, STRANGER, STRANGER)
    for load in (nodes.loadpkl, utils.loadpkl, utils.load_resultfile):
        with pytest.raises(NeuroferryError, match=r"result_a\.pkl belongs to user 54321"):
            load(str(result))
    assert not mark.exists()
    os.chown(result, os.getuid(), os.getgid())
    with pytest.raises(ValueError, match="None"):
        nodes.loadpkl(str(result))
    assert mark.exists()
