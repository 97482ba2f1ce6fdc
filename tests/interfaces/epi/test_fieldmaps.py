"""All kinds of field maps against one head with a known field."""

import json

import nibabel as nb
import numpy as np
import pytest
from scipy import ndimage

from neuroferry.bids.epi import phase_encoding_axis
from neuroferry.errors import GeometryError, InputError
from neuroferry.interfaces.epi.distortion import distort, jacobian_of, shift_of, unwarp
from neuroferry.interfaces.epi.fieldmap_apply import ApplyFieldmap, apply_fieldmap
from neuroferry.interfaces.epi.fieldmap_epi import EstimateEPIFieldmap, epi_fieldmap
from neuroferry.interfaces.epi.fieldmap_gre import (
    PrepareGREFieldmap,
    direct_fieldmap,
    fill_smoothly,
    gre_fieldmap,
    magnitude_image,
    to_radians,
)
from neuroferry.interfaces.epi.fieldmap_place import check_place
from neuroferry.interfaces.image.affine import compose
from neuroferry.interfaces.image.images import Volume, resample_to, save_volume
from neuroferry.interfaces.image.series import SeriesWriter
from neuroferry.templates import load_template

pytestmark = pytest.mark.slow

VOXEL = 3.5
AFFINE = np.array([[-VOXEL, 0, 0, 91.0], [0, VOXEL, 0, -124], [0, 0, 4.0, -62], [0, 0, 0, 1]])
SHAPE = (52, 62, 34)
READOUT = 0.03
TIMES = (0.0046, 0.0071)
RADIANS = (-np.pi, np.pi)


class Head:
    """EPI of the template, its field in hertz, and images distorted by it."""

    def __init__(self):
        template = load_template(2)
        self.template = template
        rng = np.random.default_rng(7)
        axes = np.indices(SHAPE).reshape(3, -1)
        x, y, z = (AFFINE[:3, :3] @ axes + AFFINE[:3, 3:]).reshape(3, *SHAPE)
        hot = 150 * np.exp(-((x / 14) ** 2 + ((y - 48) / 16) ** 2 + ((z + 18) / 14) ** 2) / 2)
        ears = sum(
            60 * np.exp(-(((x - s) / 14) ** 2 + ((y + 18) / 16) ** 2 + ((z + 30) / 14) ** 2) / 2)
            for s in (-52, 52)
        )
        self.field = (hot - ears + 0.2 * y - 0.15 * x + 4).astype(np.float32)
        self.inside = self.carry(template.brain_mask) > 0.5
        tissue = template.gm + 0.75 * template.wm + 1.5 * template.csf
        self.flat = 1000 * self.carry(np.where(template.brain_mask, tissue, 0))
        self.rng = rng

    def carry(self, values):
        volume = Volume(np.asarray(values, dtype=np.float32), self.template.affine)
        return resample_to(volume, SHAPE, AFFINE).data

    def noisy(self, data, sigma=25.0):
        parts = self.rng.normal(scale=sigma, size=(2, *data.shape))
        return Volume(np.hypot(data + parts[0], parts[1]).astype(np.float32), AFFINE)

    def epi(self, direction, readout=READOUT):
        return self.noisy(distort(self.flat, shift_of(self.field, direction, readout), 1))

    def gre(self, phase_zero=0.4):
        """Return the magnitude and the wrapped phases of two echoes."""
        magnitude = self.noisy(0.9 * self.flat + 100 * self.inside)
        noise = self.rng.normal(scale=0.03, size=(2, *SHAPE))
        noise[:, ~self.inside] = self.rng.uniform(-9, 9, size=(2, int((~self.inside).sum())))
        phases = [
            np.angle(np.exp(1j * (phase_zero + 2 * np.pi * self.field * t + n)))
            for t, n in zip(TIMES, noise, strict=True)
        ]
        return magnitude, [Volume(p.astype(np.float32), AFFINE) for p in phases]

    def error_mm(self, hz):
        """Return the mean error of a field's shifts in the brain, and the mean shift, mm."""
        scale = READOUT * VOXEL
        error = np.abs(hz - self.field)[self.inside].mean() * scale
        return error, np.abs(self.field)[self.inside].mean() * scale


@pytest.fixture(scope="module")
def head():
    return Head()


@pytest.mark.parametrize("bad", ["", "y", "jj", "j+-", "-j"])
def test_other_directions_are_refused(bad):
    with pytest.raises(InputError, match="PhaseEncodingDirection"):
        phase_encoding_axis(bad)


@pytest.mark.parametrize(("direction", "moved"), [("j", 3), ("j-", -3)])
def test_sign_of_the_shift(direction, moved):
    field = np.full((9, 20, 9), 100.0, dtype=np.float32)
    point = np.zeros(field.shape, dtype=np.float32)
    point[4, 10, 4] = 1.0
    shift = shift_of(field, direction, 0.03)
    there = distort(point, shift, 1)
    assert list(np.unravel_index(there.argmax(), there.shape)) == [4, 10 + moved, 4]
    back = unwarp(there, shift, 1)
    assert list(np.unravel_index(back.argmax(), back.shape)) == [4, 10, 4]


def test_signal_is_kept_and_comes_back(head):
    shift = shift_of(head.field, "j", READOUT)
    # Smooth, so that interpolation blur does not mask the effect under test.
    flat = ndimage.gaussian_filter(head.flat, 1.5)
    distorted = distort(flat, shift, 1)
    assert distorted.sum(dtype=np.float64) == pytest.approx(flat.sum(dtype=np.float64), rel=1e-4)
    deep = head.inside & (jacobian_of(shift, 1) > 0.6) & (jacobian_of(shift, 1) < 1.4)

    def error(image):
        return np.abs(image - flat)[deep].mean() / flat[deep].mean()

    right = error(unwarp(distorted, shift, 1))
    assert right < 0.02
    assert error(unwarp(distorted, -shift, 1)) > 3 * right


def test_radians_from_a_range():
    phase = np.random.default_rng(0).uniform(-np.pi, np.pi, (20, 20, 20)).astype(np.float32)
    stored = {
        (-np.pi, np.pi): phase,
        (-4096.0, 4096.0): np.round(phase / np.pi * 4096),
        (0.0, 4096.0): np.floor((phase + np.pi) / (2 * np.pi) * 4095.99),
    }
    for found, values in stored.items():
        apart = np.angle(np.exp(1j * (to_radians(values.astype(np.float32), found) - phase)))
        assert np.abs(apart).max() < 0.01
    # Values beyond the range are of an unwrapped image.
    beyond = to_radians(np.array([7.0], dtype=np.float32), (-np.pi, np.pi))
    np.testing.assert_allclose(beyond, 7 - 2 * np.pi, rtol=1e-5)
    narrow = to_radians(np.array([-100.0, 100], dtype=np.float32), (-200.0, 200.0))
    np.testing.assert_allclose(narrow, [-np.pi / 2, np.pi / 2], rtol=1e-6)
    with pytest.raises(InputError, match="is empty"):
        to_radians(narrow, (1.0, 1.0))


def test_field_of_two_phases_and_of_their_difference(head):
    magnitude, phases = head.gre()
    both = gre_fieldmap([magnitude], phases, TIMES, [RADIANS, RADIANS])
    error, before = head.error_mm(both.hz.data)
    assert error < 0.1 * before
    difference = np.angle(np.exp(1j * (phases[1].data - phases[0].data)))
    stored = Volume(np.round(difference / np.pi * 4096).astype(np.float32), AFFINE)
    one = gre_fieldmap([magnitude], [stored], TIMES, [(-4096, 4096)])
    assert head.error_mm(one.hz.data)[0] < 0.1 * before
    assert np.isfinite(one.hz.data).all()
    # No discontinuity at the border of the measured region.
    assert np.abs(np.diff(one.hz.data, axis=1)).max() < 80


def test_scanner_field_in_either_unit(head):
    magnitude, _ = head.gre()
    noise = np.where(head.inside, 0, head.rng.normal(scale=300, size=SHAPE))
    stored = (head.field + noise).astype(np.float32)
    _, before = head.error_mm(head.field)
    for units, factor in (("Hz", 1.0), ("rad/s", 2 * np.pi), ("T", 1 / 42.577e6)):
        found = direct_fieldmap(Volume(factor * stored, AFFINE), magnitude, units)
        assert head.error_mm(found.hz.data)[0] < 0.1 * before
    with pytest.raises(InputError, match="Units"):
        direct_fieldmap(Volume(stored, AFFINE), magnitude, "ppm")
    with pytest.raises(InputError, match="check its Units"):
        direct_fieldmap(Volume(100 * stored, AFFINE), magnitude, "Hz")


def test_field_maps_that_cannot_be(head):
    magnitude, phases = head.gre()
    with pytest.raises(InputError, match="echo times"):
        gre_fieldmap([magnitude], phases, (4.6, 7.1), [RADIANS, RADIANS])
    with pytest.raises(InputError, match="one or two phase"):
        gre_fieldmap([magnitude], [], TIMES, [])
    other = Volume(phases[1].data[:-1], AFFINE)
    with pytest.raises(GeometryError, match="grid"):
        gre_fieldmap([magnitude], [phases[0], other], TIMES, [RADIANS, RADIANS])
    shifted = Volume(magnitude.data, AFFINE + np.eye(4, k=3) * 9)
    with pytest.raises(GeometryError, match="magnitude image 1 of the field map is on a diff"):
        gre_fieldmap([shifted], phases, TIMES, [RADIANS, RADIANS])
    field, weights = np.zeros((2, 9, 9, 9), dtype=np.float32)
    with pytest.raises(InputError, match="no voxel"):
        fill_smoothly(field, weights, np.ones(3), 2.0)


def test_gradient_echo_field_corrects_a_moved_head(head):
    direction = "j-"
    magnitude, phases = head.gre()
    found = gre_fieldmap([magnitude], phases, TIMES, [RADIANS, RADIANS])
    # The head moved before the field map was acquired: move its header.
    move = compose(np.array([3.0, -2.0, 2.5, 0.05, -0.03, 0.04]), np.zeros(3))
    for volume in (found.hz, found.magnitude):
        volume.affine[...] = move @ AFFINE
    result = apply_fieldmap(head.epi(direction), found, direction, READOUT, sloppy=True)
    error, before = head.error_mm(result.field_hz)
    assert error < 0.5 * before
    placed = result.placement
    assert placed is not None
    assert (placed.verdict, placed.reasons) == ("good", [])
    distorted = head.epi(direction).data
    inside = head.inside
    assert (
        np.corrcoef(result.image[inside], head.flat[inside])[0, 1]
        > np.corrcoef(distorted[inside], head.flat[inside])[0, 1] + 0.02
    )


def flipped(volume, axis):
    """Store an image the other way round along an axis; every voxel keeps its place."""
    turn = np.eye(4)
    turn[axis, axis], turn[axis, 3] = -1, volume.shape[axis] - 1
    return Volume(np.flip(volume.data, axis).copy(), volume.affine @ turn)


def test_magnitudes_stored_otherwise(head):
    magnitude, phases = head.gre()
    ranges = [RADIANS, RADIANS]
    plain = gre_fieldmap([magnitude], phases, TIMES, ranges)
    turned = gre_fieldmap([flipped(magnitude, 0)], phases, TIMES, ranges)
    np.testing.assert_array_equal(turned.hz.data, plain.hz.data)
    second = flipped(phases[1], 2)
    turned = gre_fieldmap([magnitude], [phases[0], second], TIMES, ranges)
    np.testing.assert_array_equal(turned.hz.data, plain.hz.data)
    coarse = AFFINE @ np.diag([2.0, 2, 2, 1])
    small = resample_to(magnitude, (26, 31, 17), coarse)
    error, before = head.error_mm(gre_fieldmap([small], phases, TIMES, ranges).hz.data)
    assert error < 0.15 * before


def test_opposite_pair_of_which_one_is_stored_otherwise(head):
    images = [head.epi("j"), flipped(head.epi("j-"), 1)]
    # From front to back, its encoding is j as well.
    found = epi_fieldmap(images, ("j", "j"), [READOUT] * 2, sloppy=True)
    error, before = head.error_mm(found.hz.data)
    assert error < 0.25 * before


def test_a_field_map_of_nothing_alike_is_not_called_good(head):
    rng = np.random.default_rng(2)
    blobs = ndimage.gaussian_filter(rng.normal(size=SHAPE), 3)
    blobs = Volume((1000 * (blobs - blobs.min()) / np.ptp(blobs)).astype(np.float32), AFFINE)
    placed = check_place(head.epi("j-"), blobs, head.inside, np.eye(4), sloppy=True)
    assert placed.verdict == "look"
    assert placed.reasons


def test_a_wrong_place_is_left_for_that_of_the_headers(head):
    magnitude, _ = head.gre()
    epi = head.noisy(head.flat)
    astray = compose(np.array([12.0, -10.0, 9.0, 0.2, 0.1, 0.0]), np.zeros(3))
    placed = check_place(epi, magnitude, head.inside, astray)
    assert placed.moved_mm < 1.0
    assert placed.starts_differ_mm > 5.0
    assert placed.verdict == "look"


@pytest.mark.parametrize("ways", [("j", "j-"), ("j-", "j")])
def test_opposite_pair(head, ways):
    times = (READOUT, 0.6 * READOUT)
    images = [head.epi(way, time) for way, time in zip(ways, times, strict=True)]
    found = epi_fieldmap(images, ways, times, sloppy=True)
    error, before = head.error_mm(found.hz.data)
    assert error < 0.25 * before


def test_pair_with_motion_between(head):
    images = [head.epi("j"), head.epi("j-")]
    move = compose(np.array([1.0, 0.0, -1.2, 0.02, 0.015, -0.02]), np.zeros(3))
    moved = resample_to(Volume(images[1].data, move @ AFFINE), SHAPE, AFFINE, order=3).data
    found = epi_fieldmap(
        [images[0], Volume(np.maximum(moved, 0), AFFINE)], ("j", "j-"), [READOUT] * 2
    )
    # A shift of the head along the axis is indistinguishable from a constant field.
    hz = found.hz.data + np.median((head.field - found.hz.data)[head.inside])
    error, before = head.error_mm(hz)
    assert error < 0.4 * before


def test_images_that_are_no_pair(head):
    epi = head.epi("j")
    with pytest.raises(InputError, match="not of opposite polarity"):
        epi_fieldmap([epi, epi], ("j", "j"), (0.03, 0.03))
    with pytest.raises(InputError, match="not of opposite polarity"):
        epi_fieldmap([epi, epi], ("j", "i-"), (0.03, 0.03))
    with pytest.raises(InputError, match="TotalReadoutTime"):
        epi_fieldmap([epi, epi], ("j", "j-"), (0.03, 30.0))
    # Stored from front to back, j- is the same direction.
    turned = Volume(epi.data, AFFINE @ np.diag([1.0, -1, 1, 1]))
    with pytest.raises(InputError, match="not of opposite polarity"):
        epi_fieldmap([epi, turned], ("j", "j-"), (0.03, 0.03))
    tilted = Volume(epi.data, nb.affines.from_matvec(nb.eulerangles.euler2mat(0.3)) @ AFFINE)
    with pytest.raises(GeometryError, match="axes"):
        epi_fieldmap([epi, tilted], ("j", "j-"), (0.03, 0.03))


def test_mean_of_a_short_series(tmp_path, head):
    epi = head.epi("j")
    path = tmp_path / "series.nii.gz"
    with SeriesWriter(path, SHAPE, AFFINE, 2.0, 3, ceiling=6000.0) as writer:
        for scale in (0.9, 1.0, 1.1):
            writer.add(scale * epi.data)
    np.testing.assert_allclose(magnitude_image(path).data, epi.data, atol=1.0)
    single = magnitude_image(save_volume(epi, tmp_path / "one.nii.gz"))
    np.testing.assert_array_equal(single.data, epi.data)


def test_interfaces_from_file_to_file(tmp_path, head):
    magnitude, phases = head.gre()
    files = [save_volume(v, tmp_path / f"{n}.nii.gz") for n, v in enumerate((magnitude, *phases))]
    prepared = PrepareGREFieldmap(
        magnitude=files[:1], phase=files[1:], echo_times=TIMES, phase_ranges=[RADIANS, RADIANS]
    )
    prepared = prepared.run(cwd=str(tmp_path)).outputs
    bold = save_volume(head.epi("j-"), tmp_path / "bold.nii.gz")
    applied = ApplyFieldmap(
        bold_ref=bold,
        fieldmap_hz=prepared.fieldmap_hz,
        magnitude_ref=prepared.magnitude_ref,
        mask=prepared.mask,
        phase_encoding="j-",
        readout_time=READOUT,
        same_space=True,
        method="phases",
    ).run(cwd=str(tmp_path))
    error, before = head.error_mm(nb.load(applied.outputs.fieldmap).get_fdata())
    assert error < 0.1 * before
    with open(applied.outputs.sdc_report) as file:  # noqa: PTH123
        report = json.load(file)
    assert report["method"] == "phases"
    truth = -head.field[head.inside] * READOUT * VOXEL
    assert report["percentile_1_mm"] == pytest.approx(np.percentile(truth, 1), abs=0.7)
    pair = [bold, save_volume(head.epi("j"), tmp_path / "pa.nii.gz")]
    estimated = EstimateEPIFieldmap(
        in_files=pair, phase_encoding=["j-", "j"], readout_times=[READOUT] * 2, sloppy=True
    ).run(cwd=str(tmp_path))
    hz = nb.load(estimated.outputs.fieldmap_hz).get_fdata()
    assert head.error_mm(hz)[0] < 0.25 * before
