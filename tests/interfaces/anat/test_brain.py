import json
from pathlib import Path

import nibabel as nb
import numpy as np
import pytest

from neuroferry.errors import InputError
from neuroferry.interfaces.anat.brain import (
    ExtractBrain,
    close_mask,
    extract_brain,
    is_stripped,
    signed_distance,
)
from neuroferry.interfaces.anat.brain_score import assess, assess_given, rate_volume
from neuroferry.interfaces.anat.locate import (
    FIRST_SEARCH,
    THIRD_SEARCH,
    Location,
    axis_turns,
    head_frame,
    starts,
)
from neuroferry.interfaces.image.images import (
    Volume,
    inverse,
    load_volume,
    save_nifti,
    to_canonical,
)
from neuroferry.interfaces.image.transforms import apply_transforms, read_itk_affine
from neuroferry.phantom.score import dice
from neuroferry.templates import load_template

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def head(phantom_bids):
    """Phantom head at 3 mm, and its true brain."""
    t1w = to_canonical(load_volume(phantom_bids / "sub-01/anat/sub-01_T1w.nii.gz"))
    truth = phantom_bids / "derivatives/truth/sub-01/anat/sub-01_desc-brain_mask.nii.gz"
    return t1w, to_canonical(load_volume(truth)).data > 0.5


@pytest.fixture(scope="module")
def extracted(head):
    return extract_brain(head[0], sloppy=True)


def test_brain_is_found(head, extracted):
    mask, score, _ = extracted
    assert dice(mask, head[1]) > 0.95
    assert score.verdict == "good"
    assert score.confidence > 0.8
    assert score.reasons == ()
    assert score.starts_tried >= 200
    assert score.volume_ml == pytest.approx(mask.sum() * 27 / 1000, rel=0.01)


def test_result_repeats(head, extracted):
    mask, score, matrix = extract_brain(head[0], sloppy=True)
    np.testing.assert_array_equal(mask, extracted[0])
    np.testing.assert_array_equal(matrix, extracted[2])
    assert score == extracted[1]


@pytest.mark.parametrize(
    ("turn", "shift"),
    [((0.45, 0.0, 0.0), (0, 0, 0)), ((-0.4, 0.1, 0.15), (140.0, -90.0, 220.0))],
    ids=["nods 26 degrees", "nods back 23 degrees, far from the origin"],
)
def test_turned_heads(head, turn, shift):
    from scipy.spatial.transform import Rotation

    volume, truth = head
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_rotvec(turn).as_matrix()
    matrix[:3, 3] = shift
    mask, score, _ = extract_brain(Volume(volume.data, matrix @ volume.affine), sloppy=True)
    assert dice(mask, truth) > 0.94
    assert score.verdict == "good"


def test_short_neck(head):
    volume, truth = head
    lowest = np.flatnonzero(truth.any(axis=(0, 1)))[0]
    cut = slice(max(lowest - 2, 0), None)
    affine = volume.affine.copy()
    affine[:3, 3] += affine[:3, 2] * cut.start
    mask, _, _ = extract_brain(Volume(volume.data[:, :, cut].copy(), affine), sloppy=True)
    assert dice(mask, truth[:, :, cut]) > 0.94


def test_skull_stripped_input_keeps_its_own_edge(head):
    volume, truth = head
    stripped = volume.with_data(np.where(truth, np.maximum(volume.data, 1), 0).astype("f4"))
    mask, score, _ = extract_brain(stripped, sloppy=True)
    assert score.skull_stripped
    assert dice(mask, truth) > 0.99
    assert any("skull-stripped" in reason for reason in score.reasons)


def test_noise_is_not_called_a_brain():
    noise = np.random.default_rng(0).uniform(10, 100, (60, 60, 60)).astype(np.float32)
    volume = Volume(noise, np.diag([3.0, 3.0, 3.0, 1.0]))
    try:
        _, score, _ = extract_brain(volume, sloppy=True)
    except InputError:
        return
    assert score.verdict == "look"
    assert score.reasons
    assert score.starts_tried > 1000


def test_score_says_why():
    placed = Location(np.eye(4), 0.15, 22.0, 240, False)
    score = assess(placed, 2500.0, 240, stripped=False)
    assert score.verdict == "look"
    assert score.confidence == 0
    assert len(score.reasons) == 3
    good = assess(Location(np.eye(4), 0.5, 0.5, 240, False), 1400.0, 240, stripped=False)
    assert (good.verdict, good.reasons) == ("good", ())
    turned = assess(Location(np.eye(4), 0.5, 0.5, 240, True), 1400.0, 240, stripped=False)
    assert turned.verdict == "look"


def test_given_masks_are_rated_by_volume():
    assert assess_given(1400.0).verdict == "good"
    assert assess_given(90.0).verdict == "look"
    assert rate_volume(775.0) == pytest.approx(0.5)


def test_signed_distance_of_a_ball():
    index = (np.indices((31, 31, 31)).T - 15.0).T * 2.0
    radius = np.sqrt((index**2).sum(axis=0))
    found = signed_distance(radius < 20, np.full(3, 2.0))
    assert np.abs(found - (radius - 20))[radius < 28].max() < 2.0


def test_closing_fills_a_narrow_cleft_only():
    mask = np.ones((30, 30, 30), dtype=bool)
    mask[10:12, :, 15:] = False
    mask[18:26, :, 15:] = False
    closed = close_mask(mask, 1.6)
    assert closed[10:12, 2:-2, 15:28].all()
    assert not closed[21:23, :, 17:].any()


def test_a_ring_of_tissue_is_a_head():
    template = load_template(3)
    distance = signed_distance(template.brain_mask, np.full(3, 3.0))
    brain = Volume(np.where(template.brain_mask, template.t1w, 0), template.affine)
    assert is_stripped(brain, distance)
    scalp = (distance > 9) & (distance < 14)
    assert not is_stripped(brain.with_data(np.where(scalp, 0.5, brain.data)), distance)


def test_starts_cover_every_axis_order():
    turns = axis_turns()
    assert len({tuple(turn.ravel()) for turn in turns}) == 24
    np.testing.assert_array_equal(turns[0], np.eye(3))
    points = np.random.default_rng(0).normal(0, 60, (3, 3000))
    one = sum(1 for _ in starts(points, np.zeros(3), 4.0, FIRST_SEARCH))
    assert one == 240
    every = list(starts(points, np.zeros(3), 4.0, THIRD_SEARCH))
    assert len(every) % 24 == 0
    assert all(np.linalg.det(start[:3, :3]) > 0 for start in every)


def test_head_frame_finds_the_top():
    grid = np.stack(np.meshgrid(*[np.arange(-90.0, 91.0, 4.0)] * 3)).reshape(3, -1)
    ball = grid[:, (grid**2).sum(axis=0) < 80**2]
    top, middle = head_frame(ball + np.array([[5.0], [7.0], [9.0]]), 4.0)
    assert top == pytest.approx(86, abs=6)
    np.testing.assert_allclose(middle, [5, 7], atol=3)


def test_interface(head, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    volume, truth = head
    save_nifti(volume.data, volume.affine, tmp_path / "t1w.nii.gz")
    found = ExtractBrain(in_file=str(tmp_path / "t1w.nii.gz"), sloppy=True).run().outputs
    image = nb.load(found.out_mask)
    assert image.get_data_dtype() == np.uint8
    assert dice(np.asanyarray(image.dataobj), truth) > 0.95
    assert json.loads(Path(found.out_score).read_text())["verdict"] == "good"
    template = load_template(3)
    placed = apply_transforms(
        Volume(template.brain_mask.astype(np.float32), template.affine),
        [inverse(read_itk_affine(found.std2anat_affine))],
        volume.shape,
        volume.affine,
    )
    assert dice(placed.data > 0.5, truth) > 0.85
