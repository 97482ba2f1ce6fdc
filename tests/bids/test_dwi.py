"""DWI runs: reading of their files, and problems of invalid ones."""

import json
import re

import nibabel as nb
import numpy as np
import pytest

from neuroferry.bids.dwi import check_dwi
from neuroferry.bids.entities import parse_name
from neuroferry.bids.index import index_subjects
from neuroferry.bids.metadata import read_json
from neuroferry.bids.model import Image, Subject
from neuroferry.bids.validate import check_subjects

AFFINE = np.array([[-4.0, 0, 0, 40], [0, 4, 0, -40], [0, 0, 6, -50], [0, 0, 0, 1]])
GOLDEN = (1 + 5**0.5) / 2
RING = np.array([[0, 1, GOLDEN], [0, 1, -GOLDEN]]) / np.hypot(1, GOLDEN)
SIX = np.vstack([np.roll(RING, shift, axis=1) for shift in range(3)])
BVALS = np.array([0.0, 5, *[1000] * 6])
BVECS = np.vstack([np.zeros((2, 3)), SIX])
SOUND = {"PhaseEncodingDirection": "j-", "TotalReadoutTime": 0.05}


class Dataset:
    """A participant with diffusion-weighted images; None omits a file."""

    def __init__(self, root):
        self.root = root
        self.folder = root / "sub-01" / "dwi"
        self.folder.mkdir(parents=True)
        (root / "dataset_description.json").write_text('{"Name": "x", "BIDSVersion": "1.10.0"}')

    def __call__(
        self, name="dwi", sidecar=None, *, bvals=BVALS, bvecs=BVECS, shape=(20, 20, 10, 8)
    ):
        folder = self.folder
        data = np.random.default_rng(1).integers(0, 900, shape)
        nb.Nifti1Image(data.astype(np.int16), AFFINE).to_filename(folder / f"sub-01_{name}.nii.gz")
        if bvals is not None:
            text = bvals if isinstance(bvals, str) else " ".join(f"{b:g}" for b in bvals)
            (folder / f"sub-01_{name}.bval").write_text(text)
        if isinstance(bvecs, str):
            (folder / f"sub-01_{name}.bvec").write_text(bvecs)
        elif bvecs is not None:
            np.savetxt(folder / f"sub-01_{name}.bvec", np.transpose(bvecs), fmt="%.8f")
        content = SOUND if sidecar is None else sidecar
        (folder / f"sub-01_{name}.json").write_text(json.dumps(content))
        return folder

    def subject(self):
        folder = self.folder
        images = sorted(folder.glob("*.nii.gz"))
        sidecars = [path.name.removesuffix(".nii.gz") + ".json" for path in images]
        return Subject(
            "01",
            tuple(
                Image(path, parse_name(path).entities, "dwi", "dwi", read_json(folder / sidecar))
                for path, sidecar in zip(images, sidecars, strict=True)
            ),
        )


@pytest.fixture
def dataset(tmp_path):
    return Dataset(tmp_path / "bids")


def said(dataset, **options):
    """Return the usable runs, and the messages by severity."""
    (subject,) = check_subjects([dataset.subject()], suffixes=("dwi",))
    checked = check_dwi(subject, **options)
    texts: dict[str, list[str]] = {"error": [], "warning": []}
    for problem in (*subject.problems, *checked.problems):
        texts[problem.severity].append(problem.message)
    return checked.runs, texts["error"], texts["warning"]


def test_a_sound_run_is_not_talked_about(dataset):
    folder = dataset("acq-b1k_run-1_dwi")
    (run,), errors, warnings = said(dataset)
    assert (errors, warnings) == ([], [])
    assert (run.shape, run.n_volumes, run.zooms) == ((20, 20, 10), 8, (4, 4, 6))
    assert run.bval == folder / "sub-01_acq-b1k_run-1_dwi.bval"
    assert run.bvals == tuple(BVALS)
    assert [(shell.b, len(shell.volumes)) for shell in run.shells] == [(0, 2), (1000, 6)]
    assert (run.n_directions, run.fits_tensor) == (6, True)
    assert (run.phase_encoding, run.phase_axis, run.readout_time) == ("j-", "j", 0.05)
    assert (run.label, run.session) == ("acquisition_b1k_run_1", None)
    assert run.entities == {"subject": "01", "acquisition": "b1k", "run": "1"}


def test_gradients_are_found_in_folders_above(dataset):
    folder = dataset("run-1_dwi")
    for extension in ("bval", "bvec"):
        (folder / f"sub-01_run-1_dwi.{extension}").rename(folder.parents[1] / f"dwi.{extension}")
    dataset("run-2_dwi", bvals=BVALS * 2)
    first, second = check_dwi(index_subjects(dataset.root)[0]).runs
    assert first.bval == folder.parents[1] / "dwi.bval"
    assert (first.shells[1].b, second.shells[1].b) == (1000, 2000)  # the nearest counts


def test_phase_images_are_no_runs(dataset):
    dataset("part-mag_dwi")
    dataset("part-phase_dwi", bvals=None)
    (run,), errors, _ = said(dataset)
    assert (run.entities["part"], errors) == ("mag", [])


TURNED = "\n".join(" ".join(f"{value:.6f}" for value in row) for row in BVECS)


@pytest.mark.parametrize(
    ("files", "word"),
    [
        ({"bvals": None}, r"the \.bval file is missing; add sub-01_dwi\.bval"),
        ({"bvecs": None}, r"the \.bvec file is missing"),
        ({"bvals": BVALS[:7]}, r"sub-01_dwi\.bval has 7 b-values, but the image has 8 volumes"),
        ({"bvecs": BVECS[:7]}, "has 7 directions, but the image has 8 volumes"),
        ({"bvecs": "0 1 0 1\n0 0 1 0"}, "2 rows of 4, 4 numbers; a .bvec file has three rows"),
        ({"bvecs": "0 1 0\n0 0\n0 0 1"}, "3 rows of 3, 2, 3 numbers"),
        ({"bvecs": np.where(BVECS[4] == BVECS, np.nan, BVECS)}, "is not a number"),
        ({"bvals": "0 0 x"}, "has a value that is not a number in line 1"),
        ({"bvals": [0, 0, np.nan, *[1000] * 5]}, "missing or negative"),
        ({"bvals": BVALS / 1000}, "looks like ms/um2; write b-values in s/mm2"),
        ({"bvecs": BVECS * (np.arange(8) != 4)[:, None]}, "volume 4 .* has no direction"),
        ({"bvals": [1000.0] * 8, "bvecs": np.vstack([SIX, SIX[:2]])}, "has no b0 volume"),
        ({"bvals": BVALS + 60, "bvecs": np.vstack([SIX, SIX[:2]])}, "--b0-threshold 60"),
        ({"shape": (20, 20, 10), "bvals": "900", "bvecs": "0\n0\n1"}, "only one volume"),
        ({"shape": (20, 20, 10), "bvals": None, "bvecs": None}, "only one volume"),
        ({"shape": (20, 20, 1, 8)}, "20 x 20 x 1 x 8 voxels; at least 8 along each axis"),
        ({"shape": (20, 20)}, "the image is not a volume"),
    ],
)
def test_a_run_that_cannot_be_used(dataset, files, word):
    dataset(**files)
    runs, errors, _ = said(dataset)
    assert runs == []
    assert len(errors) == 1
    assert errors[0].split(": ")[0].endswith("sub-01_dwi.nii.gz")
    assert re.search(word, errors[0])


@pytest.mark.parametrize(
    ("files", "tensor", "word"),
    [
        ({"bvecs": TURNED}, True, "three columns instead of the three rows of FSL's format"),
        ({"bvecs": BVECS * 2}, True, "lengths from 2 to 2, not 1; they are normalised"),
        (
            {"bvecs": BVECS[[0, 1, 2, 3, 4, 2, 3, 4]]},
            False,
            "3 different directions, but a tensor",
        ),
        ({"bvecs": -BVECS[[0, 1, 2, 2, 2, 2, 2, 2]]}, False, "1 direction, but a tensor needs 6"),
        (
            {"bvecs": np.outer(np.arange(8) > 1, [1, 0, 0]) + [[0, k % 7, 0] for k in range(8)]},
            False,
            "lie in a plane",
        ),
        ({"sidecar": {"TotalReadoutTime": 0.05}}, True, "has no PhaseEncodingDirection"),
        ({"sidecar": {"PhaseEncodingAxis": "j"}}, True, "'j' but no PhaseEncodingDirection"),
        ({"sidecar": {"PhaseEncodingDirection": "AP"}}, True, "is 'AP'; it must be i, j or k"),
    ],
)
def test_a_run_that_has_to_do_without_something(dataset, files, tensor, word):
    dataset(**files)
    (run,), errors, warnings = said(dataset)
    assert errors == []
    assert run.fits_tensor is tensor
    assert any(word in warning for warning in warnings)
    assert sum("PhaseEncoding" not in warning for warning in warnings) <= 2


@pytest.mark.parametrize(
    "files",
    [
        {"bvals": np.zeros(8), "bvecs": np.zeros((8, 3))},
        {"bvals": np.full(8, 50.0), "bvecs": None},
        {"shape": (20, 20, 10), "bvals": "0", "bvecs": None},
    ],
)
def test_b0_volumes_alone_are_no_run_but_serve_others(dataset, files):
    dataset(**files)
    runs, errors, (warning,) = said(dataset)
    assert (runs, errors) == ([], [])
    assert "no volume is diffusion-weighted" in warning
    assert check_dwi(dataset.subject()).unusable == set()


def test_the_threshold_of_b0(dataset):
    dataset(bvals=[0, 100, *[1000] * 6], bvecs=np.vstack([np.zeros(3), SIX[0], SIX]))
    assert [len(shell.volumes) for shell in said(dataset)[0][0].shells] == [1, 1, 6]
    assert [len(s.volumes) for s in said(dataset, b0_threshold=100)[0][0].shells] == [2, 6]


@pytest.mark.parametrize(
    ("sidecar", "seconds"),
    [
        ({"TotalReadoutTime": 0.04, "EffectiveEchoSpacing": 0.5}, 0.04),
        ({"PhaseEncodingDirection": "j", "EffectiveEchoSpacing": 0.001}, 0.019),
        ({"PhaseEncodingAxis": "j", "EffectiveEchoSpacing": 0.001, "ReconMatrixPE": 31}, 0.03),
        ({"EstimatedTotalReadoutTime": 0.03}, 0.03),
        ({"TotalReadoutTime": "n/a"}, None),
    ],
)
def test_readout_time(dataset, sidecar, seconds):
    dataset(sidecar=sidecar)
    found = said(dataset)[0][0].readout_time
    assert found == (seconds if seconds is None else pytest.approx(seconds))


# --- volumes without an image --------------------------------------------------------------


def write_heads(dataset, spoil, n_weighted=12):
    """Write a run of two b0 and some weighted volumes of a ball, some of them spoilt."""
    rng = np.random.default_rng(5)
    centre = np.array([9.5, 9.5, 4.5])[:, None, None, None]
    ball = np.linalg.norm((np.indices((20, 20, 10)) - centre), axis=0) < 6
    gain = np.array([900.0] * 2 + [300.0] * n_weighted)
    data = ball[..., None] * gain + np.abs(rng.normal(0, 8, (20, 20, 10, gain.size)))
    spoil(data)
    directions = np.vstack([np.zeros((2, 3)), SIX, SIX[:, ::-1]])[: gain.size]
    dataset(bvals=[0, 0] + [1000] * n_weighted, bvecs=directions, shape=data.shape)
    path = dataset.folder / "sub-01_dwi.nii.gz"
    nb.Nifti1Image(data.astype(np.int16), AFFINE).to_filename(path)


def test_empty_volumes_are_left_out_with_their_gradients(dataset):
    def spoil(data):
        data[..., [1, 4, 13]] = 0

    write_heads(dataset, spoil)
    (run,), errors, warnings = said(dataset)
    assert not errors
    assert run.unusable_volumes == (1, 4, 13)
    assert run.n_volumes == 11
    assert [len(shell.volumes) for shell in run.shells] == [1, 10]
    assert run.bvals == (0.0, *[1000.0] * 10)
    assert any("volumes 1, 4, 13 (counted from 0) are empty; left out" in w for w in warnings)


def test_a_noisy_or_scaled_volume_is_compared_with_those_of_its_shell(dataset):
    def spoil(data):
        data[..., 5] = np.abs(np.random.default_rng(2).normal(0, 8, data.shape[:3]))
        data[..., 9] *= 20

    write_heads(dataset, spoil)
    (run,), _, warnings = said(dataset)
    assert run.unusable_volumes == (5, 9)
    assert any("volume 5 (counted from 0) is without a head" in w for w in warnings)
    assert any("volume 9 (counted from 0) is of another scale" in w for w in warnings)


def test_directions_that_are_left_decide_about_the_tensor(dataset):
    def spoil(data):
        data[..., 3:] = 0

    write_heads(dataset, spoil)
    (run,), _, warnings = said(dataset)
    assert (run.n_directions, run.fits_tensor) == (1, False)
    assert any("the run has 1 direction, but a tensor needs 6" in w for w in warnings)


def test_a_run_whose_b0_volumes_are_all_empty_is_skipped(dataset):
    def spoil(data):
        data[..., :2] = 0

    write_heads(dataset, spoil)
    runs, errors, _ = said(dataset)
    assert not runs
    assert "no b0 volume" in errors[0]


def test_b_values_without_shells_are_named(dataset):
    bvals = np.array([0.0, *(160.0 * n for n in range(1, 8) for _ in range(6))])
    dataset(bvals=bvals, bvecs=np.vstack([np.zeros((1, 3)), *[SIX] * 7]), shape=(20, 20, 10, 43))
    (run,), _, warnings = said(dataset)
    assert run.no_shells == "the b-values form no shells: 7 different ones from 160 to 1120 s/mm2"
    assert any("kurtosis and spherical deconvolution, are left out" in w for w in warnings)
