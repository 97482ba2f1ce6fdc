"""Reading of headers, including damaged ones, and comparison of grids."""

import dataclasses
import gzip

import nibabel as nb
import numpy as np
import pytest

from neuroferry.bids.headers import (
    SAME_VOXELS_MM,
    Grid,
    check_same_grid,
    grid_difference,
    image_grid,
    image_shape,
    read_header,
    reading_image,
    same_axes,
    same_grid,
)
from neuroferry.errors import GeometryError, InputError

AFFINE = np.array([[-2.0, 0, 0, 60], [0, 2, 0, -50], [0, 0, 3, -40], [0, 0, 0, 1]])


def save_series(path, unit="sec", tr=1.5, affine=AFFINE, shape=(9, 8, 7, 4)):
    image = nb.Nifti1Image(np.zeros(shape, np.int16), affine)
    image.header.set_zooms((*image.header.get_zooms()[:3], tr)[: len(shape)])
    image.header.set_xyzt_units("mm", unit)
    image.to_filename(path)
    return path


@pytest.mark.parametrize(("unit", "tr"), [("sec", 1.5), ("msec", 1500.0), ("unknown", 1.5)])
def test_facts(tmp_path, unit, tr):
    path = save_series(tmp_path / "a.nii.gz", unit, tr)
    facts = read_header(path)
    assert (facts.shape, facts.volume_shape, facts.n_volumes) == ((9, 8, 7, 4), (9, 8, 7), 4)
    assert facts.voxel_size == (2.0, 2.0, 3.0)
    assert facts.tr == pytest.approx(1.5)
    assert (facts.axes, facts.dtype) == ("LAS", "int16")
    assert facts.units == ("mm", unit)
    assert np.array_equal(facts.affine, AFFINE)
    assert image_grid(path) == ((9, 8, 7), (2.0, 2.0, 3.0))
    assert image_shape(path) == (9, 8, 7)
    with pytest.raises(dataclasses.FrozenInstanceError):
        facts.tr = 2.0  # type: ignore[misc]
    assert hash(facts) == hash(read_header(path))


def test_a_volume_has_no_repetition_time(tmp_path):
    facts = read_header(save_series(tmp_path / "a.nii", shape=(9, 8, 7)))
    assert (facts.tr, facts.n_volumes, facts.volume_shape) == (0.0, 1, (9, 8, 7))


def test_files_that_are_no_image(tmp_path):
    sound = save_series(tmp_path / "sound.nii").read_bytes()
    nb.MGHImage(np.zeros((9, 9, 9), np.float32), AFFINE).to_filename(tmp_path / "a.mgz")
    files = {
        "empty.nii.gz": (b"", "is empty"),
        "text.nii.gz": (b"not compressed", "is not compressed with gzip"),
        "text.nii": (b"x" * 400, "no NIfTI magic number"),
        "short.nii": (sound[:200], "the file has 200 bytes"),
        "cut.nii.gz": (gzip.compress(sound)[:60], "is truncated or damaged"),
        "zlib.nii.gz": (gzip.compress(b"x")[:10] + b"\xff" * 60, "is truncated or damaged"),
        "freesurfer.nii.gz": ((tmp_path / "a.mgz").read_bytes(), "no readable NIfTI header"),
        "missing.nii": (None, "No such file"),
    }
    for name, (content, reason) in files.items():
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=f"/{name} .*{reason}") as caught:
            read_header(tmp_path / name)
        assert "\n" not in str(caught.value)


def test_whatever_bytes_a_header_has_it_is_read_or_refused(tmp_path):
    """Each byte of the header takes odd values; only InputError may be raised."""
    sound = bytearray(save_series(tmp_path / "sound.nii").read_bytes())
    path = tmp_path / "odd.nii"
    refused = []
    for place in range(348):
        for value in (0, 127, 128, 255):
            odd = bytearray(sound)
            odd[place] = value
            path.write_bytes(odd)
            try:
                read_header(path)
                with reading_image(path):
                    np.asanyarray(nb.load(path).dataobj)
            except InputError as error:
                refused.append(str(error))
    assert len(refused) > 20
    assert all(str(path) in message for message in refused)


def turned(degrees):
    """Rotate the grid about the third axis."""
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    turn = np.array([[c, -s, 0, 0], [s, c, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    return turn @ AFFINE


def test_same_grid_is_a_distance_in_millimetres():
    shape = (64, 64, 30)
    own = Grid(shape, AFFINE)
    for apart in (0.05, 0.0999):
        assert same_grid(own, Grid(shape, AFFINE + _shift(apart)))
    assert not same_grid(own, Grid(shape, AFFINE + _shift(0.11)))
    assert not same_grid(own, Grid(shape, AFFINE + _shift(0.01)), tolerance_mm=SAME_VOXELS_MM)
    # the farthest corner lies at (-66, 76), 100.7 mm from the axis
    assert same_grid(own, Grid(shape, turned(np.degrees(0.09 / 100.7))))
    assert not same_grid(own, Grid(shape, turned(np.degrees(0.11 / 100.7))))
    assert same_grid(Grid((*shape, 5), AFFINE), own)
    assert not same_grid(own, Grid(shape, np.full((4, 4), np.nan)))
    assert "64 x 64 x 30 and 64 x 64 x 31 voxels" in grid_difference(
        own, Grid((64, 64, 31), AFFINE)
    )


def _shift(apart):
    shift = np.zeros((4, 4))
    shift[1, 3] = apart
    return shift


def test_a_quaternion_in_single_precision_stays_on_its_grid(tmp_path):
    """sform and qform of one image, near half a turn, where the quaternion is least precise."""
    worst = 0.0
    for degrees in np.linspace(179.9, 180.1, 41):
        affine = turned(degrees) @ np.diag([1, 1, 0.7, 1])
        header = nb.Nifti1Header()
        header.set_data_shape((128, 128, 60))
        header.set_sform(affine, 1)
        header.set_qform(affine, 1)
        one, two = (
            Grid((128, 128, 60), form) for form in (header.get_sform(), header.get_qform())
        )
        assert same_grid(one, two)
        worst = max(worst, np.abs(np.subtract(one.affine, two.affine)).max())
    assert worst > 0


def test_the_refusal_names_both_and_says_what_to_do():
    own, other = Grid((9, 9, 9), AFFINE), Grid((9, 9, 9), AFFINE + _shift(4.0))
    check_same_grid(("a.nii", own), ("b.nii", own))
    message = (
        r"^b\.nii is on a different grid from a\.nii \(voxels up to 4 mm apart\); check that they"
    )
    with pytest.raises(GeometryError, match=message):
        check_same_grid(("a.nii", own), ("b.nii", other))
    with pytest.raises(
        GeometryError, match=r"^The mask is on a different grid from .*; convert it again\.$"
    ):
        check_same_grid(("a.nii", own), ("the mask", other), then="convert it again")


def test_axes_may_turn_a_little():
    assert same_axes(AFFINE, turned(1))
    assert not same_axes(AFFINE, turned(2))
