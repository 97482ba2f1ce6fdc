from pathlib import Path

import pytest
from tiny_dataset import BOLD, write_dataset

from neuroferry.bids.entities import parse_name
from neuroferry.bids.model import Image, Subject
from neuroferry.selection.fieldmaps import choose_fieldmap

ENCODED = {"PhaseEncodingDirection": "j-", "TotalReadoutTime": 0.03}
FOR_BOLD = {"IntendedFor": "func/sub-01_task-rest_bold.nii.gz"}


def make_run(name, folder="fmap", **metadata):
    path = Path("/data/sub-01") / folder / f"sub-01_{name}.nii.gz"
    parsed = parse_name(path)
    return Image(path, parsed.entities, parsed.suffix, folder, metadata)


def make_bold(**metadata):
    return make_run("task-rest_bold", "func", **(ENCODED | metadata))


def phasediff(acq="", **more):
    times = {"EchoTime1": 0.00492, "EchoTime2": 0.00738}
    return (
        make_run(f"{acq}phasediff", **(times | more)),
        make_run(f"{acq}magnitude1", **more),
        make_run(f"{acq}magnitude2", **more),
    )


def pair(**more):
    return (
        make_run("dir-AP_epi", PhaseEncodingDirection="j-", TotalReadoutTime=0.05, **more),
        make_run("dir-PA_epi", PhaseEncodingDirection="j", TotalReadoutTime=0.06, **more),
    )


def plan_for(*fieldmaps, bold=None, **options):
    bold = bold or make_bold()
    return choose_fieldmap(Subject("01", (bold, *fieldmaps)), bold, **options)


def test_phase_difference_by_intended_for():
    plan = plan_for(*phasediff(**FOR_BOLD))
    assert plan.method == "phasediff"
    assert plan.echo_times == (0.00492, 0.00738)
    assert [Path(p).name for p in plan.magnitude] == [
        "sub-01_magnitude1.nii.gz",
        "sub-01_magnitude2.nii.gz",
    ]
    assert (plan.phase_encoding, plan.readout_time) == ("j-", 0.03)
    assert plan.warnings == ()


@pytest.mark.parametrize(
    "text",
    [
        "func/sub-01_task-rest_bold.nii.gz",
        "bids::sub-01/func/sub-01_task-rest_bold.nii.gz",
        ["func/other.nii.gz", "func/sub-01_task-rest_bold.nii.gz"],
    ],
)
def test_every_way_to_write_intended_for(text):
    assert plan_for(*phasediff(IntendedFor=text)).method == "phasediff"


def test_two_phases_take_echo_times_from_their_own_sidecars():
    images = (
        make_run("phase1", EchoTime=0.0023, **FOR_BOLD),
        make_run("phase2", EchoTime=0.0046, **FOR_BOLD),
        make_run("magnitude1", **FOR_BOLD),
    )
    plan = plan_for(*images)
    assert (plan.method, plan.echo_times) == ("phases", (0.0023, 0.0046))


def test_scanner_field_needs_units():
    images = (make_run("fieldmap", Units="rad/s", **FOR_BOLD), make_run("magnitude", **FOR_BOLD))
    plan = plan_for(*images)
    assert (plan.method, plan.units) == ("direct", "rad/s")
    without = plan_for(make_run("fieldmap", **FOR_BOLD), make_run("magnitude", **FOR_BOLD))
    assert without.method is None
    assert "Units" in without.warnings[0]


def test_pair_of_opposite_epi_the_bolds_way_first():
    plan = plan_for(*pair(**FOR_BOLD))
    assert plan.method == "pepolar"
    assert plan.epi_phase_encoding == ("j-", "j")
    assert plan.epi_readout_times == (0.05, 0.06)
    assert [Path(p).name for p in plan.epi] == [
        "sub-01_dir-AP_epi.nii.gz",
        "sub-01_dir-PA_epi.nii.gz",
    ]


def test_one_opposite_epi_goes_with_the_bold_itself():
    plan = plan_for(pair(**FOR_BOLD)[1])
    assert (plan.method, plan.epi_phase_encoding) == ("pepolar", ("j",))


def test_epi_of_the_same_direction_alone_are_no_field_map():
    plan = plan_for(pair(**FOR_BOLD)[0])
    assert plan.method is None
    assert "the opposite phase encoding, j" in plan.warnings[0]


def test_b0_field_source_wins_over_intended_for():
    bold = make_bold(B0FieldSource="gre_2")
    images = (
        *phasediff("acq-a_", B0FieldIdentifier="gre_2"),
        *pair(B0FieldIdentifier=["epi"], **FOR_BOLD),
    )
    plan = plan_for(*images, bold=bold)
    assert (plan.method, plan.fmap_id) == ("phasediff", "gre2")


def test_one_set_that_names_nobody_serves_its_session():
    assert plan_for(*phasediff()).method == "phasediff"
    two = plan_for(*phasediff("acq-a_"), *phasediff("acq-b_"))
    assert two.method is None
    assert "assigned to it" in two.warnings[0]


def test_a_field_map_meant_for_another_run_is_left_alone():
    plan = plan_for(*phasediff(IntendedFor="func/sub-01_task-other_bold.nii.gz"))
    assert plan.method is None
    assert "assigned to it" in plan.warnings[0]


def test_polarity_is_never_guessed():
    bold = make_run("task-rest_bold", "func", PhaseEncodingAxis="j", TotalReadoutTime=0.03)
    plan = plan_for(*phasediff(**FOR_BOLD), bold=bold)
    assert plan.method is None
    assert "PhaseEncodingDirection" in plan.warnings[0]
    assert "never guessed" in plan.warnings[0]


def test_without_readout_time_there_is_no_correction():
    bold = make_run("task-rest_bold", "func", PhaseEncodingDirection="j")
    plan = plan_for(*phasediff(**FOR_BOLD), bold=bold)
    assert plan.method is None
    assert "TotalReadoutTime" in plan.warnings[0]


def test_readout_time_from_the_echo_spacing():
    bold = make_run(
        "task-rest_bold",
        "func",
        PhaseEncodingDirection="j",
        EffectiveEchoSpacing=0.0005,
        ReconMatrixPE=65,
    )
    assert plan_for(*phasediff(), bold=bold).readout_time == pytest.approx(0.032)


def test_an_estimated_readout_time_is_said_to_be_one():
    bold = make_run(
        "task-rest_bold", "func", PhaseEncodingDirection="j", EstimatedTotalReadoutTime=0.02
    )
    plan = plan_for(*phasediff(), bold=bold)
    assert plan.readout_time == 0.02
    assert "estimate" in plan.warnings[0]


def test_missing_echo_time_is_named():
    plan = plan_for(*phasediff(EchoTime2=None, **FOR_BOLD))
    assert plan.method is None
    assert "EchoTime2" in plan.warnings[0]


def test_ignored_field_maps_are_no_problem():
    assert plan_for(*phasediff(), ignore=("fieldmaps",)) == plan_for(ignore=("fieldmaps",))
    assert plan_for(*phasediff(), ignore=("fieldmaps",)).warnings == ()


@pytest.mark.parametrize("place", ["ds", "func", "sub-01/ds", "sub-01/sub-01"])
def test_what_a_field_map_is_intended_for_does_not_depend_on_folders_above(tmp_path, place):
    images = {"func/task-x_bold": BOLD}
    for direction, axis in (("AP", "j-"), ("PA", "j")):
        images[f"fmap/dir-{direction}_epi"] = {
            "PhaseEncodingDirection": axis,
            "TotalReadoutTime": 0.03,
            "IntendedFor": "func/sub-01_task-x_bold.nii.gz",
        }
    subject = write_dataset(tmp_path / place, images)
    plan = choose_fieldmap(subject, subject.select("func", "bold"))
    assert (plan.method, plan.origin) == ("pepolar", "IntendedFor")
