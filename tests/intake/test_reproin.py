"""Names of ReproIn give the names that HeuDiConv's heuristic gives."""

from __future__ import annotations

from pathlib import Path

import pytest

from neuroferry.intake.model import Instance
from neuroferry.intake.reproin import Aside, Name, name_by_reproin, parse_spec


def instance(protocol="", description="", image_type=("ORIGINAL", "PRIMARY", "M", "ND"), **more):
    return Instance(
        Path(),
        "1",
        "",
        "1",
        "1",
        "P1",
        "",
        "",
        modality="MR",
        protocol=protocol,
        description=description or protocol,
        image_type=tuple(image_type),
        **more,
    )


def named(*args, **kwargs):
    name = name_by_reproin(instance(*args, **kwargs))
    assert isinstance(name, Name)
    return name.datatype, name.suffix, dict(name.entities), name.run, name.session


@pytest.mark.parametrize(
    ("protocol", "name"),
    [
        ("anat-T1w", ("anat", "T1w", {}, "", "")),
        ("anat_T1w", ("anat", "T1w", {}, "", "")),
        ("anat-T2w_acq-highres", ("anat", "T2w", {"acquisition": "highres"}, "", "")),
        ("PU:anat-T1w_ses-01", ("anat", "T1w", {}, "", "01")),
        ("WIP func_task-rest_run-1", ("func", "bold", {"task": "rest"}, "01", "")),
        ("func_run+_task-rest", ("func", "bold", {"task": "rest"}, "+", "")),
        ("func_run=_task-rest", ("func", "bold", {"task": "rest"}, "=", "")),
        ("func_run-=_task-rest", ("func", "bold", {"task": "rest"}, "=", "")),
        ("func_task-n-back_acq-p2.s4__old", (
            "func", "bold", {"task": "nXback", "acquisition": "p2s4"}, "", "")),
        ("func-bold_task-x_ses-{date}", ("func", "bold", {"task": "x"}, "", "{date}")),
        ("func_task-x_ses-(date)", ("func", "bold", {"task": "x"}, "", "{date}")),
        ("func_task-x_ses-DATE", ("func", "bold", {"task": "x"}, "", "{date}")),
        ("func_ses+_task-x", ("func", "bold", {"task": "x"}, "", "+")),
        ("fmap_dir-AP", ("fmap", "epi", {"direction": "AP"}, "", "")),
        ("fmap", ("fmap", "magnitude", {}, "", "")),
        ("dwi_dir-PA_acq-b0", ("dwi", "dwi", {"direction": "PA", "acquisition": "b0"}, "", "")),
        ("dwi_ce-gd", ("dwi", "dwi", {"ceagent": "gd"}, "", "")),
        ("bids_anat-FLAIR", ("anat", "FLAIR", {}, "", "")),
        ("anat_acq-x_T1w", ("anat", "T1w", {"acquisition": "x"}, "", "")),
    ],
)  # fmt: skip
def test_names(protocol, name):
    assert named(protocol) == name


def test_the_description_counts_where_the_protocol_says_nothing():
    assert named("t1", "anat-T1w")[:2] == ("anat", "T1w")
    assert name_by_reproin(instance("t1_mprage", "MPRAGE")) is None


def test_the_suffix_is_found_out():
    phase = ("ORIGINAL", "PRIMARY", "P", "ND")
    assert named("fmap", image_type=phase)[1] == "phasediff"
    diffusion = ("ORIGINAL", "PRIMARY", "DIFFUSION", "NONE")
    assert named("fmap_acq-x", image_type=diffusion)[1] == "epi"
    assert named("func_task-x", "func_task-x_SBRef")[1] == "sbref"
    assert named("dwi", "dwi_SBRef")[1] == "sbref"
    assert named("anat-T1w", "anat-T1w_INV2")[1:3] == ("MP2RAGE", {"inv": "2"})
    assert named("anat-T1w", "anat-T1w_UNI_Images")[1] == "UNIT1"
    moco = ("ORIGINAL", "PRIMARY", "M", "ND", "MOCO")
    assert named("func_task-x", image_type=moco)[2]["reconstruction"] == "moco"


def test_a_run_without_a_task_says_so():
    name = name_by_reproin(instance("func_run-2"))
    assert isinstance(name, Name)
    assert name.entities["task"] == "UNKNOWN"
    assert "task-UNKNOWN" in name.notes[0]


@pytest.mark.parametrize(
    ("protocol", "fate", "said"),
    [
        ("anat-scout", "set aside", "localiser"),
        ("AAHead_Scout_64ch-head-coil", "set aside", "localiser"),
        ("scout_ses-1", "set aside", "localiser"),
        ("anat", "unassigned", "without a suffix"),
        ("anat-bold", "unassigned", "does not belong into anat"),
        ("func_task-x_nonsense_T9", "unassigned", "'nonsense'"),
        ("func_task-x_run-abc", "unassigned", "run-abc"),
        ("beh_task-x", "unassigned", "no image"),
    ],
)
def test_what_gets_no_name(protocol, fate, said):
    aside = name_by_reproin(instance(protocol))
    assert isinstance(aside, Aside)
    assert aside.fate == fate
    assert said in aside.reason


def test_the_session_of_what_is_kept_aside_is_known():
    aside = name_by_reproin(instance("anat-scout_ses-pre"))
    assert isinstance(aside, Aside)
    assert aside.session == "pre"
    assert parse_spec("ep2d_func_task-x") is None
