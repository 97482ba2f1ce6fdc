"""Gradients: reading, normalisation, conversion to world axes and back, as in MRtrix."""

import shutil
import subprocess

import nibabel as nb
import numpy as np
import pytest

from neuroferry.errors import GeometryError, InputError
from neuroferry.interfaces.dwi.gradients import (
    Gradients,
    determine_tensor,
    find_shells,
    fsl_to_world,
    read_gradients,
    world_to_fsl,
    write_gradients,
)

BVALS = np.array([0.0, 1000, 1000, 1000, 1000])


def directions(count, seed=1):
    """Draw random unit vectors, shape (count, 3)."""
    vectors = np.random.default_rng(seed).normal(size=(count, 3))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def turned(angles=(20, -10, 35)):
    """Make a rotation as a 3 x 3 matrix."""
    from scipy.spatial.transform import Rotation

    return Rotation.from_euler("xyz", angles, degrees=True).as_matrix()


def grid(signs=(1, 1, 1), rotation=None, order=(0, 1, 2)):
    """Make an affine of anisotropic voxels with flipped, permuted and oblique axes."""
    affine = np.eye(4)
    axes = np.eye(3) if rotation is None else rotation
    affine[:3, :3] = (axes @ np.diag(signs))[:, list(order)] @ np.diag([2.0, 2.5, 3.0])
    affine[:3, 3] = [-10, 5, 7]
    return affine


GRIDS = {
    "plain, determinant above 0": grid(),
    "radiological, determinant below 0": grid((-1, 1, 1)),
    "oblique, determinant above 0": grid(rotation=turned()),
    "oblique, determinant below 0": grid((-1, 1, 1), turned()),
    "all flipped": grid((-1, -1, -1), turned((5, 5, 5))),
    "sagittal": grid((1, -1, 1), turned((3, -4, 2)), (1, 2, 0)),
    "coronal": grid((-1, 1, 1), turned((3, -4, 2)), (0, 2, 1)),
}


def write(folder, bvals, bvecs):
    """Write the two files as given."""
    np.savetxt(folder / "x.bval", np.atleast_2d(bvals), fmt="%g")
    np.savetxt(folder / "x.bvec", np.asarray(bvecs).T, fmt="%.8f")
    return folder / "x.bval", folder / "x.bvec"


@pytest.mark.skipif(shutil.which("mrinfo") is None, reason="MRtrix3 is not installed")
@pytest.mark.parametrize("affine", GRIDS.values(), ids=GRIDS.keys())
def test_directions_are_those_of_mrtrix(tmp_path, affine):
    vectors = np.vstack([np.zeros(3), directions(4)])
    bval, bvec = write(tmp_path, BVALS, vectors)
    image = tmp_path / "x.nii.gz"
    nb.Nifti1Image(np.ones((8, 9, 10, 5), np.int16), affine).to_filename(image)
    table = tmp_path / "table.b"
    subprocess.run(
        ["mrinfo", image, "-fslgrad", bvec, bval, "-export_grad_mrtrix", table, "-quiet"],
        check=True,
    )
    theirs = np.loadtxt(table)
    ours = read_gradients(bval, bvec, affine)
    np.testing.assert_allclose(ours.bvecs, theirs[:, :3], atol=2e-6)
    np.testing.assert_allclose(ours.bvals, theirs[:, 3], atol=1e-2)


@pytest.mark.parametrize("affine", GRIDS.values(), ids=GRIDS.keys())
def test_the_way_there_and_back(tmp_path, affine):
    vectors = directions(6)
    np.testing.assert_allclose(world_to_fsl(fsl_to_world(vectors, affine), affine), vectors)
    gradients = Gradients(np.array([0, 700.5, 1000]), np.vstack([np.zeros(3), vectors[:2]]))
    written = write_gradients(gradients, affine, tmp_path / "y.bval", tmp_path / "y.bvec")
    again = read_gradients(*written, affine)
    np.testing.assert_allclose(again.bvecs, gradients.bvecs, atol=3e-8)
    assert again.bvals.tolist() == gradients.bvals.tolist()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["y.bval", "y.bvec"]
    assert (tmp_path / "y.bval").read_text() == "0 700.5 1000\n"


def test_a_sheared_affine_still_gives_unit_vectors():
    affine = grid()
    affine[0, 1] = 0.4
    lengths = np.linalg.norm(fsl_to_world(directions(5), affine), axis=1)
    np.testing.assert_allclose(lengths, 1)
    with pytest.raises(GeometryError, match="cannot be inverted"):
        fsl_to_world(directions(5), np.zeros((4, 4)))


def test_near_zero_shells_count_as_b0(tmp_path):
    bvals = [0, 2000, 2, 2]
    bval, bvec = write(tmp_path, bvals, directions(4))
    gradients = read_gradients(bval, bvec, np.eye(4))
    assert gradients.b0s.tolist() == [True, False, True, True]
    assert gradients.bvals.tolist() == bvals
    assert np.linalg.norm(gradients.bvecs, axis=1).round(6).tolist() == [0, 1, 0, 0]
    assert [(shell.b, shell.volumes) for shell in gradients.shells] == [
        (0.0, (0, 2, 3)),
        (2000.0, (1,)),
    ]
    assert gradients.shells[0].is_b0
    assert gradients.n_directions == 1
    assert not read_gradients(bval, bvec, np.eye(4), b0_threshold=1).b0s[2]


def test_shells():
    assert find_shells([]) == ()
    assert [shell.b for shell in find_shells([5, 300, 990, 1005, 2010, 3000])] == [
        *(0.0, 300.0, 998.0, 2010.0, 3000.0)
    ]
    assert [shell.b for shell in find_shells([700, 2000])] == [700.0, 2000.0]


@pytest.mark.parametrize(
    ("bvals", "lengths", "expected", "word"),
    [
        ([0, 2000, 2000], [0, 1, 0.9995], [0, 2000, 2000], None),  # digits
        ([0, 2000, 2000], [0, 1, 0.5**0.5], [0, 2000, 1000], "squared length"),
        ([0, 1000, 2000], [0, 0.5**0.5, 1], [0, 1000, 2000], "used as written"),
        ([0, 1000, 1000], [0, 3, 3], [0, 1000, 1000], "used as written"),
        ([0, 1000, 1000], [0, 0.5, 0.5], [0, 1000, 1000], "used as written"),
        ([0, 2000, 2000], [0, 1, 0.1], [0, 2000, 20], "squared length"),  # one becomes b0
    ],
)
def test_lengths_other_than_one(bvals, lengths, expected, word):
    from neuroferry.bids.gradients import settle_gradients

    vectors = directions(3) * np.array(lengths)[:, None]
    settled, unit, notes = settle_gradients(np.array(bvals, float), vectors)
    np.testing.assert_allclose(settled, expected, rtol=1e-6)
    assert set(np.linalg.norm(unit, axis=1).round(9)) <= {0.0, 1.0}
    assert (np.linalg.norm(unit, axis=1) > 0.5).tolist() == (settled > 50).tolist()
    assert [word in note for note in notes] == ([True] if word else [])


def test_files_in_other_shapes(tmp_path):
    from neuroferry.bids.gradients import read_bvals, read_bvecs

    vectors = directions(5)
    (tmp_path / "column.bval").write_text("0\n1000\n1000\n\n")
    assert read_bvals(tmp_path / "column.bval").tolist() == [0, 1000, 1000]
    np.savetxt(tmp_path / "turned.bvec", vectors, delimiter=",")
    found, (note,) = read_bvecs(tmp_path / "turned.bvec")
    np.testing.assert_allclose(found, vectors)
    assert "three columns instead of the three rows of FSL's format" in note


@pytest.mark.parametrize(
    ("bval", "bvec", "words"),
    [
        ("0 1000", "0 1\n0 0\n0", "3 rows of 2, 2, 1 numbers"),
        ("0 1000", "0 1\n0 0", "2 rows of 2, 2 numbers"),
        ("0 1000", "0 1 1\n0 0 0\n0 0 0", "2 b-values and 3 directions"),
        ("0 1000\n0 1000", "0 1\n0 0\n0 0", "has 2 rows"),
        ("0 abc", "0 1\n0 0\n0 0", "has a value that is not a number in line 1"),
        ("", "0 1\n0 0\n0 0", "is empty"),
        ("0 nan", "0 1\n0 0\n0 0", "volume 1 .counted from 0. is missing or negative"),
        ("0 -5", "0 1\n0 0\n0 0", "missing or negative"),
        ("0 1", "0 1\n0 0\n0 0", "looks like ms/um2; write b-values in s/mm2 .1000."),
        ("0 1000", "0 nan\n0 0\n0 0", "volume 1 .counted from 0. is not a number"),
        ("0 1000", "0 0\n0 0\n0 0", "has no direction"),
    ],
)
def test_what_cannot_be_read(tmp_path, bval, bvec, words):
    (tmp_path / "x.bval").write_text(bval)
    (tmp_path / "x.bvec").write_text(bvec)
    with pytest.raises(InputError, match=words) as caught:
        read_gradients(tmp_path / "x.bval", tmp_path / "x.bvec", np.eye(4))
    assert "x.b" in str(caught.value)
    with pytest.raises(InputError, match="cannot be read"):
        read_gradients(tmp_path / "none.bval", tmp_path / "x.bvec", np.eye(4))


def test_a_direction_that_b0_volumes_lack_is_no_matter(tmp_path):
    bval, bvec = write(tmp_path, [0, 1000], [[np.nan] * 3, [0, 0, 1]])
    assert read_gradients(bval, bvec, np.eye(4)).bvecs.tolist() == [[0, 0, 0], [0, 0, 1]]


def test_what_a_tensor_takes():
    golden = (1 + 5**0.5) / 2
    ring = np.array([[0, 1, golden], [0, 1, -golden]]) / np.hypot(1, golden)
    six = np.vstack([np.roll(ring, shift, axis=1) for shift in range(3)])
    assert determine_tensor(six)
    assert determine_tensor(np.vstack([np.zeros(3), six]))
    assert not determine_tensor(six[:5])
    assert not determine_tensor(np.vstack([six[:5], -six[:5]]))
    azimuth = np.arange(12) * np.pi / 6
    cone = np.stack([np.cos(azimuth), np.sin(azimuth), np.ones(12)], axis=1) / 2**0.5
    assert not determine_tensor(cone)
