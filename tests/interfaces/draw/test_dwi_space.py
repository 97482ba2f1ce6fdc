"""Spatial reportlets of a DWI run, drawn from data with known truth."""

import base64
import io
import re
from xml.etree import ElementTree as ET

import nibabel as nb
import numpy as np
import pytest
from PIL import Image

from neuroferry.errors import GeometryError
from neuroferry.interfaces.draw.dwi_space import (
    DenoisingPicture,
    DirectionsPicture,
    DwiMaskPicture,
    KurtosisPicture,
    TensorPicture,
    draw_denoising,
    draw_directions,
    draw_dwi_mask,
    draw_maps,
)
from neuroferry.interfaces.dwi.tensor_maps import ELEMENTS
from neuroferry.reports.svg import inline_svg

SVG = "{http://www.w3.org/2000/svg}"
SHAPE = (14, 16, 12)
AFFINE = np.diag([-2.0, 2.0, 3.0, 1.0])


def save(path, data, kind=np.float32, affine=AFFINE):
    nb.save(nb.Nifti1Image(np.asarray(data).astype(kind), affine), path)
    return path


def tensors_along(direction, affine=AFFINE):
    """Make the same tensor in every voxel, with its principal direction in world axes."""
    v = np.asarray(direction, float) / np.linalg.norm(direction)
    full = 0.3e-3 * np.eye(3) + 1.4e-3 * np.outer(v, v)
    return np.broadcast_to([full[i, j] for i, j in ELEMENTS], (*SHAPE, 6))


@pytest.fixture
def files(tmp_path):
    rng = np.random.default_rng(3)
    brain = np.zeros(SHAPE, bool)
    brain[2:-2, 2:-2, 2:-2] = True
    colour = np.zeros((*SHAPE, 3))
    colour[:7, ..., 0], colour[7:, ..., 2] = 150, 150
    colour[~brain] = 0
    series = 100 * brain[..., None] * np.array([1.0, 0.5, 0.4]) + rng.normal(0, 1, (*SHAPE, 3))
    noise = np.zeros((*SHAPE, 3))
    noise[..., 2] = rng.normal(0, 2, SHAPE)
    (tmp_path / "bval").write_text("0 1000 2000\n")
    return {
        "mask": save(tmp_path / "mask.nii.gz", brain, np.uint8),
        "dwi_ref": save(tmp_path / "ref.nii.gz", series[..., 0]),
        "fa": save(tmp_path / "fa.nii.gz", 0.8 * brain),
        "md": save(tmp_path / "md.nii.gz", 0.8e-3 * brain),
        "color_fa": save(tmp_path / "colour.nii.gz", colour, np.uint8),
        "tensor": save(tmp_path / "tensor.nii.gz", tensors_along((1, 0, 0))),
        "before": save(tmp_path / "before.nii.gz", series + noise),
        "after": save(tmp_path / "after.nii.gz", series),
        "bval": tmp_path / "bval",
    }


def parse(text):
    root = ET.fromstring(text)
    assert root.tag == f"{SVG}svg"
    assert root.get("aria-label")
    return root


def words(root):
    return [element.text for element in root.iter(f"{SVG}text")]


def pixels(root, n=-1):
    uri = list(root.iter(f"{SVG}image"))[n].get("href")
    image = Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))
    return np.asarray(image.convert("RGB")).astype(int)


def sticks(text):
    """Read the steps of all sticks, shape (N, 2): to the right and down on the page."""
    paths = re.findall(r'<path d="([^"]*)" stroke="rgb', text)
    steps = [step for path in paths for step in re.findall(r"l(-?[\d.]+) (-?[\d.]+)", path)]
    return np.array(steps, float)


def test_mask_is_outlined_over_the_image(files):
    root = parse(draw_dwi_mask(files["dwi_ref"], files["mask"]))
    assert "brain mask" in words(root)
    assert pixels(root).max() > 200


def test_maps_have_a_view_each_and_a_key_to_the_colours(files):
    maps = {"md": files["md"], "fa": files["fa"]}
    text = draw_maps(files["dwi_ref"], files["mask"], maps, files["color_fa"])
    assert text.count('class="nf-view') == 4
    root = parse(text)
    assert {"left\u2013right", "back\u2013front", "below\u2013above"} <= set(words(root))
    grey = pixels(root, 1)
    middle = grey[grey.max(axis=2) > 40]
    assert abs(np.median(middle) - 255 * 0.8 / 3) < 6


def test_colour_fa_lies_where_it_belongs(files):
    """The image's first axis points to the left: its first half is on the right of the picture."""
    picture = pixels(parse(draw_maps(files["dwi_ref"], files["mask"], {}, files["color_fa"])))
    # the fourth of seven slices beside each other
    first = picture[45:200, round(516.6 * 1.5) : round(683.4 * 1.5)]
    half = first.shape[1] // 2
    left, right = first[:, : half - 15], first[:, half + 15 :]
    assert left[..., 2].mean() > 10 * left[..., 0].mean()
    assert right[..., 0].mean() > 10 * right[..., 2].mean()


@pytest.mark.parametrize("flip", [1.0, -1.0])
def test_sticks_follow_the_direction_in_the_world(files, tmp_path, flip):
    affine = np.diag([flip * 2.0, 2.0, 3.0, 1.0])
    paths = {
        name: save(tmp_path / f"{name}-f.nii.gz", nb.load(files[name]).get_fdata(), affine=affine)
        for name in ("fa", "mask")
    }

    def steps(direction):
        tensor = save(tmp_path / "t.nii.gz", tensors_along(direction), affine=affine)
        return sticks(draw_directions(paths["fa"], tensor, paths["mask"]))

    across = steps((1, 0, 0))
    assert len(across) > 200
    assert np.abs(across[:, 1]).max() == 0
    assert np.abs(across[:, 0]).min() > 5
    # right and forward is right and up on an axial slice
    oblique = steps((1, 1, 0))
    axial = oblique[np.abs(oblique[:, 1]) > 1]
    assert len(axial) > 100
    assert (axial[:, 0] * axial[:, 1] < 0).all()
    # right and upward is right and up on a coronal slice
    oblique = steps((1, 0, 1))
    coronal = oblique[np.abs(oblique[:, 1]) > 1]
    assert len(coronal) > 100
    assert (coronal[:, 0] * coronal[:, 1] < 0).all()


def test_sticks_stay_where_diffusion_has_a_direction(files, tmp_path):
    low = save(tmp_path / "low.nii.gz", 0.05 * nb.load(files["mask"]).get_fdata())
    text = draw_directions(low, files["tensor"], files["mask"])
    assert len(sticks(text)) == 0
    parse(text)


def test_denoising_shows_the_strongest_weighting_and_what_was_taken_out(files):
    root = parse(draw_denoising(files["before"], files["after"], files["bval"], files["mask"]))
    assert "After, b = 2000 s/mm²" in words(root)
    taken = pixels(root)[45:]
    assert taken.std() > 20
    same = parse(draw_denoising(files["after"], files["after"], files["bval"]))
    assert pixels(same)[45:200].std() < 8


def test_grids_that_differ_are_refused(files, tmp_path):
    other = save(tmp_path / "other.nii.gz", np.ones((9, 9, 9)))
    with pytest.raises(GeometryError):
        draw_dwi_mask(files["dwi_ref"], other)
    with pytest.raises(GeometryError):
        draw_maps(files["dwi_ref"], files["mask"], {"fa": other})
    with pytest.raises(GeometryError):
        draw_directions(other, files["tensor"], files["mask"])
    with pytest.raises(GeometryError, match="has 1 volumes"):
        draw_denoising(files["before"], other, files["bval"])


def test_interfaces_write_the_same_bytes_again_fit_for_a_page(files, tmp_path):
    kurtosis = dict.fromkeys(("mk", "ak", "rk", "kfa"), files["fa"])
    for number, (kind, names) in enumerate(
        (
            (DwiMaskPicture, ("dwi_ref", "mask")),
            (TensorPicture, ("dwi_ref", "mask", "fa", "md", "color_fa")),
            (KurtosisPicture, ("dwi_ref", "mask", *kurtosis)),
            (DirectionsPicture, ("fa", "tensor", "mask")),
            (DenoisingPicture, ("before", "after", "bval")),
        )
    ):
        inputs = {name: str((files | kurtosis)[name]) for name in names}
        texts = []
        for turn in ("a", "b"):
            folder = tmp_path / f"{number}{turn}"
            folder.mkdir()
            path = kind(**inputs).run(cwd=str(folder)).outputs.out_file
            texts.append(inline_svg(folder / "picture.svg", "x-"))
            assert path == str(folder / "picture.svg")
        assert texts[0] == texts[1]
        assert texts[0] is not None
        assert "<text" in texts[0]
