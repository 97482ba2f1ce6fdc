"""Reportlets: orientation, position of the outlines, same bytes every time."""

import base64
import io
import re
from xml.etree import ElementTree as ET

import nibabel as nb
import numpy as np
import pytest
from PIL import Image

from neuroferry.errors import GeometryError
from neuroferry.interfaces.draw import anat as pictures
from neuroferry.interfaces.draw import mosaic, slices
from neuroferry.interfaces.draw.base import SaveFigure

SVG = "{http://www.w3.org/2000/svg}"
SHAPE = (40, 48, 44)


def save(path, data, affine=None, axes=None):
    image = nb.Nifti1Image(data, np.diag([2.0, 2.0, 2.0, 1.0]) if affine is None else affine)
    if axes is not None:
        start = nb.orientations.io_orientation(image.affine)
        wanted = nb.orientations.axcodes2ornt(axes)
        image = image.as_reoriented(nb.orientations.ornt_transform(start, wanted))
    nb.save(image, path)
    return path


def ball(radius, centre=(20, 24, 22)):
    grid = np.indices(SHAPE, dtype=np.float32)
    distance = sum((g - c) ** 2 for g, c in zip(grid, centre, strict=True))
    return distance < radius**2


@pytest.fixture
def head(tmp_path):
    """Make a head, brain and white matter of 16, 12 and 7 voxels radius, brighter on the right."""
    rng = np.random.default_rng(1)
    labels = np.zeros(SHAPE, np.uint8)
    labels[ball(12)] = 1
    labels[ball(7)] = 2
    labels[ball(12) & ~ball(11)] = 3
    image = 300 * ball(16) + 300 * ball(12) + 300 * ball(7)
    field = np.exp(0.02 * (np.arange(SHAPE[0]) - 20))[:, None, None] * np.ones(SHAPE)
    noise = np.hypot(rng.normal(0, 10, SHAPE), rng.normal(0, 10, SHAPE))
    float32 = {
        "pre": image + noise,
        "ref": (image + noise) * field,
        "field": field,
    }
    paths = {k: save(tmp_path / f"{k}.nii.gz", v.astype(np.float32)) for k, v in float32.items()}
    paths["mask"] = save(tmp_path / "mask.nii.gz", ball(12).astype(np.uint8))
    paths["dseg"] = save(tmp_path / "dseg.nii.gz", labels)
    return paths


def rasters(svg):
    found = re.findall(r'href="data:image/webp;base64,([^"]+)"', svg)
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))) for data in found]


def views(svg):
    return [g.get("data-label") for g in ET.fromstring(svg).iter(f"{SVG}g")]


def texts(svg):
    return ["".join(text.itertext()) for text in ET.fromstring(svg).iter(f"{SVG}text")]


def draw_all(head):
    return {
        "conform": pictures.draw_quality(head["ref"]),
        "bias": pictures.draw_bias(head["ref"], head["pre"], head["field"], head["mask"]),
        "brain": pictures.draw_brain(head["ref"], head["mask"]),
        "tissues": pictures.draw_tissues(head["pre"], head["dseg"]),
    }


def test_pictures_repeat_to_the_byte_and_need_nothing_from_outside(head):
    first, second = draw_all(head), draw_all(head)
    assert first == second
    for name, svg in first.items():
        root = ET.fromstring(svg)
        assert root.get("aria-label"), name
        assert {"L", "R", "P", "A"} <= set(texts(svg)), name
        links = re.findall(r'(?:href|src)="([^"]*)"', svg)
        assert links, name
        assert all(link.startswith("data:image/webp;base64,") for link in links), name


def test_each_picture_has_its_views(head):
    svg = draw_all(head)
    assert views(svg["conform"]) == ["Image", "Air around the head, contrast stretched"]
    assert views(svg["bias"]) == ["Before correction", "After correction", "Bias field"]
    assert views(svg["brain"]) == ["Image alone", "Brain mask"]
    assert views(svg["tissues"]) == ["Image alone", "Borders", "Filled in"]


@pytest.mark.parametrize("axes", ["RAS", "LPS", "SAR", "PIL"])
def test_left_of_the_person_is_left_of_the_picture_for_any_orientation(tmp_path, axes):
    data = np.zeros(SHAPE, np.float32)
    data[30:34, 36:40, 34:38] = 1  # right, front, top
    path = save(tmp_path / "a.nii.gz", data, axes=axes)
    volume = slices.load_canonical(path)
    box = slices.whole_box(volume.data.shape)
    for plane, index in ((slices.AXIAL, 36), (slices.CORONAL, 38), (slices.SAGITTAL, 32)):
        tile = slices.cut(volume.data, plane, index, box)
        row, column = (int(np.mean(where)) for where in np.nonzero(tile))
        assert row < tile.shape[0] / 2, plane.name  # front (axial) or top is up
        assert column > tile.shape[1] / 2, plane.name  # right, or front, is to the right


def test_a_bright_spot_on_the_right_is_drawn_on_the_right(tmp_path):
    data = np.zeros(SHAPE, np.float32)
    data[30:36, 36:42, 2:42] = 100
    volume = slices.Volume(data, np.diag([2.0, 2.0, 2.0, 1.0]))
    box = slices.whole_box(SHAPE)
    svg = mosaic.draw_mosaic(
        volume,
        [mosaic.View("Image", mosaic.grey(data, 100))],
        [slices.Row(slices.AXIAL, (20,), 1)],
        box,
        title="t",
        description="d",
    )
    (page,) = rasters(svg)
    body = page[round(mosaic.HEADING * mosaic.PIXELS_PER_UNIT) :, :, 0] > 128
    rows, columns = np.nonzero(body)
    width = page.shape[1]
    assert columns.mean() / width == pytest.approx((33 / 40), abs=0.02)
    assert rows.mean() / (width * 48 / 40) == pytest.approx(1 - 39 / 48, abs=0.02)


def test_outlines_run_half_a_voxel_outside_the_outermost_voxels(tmp_path):
    mask = np.zeros(SHAPE, np.uint8)
    mask[10:20, 12:36, 5:30] = 1
    volume = slices.Volume(mask, np.diag([2.0, 2.0, 2.0, 1.0]))
    svg = mosaic.draw_mosaic(
        volume,
        [mosaic.View("Mask", None, [mosaic.Outline(mask, "red", "mask")])],
        [slices.Row(slices.AXIAL, (20,), 1)],
        slices.whole_box(SHAPE),
        title="t",
        description="d",
    )
    path = re.findall(r' d="(M[^"]+z)"', svg)[0]
    numbers = np.array(re.findall(r"-?\d+", path), dtype=float).reshape(-1, 2)
    points = np.cumsum(numbers, axis=0)
    points /= mosaic.SUBUNIT
    unit = (mosaic.WIDTH - 2 * mosaic.GAP) / SHAPE[0]
    low, high = points.min(axis=0), points.max(axis=0)
    np.testing.assert_allclose(low[0], mosaic.GAP + 10 * unit, atol=0.2)
    np.testing.assert_allclose(high[0], mosaic.GAP + 20 * unit, atol=0.2)
    np.testing.assert_allclose(low[1], mosaic.HEADING + (48 - 36) * unit, atol=0.2)
    np.testing.assert_allclose(high[1], mosaic.HEADING + (48 - 12) * unit, atol=0.2)


def test_an_empty_mask_is_drawn_and_said(head, tmp_path):
    empty = save(tmp_path / "empty.nii.gz", np.zeros(SHAPE, np.uint8))
    svg = pictures.draw_brain(head["ref"], empty)
    assert "brain mask (empty)" in texts(svg)


def test_images_on_two_grids_are_refused_by_name(head, tmp_path):
    other = save(tmp_path / "other.nii.gz", np.ones((5, 6, 7), np.uint8))
    with pytest.raises(
        GeometryError, match=r"brain mask is on a different grid from the image \(5 x 6 x 7"
    ):
        pictures.draw_brain(head["ref"], other)


def test_a_constant_image_is_drawn(tmp_path):
    flat = save(tmp_path / "flat.nii.gz", np.full(SHAPE, 7, np.int16))
    assert "its background is empty" in pictures.draw_quality(flat)


def test_air_level_holds_rayleigh_noise_and_not_the_head():
    rng = np.random.default_rng(0)
    noise = np.hypot(rng.normal(0, 10, SHAPE), rng.normal(0, 10, SHAPE))
    image = np.where(ball(16), 500, noise)
    level = pictures.air_level(image)
    air = image[~ball(16)]
    assert level == pytest.approx(3 * 1.1774 * 10, rel=0.03)
    assert np.mean(air > level) < 0.005
    assert pictures.air_level(np.where(ball(16), 500, 0)) is None


def test_the_scale_of_the_bias_field_does_not_change_its_picture(head, tmp_path):
    # four: so that the product and the quotient are exact
    field = nb.load(head["field"]).get_fdata(dtype=np.float32)
    scaled = save(tmp_path / "scaled.nii.gz", np.float32(4) * field)
    once = pictures.draw_bias(head["ref"], head["pre"], head["field"], head["mask"])
    assert pictures.draw_bias(head["ref"], head["pre"], scaled, head["mask"]) == once


def test_blue_is_where_the_field_darkens_and_orange_where_it_brightens():
    low, one, high = pictures._colours(np.array([0.5, 1.0, 2.0]), 2.0).tolist()
    assert low == [0, 114, 178]
    assert one == [245, 245, 245]
    assert high == [213, 94, 0]


def test_the_template_meets_itself_on_another_grid(tmp_path):
    from neuroferry.templates import load_template

    template = load_template(3)
    brought = pictures.template_on(template.affine, template.t1w.shape)
    inside = template.brain_mask
    assert np.corrcoef(brought["t1w"][inside], template.t1w[inside])[0, 1] > 0.97
    overlap = 2 * (brought["brain"] & inside).sum() / (brought["brain"].sum() + inside.sum())
    assert overlap > 0.98
    path = save(tmp_path / "std.nii.gz", np.asarray(template.t1w), affine=template.affine)
    svg = pictures.draw_normalisation(path)
    assert views(svg) == ["Template", "This participant"]
    template_page, person_page = (page.astype(int) for page in rasters(svg))
    assert np.abs(template_page - person_page).mean() < 8


def test_a_picture_that_lies_there_does_not_make_another_step(tmp_path):
    drawn, place = tmp_path / "drawn.svg", tmp_path / "sub-01_desc-brain_T1w.svg"
    drawn.write_text("<svg/>")
    step = SaveFigure(in_file=str(drawn), out_path=str(place))
    before = step.inputs.get_hashval(hash_method="content")
    place.write_text("<svg/>")
    assert step.inputs.get_hashval(hash_method="content") == before
