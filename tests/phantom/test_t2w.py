import numpy as np
import pytest

from neuroferry.phantom import write_phantom_dataset
from neuroferry.phantom.files import read_affines
from neuroferry.phantom.t2w import t2w_contrast


@pytest.fixture(scope="module")
def subject(tmp_path_factory):
    root = tmp_path_factory.mktemp("t2w") / "bids"
    return write_phantom_dataset(root, subjects=1, resolution=6, seed=5, t2w=True)[0]


def test_fluid_is_bright_and_white_matter_dark():
    contrast = t2w_contrast()
    assert contrast["csf"] > contrast["gm"] > contrast["wm"] == 1.0
    assert contrast["blood"] < 0.2


def centre(path):
    import nibabel as nb

    image = nb.load(path)
    share = np.asarray(image.dataobj)
    index = np.argwhere(share > 0)
    mean = np.average(index, axis=0, weights=share[share > 0])
    return image.affine[:3, :3] @ mean + image.affine[:3, 3]


def test_transform_maps_the_tissues_of_one_image_to_those_of_the_other(subject):
    scan = subject.t2w[0]
    matrix = read_affines(scan.truth["to_t1w"])[0]
    np.testing.assert_allclose(matrix[:3, :3] @ matrix[:3, :3].T, np.eye(3), atol=1e-12)
    for tissue in ("gm", "wm", "csf"):
        there = matrix[:3, :3] @ centre(subject.truth[tissue]) + matrix[:3, 3]
        assert np.linalg.norm(there - centre(scan.truth[tissue])) < 0.4


def test_other_images_do_not_change(subject, tmp_path):
    alone = write_phantom_dataset(tmp_path / "bids", subjects=1, resolution=6, seed=5)[0]
    assert alone.t1w.read_bytes() == subject.t1w.read_bytes()
