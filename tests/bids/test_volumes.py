"""Volumes without a usable image, found while a series is read for its check."""

import json

import nibabel as nb
import numpy as np
import pytest

from neuroferry.bids.bold import check_bold
from neuroferry.bids.images import survey_image
from neuroferry.bids.index import index_subjects
from neuroferry.bids.validate import check_subjects
from neuroferry.bids.volumes import VolumeScan, all_the_same, judge_volumes

AFFINE = np.array([[-4.0, 0, 0, 40], [0, 4, 0, -40], [0, 0, 6, -50], [0, 0, 0, 1]])


def series(n=12, dtype=np.int16):
    """Ball of 600 in noise of 10, shape (20, 20, 16, n)."""
    rng = np.random.default_rng(3)
    centre = np.array([9.5, 9.5, 7.5])[:, None, None, None]
    ball = np.linalg.norm(np.indices((20, 20, 16)) - centre, axis=0) < 7
    noise = np.abs(rng.normal(0, 10, (20, 20, 16, n)))
    return (600 * ball[..., None] + noise).astype(dtype)


def write(root, data, name="task-x", sidecar=None):
    folder = root / "sub-01" / "func"
    folder.mkdir(parents=True, exist_ok=True)
    (root / "dataset_description.json").write_text('{"Name": "x", "BIDSVersion": "1.10.0"}')
    image = nb.Nifti1Image(data, AFFINE)
    image.header.set_xyzt_units("mm", "sec")
    image.header["pixdim"][4] = 2.0
    path = folder / f"sub-01_{name}_bold.nii.gz"
    image.to_filename(path)
    content = {"RepetitionTime": 2.0, "SliceTiming": list(np.arange(16) / 10)} | (sidecar or {})
    path.with_name(path.name.replace(".nii.gz", ".json")).write_text(json.dumps(content))
    return path


def look(root):
    """Return the runs and what is said, after the check of the files."""
    (subject,) = check_subjects(index_subjects(root), suffixes=("bold",))
    checked = check_bold(subject)
    return checked.runs, [p.message for p in (*subject.problems, *checked.problems)]


def spoil(data, kind):
    """Spoil the last three volumes."""
    bad = data[..., -3:]
    if kind == "empty":
        bad[:] = 0
    elif kind == "constant":
        bad[:] = 77
    elif kind == "noise":
        bad[:] = np.abs(np.random.default_rng(9).normal(0, 10, bad.shape))
    elif kind == "scale":
        bad[:] *= 40
    elif kind == "part":
        bad[:, :, 9:] = 0
    return data


@pytest.mark.parametrize(
    ("kind", "word"),
    [
        ("empty", "are empty"),
        ("constant", "are empty"),
        ("noise", "are without a head"),
        ("scale", "are of another scale"),
        ("part", "are incomplete, with uniform slices"),
    ],
)
@pytest.mark.parametrize("dtype", [np.int16, np.float32, ">i2"])
def test_unusable_volumes_are_named_and_known_to_the_run(tmp_path, kind, word, dtype):
    write(tmp_path, spoil(series(), kind).astype(dtype))
    (run,), messages = look(tmp_path)
    assert run.unusable_volumes == (9, 10, 11)
    (message,) = messages
    assert f"volumes 9-11 (counted from 0) {word}" in message
    assert "marked as outliers in the confounds" in message


def test_a_sound_series_with_bright_first_volumes_has_none(tmp_path):
    data = series()
    data[..., :2] = (data[..., :2] * np.array([2.2, 1.3])).astype(data.dtype)
    write(tmp_path, data)
    (run,), messages = look(tmp_path)
    assert run.unusable_volumes == ()
    assert messages == []


def test_motion_and_loss_of_a_slice_are_left_to_the_statistics(tmp_path):
    data = series()
    data[:, :, 8, 5] = 0
    data[..., 7] = np.roll(data[..., 7], 3, axis=0)
    write(tmp_path, data)
    assert look(tmp_path)[0][0].unusable_volumes == ()


def test_most_volumes_may_be_empty(tmp_path):
    data = series(20)
    data[..., 6:] = 0
    write(tmp_path, data)
    assert look(tmp_path)[0][0].unusable_volumes == tuple(range(6, 20))


def test_too_few_usable_volumes_are_an_error(tmp_path):
    data = series(20)
    data[..., 4:] = 0
    write(tmp_path, data)
    runs, messages = look(tmp_path)
    assert not runs
    assert any("4 usable volumes are left; at least 5 are needed" in m for m in messages)


def test_a_series_of_copies_is_refused_and_a_copied_volume_named(tmp_path):
    data = series()
    write(tmp_path, np.repeat(data[..., :1], 12, axis=3), "task-same")
    data[..., 5] = data[..., 4]
    write(tmp_path, data, "task-copy")
    (run,), messages = look(tmp_path)
    assert run.entities["task"] == "copy"
    assert run.unusable_volumes == ()
    assert any("task-same" in m and "are the same to the last bit" in m for m in messages)
    assert any("volume 5 (counted from 0) is a copy of the volume before" in m for m in messages)


def test_a_volume_that_one_echo_lacks_is_unusable_in_the_run(tmp_path):
    data = series()
    write(tmp_path, data, "task-x_echo-1", {"EchoTime": 0.01})
    data[..., 3] = 0
    write(tmp_path, data, "task-x_echo-2", {"EchoTime": 0.03})
    (run,), messages = look(tmp_path)
    assert run.unusable_volumes == (3,)
    assert any("of sub-01_task-x_echo-2_bold.nii.gz" in m for m in messages)


def test_blocks_of_any_size_give_the_same_facts():
    stored = series(4).ravel(order="F")
    found = []
    for size in (7, 400, 6400, stored.size):
        scan = VolumeScan((20, 20, 16, 4))
        for start in range(0, stored.size, size):
            scan.add(stored[start : start + size])
        found.append(scan.facts())
    assert len({f.repeats for f in found}) == 1
    for other in found[1:]:
        assert np.allclose(other.spread, found[0].spread, rtol=1e-12)
    assert found[0].spread == pytest.approx(
        series(4).reshape(-1, 4).std(axis=0, dtype=np.float64).tolist()
    )


def test_images_of_one_volume_have_no_facts(tmp_path):
    path = tmp_path / "sub-01_T1w.nii.gz"
    nb.Nifti1Image(series(1)[..., 0], AFFINE).to_filename(path)
    assert survey_image(path) == ([], None)


def test_shells_are_judged_by_themselves():
    scan = VolumeScan((20, 20, 16, 12))
    data = series(12, np.float64)
    data[..., 4:] *= 0.08  # as at a high b-value
    data[..., 11] *= 0.1
    scan.add(data.ravel(order="F"))
    facts = scan.facts()
    groups = [range(4), range(4, 12)]
    assert judge_volumes(facts, groups).why == {11: "without a head"}
    assert not all_the_same(facts)
