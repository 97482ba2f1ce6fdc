"""Plans of field maps from EPIs of opposite phase encoding."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from neuroferry.bids.dwi import b0_volumes, has_bvals
from neuroferry.bids.epi import epi_encoding, opposite_of
from neuroferry.bids.grids import LARGEST_TILT, direction_along, tilt_of
from neuroferry.bids.headers import image_shape, read_header
from neuroferry.bids.intended import is_intended
from neuroferry.bids.model import OTHER_PARTS, Image
from neuroferry.bids.volumes import judge_volumes
from neuroferry.errors import InputError
from neuroferry.selection.fieldmap_plan import FieldmapPlan

# In order of preference: field maps, then references, then series.
_KINDS = ("epi", "sbref", "m0scan", "bold", "dwi")
# Volumes in the middle of a BOLD run that serve as field map: its signal is steady there.
_MIDDLE_VOLUMES = 10


class Epi(NamedTuple):
    """An EPI that a field can be estimated from.

    Attributes
    ----------
    image : Image
        The file.
    direction : str
        PhaseEncodingDirection along its own axes.
    way : str
        The same along the axes of the run.
    readout : float
        TotalReadoutTime, s.
    volumes : tuple of int
        Volumes to align and average; empty for the mean.
    notes : tuple of str
        Sentences to show as warnings.
    """

    image: Image
    direction: str
    way: str
    readout: float
    volumes: tuple[int, ...]
    notes: tuple[str, ...] = ()


def plan_pepolar(
    members: Sequence[Image],
    echoes: Sequence[Image],
    direction: str,
    b0_threshold: float,
    *,
    assigned: bool = True,
) -> FieldmapPlan | None:
    """Plan the correction with EPIs of opposite phase encoding; None if there are none.

    Parameters
    ----------
    members : sequence of Image
        The set; those that name the run come first.
    echoes : sequence of Image
        Images of the run.
    direction : str
        PhaseEncodingDirection of the run.
    b0_threshold : float
        Volumes up to this b-value are not diffusion-weighted, s/mm2.
    assigned : bool
        Whether the set says that it belongs to the run; otherwise, two images of one direction
        could each be meant.

    Raises
    ------
    InputError
        If there are EPIs, but no usable ones of opposite phase encoding; the message is a clause.
    """
    own = {echo.path for echo in echoes}
    images = [
        image
        for kind in _KINDS
        for image in members
        if image.suffix == kind
        and image.path not in own
        and image.entities.get("part") not in OTHER_PARTS
    ]
    if not images:
        return None
    reasons: list[str] = []
    usable = [*_usable(images, echoes[0], b0_threshold, reasons)]
    opposite = opposite_of(direction)
    against = [epi for epi in usable if epi.way == opposite]
    # The run itself is better than another series like it.
    along = [
        epi for epi in usable if epi.way == direction and epi.image.suffix not in ("bold", "dwi")
    ]
    # A DWI run that is itself one of the pair needs no substitute.
    if echoes[0].suffix == "dwi" and any(image.path in own for image in members):
        along = []
    if not against:
        other = _other_axis(usable, direction)
        if other is None:
            raise InputError("; ".join(reasons) or _none_opposite(usable, opposite))
        along, against = other
        notes = [
            f"{echoes[0].path.name} is encoded along {direction}, its field maps along"
            f" {along[0].way[0]}."
        ]
    else:
        notes = []
    chosen, more = _choose(along, against, echoes[0], assigned=assigned)
    check_tilt(chosen[-1].image, chosen[0].image if len(chosen) > 1 else echoes[0])
    lost = [f"{echoes[0].path.name}: {reason}." for reason in reasons]
    return pair_plan(chosen, [*notes, *more, *lost])


def pair_plan(epis: Sequence[Epi], notes: Iterable[str] = ()) -> FieldmapPlan:
    """Plan the correction with one EPI, together with the run itself, or with two."""
    return FieldmapPlan(
        method="pepolar",
        epi=tuple(str(epi.image.path) for epi in epis),
        epi_phase_encoding=tuple(epi.direction for epi in epis),
        epi_readout_times=tuple(epi.readout for epi in epis),
        epi_volumes=tuple(epi.volumes for epi in epis),
        epi_n_voxels=tuple(
            math.prod(image_shape(epi.image.path)) if epi.volumes else 0 for epi in epis
        ),
        warnings=(*(note for epi in epis for note in epi.notes), *notes),
    )


def examine_epi(image: Image, run: Image, b0_threshold: float) -> Epi:
    """Examine whether a field can be estimated from an EPI for a run.

    Raises
    ------
    InputError
        If something is missing or contradictory; the message is a clause.
    """
    direction, readout, notes = epi_encoding(image)
    way = direction_along(direction, read_header(image.path).affine, read_header(run.path).affine)
    return Epi(
        image, direction, way, readout, volumes_to_average(image, run, b0_threshold), tuple(notes)
    )


def check_tilt(image: Image, other: Image) -> None:
    """Check that the distortions of two EPIs have one direction in space.

    Raises
    ------
    InputError
        With a clause, if their axes are tilted by more than `LARGEST_TILT`.
    """
    tilt = tilt_of(read_header(image.path).affine, read_header(other.path).affine)
    if tilt > LARGEST_TILT:
        raise InputError(
            f"the slices of {image.path.name} are tilted against those of {other.path.name} by"
            f" {math.degrees(math.asin(min(1.0, tilt))):.0f} degrees, so that their distortions"
            " have different directions"
        )


def _usable(
    images: Sequence[Image], run: Image, b0_threshold: float, reasons: list[str]
) -> Iterator[Epi]:
    """Examine images; of the echoes of one series the first is enough."""
    series: set[tuple[object, ...]] = set()
    for image in images:
        key = (image.suffix, *((k, v) for k, v in image.entities.items() if k != "echo"))
        if key in series:
            continue
        try:
            yield examine_epi(image, run, b0_threshold)
            series.add(key)
        except InputError as error:
            reasons.append(str(error))


def _other_axis(usable: Sequence[Epi], direction: str) -> tuple[list[Epi], list[Epi]] | None:
    """Find images of opposite directions along another axis than the run's."""
    for axis in "ijk".replace(direction[0], ""):
        along, against = ([e for e in usable if e.way == way] for way in (axis, f"{axis}-"))
        if along and against:
            return along, against
    return None


def _none_opposite(usable: Sequence[Epi], opposite: str) -> str:
    names = ", ".join(f"{epi.image.path.name}: {epi.way}" for epi in usable)
    text = f"none of its EPI field maps has the opposite phase encoding, {opposite}"
    return f"{text} ({names})" if names else text


def _choose(
    along: Sequence[Epi], against: Sequence[Epi], run: Image, *, assigned: bool
) -> tuple[list[Epi], list[str]]:
    """Choose one image of each direction, the most alike two."""
    along, against = (_best_kind(_meant(epis, run)) for epis in (along, against))
    for epis in (against, along):
        if len(epis) > 1 and not assigned:
            names = " and ".join(epi.image.path.name for epi in epis)
            raise InputError(
                f"more than one field map can be meant ({names} have the same phase encoding); say"
                " which by IntendedFor or B0FieldIdentifier"
            )
    ones: list[Epi | None] = [*along] or [None]
    pairs = [(one, other) for other in against for one in ones]
    first, second = min(pairs, key=lambda pair: _unlike(*pair))
    notes = [
        f"{run.path.name}: of {len(epis)} field maps encoded along {epis[0].way} that are meant"
        f" for it, {chosen.image.path.name} is used."
        for epis, chosen in ((along, first), (against, second))
        if len(epis) > 1 and chosen is not None
    ]
    return [epi for epi in (first, second) if epi is not None], notes


def _best_kind(epis: Sequence[Epi]) -> list[Epi]:
    """Keep the images of the kind that comes first."""
    return [epi for epi in epis if epi.image.suffix == epis[0].image.suffix]


def _meant(epis: Sequence[Epi], run: Image) -> list[Epi]:
    """Keep the images that name the run, if there are any."""
    return [epi for epi in epis if is_intended(epi.image, run)] or [*epis]


def _unlike(one: Epi | None, other: Epi) -> int:
    """Count the entities in which two images differ, other than their direction."""
    if one is None:
        return 0
    first, second = one.image.entities, other.image.entities
    keys = (set(first) | set(second)) - {"direction"}
    return sum(first.get(key) != second.get(key) for key in keys)


def volumes_to_average(epi: Image, target: Image, b0_threshold: float) -> tuple[int, ...]:
    """Choose the volumes of an EPI from which a field is estimated.

    Parameters
    ----------
    epi : Image
        Field map, or a run that serves as one.
    target : Image
        Image that it corrects.
    b0_threshold : float
        Volumes up to this b-value are not diffusion-weighted, s/mm2.

    Returns
    -------
    tuple of int
        Volumes to align and average; empty for the mean over all without alignment.

    Raises
    ------
    InputError
        If all are diffusion-weighted, or its b-values cannot be used.
    """
    if epi.suffix == "dwi" or (epi.suffix == "epi" and has_bvals(epi)):
        volumes = b0_volumes(epi, b0_threshold=b0_threshold)
        if not volumes:
            raise InputError(f"{epi.path.name} has no b0 volume (b <= {b0_threshold:g} s/mm2)")
        return _sound(epi, volumes, alike=[volumes])
    facts = read_header(epi.path)
    everything = tuple(range(facts.n_volumes))
    if epi.suffix == "epi" and target.suffix == "dwi":
        return _sound(epi, everything) if len(facts.shape) > 3 else ()
    sound = _sound(epi, everything)
    if epi.suffix == "bold" and facts.n_volumes > 1:
        first = max(0, (len(sound) - _MIDDLE_VOLUMES) // 2)
        return sound[first : first + _MIDDLE_VOLUMES]
    return sound if sound != everything else ()


def _sound(
    epi: Image, volumes: tuple[int, ...], alike: Sequence[Sequence[int]] | None = None
) -> tuple[int, ...]:
    """Leave out volumes without a usable image."""
    if epi.volumes is None:
        return volumes
    unusable = judge_volumes(epi.volumes, alike).volumes
    sound = tuple(volume for volume in volumes if volume not in unusable)
    if not sound:
        raise InputError(f"no volume of {epi.path.name} that is needed holds a usable image")
    return sound
