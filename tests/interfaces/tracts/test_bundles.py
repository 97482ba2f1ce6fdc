"""Streamlines and bundles: files, waypoints, orientation, outliers, template transforms."""

import hashlib
import json

import nibabel as nb
import numpy as np
import pytest

from neuroferry.errors import InputError
from neuroferry.interfaces.image.images import Volume, inverse, save_volume
from neuroferry.interfaces.image.transforms import (
    DisplacementField,
    apply_transforms,
    map_points,
    write_itk_affine,
    write_itk_composite,
)
from neuroferry.interfaces.tracts.bundle_definitions import BundleDefinition, Region
from neuroferry.interfaces.tracts.bundles import (
    Cleaning,
    FoundBundle,
    SegmentBundles,
    clean,
    core_distances,
    points_to_template,
    read_bundle,
    segment,
)
from neuroferry.interfaces.tracts.streamlines import (
    join_lines,
    read_streamlines,
    write_tck,
    write_trk,
)

OBLIQUE = np.array(
    [
        [-1.9, 0.3, 0.1, 40.0],
        [0.3, 1.95, -0.2, -35.0],
        [0.1, 0.2, 2.0, -30.0],
        [0.0, 0.0, 0.0, 1.0],
    ]
)


def box(name, low, high):
    return Region(name, "box", low, high)


def bundle(name="Line", *, include=None, exclude=(), start=(), end=(), lengths=(0.0, 500.0)):
    include = include or (
        box("first", (-40.0, -5.0, -5.0), (-30.0, 5.0, 5.0)),
        box("middle", (-5.0, -5.0, -5.0), (5.0, 5.0, 5.0)),
        box("last", (30.0, -5.0, -5.0), (40.0, 5.0, 5.0)),
    )
    least, most = lengths
    return BundleDefinition(
        name, (230, 159, 0), include, exclude, start, end, least, most, ("wakana2007",)
    )


def measured(lines, begin=0.0, end=1000.0):
    """Make a bundle of lines, measured between two distances from their beginning."""
    lines = join_lines(lines)
    ends = np.minimum(end, lines.lengths())
    return FoundBundle(lines, np.column_stack([np.full(len(lines), begin), ends]))


def straight(low=-45.0, high=45.0, y=0.0, z=0.0):
    x = np.arange(low, high + 0.5)
    return np.column_stack([x, np.full_like(x, y), np.full_like(x, z)])


def test_files_give_back_the_streamlines_with_the_same_bytes(tmp_path):
    rng = np.random.default_rng(0)
    lines = join_lines([rng.normal(0, 20, (n, 3)) for n in (5, 2, 30)])
    like = Volume(rng.normal(size=(20, 21, 22)).astype(np.float32), OBLIQUE)
    for name in ("a.tck", "b.trk"):

        def write(path, name=name):
            return write_tck(lines, path) if "tck" in name else write_trk(lines, like, path)

        path = write(tmp_path / name)
        back = read_streamlines(path)
        assert np.array_equal(back.offsets, lines.offsets)
        assert np.allclose(back.points, lines.points, atol=2e-4)
        assert path.read_bytes() == write(tmp_path / f"again-{name}").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "a.tck",
        "again-a.tck",
        "again-b.trk",
        "b.trk",
    ]


def test_dipy_reads_a_bundle_in_its_image(tmp_path):
    from dipy.io.streamline import load_tractogram

    like = Volume(np.random.default_rng(0).random((40, 40, 40)).astype(np.float32), OBLIQUE)
    image = save_volume(like, tmp_path / "like.nii.gz")
    inside = (OBLIQUE @ np.array([[10, 10, 10, 1], [30, 22, 15, 1]]).T)[:3].T
    path = write_trk(join_lines([inside]), like, tmp_path / "a.trk")
    tractogram = load_tractogram(str(path), image, bbox_valid_check=True)
    assert np.allclose(tractogram.streamlines[0], inside, atol=1e-3)


def test_no_streamlines_are_no_error(tmp_path):
    path = write_tck(join_lines([]), tmp_path / "none.tck")
    assert len(read_streamlines(path)) == 0
    assert join_lines([]).resampled(7).shape == (0, 7, 3)


def test_a_file_that_is_none(tmp_path):
    path = tmp_path / "x.tck"
    path.write_text("no streamlines")
    with pytest.raises(InputError, match="cannot be read as streamlines"):
        read_streamlines(path)


def test_nodes_lie_at_equal_distances_along_each_streamline():
    turn = np.linspace(0, np.pi, 400)
    arc = 30 * np.column_stack([np.cos(turn), np.sin(turn), 0 * turn])
    uneven = np.array([[0.0, 0, 0], [1, 0, 0], [10, 0, 0]])
    lines = join_lines([uneven, arc])
    assert np.allclose(lines.lengths(), [10.0, 30 * np.pi], rtol=1e-4)
    nodes = lines.resampled(11)
    assert np.allclose(nodes[0, :, 0], np.linspace(0, 10, 11), atol=1e-5)
    angles = np.arctan2(nodes[1, :, 1], nodes[1, :, 0])
    assert np.allclose(angles, np.linspace(0, np.pi, 11), atol=1e-3)


def test_way_points_order_and_direction():
    there, back = straight(), straight()[::-1]
    skips = np.concatenate([straight(-45, -10), straight(10, 45)])
    muddled = np.concatenate([straight(30, 45), straight(-45, 6)])
    short = straight(-20, 45)
    lines = join_lines([there, back, skips, muddled, short])
    (found,) = segment(lines, [np.eye(4)], [bundle()])
    assert len(found) == 2
    for line in found.lines:
        assert line[0, 0] == -45
        assert line[-1, 0] == 45


def test_exclusion_ends_and_lengths():
    lines = join_lines([straight(), straight(z=3.0), straight(-45, 60)])
    wall = box("wall", (10.0, -5.0, 2.0), (12.0, 5.0, 5.0))
    (found,) = segment(lines, [], [bundle(exclude=(wall,))])
    assert [line[0, 2] for line in found.lines] == [0.0, 0.0]
    far = box("far", (55.0, -5.0, -5.0), (65.0, 5.0, 5.0))
    (found,) = segment(lines, [], [bundle(end=(far,))])
    assert [line[-1, 0] for line in found.lines] == [60.0]
    (found,) = segment(join_lines([straight(-45, 60)[::-1]]), [], [bundle(end=(far,))])
    assert found.lines[0][-1, 0] == 60.0
    assert len(segment(lines, [], [bundle(start=(far,))])[0]) == 0
    (found,) = segment(lines, [], [bundle(lengths=(100.0, 200.0))])
    assert len(found) == 1


def test_profiles_run_from_leaving_the_first_way_point_to_entering_the_last():
    """Regardless of orientation, and of where a streamline begins, ends or turns beyond."""
    starts_inside = straight(-37)
    slanted = straight()
    slanted[:, 1] = 0.05 * slanted[:, 0]
    turns = np.concatenate([straight(-45, -20), straight(-35, -21)[::-1], straight(-34, 45)])
    comes_back = np.concatenate([straight(-45, 45), straight(20, 44)[::-1], straight(21, 34)])
    (found,) = segment(
        join_lines([straight(), straight()[::-1], starts_inside, slanted, turns, comes_back]),
        [],
        [bundle()],
    )
    slope = np.hypot(1, 0.05)
    expected = [[15, 75], [15, 75], [7, 67], [15 * slope, 75 * slope], [45, 105], [15, 75]]
    assert np.allclose(found.spans, expected, atol=1e-4)
    assert np.allclose([line[[0, -1], 0] for line in found.core()], [-30, 30], atol=1e-4)
    assert np.allclose(found.core().lengths(), np.diff(expected, axis=1)[:, 0], atol=1e-4)


def test_regions_that_overlap_leave_nothing_to_measure_and_none_of_another_streamline():
    both = (box("a", (-5.0, -5.0, -5.0), (5.0, 5.0, 5.0)),) * 2
    (found,) = segment(join_lines([straight(), straight(y=1.0)]), [], [bundle(include=both)])
    assert np.allclose(found.spans, 40.0)
    assert np.allclose(found.core().lengths(), 0)


def test_the_part_follows_the_person_and_the_regions_the_template():
    stretch = np.diag([2.0, 1.0, 1.0, 1.0])
    lines = join_lines([straight(-22, 22, y=1.0)])
    (found,) = segment(lines, [stretch], [bundle()])
    assert np.allclose(found.core()[0][[0, -1], 0], [-15, 15], atol=1e-4)


def test_a_streamline_belongs_to_the_first_bundle_that_it_fits():
    lines = join_lines([straight(), straight(-20, 45)])
    wide = bundle("Wide", include=bundle().include[1:])
    first, second = segment(lines, [], [bundle(), wide])
    assert (len(first), len(second)) == (1, 1)
    assert second.lines[0][0, 0] == -20


def test_points_go_the_other_way_than_images(tmp_path):
    """A blob of the diffusion image maps to its position in the template."""
    rng = np.random.default_rng(3)
    turn = np.radians(12)
    rigid = np.eye(4)
    rigid[:2, :2] = [[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]
    rigid[:3, 3] = [6.0, -4.0, 3.0]  # T1w points to DWI points
    grid = np.diag([4.0, 4.0, 4.0, 1.0])
    grid[:3, 3] = -48.0
    bend = np.zeros((25, 25, 25, 3), dtype=np.float32)
    where = np.indices((25, 25, 25)) * 4.0 - 48.0
    bend[..., 0] = 5 * np.sin(where[1] / 20)
    bend[..., 2] = 4 * np.cos(where[0] / 25)
    field = DisplacementField(bend, grid)  # T1w points to template points
    points = rng.uniform(-25, 25, (3, 40))
    anat = map_points(points, [inverse(rigid)])
    expected = map_points(anat, [field])
    xfm = write_itk_affine(rigid, tmp_path / "dwi2anat.txt")
    composite = write_itk_composite([field], tmp_path / "std2anat.h5")
    chain = points_to_template(xfm, composite)
    assert np.allclose(map_points(points, chain), expected, atol=2e-3)
    # The same transforms, as images use them: a ramp of the template that is drawn onto the
    # T1w grid, and from there onto the DWI grid, reads each point's place in the template.
    for axis in range(3):
        ramp = Volume(where[axis].astype(np.float32), grid)
        on_anat = apply_transforms(ramp, [field], (25, 25, 25), grid)
        on_dwi = apply_transforms(on_anat, [inverse(rigid)], (25, 25, 25), grid)
        there = map_points(points, [np.linalg.inv(grid)])
        from scipy import ndimage

        read = ndimage.map_coordinates(on_dwi.data, there, order=1)
        assert np.abs(read - expected[axis]).max() < 0.5


def test_distances_are_in_standard_deviations():
    rng = np.random.default_rng(0)
    spread = np.array([4.0, 1.0, 2.0])
    nodes = np.repeat(rng.normal(size=(4000, 1, 3)) * spread, 3, axis=1)
    squared = core_distances(nodes) ** 2
    assert squared.mean() == pytest.approx(3.0, rel=0.01)
    assert np.mean(squared < 7.815) == pytest.approx(0.95, abs=0.01)
    assert not core_distances(nodes[:4]).any()


def test_outliers_go_and_the_core_stays():
    rng = np.random.default_rng(1)
    lines = [straight(y=y, z=z) for y, z in rng.normal(0, 2, (200, 2))]
    bent = straight()
    bent[30:60, 2] += 40 * np.sin(np.linspace(0, np.pi, 30))
    long = straight(-300, 300)
    kept = clean(measured([*lines, bent, long]), Cleaning())
    assert kept[:200].sum() >= 195
    assert not kept[200:].any()
    few = measured([*lines[:10], bent])
    assert clean(few, Cleaning()).all()


def test_what_lies_beyond_the_way_points_makes_no_outlier():
    """Ends fan out to the cortex; in the middle the same detour is an outlier."""
    rng = np.random.default_rng(1)
    lines = [straight(y=y, z=z) for y, z in rng.normal(0, 1, (60, 2))]
    fans, detour = straight(), straight()
    fans[80:, 2] += np.arange(11)
    detour[40:51, 2] += 8
    found = measured([*lines, fans, detour], begin=10.0, end=80.0)
    assert clean(found, Cleaning(length=100.0))[-2:].tolist() == [True, False]


def test_the_interface_writes_a_file_for_each_bundle_found(tmp_path):
    definitions = tmp_path / "own.toml"
    definitions.write_text(
        'space = "MNI152NLin2009aSym"\n'
        '[[bundles]]\nname = "Line"\ncolour = "#E69F00"\npaired = true\nsources = ["x"]\n'
        "include = [\n"
        '{name = "a", box = [-40, -40, -5, -2, -30, 5]},\n'
        '{name = "b", box = [-40, 30, -5, -2, 40, 5]},\n'
        "]\n"
    )
    lines = [straight(y=-10.0 + n / 20)[:, [1, 0, 2]] for n in range(40)]
    shift = np.eye(4)
    shift[0, 3] = 7.0  # T1w points to DWI points
    moved = [line + shift[:3, 3] for line in lines]
    tck = write_tck(join_lines(moved), tmp_path / "all.tck")
    like = Volume(np.random.default_rng(0).random((60, 60, 60)).astype(np.float32), OBLIQUE)
    save_volume(like, tmp_path / "like.nii.gz")
    result = SegmentBundles(
        tractogram=str(tck),
        reference=str(tmp_path / "like.nii.gz"),
        dwi2anat_xfm=str(write_itk_affine(shift, tmp_path / "a.txt")),
        std2anat_xfm=str(write_itk_composite([np.eye(4)], tmp_path / "b.h5")),
        definitions=str(definitions),
    ).run(cwd=tmp_path)
    assert result.outputs.labels == ["LeftLine"]
    back = read_bundle(result.outputs.bundles[0])
    assert len(back) == 40
    assert np.allclose(back.lines[0], moved[0], atol=1e-3)
    assert np.allclose(back.spans[:, 1] - back.spans[:, 0], 60, atol=1e-3)
    report = json.loads((tmp_path / "bundles.json").read_text())
    left, right = report["Bundles"]
    digest = hashlib.sha256(definitions.read_bytes()).hexdigest()
    assert report["Definitions"] == {"Source": "user", "SHA256": digest}
    assert left["MeanProfileLength"] == pytest.approx(60.0, abs=1e-3)
    assert (left["Found"], left["Kept"], left["File"]) == (40, 40, "LeftLine.trk")
    assert left["MeanLength"] == pytest.approx(90.0)
    assert (right["Kept"], right["MeanLength"]) == (0, None)
    assert "File" not in right
    assert nb.streamlines.load(result.outputs.bundles[0]).header["voxel_order"] == b"LAS"
