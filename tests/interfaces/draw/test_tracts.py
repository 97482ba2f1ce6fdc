"""Reportlets of bundles and profiles: content, and same bytes every time."""

import base64
import io
import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from neuroferry.files import write_json
from neuroferry.interfaces.draw.tracts import (
    BundlesPicture,
    ProfilesPicture,
    draw_bundles,
    draw_profiles,
)
from neuroferry.interfaces.image.images import Volume, save_volume
from neuroferry.interfaces.image.transforms import write_itk_affine
from neuroferry.interfaces.tracts.profiles import profiles_table
from neuroferry.interfaces.tracts.streamlines import join_lines, write_trk

AFFINE = np.array([[-4.0, 0, 0, 80], [0, 4.0, 0, -80], [0, 0, 4.0, -80], [0, 0, 0, 1.0]])
SHIFT = np.array([7.0, -3.0, 5.0])
"""T1w points to DWI points."""


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Make a ball with a pair of bundles, of which the left one was found, and one across."""
    root = tmp_path_factory.mktemp("tracts")
    index = np.indices((41, 41, 41))
    x = np.einsum("ij,j...->i...", AFFINE[:3, :3], index) + AFFINE[:3, 3][:, None, None, None]
    ball = np.sum(x**2, axis=0) < 70**2
    volume = Volume((ball * (400 + x[1])).astype(np.float32), AFFINE)
    save_volume(volume, root / "t1w.nii.gz")
    save_volume(volume.with_data(ball.astype(np.float32)), root / "mask.nii.gz")
    t = np.linspace(-50, 50, 101)
    left = [np.column_stack([0 * t - 30 + n / 5, t, 0 * t]) + SHIFT for n in range(25)]
    across = [np.column_stack([t, 0 * t - 40, 0 * t + n / 5]) + SHIFT for n in range(25)]
    write_trk(join_lines(left), volume, root / "LeftLine.trk")
    write_trk(join_lines(across), volume, root / "Bridge.trk")
    ends = {"From": "back", "To": "front"}
    write_json(
        root / "bundles.json",
        {
            "Bundles": [
                {
                    "Name": "Left Line",
                    "Colour": "#FF0000",
                    "Kept": 25,
                    "File": "LeftLine.trk",
                    **ends,
                },
                {"Name": "Right Line", "Colour": "#FF0000", "Kept": 0, **ends},
                {"Name": "Bridge", "Colour": "#00FF00", "Kept": 25, "File": "Bridge.trk", **ends},
            ]
        },
    )
    xfm = np.eye(4)
    xfm[:3, 3] = SHIFT
    write_itk_affine(xfm, root / "xfm.txt")
    rising = np.linspace(0.2, 0.8, 100)
    nothing = np.full(100, np.nan)

    def columns(fa):
        return {"fa": fa, "md": fa / 1000, "rd": fa / 2000, "ad": fa / 500}

    table = {
        "Left Line": columns(rising),
        "Right Line": columns(nothing),
        "Bridge": columns(rising[::-1]),
    }
    (root / "profiles.tsv").write_text(profiles_table("sub-01", table))
    return root


def pictures(svg):
    """Read the rasters of a document as arrays, with their position and size."""
    out = []
    numbers = "".join(rf'{key}="([\d.]+)" ' for key in ("x", "y", "width", "height"))
    pattern = rf'<image {numbers}href="data:image/webp;base64,([^"]+)"'
    for x, y, width, height, code in re.findall(pattern, svg):
        image = Image.open(io.BytesIO(base64.b64decode(code))).convert("RGB")
        out.append(((float(x), float(y), float(width), float(height)), np.asarray(image, int)))
    return out


def coloured(pixels, channel):
    """Find the pixels of one pure colour."""
    others = [c for c in range(3) if c != channel]
    return pixels[..., channel] > pixels[..., others].max(axis=-1) + 50


def bundles(data):
    files = [data / "LeftLine.trk", data / "Bridge.trk"]
    return draw_bundles(
        data / "t1w.nii.gz", data / "mask.nii.gz", files, data / "bundles.json", data / "xfm.txt"
    )


def test_bundles_lie_where_they_belong(data):
    svg = bundles(data)
    ElementTree.fromstring(svg)
    drawn = pictures(svg)
    assert len(drawn) == 4 + 3
    side, above, behind, other_side = (pixels for _, pixels in drawn[:4])
    for pixels, channel in ((side, 0), (above, 0), (above, 1), (behind, 1)):
        assert coloured(pixels, channel).any()
    assert not coloured(other_side, 0).any()
    # The bundle lies 30 to 25 mm left of the middle; the ball and 6 mm around it are seen.
    columns = np.flatnonzero(coloured(above, 0).any(axis=0))
    width = 2 * (70 + 6 + 4)
    place = (columns.mean() + 0.5) / above.shape[1] * width - width / 2
    assert place == pytest.approx(-27.6, abs=4)
    rows = np.flatnonzero(coloured(above, 1).any(axis=1))
    assert rows.mean() > above.shape[0] * 0.6  # 40 mm behind the middle lies below it
    assert "not found" in svg
    assert svg.count("25 streamlines") == 2


def test_pictures_repeat_to_the_byte(data):
    assert bundles(data) == bundles(data)


def test_profiles_of_both_sides_and_of_what_is_missing(data):
    svg = draw_profiles(data / "profiles.tsv", data / "bundles.json")
    root = ElementTree.fromstring(svg)
    views = [g for g in root.iter() if g.get("class") == "nf-view"]
    assert [view.get("data-label") for view in views] == ["FA", "MD", "RD", "AD"]
    assert [view.get("style") for view in views] == [None] + ["display:none"] * 3
    courses = [
        re.findall(r"[\d.]+ ([\d.]+)", path.get("d", ""))
        for path in views[0].iter()
        if path.get("d", "").count("L") == 99
    ]
    assert len(courses) == 2
    first, second = (np.array(course, dtype=float) for course in courses)
    assert first[0] > first[-1]  # rising values go up the page
    assert second[0] < second[-1]
    assert "25 / n/a" in svg


def test_the_interfaces_write_pictures(data, tmp_path):
    done = BundlesPicture(
        image=str(data / "t1w.nii.gz"),
        brain_mask=str(data / "mask.nii.gz"),
        report=str(data / "bundles.json"),
    ).run(cwd=tmp_path)
    assert Path(done.outputs.out_file).read_text().count("not found") == 1
    done = ProfilesPicture(
        profiles_tsv=str(data / "profiles.tsv"), report=str(data / "bundles.json")
    ).run(cwd=tmp_path)
    assert "Tract profiles" in Path(done.outputs.out_file).read_text()
