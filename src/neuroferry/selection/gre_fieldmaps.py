"""Plans of field maps from gradient echoes, and of fields computed by the scanner.

Everything that could stop the computation is found here, from sidecars, headers and values, so
that a run is never lost because of its field map.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from neuroferry.bids.epi import seconds
from neuroferry.bids.grids import fit_onto
from neuroferry.bids.headers import read_header, reading_image
from neuroferry.bids.model import Image
from neuroferry.bids.phase_units import check_field, field_factor, settle_phases
from neuroferry.errors import GeometryError, InputError
from neuroferry.selection.fieldmap_plan import FieldmapPlan

#: Relative difference of echo times, or of their distance, above which two sidecars contradict.
SAME_TIME = 0.02
#: Correlation of the volumes of one magnitude image above which each shows the same head.
_ALIKE = 0.8


def plan_phases(
    members: Sequence[Image], method: Literal["phasediff", "phases"]
) -> FieldmapPlan | None:
    """Plan a field map from a phase difference, or from two phases; None if there are none.

    Parameters
    ----------
    members : sequence of Image
        The set.
    method : {"phasediff", "phases"}
        Which of them.

    Raises
    ------
    InputError
        If something is missing, unclear or contradictory; the message is a clause.
    """
    suffixes = ("phasediff",) if method == "phasediff" else ("phase1", "phase2")
    phases = _of(members, *suffixes)
    if not phases:
        return None
    if [image.suffix for image in phases] != list(suffixes):
        raise InputError(_unlike_set(phases, suffixes))
    magnitudes = _of(members, "magnitude1", "magnitude2")[:2]
    if not magnitudes:
        raise InputError(f"the magnitude image for {phases[0].path.name} is missing")
    times = _echo_times(phases, magnitudes)
    for phase in phases:
        _check_one_volume(phase)
    if len(phases) == 2:
        _check_same_voxels(*phases)
    notes = _place_magnitudes(magnitudes, phases[0])
    ranges = settle_phases(tuple(phases), times, _on_same_grid(magnitudes[0], phases[0]))
    return FieldmapPlan(
        method=method,
        magnitude=_paths(magnitudes),
        phase=_paths(phases),
        echo_times=times,
        phase_ranges=tuple((scale.low, scale.high) for scale in ranges),
        warnings=tuple(notes),
    )


def plan_direct(members: Sequence[Image]) -> FieldmapPlan | None:
    """Plan the use of a field computed by the scanner; None if there is none.

    Raises
    ------
    InputError
        If something is missing, unclear or implausible; the message is a clause.
    """
    fields = _of(members, "fieldmap")
    if not fields:
        return None
    field = fields[0]
    if len(fields) > 1:
        raise InputError(_unlike_set(fields, ("fieldmap",)))
    magnitudes = _of(members, "magnitude", "magnitude1")[:1]
    if not magnitudes:
        raise InputError(f"the magnitude image for {field.path.name} is missing")
    units = field.metadata.get("Units")
    factor = field_factor(units, field.path.name)
    _check_one_volume(field)
    notes = _place_magnitudes(magnitudes, field)
    magnitude = _on_same_grid(magnitudes[0], field)
    if magnitude is not None:
        check_field(factor * _values(field), magnitude, field.path.name)
    return FieldmapPlan(
        method="direct",
        fieldmap=_paths(fields),
        magnitude=_paths(magnitudes),
        units=str(units).strip(),
        warnings=tuple(notes),
    )


def _of(members: Sequence[Image], *suffixes: str) -> list[Image]:
    return [run for suffix in suffixes for run in members if run.suffix == suffix]


def _paths(runs: Iterable[Image]) -> tuple[str, ...]:
    return tuple(str(Path(run.path)) for run in runs)


def _unlike_set(images: Sequence[Image], suffixes: Sequence[str]) -> str:
    if len({image.suffix for image in images}) < len(suffixes):
        return f"the other echo's phase image for {images[0].path.name} is missing"
    names = " and ".join(image.path.name for image in images)
    return f"more than one {' or '.join(suffixes)} can be meant ({names})"


def _echo_times(phases: Sequence[Image], magnitudes: Sequence[Image]) -> tuple[float, float]:
    """Determine the echo times, s, from the phase images, or else from the two magnitudes.

    Raises
    ------
    InputError
        If they are missing, in another unit or order, or contradict each other.
    """
    name = phases[0].path.name
    keys = ("EchoTime1", "EchoTime2") if len(phases) == 1 else ("EchoTime", "EchoTime")
    said = [
        image.metadata.get(key) for image, key in zip((phases[0], phases[-1]), keys, strict=True)
    ]
    if len(phases) == 2:
        keys = (f"EchoTime of {phases[0].suffix}", f"EchoTime of {phases[1].suffix}")
    for key, value in zip(keys, said, strict=True):
        if value is not None and seconds(value) is None:
            hint = ", which is probably in milliseconds" if _above_one(value) else ""
            raise InputError(
                f"the sidecar of {name} has {key} = {value!r}{hint}; write it in seconds"
            )
    beside = _magnitude_times(magnitudes)
    first, second = (seconds(value) for value in said)
    if first is None or second is None:
        if beside is not None:
            return beside
        names = " and ".join(dict.fromkeys(keys))
        raise InputError(f"the sidecar of {name} needs {names}, two increasing times in seconds")
    if first == second:
        raise InputError(
            f"in the sidecar of {name} {keys[0]} and {keys[1]} are equal ({first:g} s)"
        )
    if first > second:
        raise InputError(
            f"in the sidecar of {name} {keys[0]} ({first:g} s) is longer than {keys[1]}"
            f" ({second:g} s), and the sign of the field depends on their order; correct them to"
            " two increasing times"
        )
    if beside is not None and _differ(second - first, beside[1] - beside[0]):
        raise InputError(
            f"the echo times of {name} are {first:g} and {second:g} s, but its magnitude images"
            f" have {beside[0]:g} and {beside[1]:g} s; neither is used. Correct those that are"
            " wrong"
        )
    return first, second


def _above_one(value: object) -> bool:
    return isinstance(value, int | float) and value >= 1


def _magnitude_times(magnitudes: Sequence[Image]) -> tuple[float, float] | None:
    """Read the echo times of two magnitude images, if each has its own."""
    times = [seconds(image.metadata.get("EchoTime")) for image in magnitudes]
    if len(times) != 2 or times[0] is None or times[1] is None or times[0] >= times[1]:
        return None
    return times[0], times[1]


def _differ(one: float, other: float) -> bool:
    return abs(one - other) > SAME_TIME * max(one, other)


def _check_one_volume(image: Image) -> None:
    count = int(np.prod(read_header(image.path).shape[3:], initial=1))
    if count != 1:
        raise InputError(
            f"{image.path.name} has {count} volumes, and it is unclear which is meant; save the"
            " one that is meant"
        )


def _check_same_voxels(first: Image, second: Image) -> None:
    """Check that two phases can be subtracted: phase cannot be interpolated across its wraps."""
    try:
        fit = fit_onto(read_header(second.path), read_header(first.path))
        reason = "" if fit == "same" else "their resolution differs"
    except GeometryError as error:
        reason = str(error)
    if reason:
        raise InputError(
            f"{second.path.name} is on another grid than {first.path.name} ({reason}); convert"
            " them again"
        )


def _place_magnitudes(magnitudes: Sequence[Image], reference: Image) -> list[str]:
    """Check that magnitude images can be brought onto the grid of the phase or field."""
    notes = []
    for image in magnitudes:
        name = image.path.name
        facts = read_header(image.path)
        try:
            fit = fit_onto(facts, read_header(reference.path))
        except GeometryError as error:
            raise InputError(
                f"{name} is on another grid than {reference.path.name} ({error}); convert them"
                " again"
            ) from error
        if fit == "resampled":
            notes.append(
                f"{name} has another resolution or field of view than {reference.path.name} and is"
                " resampled onto its grid."
            )
        count = int(np.prod(facts.shape[3:], initial=1))
        if count > 1:
            _check_alike(image)
            notes.append(f"{name} has {count} volumes; their mean is used.")
    return notes


def _check_alike(image: Image) -> None:
    """Check that the volumes of a magnitude image all show the same head."""
    data = _values(image)
    volumes = data.reshape(*data.shape[:3], -1)[::2, ::2, ::2]
    table = np.corrcoef(volumes.reshape(-1, volumes.shape[-1]).T)
    if not np.nan_to_num(table).min() > _ALIKE:
        raise InputError(
            f"{image.path.name} has {volumes.shape[-1]} volumes that do not show the same; save"
            " the magnitude alone"
        )


def _on_same_grid(magnitude: Image, reference: Image) -> NDArray[Any] | None:
    """Read a magnitude image in the storage of a reference; None if it has to be interpolated."""
    import nibabel as nb

    from neuroferry.bids.grids import orientation

    facts, own = read_header(magnitude.path), read_header(reference.path)
    if fit_onto(facts, own) != "same":
        return None
    data = _values(magnitude)
    data = data.reshape(*data.shape[:3], -1)[..., 0]
    turned: NDArray[Any] = nb.orientations.apply_orientation(
        data, orientation(facts.affine, own.affine)
    )
    return turned


def _values(image: Image) -> NDArray[Any]:
    import nibabel as nb

    with reading_image(image.path):
        loaded: Any = nb.load(image.path)
        data: NDArray[Any] = np.asanyarray(loaded.dataobj)
    while data.ndim > 3 and data.shape[-1] == 1:
        data = data[..., 0]
    return data
