"""Names of the host's folders in what users read."""

import base64
import io
import sys

import pytest

from neuroferry.cli.main import main
from neuroferry.host import HostWords, in_host_words


@pytest.fixture(autouse=True)
def folders(monkeypatch):
    lines = (
        "/bids=/data/ds 1\n/out=/home/me/out\n/work=/scratch/work\n/deriv/mine=/data/m\n/tmp=/t\n"
    )
    words = base64.b64encode(lines.encode()).decode()
    monkeypatch.setenv("NEUROFERRY_HOST_FOLDERS", words)


@pytest.mark.parametrize(
    ("inside", "host"),
    [
        ("The file /bids/sub-01/x.json is empty.", "The file /data/ds 1/sub-01/x.json is empty."),
        ("See /out. Or '/work'", "See /home/me/out. Or '/scratch/work'"),
        ("/deriv/mine/x", "/data/m/x"),
        (
            "/workshop /home/work /my-out/x ./out /tmp/x",
            "/workshop /home/work /my-out/x ./out /tmp/x",
        ),
        ("--derivatives=/deriv/mine", "--derivatives=/data/m"),
    ],
)
def test_folders_get_their_names_on_the_host(inside, host):
    assert in_host_words(inside) == host


def test_outside_an_image_nothing_changes(monkeypatch):
    monkeypatch.delenv("NEUROFERRY_HOST_FOLDERS")
    assert in_host_words("/out/x") == "/out/x"
    monkeypatch.setenv("NEUROFERRY_HOST_FOLDERS", "?")
    assert in_host_words("/out/x") == "/out/x"


def test_a_stream_writes_the_host_s_names():
    text = io.StringIO()
    print("no such file: /work/x", file=HostWords(text))
    assert text.getvalue() == "no such file: /scratch/work/x\n"


def test_errors_name_the_host_s_folders(capsys):
    assert main(["status", "/out/nothing"]) == 66
    assert "/home/me/out/nothing contains no run" in capsys.readouterr().err
    assert not isinstance(sys.stderr, HostWords)
