"""Grids of images that belong together: the same, resampled, or refused."""

import nibabel as nb
import numpy as np
import pytest

from neuroferry.bids.grids import direction_along, fit_onto, reordered, tilt_of
from neuroferry.bids.headers import Grid, same_grid
from neuroferry.errors import GeometryError

SHAPE = (16, 18, 12)
OBLIQUE = nb.affines.from_matvec(nb.eulerangles.euler2mat(0.1, 0.2, -0.3))
AFFINE = OBLIQUE @ np.diag([-2.0, 2.5, 4, 1])
GRID = Grid(SHAPE, AFFINE)


def stored(turn):
    """Return the grid, stored with other axes: pairs of axis and direction."""
    ornt = np.array(turn, float)
    shape = tuple(SHAPE[int(axis)] for axis in np.argsort(ornt[:, 0]))
    return Grid(shape, AFFINE @ nb.orientations.inv_ornt_aff(ornt, SHAPE))


@pytest.mark.parametrize(
    "turn",
    [
        [(0, 1), (1, 1), (2, 1)],
        [(0, -1), (1, 1), (2, 1)],
        [(2, 1), (0, -1), (1, 1)],
        [(1, -1), (2, -1), (0, -1)],
    ],
)
def test_other_orders_of_storage_are_the_same(turn):
    other = stored(turn)
    assert fit_onto(other, GRID) == "same"
    assert same_grid(reordered(other, GRID), GRID, tolerance_mm=1e-6)
    assert tilt_of(other.affine, AFFINE) < 1e-6


@pytest.mark.parametrize(("mm", "fits"), [(0.05, True), (0.4, True), (0.8, False), (9, False)])
def test_small_distances_are_rounding(mm, fits):
    moved = Grid(SHAPE, np.eye(4) * 1.0 @ AFFINE + np.eye(4, k=3) * mm)
    if fits:
        assert fit_onto(moved, GRID) == "same"
    else:
        with pytest.raises(GeometryError, match=f"voxels up to {mm:g} mm apart"):
            fit_onto(moved, GRID)


def test_another_resolution_or_number_of_slices_is_resampled():
    assert fit_onto(Grid((8, 9, 6), AFFINE @ np.diag([2.0, 2, 2, 1])), GRID) == "resampled"
    assert fit_onto(Grid((32, 36, 24), AFFINE @ np.diag([0.5, 0.5, 0.5, 1])), GRID) == "resampled"
    assert fit_onto(Grid((16, 18, 14), AFFINE), GRID) == "resampled"
    with pytest.raises(GeometryError, match="covers only 58 % of the other"):
        fit_onto(Grid((16, 18, 7), AFFINE), GRID)
    turned = nb.affines.from_matvec(nb.eulerangles.euler2mat(x=0.3))
    with pytest.raises(GeometryError, match="tilted"):
        fit_onto(Grid((32, 36, 24), turned @ AFFINE @ np.diag([0.5, 0.5, 0.5, 1])), GRID)


def test_directions_keep_their_place_in_space():
    other = stored([(2, 1), (0, -1), (1, 1)])
    for direction in ("i", "i-", "j", "j-", "k", "k-"):
        axis, sign = "ijk".index(direction[0]), -1 if direction.endswith("-") else 1
        there = sign * np.asarray(other.affine)[:3, axis]
        found = direction_along(direction, other.affine, AFFINE)
        here = AFFINE[:3, "ijk".index(found[0])] * (-1 if found.endswith("-") else 1)
        np.testing.assert_allclose(
            there / np.linalg.norm(there), here / np.linalg.norm(here), atol=1e-6
        )
