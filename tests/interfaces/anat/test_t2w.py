import numpy as np

from neuroferry.interfaces.anat.t2w import place_t2w
from neuroferry.interfaces.image.affine import compose
from neuroferry.interfaces.image.images import Volume, inverse

SHAPE = (40, 44, 36)
AFFINE = np.diag([4.0, 4.0, 4.0, 1.0])
AFFINE[:3, 3] = -80.0, -88.0, -72.0
# T2w voxels are stored in another orientation
OTHER = AFFINE @ np.array([[0, 0, 1, 0], [-1, 0, 0, 39], [0, 1, 0, 0], [0, 0, 0, 1.0]])


def points_of(shape, affine):
    index = np.indices(shape).reshape(3, -1)
    return affine[:3, :3] @ index + affine[:3, 3:]


def ball(points, radius):
    return (np.sqrt((points**2).sum(axis=0)) < radius).astype(np.float32)


def test_bright_side_and_position_are_corrected():
    matrix = compose(np.array([3.0, -5.0, 2.0, 0.05, -0.03, 0.04]), np.zeros(3))
    shape = (44, 36, 40)
    points = points_of(shape, OTHER)
    head = inverse(matrix)[:3, :3] @ points + inverse(matrix)[:3, 3:]
    field = np.exp(0.004 * points[0])
    data = (100 * (1 + ball(head, 20)) * ball(head, 60) * field).reshape(shape)
    brain = Volume(ball(points_of(SHAPE, AFFINE), 55).reshape(SHAPE), AFFINE)
    found = place_t2w(Volume(data.astype(np.float32), OTHER), brain, matrix)

    assert found.image.shape == SHAPE
    np.testing.assert_array_equal(found.image.affine, AFFINE)
    assert found.image.data.min() >= 0
    here = np.sqrt((points_of(SHAPE, AFFINE) ** 2).sum(axis=0)).reshape(SHAPE)
    inner, outer = found.image.data[here < 12], found.image.data[(here > 30) & (here < 45)]
    np.testing.assert_allclose(inner, np.median(inner), rtol=0.05)
    np.testing.assert_allclose(outer, np.median(outer), rtol=0.05)
    np.testing.assert_allclose(np.median(inner), 2 * np.median(outer), rtol=0.02)
    # as it was, it differed by half from side to side
    assert data[(data > 0)].max() > 1.4 * data[data > 0].min()


def test_a_position_outside_the_image_still_gives_an_image():
    """What a failed registration leaves is judged by its report, not by an error here."""
    data = 100 * ball(points_of(SHAPE, AFFINE), 60).reshape(SHAPE)
    away = compose(np.array([900.0, 0, 0, 0, 0, 0]), np.zeros(3))
    image = Volume(data.astype(np.float32), AFFINE)
    found = place_t2w(image, Volume((data > 0).astype(np.float32), AFFINE), away, sloppy=True)
    assert found.image.data.max() == 0
    np.testing.assert_allclose(found.bias[data > 0], 1, atol=0.05)
