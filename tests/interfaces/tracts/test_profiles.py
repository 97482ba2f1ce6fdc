"""Tract profiles against closed forms."""

import json

import numpy as np
import pytest

from neuroferry.errors import InputError
from neuroferry.files import write_json
from neuroferry.interfaces.image.images import Volume, save_volume
from neuroferry.interfaces.tracts.bundles import read_bundle
from neuroferry.interfaces.tracts.profiles import (
    MeasureProfiles,
    core_weights,
    measure_profile,
    read_profiles,
)
from neuroferry.interfaces.tracts.streamlines import join_lines, write_trk

AFFINE = np.array([[-2.0, 0, 0, 50], [0, 2.0, 0, -50], [0, 0, 2.0, -50], [0, 0, 0, 1.0]])
SHAPE = (51, 51, 51)
X, Y, Z = (AFFINE[axis, axis] * np.indices(SHAPE)[axis] + AFFINE[axis, 3] for axis in range(3))


def volume(values):
    return Volume(values.astype(np.float32), AFFINE)


def bundle(rng, line, count=200, spread=2.0):
    """Make parallel streamlines with different numbers of points."""
    shifts = rng.normal(0, spread, (count, 3))
    return join_lines([line[:: 1 + n % 3] + shift for n, shift in enumerate(shifts)])


def test_a_straight_bundle_in_a_linear_field():
    rng = np.random.default_rng(0)
    t = np.linspace(-40, 40, 301)
    line = np.column_stack([t, 0.5 * t, 0 * t])
    profile = measure_profile(bundle(rng, line), {"fa": volume(0.5 + X / 100 + Y / 200)})["fa"]
    s = np.linspace(-40, 40, 100)
    assert profile.shape == (100,)
    assert np.allclose(profile, 0.5 + s / 100 + s / 400, atol=0.006)
    assert profile[0] < profile[-1]


def test_a_curved_bundle_follows_its_own_course():
    turn = np.linspace(0, np.pi, 600)
    arc = 35 * np.column_stack([np.cos(turn), np.sin(turn), 0 * turn])
    field = 0.5 + 0.3 * Y / 35
    profile = measure_profile(join_lines([arc] * 3), {"fa": volume(field)})["fa"]
    expected = 0.5 + 0.3 * np.sin(np.linspace(0, np.pi, 100))
    assert np.abs(profile - expected).max() < 0.002


def test_the_core_counts_most():
    """With Gaussian offsets y of deviation s, weights exp(-y²/2s²) halve the mean of y²."""
    rng = np.random.default_rng(1)
    t = np.linspace(-30, 30, 61)
    offsets = rng.normal(0, 4, (3000, 3)) * [0, 1, 1]
    lines = join_lines([np.column_stack([t, 0 * t, 0 * t]) + o for o in offsets])
    nodes = lines.resampled(5)
    weights = core_weights(nodes)
    assert np.allclose(weights.sum(axis=0), 1)
    plain = np.mean(offsets[:, 1] ** 2)
    weighted = np.sum(weights[:, 2] * offsets[:, 1] ** 2)
    assert weighted == pytest.approx(plain / 2, rel=0.06)


def test_one_streamline_is_read_as_it_is():
    t = np.linspace(-30, 30, 61)
    line = np.column_stack([t, 0 * t, 0 * t])
    profile = measure_profile(join_lines([line]), {"md": volume(X)}, 7)["md"]
    assert np.allclose(profile, np.linspace(-30, 30, 7), atol=1e-4)


def test_a_bundle_that_was_not_found_is_not_available():
    assert np.isnan(measure_profile(join_lines([]), {"fa": volume(X)}, 4)["fa"]).all()


@pytest.mark.parametrize(("extent", "ends"), [("waypoints", (-20, 20)), ("whole", (-30, 30))])
def test_the_interface_writes_the_tidy_table(tmp_path, extent, ends):
    t = np.linspace(-30, 30, 61)
    lines = join_lines([np.column_stack([t, 0 * t + n / 10, 0 * t]) for n in range(30)])
    maps = {
        "fa": 0.5 + X / 100,
        "md": 1e-3 + X * 1e-5,
        "rd": 5e-4 + Y * 1e-6,
        "ad": 2e-3 + Z * 1e-6,
    }
    for name, values in maps.items():
        save_volume(volume(values), tmp_path / f"{name}.nii.gz")
    part = {"profile_start": np.full(30, 10.0), "profile_end": np.full(30, 50.0)}
    trk = write_trk(lines, volume(X), tmp_path / "LeftLine.trk", part)
    about = {"Colour": "#E69F00", "From": "a", "To": "b"}
    report = tmp_path / "bundles.json"
    write_json(
        report,
        {
            "Definitions": {"Source": "user", "SHA256": "0"},
            "Bundles": [
                {"Name": "Left Line", "File": "LeftLine.trk", "Kept": 30, **about},
                {"Name": "Right Line", "Kept": 0, **about},
            ],
        },
    )
    measure = MeasureProfiles(
        bundles=[str(trk)],
        report=str(report),
        subject="sub-01",
        n_nodes=11,
        extent=extent,
        **{name: str(tmp_path / f"{name}.nii.gz") for name in maps},
    )
    result = measure.run(cwd=tmp_path)
    text = (tmp_path / "profiles.tsv").read_text()
    rows = [line.split("\t") for line in text.splitlines()]
    assert rows[0] == ["subjectID", "tractID", "nodeID", "fa", "md", "rd", "ad"]
    assert len(rows) == 1 + 2 * 11
    assert rows[1][:3] == ["sub-01", "Left Line", "0"]
    assert rows[12] == ["sub-01", "Right Line", "0", "n/a", "n/a", "n/a", "n/a"]
    back = read_profiles(result.outputs.profiles_tsv)
    start, end = ends
    s = np.linspace(start, end, 11)
    assert np.allclose(back["Left Line"]["fa"], 0.5 + s / 100, atol=1e-4)
    assert np.allclose(back["Left Line"]["md"], 1e-3 + s * 1e-5, rtol=1e-4)
    assert np.isnan(back["Right Line"]["ad"]).all()
    sidecar = json.loads((tmp_path / "profiles.json").read_text())
    assert sidecar["NumberOfStreamlines"] == {"Left Line": 30, "Right Line": 0}
    assert sidecar["md"]["Units"] == "mm^2/s"
    assert sidecar["ProfileExtent"] == extent
    assert sidecar["BundleDefinitions"]["Source"] == "user"


def test_a_file_that_does_not_say_what_to_measure(tmp_path):
    t = np.linspace(-30, 30, 61)
    line = np.column_stack([t, 0 * t, 0 * t])
    path = write_trk(join_lines([line]), volume(X), tmp_path / "other.trk")
    with pytest.raises(InputError, match=r"other.trk does not say where profiles begin"):
        read_bundle(path)


def test_another_table_is_refused(tmp_path):
    path = tmp_path / "x.tsv"
    path.write_text("a\tb\tc\n1\t2\t3\n")
    with pytest.raises(InputError, match="begins with subjectID"):
        read_profiles(path)
