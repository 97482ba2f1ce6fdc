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


def test_values_in_messages_are_short():
    assert shown("x" * 10**6) == "'" + "x" * 36 + "..."
    assert shown([1]) == "[1]"
