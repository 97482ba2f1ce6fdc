"""Selection of images by the command line."""

from pathlib import Path

import pytest

from neuroferry.app.inputs import with_flags
from neuroferry.bids.filters import apply_filters
from neuroferry.bids.model import Image
from neuroferry.config import make_config
from neuroferry.errors import UsageError


def settings(**given):
    return make_config({"bids_dir": "/a", "output_dir": "/b", **given})


def test_flags_narrow_the_search():
    config = settings(input={"task_id": ["rest"], "echo_idx": 2})
    filters = with_flags(config, {"bold": {"session": "a"}})
    runs = [
        Image(Path(f"{task}{echo}"), {"session": "a", "task": task, **echo}, "bold", "func")
        for task in ("rest", "nback")
        for echo in ({"echo": "1"}, {"echo": "02"}, {})
    ]
    kept = apply_filters(filters, runs)
    assert [(run.entities["task"], run.entities.get("echo")) for run in kept] == [
        ("rest", "02"),
        ("rest", None),
    ]
    assert with_flags(settings(), None) == {}
    with pytest.raises(UsageError, match="--task-id and the filter file both"):
        with_flags(config, {"bold": {"task": "nback"}})
