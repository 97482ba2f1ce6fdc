import numpy as np
import pytest
from scipy import ndimage

from neuroferry.interfaces.image.affine import (
    AFFINE,
    N_BINS,
    RIGID,
    SamplePoints,
    compose,
    moving_image,
    mutual_information,
    refine,
    sample_points,
)
from neuroferry.interfaces.image.images import Volume, inverse
from neuroferry.interfaces.image.transforms import apply_transforms

AFFINE_3MM = np.diag([3.0, 3.0, 3.0, 1.0])


@pytest.fixture(scope="module")
def scene():
    rng = np.random.default_rng(2)
    data = ndimage.gaussian_filter(rng.normal(size=(40, 42, 38)), 3.0)
    data = (data - data.min()) / np.ptp(data)
    return Volume(data.astype(np.float32), AFFINE_3MM)


def test_information_of_an_image_with_itself_is_its_entropy(scene):
    mask = np.ones(scene.shape, dtype=bool)
    points = sample_points(scene, mask, 3.0)
    values = points.bins.astype(np.float32)
    # An image that contains exactly the classes, one sample per voxel.
    line = Volume(values.reshape(-1, 1, 1) + np.zeros((1, 2, 2), np.float32), np.eye(4))
    world = np.zeros((3, values.size))
    world[0] = np.arange(values.size)
    exact = SamplePoints(world, points.bins, np.zeros(3))
    image = moving_image(line, 1.0)
    image = type(image)(line.data, image.to_voxels)
    p = np.bincount(points.bins, minlength=N_BINS) / values.size
    entropy = -np.sum(p[p > 0] * np.log(p[p > 0]))
    assert mutual_information(exact, image, np.eye(4)) == pytest.approx(entropy, rel=1e-9)


def test_information_is_blind_to_inverted_contrast(scene):
    mask = np.ones(scene.shape, dtype=bool)
    points = sample_points(scene, mask, 3.0)
    inverted = scene.with_data(1.001 - scene.data)
    straight = mutual_information(points, moving_image(scene, 3.0), np.eye(4))
    upside_down = mutual_information(points, moving_image(inverted, 3.0), np.eye(4))
    assert upside_down == pytest.approx(straight, rel=0.2)
    shifted = np.eye(4)
    shifted[:3, 3] = 12.0
    assert mutual_information(points, moving_image(scene, 3.0), shifted) < 0.4 * straight


def test_compose_is_a_rotation_about_its_centre():
    centre = np.array([10.0, -5.0, 3.0])
    matrix = compose(np.array([0, 0, 0, 0.3, -0.2, 0.5]), centre)
    np.testing.assert_allclose((matrix @ [*centre, 1])[:3], centre)
    np.testing.assert_allclose(matrix[:3, :3] @ matrix[:3, :3].T, np.eye(3), atol=1e-12)
    scaled = compose(np.array([0, 0, 0, 0, 0, 0, np.log(1.2)]), centre)
    assert np.linalg.det(scaled[:3, :3]) == pytest.approx(1.2**3)


@pytest.mark.parametrize("dof", [RIGID, AFFINE])
def test_a_known_transform_is_found(scene, dof):
    parameters = np.array([5.0, -4.0, 3.0, 0.06, -0.05, 0.08, 0.05, -0.04, 0.03, 0.02, 0, 0.01])
    centre = scene.affine[:3, :3] @ (np.array(scene.shape) / 2)
    truth = compose(parameters[:dof], centre)
    moved = apply_transforms(scene, [inverse(truth)], scene.shape, scene.affine, order=3)
    mask = np.zeros(scene.shape, dtype=bool)
    mask[8:-8, 8:-8, 8:-8] = True
    points = sample_points(scene, mask, 4.0)
    found, score = refine(points, moving_image(moved, 3.0), np.eye(4), dof=dof, tolerance=1e-6)
    error = np.linalg.norm(
        ((found - truth) @ np.vstack([points.world, np.ones(points.bins.size)])), axis=0
    )
    assert np.mean(error) < 0.5
    assert score > mutual_information(points, moving_image(moved, 3.0), np.eye(4))


def test_samples_repeat(scene):
    mask = scene.data > 0.4
    one, two = (sample_points(scene, mask, 5.0, seed=4) for _ in range(2))
    np.testing.assert_array_equal(one.world, two.world)
    assert one.thin(100).bins.size <= 2 * 100
