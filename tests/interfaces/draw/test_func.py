"""Reportlets of a BOLD run, drawn from data with known truth."""

import base64
import io
import json
import re
from xml.etree import ElementTree as ET

import nibabel as nb
import numpy as np
import pytest
from PIL import Image

from neuroferry.errors import GeometryError
from neuroferry.interfaces.draw.epi_space import (
    draw_coregistration,
    draw_distortion,
    draw_fieldmap,
    draw_masks,
    draw_tsnr,
)
from neuroferry.interfaces.draw.func_time import (
    CARPET_COLUMNS,
    correlated,
    draw_carpet,
    draw_components,
    draw_correlations,
    draw_motion,
    shade,
)
from neuroferry.interfaces.draw.plots import (
    LEFT,
    RIGHT,
    Line,
    Page,
    Panel,
    draw_panel,
    reach,
    ticks,
)
from neuroferry.interfaces.epi.confound_table import MOTION, write_table
from neuroferry.interfaces.image.transforms import write_itk_affine
from neuroferry.reports.svg import inline_svg

SVG = "{http://www.w3.org/2000/svg}"
SHAPE, N_VOLUMES, JUMP = (12, 14, 10), 60, 30
AFFINE = np.diag([-3.0, 3.0, 4.0, 1.0])
SUMMARY = {
    "NumberOfVolumes": N_VOLUMES,
    "RepetitionTime": 2.0,
    "NonSteadyStateVolumes": 2,
    "MotionOutliers": {
        "Volumes": [JUMP, JUMP + 1, 50],
        "FramewiseDisplacementThreshold": 0.5,
        "StandardisedDVARSThreshold": 1.5,
    },
    "CompCor": {
        "WM": {
            "NumberOfVoxels": 99,
            "NumberOfComponents": 2,
            "VarianceExplained": [0.4, 0.2, 0.1],
        },
        "CSF": {"NumberOfVoxels": 0, "NumberOfComponents": 0},
    },
}


def save(path, data, kind=np.float32):
    nb.save(nb.Nifti1Image(np.asarray(data).astype(kind), AFFINE), path)
    return path


@pytest.fixture
def files(tmp_path):
    rng = np.random.default_rng(8)
    brain = np.zeros(SHAPE, bool)
    brain[2:-2, 2:-2, 2:-2] = True
    grey, white, fluid = (brain.copy() for _ in range(3))
    grey[:, 6:], white[:, :6], white[:, 9:], fluid[:, :9] = False, False, False, False
    data = 100 + 50 * brain[..., None] + rng.normal(0, 1, (*SHAPE, N_VOLUMES))
    data[..., JUMP] += 8 * brain
    paths = {
        "bold": save(tmp_path / "bold.nii.gz", data),
        "mask": save(tmp_path / "mask.nii.gz", brain, np.uint8),
        "ref": save(tmp_path / "ref.nii.gz", data[..., 0]),
        "tpms": [save(tmp_path / f"t{n}.nii.gz", t) for n, t in enumerate((grey, white, fluid))],
    }
    motion = {name: np.zeros(N_VOLUMES) for name in MOTION}
    motion["trans_y"][JUMP:] = 2.0
    fd = np.abs(np.diff(motion["trans_y"], prepend=np.nan))
    dvars = np.ones(N_VOLUMES)
    dvars[[0, JUMP]] = np.nan, 4.0
    signal = data[brain].mean(axis=0)
    paths["table"] = tmp_path / "confounds.tsv"
    columns = {"global_signal": signal, "std_dvars": dvars, "framewise_displacement": fd}
    write_table(paths["table"], {**columns, **motion})
    paths["summary"] = tmp_path / "summary.json"
    paths["summary"].write_text(json.dumps(SUMMARY))
    return paths


def parse(text):
    root = ET.fromstring(text)
    assert root.tag == f"{SVG}svg"
    assert root.get("aria-label")
    return root


def words(root):
    return [element.text for element in root.iter(f"{SVG}text")]


def pixels(root, n=-1):
    uri = list(root.iter(f"{SVG}image"))[n].get("href")
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))).convert("L"))


def carpet_of(files, tpms=True):
    return draw_carpet(
        files["bold"],
        files["mask"],
        files["table"],
        files["summary"],
        files["tpms"] if tpms else None,
    )


# --- the parts -------------------------------------------------------------------------


def test_ticks_are_round_and_within():
    for low, high in ((0, 1), (-3.2, 0.4), (0, 1234), (0.001, 0.0018), (-1e-9, 1e-9)):
        found = ticks(low, high)
        assert 1 <= len(found) <= 5
        assert all(low - 1e-12 <= tick <= high + 1e-12 for tick in found)


def test_axes_hold_the_values_and_survive_none():
    low, high = reach([np.array([-2.0, 5.0]), np.array([np.nan, 7.0])])
    assert low < -2
    assert high > 7
    for nothing in ([], [np.array([np.nan])], [np.zeros(3)]):
        low, high = reach(nothing)
        assert low < high


def test_a_line_stops_where_there_is_no_value_and_is_cut_at_the_edge():
    page = Page("t", "d")
    values = np.array([1.0, np.nan, 1.0, 99.0])
    draw_panel(page, Panel("a", "b", [Line(values, "#fff")], 0.0, 2.0, height=100))
    (path,) = [e for e in page.elements if 'stroke="#fff"' in e]
    d = re.findall(r' d="([^"]+)"', path)[0]
    assert d.count("M") == 2
    across = (RIGHT - LEFT) / 4
    assert d.startswith(f"M{LEFT + across / 2:.1f} ")
    heights = [float(y) for y in re.findall(r" ([\d.]+)(?=[ML]|$)", d)]
    assert heights == [72.0, 72.0, 22.0]


def test_spans_are_joined():
    spans = shade(SUMMARY)
    assert [(first, end) for first, end, _ in spans] == [(0, 2), (30, 32), (50, 51)]
    alone = {"NonSteadyStateVolumes": 0, "MotionOutliers": {"Volumes": []}}
    assert shade(alone) == []


# --- charts ----------------------------------------------------------------------------


def test_carpet_shows_the_jump_in_its_column_and_tissues_in_their_order(files):
    root = parse(carpet_of(files))
    carpet = pixels(root).astype(float)
    columns = carpet.reshape(len(carpet), N_VOLUMES, -1).mean(axis=(0, 2))
    assert columns.argmax() == JUMP
    others = np.delete(columns, JUMP)
    assert columns[JUMP] > others.max() + 60
    texts = words(root)
    assert [t for t in texts if t in ("grey matter", "white matter", "CSF")] == [
        "grey matter",
        "white matter",
        "CSF",
    ]
    assert "mean 0.04 mm, largest 2.00 mm" in texts


def test_carpet_without_tissues_is_one_region(files):
    texts = words(parse(carpet_of(files, tpms=False)))
    assert "brain" in texts
    assert "grey matter" not in texts


def test_a_long_carpet_has_no_more_columns_than_can_be_seen(files, tmp_path):
    n = CARPET_COLUMNS + 700
    data = np.random.default_rng(1).integers(90, 110, (12, 14, 10, n), dtype=np.int16)
    long = {**files, "bold": save(tmp_path / "long.nii", data, np.int16)}
    table = {name: np.ones(n) for name in (*MOTION, "global_signal", "std_dvars")}
    write_table(files["table"], {**table, "framewise_displacement": np.zeros(n)})
    assert pixels(parse(carpet_of(long))).shape[1] == CARPET_COLUMNS


def test_a_mask_of_another_grid_is_refused(files, tmp_path):
    other = save(tmp_path / "other.nii.gz", np.ones((9, 9, 9)), np.uint8)
    with pytest.raises(GeometryError):
        carpet_of({**files, "mask": other})


def test_motion_has_its_axes_and_the_step(files):
    root = parse(draw_motion(files["table"], files["summary"]))
    assert {"Translation", "Rotation", "mm", "degrees"} <= set(words(root))
    assert "mean 0.04 mm, largest 2.00 mm" in words(root)


def test_components_name_what_was_kept_and_leave_out_empty_masks(files):
    texts = words(parse(draw_components(files["summary"])))
    assert "white matter: 2 (from 99 voxels)" in texts
    assert not any(text.startswith("CSF") for text in texts)
    files["summary"].write_text(json.dumps({**SUMMARY, "CompCor": {}}))
    assert "There are no components." in words(parse(draw_components(files["summary"])))


def test_correlations_are_pearsons():
    rng = np.random.default_rng(4)
    first = rng.normal(size=50)
    table = {
        "global_signal": first,
        "csf": -first,
        "white_matter": rng.normal(size=50),
        "std_dvars": np.ones(50),
    }
    names, matrix = correlated(table, 3)
    assert names == ["global_signal", "csf", "white_matter"]
    expected = np.corrcoef([table[name][4:] for name in names])
    np.testing.assert_allclose(matrix, expected, atol=1e-12)


def test_correlations_draw_half_of_the_matrix(files):
    root = parse(draw_correlations(files["table"], files["summary"]))
    texts = words(root)
    assert texts.count("trans_y") == 2
    assert texts.count("rot_x") == 0  # it never changes


# --- slices ----------------------------------------------------------------------------


def test_masks_draw_the_outlines_that_are_there(files, tmp_path):
    bits = np.zeros(SHAPE)
    bits[5, 5, 5] = 2 + 8
    noise = save(tmp_path / "bits.nii.gz", bits, np.uint8)
    texts = words(parse(draw_masks(files["ref"], files["mask"], noise)))
    assert {"brain mask", "deep white matter", "most variable 2%"} <= set(texts)
    assert "CSF" not in texts


def test_tsnr_says_its_median(files, tmp_path):
    tsnr = save(tmp_path / "tsnr.nii.gz", np.full(SHAPE, 42.0))
    assert "median in the brain 42" in words(parse(draw_tsnr(tsnr, files["ref"], files["mask"])))


def test_field_map_and_distortion_have_two_views(files, tmp_path):
    field = save(tmp_path / "field.nii.gz", np.indices(SHAPE)[1] * 10.0)
    for text in (
        draw_fieldmap(field, files["ref"], files["mask"]),
        draw_distortion(files["ref"], files["ref"], files["mask"], files["tpms"][1]),
        draw_distortion(files["ref"], files["ref"], files["mask"]),
    ):
        assert text.count('class="nf-view') == 2
        parse(text)
    texts = words(parse(draw_fieldmap(field, files["ref"], files["mask"])))
    assert "+110 Hz" in texts


def test_bold_is_drawn_where_the_transform_puts_it(files, tmp_path):
    ball = np.zeros(SHAPE)
    ball[4:8, 5:9, 3:7] = 500
    paths = {"bold": save(tmp_path / "a.nii.gz", ball)}
    shifted = AFFINE.copy()
    shifted[:3, 3] += [20, -10, 6]
    for name, data in (("t1w", ball), ("dseg", 2 * (ball > 0)), ("brain", ball > 0)):
        paths[name] = tmp_path / f"{name}.nii.gz"
        nb.save(nb.Nifti1Image(data.astype(np.float32), shifted), paths[name])

    def views(matrix):
        xfm = write_itk_affine(matrix, tmp_path / "x.txt")
        root = parse(
            draw_coregistration(paths["bold"], paths["t1w"], paths["dseg"], paths["brain"], xfm)
        )
        return pixels(root, 0).astype(float), pixels(root, 1).astype(float)

    right = np.eye(4)
    right[:3, 3] = [-20, 10, -6]  # from a point of the T1w image to one of the BOLD reference
    t1w, bold = views(right)
    assert np.corrcoef(t1w.ravel(), bold.ravel())[0, 1] > 0.95
    t1w, bold = views(np.eye(4))
    assert np.corrcoef(t1w.ravel(), bold.ravel())[0, 1] < 0.5


def test_grids_that_differ_are_refused(files, tmp_path):
    other = save(tmp_path / "other.nii.gz", np.ones((9, 9, 9)))
    with pytest.raises(GeometryError):
        draw_tsnr(other, files["ref"], files["mask"])
    with pytest.raises(GeometryError):
        draw_distortion(files["ref"], other, files["mask"])


def test_same_bytes_again_and_fit_for_a_page(files, tmp_path):
    for draw in (
        lambda: carpet_of(files),
        lambda: draw_motion(files["table"], files["summary"]),
        lambda: draw_correlations(files["table"], files["summary"]),
        lambda: draw_components(files["summary"]),
    ):
        text = draw()
        assert text == draw()
        path = tmp_path / "picture.svg"
        path.write_text(text)
        svg = inline_svg(path, "x-")
        assert svg is not None
        assert svg.count("<text") == text.count("<text")
