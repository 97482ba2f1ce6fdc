"""Which field map corrects a run: what sidecars say, or the reason why none does."""

from dataclasses import replace

import nibabel as nb
import numpy as np
import pytest
from fieldmap_study import (
    AFFINE,
    BOLD,
    FOR_BOLD,
    SHAPE,
    TIMES,
    FieldmapStudy,
    head,
    names,
    phase,
)
from tiny_dataset import BOLD as SIDECAR
from tiny_dataset import write_dataset

from neuroferry.bids.bold import BoldRun
from neuroferry.bids.model import Problem
from neuroferry.selection.describe import describe_plan, plan_as_json
from neuroferry.selection.fieldmaps import choose_fieldmap
from neuroferry.selection.participant import BoldPlan, ParticipantPlan


@pytest.fixture
def study(tmp_path):
    return FieldmapStudy(tmp_path)


def reason(plan):
    """Return the reason why a run is not corrected."""
    assert plan.method is None
    assert plan.why_not
    assert plan.why_not in " ".join(plan.warnings)
    return plan.why_not


def test_phase_difference_by_intended_for(study):
    study.phasediff(**FOR_BOLD)
    plan = study.plan()
    assert plan.method == "phasediff"
    assert plan.echo_times == (0.00492, 0.00738)
    assert plan.phase_ranges == ((-4096, 4096),)
    assert names(plan.magnitude) == ["magnitude1", "magnitude2"]
    assert (plan.phase_encoding, plan.readout_time) == ("j-", 0.03)
    assert (plan.warnings, plan.why_not) == ((), "")


@pytest.mark.parametrize(
    "text",
    [
        BOLD,
        f"bids::sub-01/{BOLD}",
        f"bids:raw:sub-01/{BOLD}",
        f"sub-01/{BOLD}",
        f"./{BOLD}",
        f"../{BOLD}",
        f"/data/study/sub-01/{BOLD}",
        "func/sub-01_task-rest_bold.nii",
        ["func/other.nii.gz", BOLD],
    ],
)
def test_every_way_to_write_intended_for(study, text):
    study.phasediff(IntendedFor=text)
    assert study.plan().method == "phasediff"


@pytest.mark.parametrize("folder", ["sub-01", "func", "sub-01/func/ds"])
def test_the_folders_around_a_dataset_do_not_matter(tmp_path, folder):
    study = FieldmapStudy(tmp_path / folder)
    study.phasediff(**FOR_BOLD)
    assert study.plan().method == "phasediff"


def test_two_phases_take_echo_times_from_their_own_sidecars(study):
    study.add("phase1", EchoTime=0.0023, **FOR_BOLD)
    study.add("phase2", EchoTime=0.0046, **FOR_BOLD)
    study.add("magnitude1", **FOR_BOLD)
    plan = study.plan()
    assert (plan.method, plan.echo_times) == ("phases", (0.0023, 0.0046))
    assert plan.phase_ranges == ((-4096, 4096),) * 2


@pytest.mark.parametrize("units", ["rad/s", "Hz", "T"])
def test_scanner_field_needs_units(study, units):
    study.add("fieldmap", data=np.zeros(SHAPE, np.float32), Units=units, **FOR_BOLD)
    study.add("magnitude", **FOR_BOLD)
    plan = study.plan()
    assert (plan.method, plan.units) == ("direct", units)


@pytest.mark.parametrize("more", [{}, {"Units": "ppm"}, {"Units": "arbitrary"}])
def test_scanner_field_in_an_unknown_unit(study, more):
    study.add("fieldmap", **FOR_BOLD, **more)
    study.add("magnitude", **FOR_BOLD)
    assert "must give Units, Hz, rad/s or T" in reason(study.plan())


def test_scanner_field_that_is_no_field(study):
    study.add("fieldmap", data=phase(), Units="T", **FOR_BOLD)
    study.add("magnitude", **FOR_BOLD)
    assert "which is implausible; check its Units" in reason(study.plan())


def test_pair_of_opposite_epi_the_bolds_way_first(study):
    study.pair(**FOR_BOLD)
    plan = study.plan()
    assert plan.method == "pepolar"
    assert plan.epi_phase_encoding == ("j-", "j")
    assert plan.epi_readout_times == (0.05, 0.06)
    assert names(plan.epi) == ["dir-AP_epi", "dir-PA_epi"]


def test_one_opposite_epi_goes_with_the_bold_itself(study):
    study.add("dir-PA_epi", PhaseEncodingDirection="j", TotalReadoutTime=0.06, **FOR_BOLD)
    plan = study.plan()
    assert (plan.method, plan.epi_phase_encoding) == ("pepolar", ("j",))


def test_epi_of_the_same_direction_alone_are_no_field_map(study):
    study.add("dir-AP_epi", PhaseEncodingDirection="j-", TotalReadoutTime=0.06, **FOR_BOLD)
    assert "the opposite phase encoding, j" in reason(study.plan())


# Of several field maps, the one that names the run.


def test_each_run_has_the_pair_that_names_it(study):
    bolds = [study.bold(f"task-rest_run-{n}_bold") for n in (1, 2)]
    for n in (1, 2):
        study.pair(f"run-{n}_", IntendedFor=f"func/sub-01_task-rest_run-{n}_bold.nii.gz")
    for n, bold in enumerate(bolds, start=1):
        plan = study.plan(bold)
        assert names(plan.epi) == [f"dir-AP_run-{n}_epi", f"dir-PA_run-{n}_epi"]
        assert plan.warnings == ()


def test_each_run_has_the_opposite_image_that_names_it(study):
    bolds = [study.bold(f"task-rest_run-{n}_bold") for n in (1, 2)]
    for n in (1, 2):
        study.add(
            f"dir-PA_run-{n}_epi",
            PhaseEncodingDirection="j",
            TotalReadoutTime=0.06,
            IntendedFor=[f"bids::sub-01/func/sub-01_task-rest_run-{n}_bold.nii.gz"],
        )
    for n, bold in enumerate(bolds, start=1):
        assert names(study.plan(bold).epi) == [f"dir-PA_run-{n}_epi"]


def test_an_image_that_names_the_run_comes_before_one_that_names_nobody(study):
    encoded = {"PhaseEncodingDirection": "j", "TotalReadoutTime": 0.06}
    study.add("dir-PA_run-1_epi", **encoded)
    study.add("dir-PA_run-2_epi", **encoded, **FOR_BOLD)
    plan = study.plan()
    assert (names(plan.epi), plan.warnings) == (["dir-PA_run-2_epi"], ())


def test_a_magnitude_alone_is_incomplete(study):
    study.add("magnitude1", **FOR_BOLD)
    assert "its field maps are incomplete (sub-01_magnitude1.nii.gz)" in reason(study.plan())


def test_without_intended_for_two_images_of_one_direction_leave_it_open(study):
    for n in (1, 2):
        study.add(f"dir-PA_run-{n}_epi", PhaseEncodingDirection="j", TotalReadoutTime=0.06)
    why = reason(study.plan())
    assert "more than one field map can be meant" in why
    assert "sub-01_dir-PA_run-1_epi.nii.gz and sub-01_dir-PA_run-2_epi.nii.gz" in why


def test_run_numbers_that_count_the_directions_make_one_pair(study):
    study.add("dir-AP_run-1_epi", PhaseEncodingDirection="j-", TotalReadoutTime=0.05)
    study.add("dir-PA_run-2_epi", PhaseEncodingDirection="j", TotalReadoutTime=0.05)
    assert names(study.plan().epi) == ["dir-AP_run-1_epi", "dir-PA_run-2_epi"]


def test_of_several_that_name_the_run_two_of_a_kind_are_used_and_said(study):
    for n in (2, 1):
        study.pair(f"run-{n}_", **FOR_BOLD)
    plan = study.plan()
    assert names(plan.epi) == ["dir-AP_run-1_epi", "dir-PA_run-1_epi"]
    assert "of 2 field maps encoded along j that are meant for it, sub-01_dir-PA_run-1" in str(
        plan.warnings
    )


def test_a_field_map_shared_by_runs_of_two_tasks(study):
    bolds = [study.bold(f"task-{name}_bold") for name in ("rest", "words")]
    study.pair(IntendedFor=[f"func/sub-01_task-{name}_bold.nii.gz" for name in ("rest", "words")])
    assert {names(study.plan(bold).epi)[0] for bold in bolds} == {"dir-AP_epi"}


def test_acquisitions_are_told_apart(study):
    study.pair("acq-other_", IntendedFor="func/sub-01_task-other_bold.nii.gz")
    for way, direction in (("AP", "j-"), ("PA", "j")):
        study.add(
            f"acq-this_dir-{way}_epi",
            PhaseEncodingDirection=direction,
            TotalReadoutTime=0.05,
            **FOR_BOLD,
        )
    assert names(study.plan().epi) == ["acq-this_dir-AP_epi", "acq-this_dir-PA_epi"]


def test_intended_for_reaches_another_session(study):
    target = "ses-2/func/sub-01_ses-2_task-rest_bold.nii.gz"
    study.add("phasediff", session="1", IntendedFor=target, **TIMES)
    study.add("magnitude1", session="1", IntendedFor=target)
    plan = study.plan(study.bold(session="2"))
    assert (plan.method, plan.origin) == ("phasediff", "IntendedFor")
    assert "its field map is of ses-1, by IntendedFor" in plan.warnings[0]


def test_of_field_maps_of_several_sessions_the_run_s_own_is_used(study):
    target = "ses-2/func/sub-01_ses-2_task-rest_bold.nii.gz"
    study.pair(session="1", IntendedFor=target)
    study.add("phasediff", session="2", IntendedFor=target, **TIMES)
    study.add("magnitude1", session="2", IntendedFor=target)
    plan = study.plan(study.bold(session="2"))
    assert (plan.method, names(plan.phase)) == ("phasediff", ["ses-2_phasediff"])
    assert not any("its field map is of ses-" in text for text in plan.warnings)


def test_a_field_map_of_another_session_replaces_one_that_cannot_be_used(study):
    target = "ses-2/func/sub-01_ses-2_task-rest_bold.nii.gz"
    study.pair(session="1", IntendedFor=target)
    study.add("phasediff", session="2", IntendedFor=target, **TIMES)
    plan = study.plan(study.bold(session="2"))
    assert names(plan.epi) == ["ses-1_dir-AP_epi", "ses-1_dir-PA_epi"]
    text = " ".join(plan.warnings)
    assert "its field map is of ses-1, by IntendedFor" in text
    assert "the magnitude image for sub-01_ses-2_phasediff.nii.gz is missing" in text


def test_intended_for_that_names_nothing_is_named(study):
    study.phasediff(IntendedFor="func/sub-01_task-lost_bold.nii.gz")
    why = reason(study.plan())
    assert "sub-01_phasediff.nii.gz names func/sub-01_task-lost_bold.nii.gz" in why
    assert "which this dataset does not have" in why


def test_a_damaged_image_is_named_as_the_reason(study):
    study.add("phasediff", **TIMES, **FOR_BOLD)
    path = study.root / "sub-01" / "fmap" / "sub-01_magnitude1.nii.gz"
    broken = Problem(f"{path} is truncated", "error", path, "01")
    bold = study.bold()
    why = choose_fieldmap(replace(study.subject, problems=(broken,)), bold).why_not
    assert "the magnitude image for sub-01_phasediff.nii.gz is missing" in why
    assert "sub-01_magnitude1.nii.gz cannot be used (see its own message)" in why


def test_a_magnitude_that_names_nobody_belongs_to_its_phase(study):
    study.add("phasediff", **TIMES, **FOR_BOLD)
    study.add("magnitude1")
    assert names(study.plan().magnitude) == ["magnitude1"]


def test_b0_field_source_wins_over_intended_for(study):
    study.phasediff("acq-a_", B0FieldIdentifier="gre_2")
    study.pair(B0FieldIdentifier=["epi"], **FOR_BOLD)
    plan = study.plan(study.bold(B0FieldSource="gre_2"))
    assert (plan.method, plan.fmap_id) == ("phasediff", "gre2")


def test_several_identifiers_in_lists(study):
    study.phasediff(B0FieldIdentifier=["gre_0", "gre_1"])
    study.pair(B0FieldIdentifier=["epi_0", "epi_1"])
    plan = study.plan(study.bold(B0FieldSource=["gre_1", "epi_1"]))
    assert (plan.method, plan.fmap_id) == ("pepolar", "epi1")


def test_a_magnitude_without_identifier_beside_a_phase_that_has_one(study):
    study.add("phasediff", B0FieldIdentifier="gre", **TIMES)
    study.add("magnitude1")
    study.add("acq-other_magnitude1")
    plan = study.plan(study.bold(B0FieldSource="gre"))
    assert names(plan.magnitude) == ["magnitude1"]


def test_a_source_that_nobody_has_is_named(study):
    study.phasediff()
    why = reason(study.plan(study.bold(B0FieldSource="lost")))
    assert "no image of its session has its B0FieldSource, lost, as B0FieldIdentifier" in why
    why = reason(study.plan(study.bold(B0FieldSource="own", B0FieldIdentifier="own")))
    assert "no other image of its session has its B0FieldSource, own" in why


def test_an_identifier_without_a_source_is_named(study):
    study.phasediff(B0FieldIdentifier="gre")
    assert "has a B0FieldIdentifier, but the run no B0FieldSource" in reason(study.plan())


def test_opposite_bold_runs_are_each_others_field_map(study):
    said = {"B0FieldIdentifier": "pepolar", "B0FieldSource": "pepolar"}
    first = study.bold("task-rest_run-1_bold", **said)
    second = study.bold("task-rest_run-2_bold", PhaseEncodingDirection="j", **said)
    plan = study.plan(first)
    assert (plan.method, names(plan.epi)) == ("pepolar", ["task-rest_run-2_bold"])
    assert plan.epi_volumes == (tuple(range(2, 12)),)
    assert names(study.plan(second).epi) == ["task-rest_run-1_bold"]


def test_echoes_of_the_run_are_no_field_map_of_it(study):
    said = {"B0FieldIdentifier": "p", "B0FieldSource": "p"}
    own = [study.bold(f"task-rest_run-1_echo-{n}_bold", **said) for n in (1, 2)]
    for n in (1, 2):
        study.bold(f"task-rest_run-2_echo-{n}_bold", PhaseEncodingDirection="j", **said)
    assert names(study.plan(*own).epi) == ["task-rest_run-2_echo-1_bold"]


def test_one_set_that_names_nobody_serves_its_session(study):
    study.phasediff()
    assert study.plan().method == "phasediff"


def test_of_two_sets_that_name_nobody_none_is_taken(study):
    study.phasediff("acq-a_")
    study.phasediff("acq-b_")
    why = reason(study.plan())
    assert "assigned to it" in why
    assert "more than one can be meant (sub-01_acq-a_phasediff.nii.gz, sub-01_acq-b" in why


def test_a_field_map_meant_for_another_run_is_left_alone(study):
    study.bold("task-other_bold")
    study.phasediff(IntendedFor="func/sub-01_task-other_bold.nii.gz")
    assert "assigned to it" in reason(study.plan())


# What a run and its field map lack.


def test_polarity_is_never_guessed(study):
    study.phasediff(**FOR_BOLD)
    bold = study.add("task-rest_bold", "func", PhaseEncodingAxis="j", TotalReadoutTime=0.03)
    why = reason(study.plan(bold))
    assert "PhaseEncodingDirection" in why
    assert "never guessed" in why


def test_without_readout_time_there_is_no_correction(study):
    study.phasediff(**FOR_BOLD)
    bold = study.add("task-rest_bold", "func", PhaseEncodingDirection="j")
    assert "TotalReadoutTime" in reason(study.plan(bold))


def test_readout_time_from_the_echo_spacing(study):
    study.phasediff()
    spaced = {"EffectiveEchoSpacing": 0.0005, "ReconMatrixPE": 65}
    bold = study.add("task-rest_bold", "func", PhaseEncodingDirection="j", **spaced)
    assert study.plan(bold).readout_time == pytest.approx(0.032)


def test_an_estimated_readout_time_is_said_to_be_one(study):
    study.phasediff()
    estimated = {"EstimatedTotalReadoutTime": 0.02}
    bold = study.add("task-rest_bold", "func", PhaseEncodingDirection="j", **estimated)
    plan = study.plan(bold)
    assert plan.readout_time == 0.02
    assert "estimate" in plan.warnings[0]


def test_a_field_map_that_contradicts_itself_is_not_used(study):
    both = {"EffectiveEchoSpacing": 0.0005, "TotalReadoutTime": 0.07}
    study.add("dir-PA_epi", PhaseEncodingDirection="j", **both, **FOR_BOLD)
    why = reason(study.plan())
    assert "sidecar of sub-01_dir-PA_epi.nii.gz contradicts itself" in why
    study.add("dir-PA_run-2_epi", PhaseEncodingDirection="j", TotalReadoutTime=0.05, **FOR_BOLD)
    plan = study.plan()
    assert names(plan.epi) == ["dir-PA_run-2_epi"]
    assert "contradicts itself" in plan.warnings[0]


@pytest.mark.parametrize("place", ["ds", "func", "sub-01/ds", "sub-01/sub-01"])
def test_what_a_field_map_is_intended_for_does_not_depend_on_folders_above(tmp_path, place):
    images = {"func/task-x_bold": SIDECAR}
    for direction, axis in (("AP", "j-"), ("PA", "j")):
        images[f"fmap/dir-{direction}_epi"] = {
            "PhaseEncodingDirection": axis,
            "TotalReadoutTime": 0.03,
            "IntendedFor": "func/sub-01_task-x_bold.nii.gz",
        }
    subject = write_dataset(tmp_path / place, images)
    plan = choose_fieldmap(subject, subject.select("func", "bold"))
    assert (plan.method, plan.origin) == ("pepolar", "IntendedFor")


@pytest.mark.parametrize(
    ("times", "words"),
    [
        ({"EchoTime1": 0.004}, "needs EchoTime1 and EchoTime2"),
        ({"EchoTime1": 0.007, "EchoTime2": 0.005}, "is longer than EchoTime2"),
        ({"EchoTime1": 0.005, "EchoTime2": 0.005}, "are equal"),
        ({"EchoTime1": 4.92, "EchoTime2": 7.38}, "probably in milliseconds"),
        ({"EchoTime1": "a", "EchoTime2": 0.005}, "has EchoTime1 = 'a'; write it in seconds"),
    ],
)
def test_echo_times_that_are_none(study, times, words):
    study.add("phasediff", **times, **FOR_BOLD)
    study.add("magnitude1", **FOR_BOLD)
    assert words in reason(study.plan())


def test_echo_times_from_the_magnitudes(study):
    study.add("phasediff", EchoTime=0.007, **FOR_BOLD)
    study.add("magnitude1", EchoTime=0.005, **FOR_BOLD)
    study.add("magnitude2", EchoTime=0.007, **FOR_BOLD)
    assert study.plan().echo_times == (0.005, 0.007)


def test_echo_times_that_contradict_those_of_the_magnitudes(study):
    study.add("phasediff", EchoTime1=0.005, EchoTime2=0.006, **FOR_BOLD)
    study.add("magnitude1", EchoTime=0.005, **FOR_BOLD)
    study.add("magnitude2", EchoTime=0.007, **FOR_BOLD)
    assert "but its magnitude images have 0.005 and 0.007 s; neither" in reason(study.plan())


@pytest.mark.parametrize("times", [(0.0046, 0.0023), (0.0046, 0.0046), (2.3, 4.6), (None, 0.004)])
def test_echo_times_of_two_phases_that_are_none(study, times):
    for n, time in enumerate(times, start=1):
        study.add(f"phase{n}", EchoTime=time, **FOR_BOLD)
    study.add("magnitude1", **FOR_BOLD)
    assert "EchoTime of phase" in reason(study.plan())


def test_a_phase_difference_that_cannot_be_used_gives_way_to_two_phases(study):
    study.phasediff(EchoTime2=None, **FOR_BOLD)
    study.add("phase1", EchoTime=0.0023, **FOR_BOLD)
    study.add("phase2", EchoTime=0.0046, **FOR_BOLD)
    plan = study.plan()
    assert plan.method == "phases"
    assert "needs EchoTime1 and EchoTime2" in plan.warnings[0]
    assert "phases is used instead" in plan.warnings[0]


def test_phase_in_an_unknown_unit(study):
    narrow = np.where(head() > 400, phase() // 4, 0).astype(np.int16)
    study.add("phasediff", data=narrow, **TIMES, **FOR_BOLD)
    study.add("magnitude1", **FOR_BOLD)
    why = reason(study.plan())
    assert "the unit of sub-01_phasediff.nii.gz is unknown" in why
    assert '"Units": "rad"' in why


# Grids of the images of one field map.

FLIPPED = np.diag([-1.0, 1, 1, 1])
FLIPPED[0, 3] = SHAPE[0] - 1
SMALLER = AFFINE @ np.diag([2.0, 2, 2, 1])


def moved(mm):
    affine = AFFINE.copy()
    affine[2, 3] += mm
    return affine


@pytest.mark.parametrize(
    ("magnitude", "said"),
    [
        ({"affine": moved(0.05)}, ""),
        ({"affine": moved(0.5)}, ""),
        ({"data": head()[::-1].copy(), "affine": AFFINE @ FLIPPED}, ""),
        ({"data": head()[::2, ::2, ::2].copy(), "affine": SMALLER}, "another resolution"),
        ({"data": np.stack([head(), head() // 2], -1)}, "has 2 volumes; their mean is used"),
        ({"data": head()[..., None].copy()}, ""),
    ],
)
def test_magnitudes_on_another_grid_that_has_one_meaning(study, magnitude, said):
    study.add("phasediff", **TIMES, **FOR_BOLD)
    study.add("magnitude1", **magnitude, **FOR_BOLD)
    plan = study.plan()
    assert plan.method == "phasediff"
    assert said in " ".join(plan.warnings)
    assert bool(plan.warnings) == bool(said)


@pytest.mark.parametrize(
    ("magnitude", "words"),
    [
        ({"affine": moved(3.0)}, "voxels up to 3 mm apart"),
        ({"affine": moved(60.0), "data": head()[:, :, :9].copy()}, "covers only"),
        ({"data": np.stack([head(), phase()], -1)}, "2 volumes that do not show the same"),
    ],
)
def test_magnitudes_on_another_grid_without_a_meaning(study, magnitude, words):
    study.add("phasediff", **TIMES, **FOR_BOLD)
    study.add("magnitude1", **magnitude, **FOR_BOLD)
    why = reason(study.plan())
    assert words in why
    assert "sub-01_magnitude1.nii.gz" in why


def test_a_phase_difference_of_two_volumes(study):
    study.add("phasediff", data=np.stack([phase()] * 2, -1), **TIMES, **FOR_BOLD)
    study.add("magnitude1", **FOR_BOLD)
    assert "sub-01_phasediff.nii.gz has 2 volumes" in reason(study.plan())


def test_two_phases_of_different_resolution(study):
    study.add("phase1", EchoTime=0.0023, **FOR_BOLD)
    data = phase()[::2, ::2, ::2].copy()
    study.add("phase2", data=data, affine=SMALLER, EchoTime=0.0046, **FOR_BOLD)
    study.add("magnitude1", **FOR_BOLD)
    assert "phase2.nii.gz is on another grid than sub-01_phase1" in reason(study.plan())


def test_the_direction_of_an_epi_is_along_its_own_axes(study):
    flip = np.diag([1.0, -1, 1, 1])
    flip[1, 3] = SHAPE[1] - 1
    # Encoded j- like the run, but stored from front to back: the opposite.
    encoded = {"PhaseEncodingDirection": "j-", "TotalReadoutTime": 0.05}
    study.add("dir-PA_epi", data=head()[:, ::-1].copy(), affine=AFFINE @ flip, **encoded)
    plan = study.plan()
    assert (plan.method, plan.epi_phase_encoding) == ("pepolar", ("j-",))


def test_an_epi_that_is_tilted(study):
    turn = nb.affines.from_matvec(nb.eulerangles.euler2mat(x=np.radians(20)))
    encoded = {"PhaseEncodingDirection": "j", "TotalReadoutTime": 0.05}
    study.add("dir-PA_epi", affine=turn @ AFFINE, **encoded)
    assert "tilted against those of sub-01_task-rest_bold.nii.gz by 20 degrees" in reason(
        study.plan()
    )


def test_a_pair_may_be_tilted_against_the_run(study):
    turn = nb.affines.from_matvec(nb.eulerangles.euler2mat(x=np.radians(20)))
    for way, direction in (("AP", "j-"), ("PA", "j")):
        study.add(
            f"dir-{way}_epi",
            affine=turn @ AFFINE,
            PhaseEncodingDirection=direction,
            TotalReadoutTime=0.05,
        )
    assert study.plan().epi_phase_encoding == ("j-", "j")


def test_a_pair_along_another_axis_measures_the_field_as_well(study):
    for way, direction in (("LR", "i"), ("RL", "i-")):
        study.add(
            f"dir-{way}_epi", PhaseEncodingDirection=direction, TotalReadoutTime=0.05, **FOR_BOLD
        )
    plan = study.plan()
    assert plan.epi_phase_encoding == ("i", "i-")
    assert "is encoded along j-, its field maps along i" in plan.warnings[0]


def test_ignored_field_maps_are_no_problem(study):
    study.phasediff()
    plan = study.plan(ignore=("fieldmaps",))
    assert (plan.method, plan.origin, plan.warnings) == (None, "option", ())


def test_two_phase_differences_that_both_name_the_run(study):
    for n in (1, 2):
        study.phasediff(f"run-{n}_", **FOR_BOLD)
    plan = study.plan()
    assert names(plan.phase) == ["run-1_phasediff"]
    assert "more than one field map is meant for it; sub-01_run-1_phasediff" in plan.warnings[0]


def test_the_dry_run_says_why(study):
    study.phasediff("acq-a_")
    study.phasediff("acq-b_")
    run = BoldRun((study.bold(),), SHAPE, (3.0, 3.0, 3.0), 14, 2.0)
    plan = study.plan(run.reference)
    whole = ParticipantPlan("01", bold=(BoldPlan(run, plan, ()),))
    (line,) = (line for line in describe_plan(whole) if "distortion" in line)
    assert line.strip() == f"distortion: not corrected: {plan.why_not}"
    (bold,) = plan_as_json(whole)["bold"]
    assert bold["fieldmap"]["why_not"] == plan.why_not
    ignored = replace(whole.bold[0], fieldmap=study.plan(run.reference, ignore=("fieldmaps",)))
    lines = [*describe_plan(replace(whole, bold=(ignored,)))]
    assert "    distortion: not corrected (--ignore fieldmaps)" in lines
