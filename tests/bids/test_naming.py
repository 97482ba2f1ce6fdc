"""Names and folders of images, sound and odd."""

import pytest

from neuroferry.bids.naming import BadNameError, Facts, read_place


@pytest.mark.parametrize(
    ("place", "entities", "suffix", "datatype"),
    [
        ("sub-01/anat/sub-01_T1w.nii.gz", {"subject": "01"}, "T1w", "anat"),
        ("sub-a+b/anat/sub-a+b_T1w.nii", {"subject": "a+b"}, "T1w", "anat"),
        (
            "sub-01/ses-1/func/sub-01_ses-1_run-02_task-n+back_bold.nii.gz",
            {"subject": "01", "session": "1", "run": "02", "task": "n+back"},
            "bold",
            "func",
        ),
        (
            "sub-01/fmap/sub-01_dir-AP_epi.nii.gz",
            {"subject": "01", "direction": "AP"},
            "epi",
            "fmap",
        ),
        (
            "sub-01/anat/sub-01_inv-1_part-mag_MP2RAGE.nii.gz",
            {"subject": "01", "inv": "1", "part": "mag"},
            "MP2RAGE",
            "anat",
        ),
        (
            "sub-01/perf/sub-01_ce-gad_chunk-2_asl.nii.gz",
            {"subject": "01", "ceagent": "gad", "chunk": "2"},
            "asl",
            "perf",
        ),
    ],
)
def test_a_sound_name_is_read(place, entities, suffix, datatype):
    assert read_place(place.split("/")) == Facts(entities, suffix, datatype)


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("sub-02/anat/sub-01_T1w.nii.gz", "says sub-01, but its folder sub-02"),
        ("sub-01/ses-1/anat/sub-01_ses-2_T1w.nii.gz", "says ses-2, but its folder ses-1"),
        ("sub-01/ses-1/anat/sub-01_T1w.nii.gz", "lacks ses-1"),
        ("sub-01/anat/sub-01_ses-1_T1w.nii.gz", "says ses-1, but it is in no folder ses-1"),
        ("sub-01/anat/T1w.nii.gz", "lacks sub-01"),
        ("sub-01/anat/sub-01_task-x_bold.nii.gz", "_bold belongs into func/, but it is in anat/"),
        ("sub-01/func/sub-01_T1w.nii.gz", "_T1w belongs into anat/"),
        ("sub-01/dwi/sub-01_dir-AP_epi.nii.gz", "_epi belongs into fmap/"),
        ("sub-01/anat/old/sub-01_T1w.nii.gz", "sub-01/anat/old is not a folder of images"),
        ("sub-01/sub-01_T1w.nii.gz", "sub-01 is not a folder of images"),
        ("sub-01/Anat/sub-01_T1w.nii.gz", "sub-01/Anat is not a folder of images"),
        ("sub-01/anat/ses-1/sub-01_ses-1_T1w.nii.gz", "is not a folder of images"),
        ("sub-01/ses-pre-op/anat/sub-01_ses-pre-op_T1w.nii.gz", "'ses-pre-op' may have only"),
        ("sub-01/func/sub-01_task-n-back_bold.nii.gz", "'task-n-back' may have only letters"),
        ("sub-01/func/sub-01_task-_bold.nii.gz", "'task-' may have only letters"),
        ("sub-01/func/sub-01_task-\u00e4_bold.nii.gz", "may have only letters"),
        ("sub-01/func/sub-01_task-x_task-y_bold.nii.gz", "has task- twice"),
        ("sub-01/anat/sub-01_foo-2_T1w.nii.gz", "'foo-2' in its name is not an entity of BIDS"),
        ("sub-01/anat/sub-01_old_T1w.nii.gz", "'old' in its name is not an entity"),
        ("sub-01/func/sub-01_session-1_bold.nii.gz", r"not an entity of BIDS \(its key is ses-\)"),
        ("sub-01/func/sub-01__task-x_bold.nii.gz", "underscore with nothing before it"),
        ("sub-01/anat/sub-01_part-foo_T1w.nii.gz", "part-foo is not one of"),
        ("sub-01/anat/sub-01_t1w.nii.gz", "_t1w is not a suffix .*; did you mean T1w"),
        ("sub-01/anat/sub-01_MPRAGE.nii.gz", "_MPRAGE is not a suffix"),
        ("sub-01/anat/sub-01_T1w (1).nii.gz", r"ends in 'T1w \(1\)'"),
        ("sub-01/anat/sub-01_T1w.orig.nii.gz", "'.orig.nii.gz' is not .nii.gz or .nii"),
        ("sub-01/anat/sub-01_T1w.NII.gz", "'.NII.gz' is not .nii.gz or .nii"),
        ("sub-01/an\udce4t/sub-01_T1w.nii.gz", "is not a folder of images"),
    ],
)
def test_an_odd_name_is_a_fault_with_its_reason(place, words):
    with pytest.raises(BadNameError, match=words) as caught:
        read_place(place.split("/"))
    assert not caught.value.derived


@pytest.mark.parametrize(
    "name",
    [
        "sub-01_desc-preproc_T1w",
        "sub-01_space-MNI152NLin2009cAsym_T1w",
        "sub-01_res-2_T1w",
        "sub-01_desc-brain_acq-x_T1w",
    ],
)
def test_a_derivative_is_no_image_of_the_scanner(name):
    with pytest.raises(BadNameError, match="names a derivative") as caught:
        read_place(("sub-01", "anat", f"{name}.nii.gz"))
    assert caught.value.derived


def test_pybids_reads_the_same_from_sound_names_in_a_plain_place():
    from bids.layout.models import Config, Entity

    names = (
        "sub-01/ses-b/func/sub-01_ses-b_task-rest_acq-c_ce-d_rec-e_dir-AP_run-2_echo-1_part-mag"
        "_chunk-3_bold.nii.gz",
        "sub-01/ses-b/anat/sub-01_ses-b_acq-x_inv-2_mt-on_flip-3_MPM.nii.gz",
        "sub-01/dwi/sub-01_dir-AP_run-1_dwi.nii",
    )
    patterns: dict[str, Entity] = Config.load("bids").entities
    for name in names:
        facts = read_place(name.split("/"))
        theirs = {key: entity.regex.search(f"/{name}") for key, entity in patterns.items()}
        expected = {key: match[1] for key, match in theirs.items() if match}
        assert expected.pop("suffix") == facts.suffix
        assert expected.pop("datatype") == facts.datatype
        del expected["extension"]
        assert expected == facts.entities
