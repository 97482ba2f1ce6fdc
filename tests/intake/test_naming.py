"""A site's rules count first, then what is no scan, then ReproIn; nothing is guessed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from neuroferry.intake.model import Instance
from neuroferry.intake.naming import name_series, said_by_rules
from neuroferry.intake.reproin import Aside, Name
from neuroferry.intake.rules import read_rules

SITE = """
[[series]]
description = "^MPRAGE (?P<side>\\\\S+)$"
scanner = "(?i)siemens"
datatype = "anat"
suffix = "T1w"
entities = { acq = "{side}" }
[[series]]
protocol = "^task_(?P<n>\\\\d+)"
datatype = "func"
suffix = "bold"
entities = { task = "nback", run = "{n}" }
[[series]]
image_type = "MOCO"
datatype = "func"
suffix = "bold"
entities = { task = "nback", rec = "moco" }
[[sidecar]]
scanner = "(?i)siemens"
values = { A = 1, B = 1 }
[[sidecar]]
scanner = "(?i)siemens"
protocol = "task"
values = { B = 2 }
"""


@pytest.fixture(scope="module")
def rules(tmp_path_factory):
    path = tmp_path_factory.mktemp("rules") / "site.toml"
    path.write_text(SITE)
    return read_rules(path)


def instance(protocol="", description="", kind="M", **more):
    values = {"modality": "MR", "manufacturer": "SIEMENS", **more}
    words = ("ORIGINAL", "PRIMARY", *kind.split("/"), "ND")
    return Instance(
        Path(),
        "1",
        "",
        "1",
        "1",
        "P1",
        "",
        "",
        protocol=protocol,
        description=description,
        image_type=words,
        **values,
    )


def test_rules_of_the_site(rules):
    name = name_series(instance("x", "MPRAGE left"), rules)
    assert isinstance(name, Name)
    assert (name.suffix, name.entities) == ("T1w", {"acquisition": "left"})
    assert name.by == "the rule site.toml, [[series]] number 1"
    name = name_series(instance("task_3"), rules)
    assert isinstance(name, Name)
    assert (name.run, name.entities) == ("03", {"task": "nback"})
    other = name_series(instance("x", "MPRAGE left", manufacturer="GE"), rules)
    assert isinstance(other, Aside)
    moco = name_series(instance("y", kind="M/MOCO"), rules)
    assert isinstance(moco, Name)
    assert moco.entities["reconstruction"] == "moco"


def test_a_label_that_is_none_is_not_made_one(rules):
    aside = name_series(instance("x", "MPRAGE left-1"), rules)
    assert isinstance(aside, Aside)
    assert "no label" in aside.reason
    assert "left-1" not in aside.reason


@pytest.mark.parametrize(
    ("protocol", "description", "kind", "reason"),
    [
        ("localizer", "localizer", "M", "localiser"),
        ("Survey_SHC", "Survey_SHC", "M", "localiser"),
        ("x", "3-Plane Loc", "M", "localiser"),
        ("dwi", "dwi_ADC", "DIFFUSION/ADC", "diffusion"),
        ("dwi", "dwi_TRACEW", "DIFFUSION/TRACEW", "diffusion"),
        ("func_task-x", "MoCoSeries", "M/MOCO", "motion"),
        ("anat-T1w", "mip", "MIP", "projection"),
    ],
)
def test_what_is_no_scan(protocol, description, kind, reason):
    aside = name_series(instance(protocol, description, kind), read_rules())
    assert isinstance(aside, Aside)
    assert aside.fate == "set aside"
    assert reason in aside.reason


def test_a_task_may_be_called_localizer():
    name = name_series(instance("func_task-localizer", "func_task-localizer"), read_rules())
    assert isinstance(name, Name)


def test_nothing_is_guessed():
    for text in ("t1_mprage_sag", "ep2d_bold_rest", "ep2d_diff_64"):
        aside = name_series(instance(text, text), read_rules())
        assert isinstance(aside, Aside)
        assert aside.fate == "unassigned"
    bare = replace(read_rules(), reproin=False)
    assert isinstance(name_series(instance("anat-T1w"), bare), Aside)
    assert isinstance(name_series(instance("anat-T1w", modality="CT"), read_rules()), Aside)


def test_sidecars_by_rule(rules):
    assert said_by_rules(instance("x"), rules) == {"A": 1, "B": 1}
    assert said_by_rules(instance("task_1"), rules) == {"A": 1, "B": 2}
    assert said_by_rules(instance("task_1", manufacturer="GE"), rules) == {}
