"""Precomputed files that replace parts of the anatomical workflow."""

import pytest

from neuroferry.bids.precomputed import cite_precomputed, find_anatomy, find_precomputed
from neuroferry.errors import ExitCode, InputError

SPACE = "MNI152NLin2009aSym"
SEGMENTATION = [
    "sub-01_dseg.nii.gz",
    "sub-01_label-GM_probseg.nii.gz",
    "sub-01_label-WM_probseg.nii.gz",
    "sub-01_label-CSF_probseg.nii.gz",
]


def dataset(root, names, folder="sub-01/anat"):
    (root / folder).mkdir(parents=True, exist_ok=True)
    for name in names:
        (root / folder / name).touch()
    return root


def find(*roots, session=None):
    return find_precomputed({str(i): r for i, r in enumerate(roots)}, "01", session, SPACE)


def test_each_part_by_its_name(tmp_path):
    root = dataset(
        tmp_path,
        [
            *SEGMENTATION,
            "sub-01_desc-brain_mask.nii.gz",
            f"sub-01_space-{SPACE}_desc-brain_mask.nii.gz",
            f"sub-01_space-{SPACE}_dseg.nii.gz",
            "sub-01_desc-aseg_dseg.nii.gz",
            "sub-01_desc-brain_mask.json",
            f"sub-01_from-T1w_to-{SPACE}_mode-image_xfm.h5",
            f"sub-01_from-{SPACE}_to-T1w_mode-image_xfm.h5",
            "sub-01_from-T1w_to-MNI152NLin6Asym_mode-image_xfm.h5",
        ],
    )
    anat = root / "sub-01" / "anat"
    assert find(root) == {
        "brain_mask": str(anat / "sub-01_desc-brain_mask.nii.gz"),
        "dseg": str(anat / "sub-01_dseg.nii.gz"),
        "tpms": [str(anat / f"sub-01_label-{t}_probseg.nii.gz") for t in ("GM", "WM", "CSF")],
        "anat2std_xfm": str(anat / f"sub-01_from-T1w_to-{SPACE}_mode-image_xfm.h5"),
        "std2anat_xfm": str(anat / f"sub-01_from-{SPACE}_to-T1w_mode-image_xfm.h5"),
    }


def test_half_a_part_is_no_part(tmp_path):
    root = dataset(tmp_path, [*SEGMENTATION[:3], f"sub-01_from-T1w_to-{SPACE}_mode-image_xfm.h5"])
    assert find(root) == {}


def test_the_first_dataset_goes_first_and_others_complete_it(tmp_path):
    first = dataset(tmp_path / "a", ["sub-01_desc-brain_mask.nii.gz"])
    second = dataset(tmp_path / "b", ["sub-01_desc-brain_mask.nii.gz", *SEGMENTATION])
    found = find(first, second)
    assert str(first) in found["brain_mask"]
    assert str(second) in found["dseg"]


def test_sessions_keep_apart(tmp_path):
    root = dataset(tmp_path, ["sub-01_ses-a_desc-brain_mask.nii.gz"], "sub-01/ses-a/anat")
    assert "brain_mask" in find(root, session="a")
    assert find(root, session="b") == {}


def test_two_candidates_are_an_error(tmp_path):
    root = dataset(
        tmp_path, ["sub-01_desc-brain_mask.nii.gz", "sub-01_run-1_desc-brain_mask.nii.gz"]
    )
    with pytest.raises(InputError, match="two files for the brain_mask of sub-01") as info:
        find(root)
    assert info.value.path == root / "sub-01/anat/sub-01_run-1_desc-brain_mask.nii.gz"


def test_a_dataset_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match="is not a folder") as info:
        find(tmp_path / "none")
    assert info.value.exit_code == ExitCode.NO_INPUT


def test_each_file_is_cited_by_the_dataset_that_it_is_in(tmp_path):
    # One dataset lies inside the other.
    outer = dataset(tmp_path, ["sub-01_desc-brain_mask.nii.gz"])
    inner = dataset(tmp_path / "derivatives" / "b", SEGMENTATION)
    datasets = {"outer": outer, "inner": inner}
    cited = cite_precomputed(find_precomputed(datasets, "01", None, SPACE), datasets, "01")
    assert cited == {
        "brain_mask": ["bids:outer:sub-01/anat/sub-01_desc-brain_mask.nii.gz"],
        "dseg": ["bids:inner:sub-01/anat/sub-01_dseg.nii.gz"],
        "tpms": [f"bids:inner:sub-01/anat/{name}" for name in SEGMENTATION[1:]],
    }


@pytest.mark.parametrize("name", ["raw", "", "a:b", "a/b", "a b"])
def test_a_name_that_a_sidecar_cannot_cite(tmp_path, name):
    with pytest.raises(InputError, match="cannot be named") as caught:
        find_precomputed({name: dataset(tmp_path, [])}, "01", None, SPACE)
    assert caught.value.exit_code == ExitCode.USAGE


def test_a_whole_anatomy_comes_from_one_dataset(tmp_path):
    names = [
        *SEGMENTATION,
        "sub-01_desc-brain_mask.nii.gz",
        "sub-01_desc-preproc_T1w.nii.gz",
        f"sub-01_space-{SPACE}_desc-preproc_T1w.nii.gz",
        f"sub-01_from-T1w_to-{SPACE}_mode-image_xfm.h5",
        f"sub-01_from-{SPACE}_to-T1w_mode-image_xfm.h5",
    ]
    halves = {"a": dataset(tmp_path / "a", names[:5]), "b": dataset(tmp_path / "b", names[5:])}
    assert find_anatomy(halves, "01", None, SPACE) is None
    found = find_anatomy({**halves, "c": dataset(tmp_path / "c", names)}, "01", None, SPACE)
    anat = tmp_path / "c" / "sub-01" / "anat"
    assert found == {
        "t1w_preproc": str(anat / "sub-01_desc-preproc_T1w.nii.gz"),
        **find_precomputed({"c": tmp_path / "c"}, "01", None, SPACE),
    }
    assert found["tpms"] == [
        str(anat / f"sub-01_label-{tissue}_probseg.nii.gz") for tissue in ("GM", "WM", "CSF")
    ]
    with pytest.raises(InputError, match="is not a folder"):
        find_anatomy({"x": tmp_path / "none"}, "01", None, SPACE)
