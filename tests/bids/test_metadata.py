"""Sidecars that hold anything."""

import math
import os

import pytest

from neuroferry.bids.metadata import SidecarReader, read_json, shown
from neuroferry.errors import InputError
from neuroferry.files import MOST_BYTES


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b" \n", "is empty"),
        (b"[]", "is not a JSON object"),
        (b"3", "is not a JSON object"),
        (b"null", "is not a JSON object"),
        (b"{", "is not valid JSON: .* at line 1, column 2"),
        (b'{"a": nan}', "is not valid JSON"),
        (b'{"a": ' + b"[" * 5000 + b"]" * 5000 + b"}", "nested more than 50 levels deep"),
        (b'{"a": ' + b"[" * 60 + b"]" * 60 + b"}", "nested more than 50 levels deep"),
        (b'{"a": {"b": 1, "b": 2}}', "gives 'b' twice, with different values"),
        ('{"a": "é"}'.encode("latin-1"), r"is not UTF-8 text \(byte 7\)"),
        ('{"a": 1}'.encode("utf-16"), "is not UTF-8 text"),
        (b"/annex/objects/MD5E-s3--0.json\n", "only points to content that is not here"),
        (b'{"a": "' + b"x" * MOST_BYTES + b'"}', "is larger than 16 MB"),
    ],
)
def test_files_that_are_no_sidecar(tmp_path, content, words):
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=words) as caught:
        read_json(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("kind", ["folder", "pipe", "link"])
def test_what_is_no_file(tmp_path, kind):
    path = tmp_path / "a.json"
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("elsewhere")
    words = {"folder": "is a folder", "pipe": "is a named pipe", "link": "datalad get"}[kind]
    with pytest.raises(InputError, match=words):
        read_json(path)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b'\xef\xbb\xbf{"a": 1}', {"a": 1}),
        (b'{"a": 1, "a": 1, "b": NaN, "b": NaN}', {"a": 1, "b": math.nan}),
        (b'{"a": ' + b"9" * 5000 + b"}", {"a": math.inf}),
        (b'{"a": -Infinity}', {"a": -math.inf}),
        (rb'{"a\ud800": ["\udfff", {"b": "\ud83e\udde0"}]}', {"a?": ["?", {"b": "🧠"}]}),
    ],
)
def test_oddities_that_have_one_meaning(tmp_path, content, expected):
    path = tmp_path / "it's 100 % odd: a.json"
    path.write_bytes(content)
    assert repr(read_json(path)) == repr(expected)


def test_a_folder_that_cannot_be_read_is_said(tmp_path, monkeypatch):
    def refuse(self):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr("pathlib.Path.iterdir", refuse)
    metadata, broken = SidecarReader(tmp_path).read(tmp_path / "sub-01_T1w.nii.gz")
    assert metadata == {}
    assert "Permission denied" in str(broken[0][1])


def merged(tmp_path, **files):
    """Return what sidecars beside a BOLD image give, and the messages."""
    for name, content in files.items():
        (tmp_path / f"{name.replace('__', '-')}_bold.json").write_text(content)
    image = tmp_path / "sub-01_task-x_acq-a_run-1_bold.nii.gz"
    metadata, broken = SidecarReader(tmp_path).read(image)
    return metadata, [str(error) for _, error in broken]


def test_sidecars_of_one_folder_that_contradict_each_other_are_named(tmp_path):
    files = {"task__x_acq__a": '{"EchoTime": 1}', "task__x_run__1": '{"EchoTime": 2}'}
    _, (message,) = merged(tmp_path, **files)
    assert "task-x_run-1_bold.json and task-x_acq-a_bold.json" in message
    assert "'EchoTime' different values (2 and 1)" in message


def test_a_sidecar_with_more_entities_corrects_another_one(tmp_path):
    files = {"task__x": '{"EchoTime": 1}', "task__x_run__1": '{"EchoTime": 2}'}
    assert merged(tmp_path, **files) == ({"EchoTime": 2}, [])


def test_sidecars_of_one_folder_may_complete_each_other(tmp_path):
    files = {"task__x_acq__a": '{"A": 1, "C": 3}', "task__x_run__1": '{"B": 2, "C": 3}'}
    assert merged(tmp_path, **files) == ({"A": 1, "B": 2, "C": 3}, [])


def test_values_in_messages_are_short():
    assert shown("x" * 10**6) == "'" + "x" * 36 + "..."
    assert shown([1]) == "[1]"
