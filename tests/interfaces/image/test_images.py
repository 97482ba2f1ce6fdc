import gzip
import hashlib

import nibabel as nb
import numpy as np
import pytest

from neuroferry.errors import GeometryError, InputError
from neuroferry.interfaces.image.images import (
    Volume,
    crop_to,
    load_mask,
    load_volume,
    resample_isotropic,
    save_nifti,
    to_canonical,
    voxel_sizes,
    world_grid,
)

OBLIQUE = np.array(
    [
        [0.0, -1.2, 0.3, 10.0],
        [0.9, 0.0, 0.0, -20.0],
        [0.0, 0.4, 1.6, 5.0],
        [0.0, 0.0, 0.0, 1.0],
    ]
)


@pytest.fixture
def image():
    return np.random.default_rng(0).uniform(1, 9, (9, 10, 11)).astype(np.float32)


def write(tmp_path, data, affine=None):
    path = tmp_path / "image.nii.gz"
    nb.Nifti1Image(data, np.eye(4) if affine is None else affine).to_filename(path)
    return path


def test_saved_bytes_repeat_and_name_no_file(tmp_path, image):
    digests = set()
    for name in ("one.nii.gz", "another.nii.gz"):
        raw = save_nifti(image, OBLIQUE, tmp_path / name).read_bytes()
        assert raw[3] & 0b1000 == 0, "a gzip file name was stored"
        assert raw[4:8] == b"\0\0\0\0", "a gzip time was stored"
        digests.add(hashlib.sha1(raw).hexdigest())
    assert len(digests) == 1


def test_saved_header_says_the_same_everywhere(tmp_path, image):
    affine = np.diag([1.5, 2.0, 2.5, 1.0])
    header = nb.Nifti1Header()
    header["sform_code"] = 4
    saved = nb.load(save_nifti(image, affine, tmp_path / "x.nii.gz", header=header))
    sform, sform_code = saved.header.get_sform(coded=True)
    qform, qform_code = saved.header.get_qform(coded=True)
    assert sform_code == qform_code == 4
    np.testing.assert_allclose(sform, affine)
    np.testing.assert_allclose(qform, affine, atol=1e-6)
    assert saved.header.get_zooms() == (1.5, 2.0, 2.5)
    assert saved.header.get_xyzt_units()[0] == "mm"
    np.testing.assert_array_equal(np.asanyarray(saved.dataobj), image)


def test_failed_writing_leaves_nothing(tmp_path, image, monkeypatch):
    monkeypatch.setattr(gzip.GzipFile, "write", lambda *_: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(OSError, match="full"):
        save_nifti(image, np.eye(4), tmp_path / "x.nii.gz")
    assert list(tmp_path.iterdir()) == []


def test_integers_are_rounded_not_cut(tmp_path):
    data = np.full((8, 8, 8), 2.7, dtype=np.float32)
    saved = nb.load(save_nifti(data, np.eye(4), tmp_path / "x.nii.gz", dtype=np.uint8))
    assert np.unique(np.asanyarray(saved.dataobj)).tolist() == [3]


@pytest.mark.parametrize(
    ("spoil", "error", "words"),
    [
        (lambda d: np.full_like(d, np.nan), InputError, "NaN"),
        (lambda d: np.full_like(d, 7.0), InputError, "constant"),
        (np.zeros_like, InputError, "constant"),
        (lambda d: np.stack([d, d], axis=-1), GeometryError, "three-dimensional"),
        (lambda d: d[:4], GeometryError, "voxels"),
    ],
)
def test_useless_images_are_refused(tmp_path, image, spoil, error, words):
    with pytest.raises(error, match=words):
        load_volume(write(tmp_path, spoil(image)))


def test_truncated_file_is_refused(tmp_path, image):
    path = write(tmp_path, image)
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(InputError, match="truncated"):
        load_volume(path)


def test_trailing_axis_of_one_is_dropped(tmp_path, image):
    assert load_volume(write(tmp_path, image[..., None])).shape == image.shape


def test_canonical_keeps_each_voxel_in_its_place(image):
    volume = to_canonical(Volume(image, OBLIQUE))
    assert nb.aff2axcodes(volume.affine) == ("R", "A", "S")
    for index in ((0, 0, 0), (3, 4, 5), (8, 9, 10)):
        world = OBLIQUE @ [*index, 1]
        back = np.linalg.inv(volume.affine) @ world
        assert volume.data[tuple(np.rint(back[:3]).astype(int))] == image[index]


def test_world_grid_covers_an_oblique_field_of_view():
    shape, affine = world_grid(OBLIQUE, (9, 10, 11), 1.5)
    assert np.count_nonzero(affine[:3, :3] - np.diag([1.5] * 3)) == 0
    corners = np.array(np.meshgrid((0, 8), (0, 9), (0, 10))).reshape(3, -1)
    index = np.linalg.inv(affine) @ np.vstack([(OBLIQUE @ np.vstack([corners, np.ones(8)]))])
    assert (index[:3] > -0.51).all()
    assert (np.array(shape) - 0.49 > index[:3].T).all()


def test_isotropic_resampling_keeps_a_ramp():
    shape, affine = (20, 22, 24), np.diag([1.0, 1.2, 0.8, 1.0])
    index = np.indices(shape).reshape(3, -1)
    ramp = (affine[:3, :3] @ index)[0].reshape(shape).astype(np.float32)
    coarse = resample_isotropic(Volume(ramp, affine), 2.0)
    np.testing.assert_allclose(coarse.zooms, 2.0)
    inner = coarse.data[3:-3, 3:-3, 3:-3]
    steps = np.diff(inner, axis=0)
    np.testing.assert_allclose(steps, 2.0, atol=0.02)


def test_crop_keeps_the_world():
    mask = np.zeros((20, 20, 20), dtype=bool)
    mask[5:8, 6:9, 7:10] = True
    box, affine = crop_to(mask, OBLIQUE, 1.0)
    start = [s.start for s in box]
    np.testing.assert_allclose(affine @ [0, 0, 0, 1], OBLIQUE @ [*start, 1])
    assert mask[box].sum() == mask.sum()
    assert all(s.stop - s.start < 20 for s in box)


def test_mask_on_another_grid_is_refused(tmp_path, image):
    path = write(tmp_path, np.ones((9, 10, 12), dtype=np.uint8))
    with pytest.raises(GeometryError, match="a different grid"):
        load_mask(path, Volume(image, np.eye(4)))
    path = write(tmp_path, np.zeros((9, 10, 11), dtype=np.uint8))
    with pytest.raises(InputError, match="empty"):
        load_mask(path, Volume(image, np.eye(4)))


def test_voxel_sizes_of_an_oblique_grid():
    np.testing.assert_allclose(voxel_sizes(OBLIQUE), [0.9, np.hypot(1.2, 0.4), np.hypot(0.3, 1.6)])
