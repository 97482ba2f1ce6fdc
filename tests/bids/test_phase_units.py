"""Units of phase images, over what scanners and converters store: right, or refused."""

from pathlib import Path
from typing import NamedTuple

import nibabel as nb
import numpy as np
import pytest

from neuroferry.bids.model import Image
from neuroferry.bids.phase_units import check_field, field_factor, settle_phases
from neuroferry.errors import InputError

SHAPE = (24, 26, 20)
TIMES = (0.00492, 0.00738)
RNG = np.random.default_rng(5)
X, Y, Z = (np.indices(SHAPE).T / np.array(SHAPE) - 0.48).T
HEAD = (X**2 + Y**2 + Z**2) < 0.4**2
#: Hz: of a tenth of a cycle, and of two and a half.
FIELDS = {
    "narrow": 40 * np.exp(-((X - 0.1) ** 2 + Y**2 + Z**2) / 0.05) - 12,
    "wide": 520 * np.exp(-((X - 0.1) ** 2 + Y**2 + Z**2) / 0.05) - 90,
}
TURN = 2 * np.pi


class Stored(NamedTuple):
    """How phase is stored: what -pi to pi becomes, and what the file says about it."""

    low: float
    high: float
    step: float = 0.0
    dtype: str = "i2"
    slope: float = 1.0
    intercept: float = 0.0
    units: str | None = None
    unwrapped: bool = False
    rescaled: bool = False
    zero: float | None = None  # value of phase zero, if it is not in the middle


TWELVE = 4095
CONVENTIONS = {
    "Siemens, scaled": Stored(-4096, 4096, 2, slope=2, intercept=-4096, units="arbitrary"),
    "Siemens, scale lost": Stored(-4096, 4096, 2),
    "Siemens, as float": Stored(-4096, 4096, 2, "f4", units="a.u."),
    "Siemens, scaled by whoever masked it": Stored(-4096, 4096, 2, rescaled=True),
    "Siemens or UIH, 0 to 4095": Stored(0, 4096, 1),
    "UIH, 0 to 8191": Stored(0, 8192, 1),
    "signed, 12 bits": Stored(-2048, 2048, 1),
    "Philips, rad, scaled": Stored(
        -np.pi, np.pi, TURN / TWELVE, slope=TURN / TWELVE, intercept=-np.pi, units="arbitrary"
    ),
    "Philips, mrad, scaled": Stored(
        -3142, 3142, 6284 / TWELVE, slope=6284 / TWELVE, intercept=-3142
    ),
    "Philips, 500, scaled": Stored(-500, 500, 1000 / 4096, slope=1000 / 4096, intercept=-500),
    "Philips, 500, scale lost": Stored(-500, 500, 4),
    "GE, mrad": Stored(-1000 * np.pi, 1000 * np.pi, 1),
    "GE, mrad, said": Stored(-1000 * np.pi, 1000 * np.pi, 1, units="mrad"),
    "rad": Stored(-np.pi, np.pi, dtype="f4"),
    "rad, said": Stored(-np.pi, np.pi, dtype="f4", units="rad"),
    "rad from 0": Stored(0, TURN, dtype="f4", zero=0.0),
    "rad from 0, zero in the middle": Stored(0, TURN, dtype="f4"),
    "rad, unwrapped": Stored(-np.pi, np.pi, dtype="f4", unwrapped=True),
    "rad, unwrapped, said": Stored(-np.pi, np.pi, dtype="f4", units="rad", unwrapped=True),
    "degrees": Stored(-180, 180, 1),
    "degrees, said": Stored(-180, 180, dtype="f4", units="degrees"),
    "half turns": Stored(-1, 1, dtype="f4"),
    "Hz, said": Stored(-203.25, 203.25, dtype="f4", units="Hz"),
    "rad/s, said": Stored(-203.25 * TURN, 203.25 * TURN, dtype="f4", units="rad/s"),
}
#: With a mask, nothing shows the unit of these, unless the field has wraps.
NEED_NOISE = {
    "Siemens, scale lost",
    "Siemens, as float",
    "Siemens, scaled by whoever masked it",
    "Siemens or UIH, 0 to 4095",
    "UIH, 0 to 8191",
    "signed, 12 bits",
    "Philips, 500, scale lost",
    "GE, mrad",
    "rad",
    "rad from 0",
    "rad from 0, zero in the middle",
    "degrees",
    "half turns",
}
NEVER = {"rad, unwrapped"}


def store(path, how, field, *, masked):
    """Write the phase of a field; return its image and the true phase, rad."""
    true = TURN * field * (TIMES[1] - TIMES[0]) + RNG.normal(scale=0.01, size=SHAPE)
    phase = true if how.unwrapped else np.angle(np.exp(1j * true))
    if not masked:
        phase = np.where(HEAD, phase, RNG.uniform(-np.pi, np.pi, SHAPE))
    cycle = how.high - how.low
    if how.zero is None:
        values = (how.high + how.low) / 2 + phase / TURN * cycle
    else:
        values = (how.zero + phase / TURN * cycle) % cycle
    if how.step:
        values = how.low + np.round((values - how.low) / how.step) * how.step
        values = np.clip(values, how.low, how.high - how.step)
    if masked:
        values = np.where(HEAD, values, 0)
    header = nb.Nifti1Header()
    if how.rescaled:
        header.set_data_dtype(how.dtype)  # nibabel scales the values to fill the type
        nb.Nifti1Image(values, np.diag([3.0, 3, 3, 1]), header).to_filename(path)
    else:
        raw = (values - how.intercept) / how.slope
        data = (np.round(raw) if how.dtype == "i2" else raw).astype(how.dtype)
        image = nb.Nifti1Image(data, np.diag([3.0, 3, 3, 1]))
        image.header.set_slope_inter(how.slope, how.intercept)
        image.to_filename(path)
        write_scale(path, how)
    said = {} if how.units is None else {"Units": how.units}
    return Image(path, {"subject": "01"}, "phasediff", "fmap", said), true


def write_scale(path, how):
    """Write the scale into the header, which nibabel does not do for integers."""
    raw = bytearray(path.read_bytes())
    raw[112:120] = np.array([how.slope, how.intercept], "<f4").tobytes()
    path.write_bytes(raw)


def relative_error(image, true, found):
    """Return the error of scale or of offset in the head, relative to the phase itself."""
    values = np.asarray(nb.load(image.path).dataobj, float)[HEAD]
    phase = (values - (found.low + found.high) / 2) / (found.high - found.low) * TURN
    error = np.angle(np.exp(1j * (phase - true[HEAD])))
    scale = abs((error * true[HEAD]).sum()) / (true[HEAD] ** 2).sum()
    return max(scale, abs(np.median(error)) / np.median(np.abs(true[HEAD])))


MAGNITUDE = np.where(HEAD, 900, 10)


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("name", CONVENTIONS)
def test_every_convention(tmp_path, name, masked, field):
    how = CONVENTIONS[name]
    image, true = store(tmp_path / "x.nii", how, FIELDS[field], masked=masked)
    # Near zero, an angle from 0 to one cycle has wraps.
    unknown = name in NEED_NOISE - {"rad from 0"} and masked and field == "narrow"
    may_fail = (masked and name in NEED_NOISE) or name in NEVER
    try:
        (found,) = settle_phases((image,), TIMES, MAGNITUDE)
    except InputError as error:
        assert may_fail, error  # noqa: PT017
        assert "unit of x.nii is unknown" in str(error)  # noqa: PT017
        return
    assert not unknown
    assert relative_error(image, true, found) < 0.02


@pytest.mark.parametrize("name", ["Siemens, scale lost", "rad", "Siemens or UIH, 0 to 4095"])
def test_wraps_show_the_unit_of_a_masked_image(tmp_path, name):
    image, true = store(tmp_path / "x.nii", CONVENTIONS[name], FIELDS["wide"], masked=True)
    (found,) = settle_phases((image,), TIMES, MAGNITUDE)
    assert relative_error(image, true, found) < 0.02


def test_two_phases_share_the_scale_that_one_of_them_shows(tmp_path):
    how = CONVENTIONS["Siemens, scale lost"]
    one, _ = store(tmp_path / "1.nii", how, FIELDS["narrow"], masked=True)
    two, _ = store(tmp_path / "2.nii", how, FIELDS["narrow"], masked=False)
    assert settle_phases((one, two), TIMES) == ((-4096, 4096), (-4096, 4096))
    other, _ = store(tmp_path / "3.nii", CONVENTIONS["rad"], FIELDS["narrow"], masked=False)
    with pytest.raises(InputError, match="have phase in different units"):
        settle_phases((two, other), TIMES)


@pytest.mark.parametrize(
    ("name", "units", "words"),
    [
        ("Siemens, scaled", "rad", "has Units 'rad', but its values are whole numbers from"),
        ("Philips, mrad, scaled", "rad", "but its values are"),
        ("rad", "ppm", "has Units 'ppm', which is no unit of phase"),
        ("Siemens, scaled", "Hz", "has Units 'Hz', but its values"),
    ],
)
def test_units_that_contradict_the_values(tmp_path, name, units, words):
    image, _ = store(tmp_path / "x.nii", CONVENTIONS[name], FIELDS["narrow"], masked=False)
    image = Image(image.path, image.entities, "phasediff", "fmap", {"Units": units})
    with pytest.raises(InputError, match=words):
        settle_phases((image,), TIMES)


def test_the_zero_of_an_unsigned_angle_needs_the_head(tmp_path):
    image, _ = store(tmp_path / "x.nii", CONVENTIONS["rad from 0"], FIELDS["narrow"], masked=False)
    with pytest.raises(InputError, match="whether a difference of zero is stored as 0 or"):
        settle_phases((image,), TIMES)


def test_a_damaged_image_is_one_message(tmp_path):
    path = tmp_path / "x.nii"
    path.write_bytes(b"no image")
    with pytest.raises(InputError, match=r"x\.nii"):
        settle_phases((Image(Path(path), {}, "phasediff", "fmap", {}),), TIMES)


def test_fields_of_every_unit():
    assert field_factor(" Hz", "a") == 1
    assert field_factor("rad/s", "a") == pytest.approx(1 / TURN)
    # 3 T is 127.7 MHz.
    assert 3 * field_factor("T", "a") == pytest.approx(127.73e6, rel=1e-4)
    for bad in ("ppm", None, 1, ["Hz"]):
        with pytest.raises(InputError, match="must give Units, Hz, rad/s or T"):
            field_factor(bad, "a")
    with pytest.raises(InputError, match="reaches 4000 Hz"):
        check_field(np.full(SHAPE, 4000.0), MAGNITUDE, "a")
    check_field(np.full(SHAPE, 4000.0) * ~HEAD, MAGNITUDE, "a")
