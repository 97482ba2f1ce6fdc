"""Sidecars and gradients of converted images: completed, and checked against the headers."""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass, replace
from typing import Any

import nibabel as nb

from neuroferry.files import write_text
from neuroferry.intake.dcm2niix import clear_description, set_step
from neuroferry.intake.identity import Identifiers, clean_sidecar
from neuroferry.intake.outputs import Item
from neuroferry.intake.reproin import Name
from neuroferry.intake.rulebook import IntakeRules
from neuroferry.intake.timing import settle_repetition_time, settle_slice_times
from neuroferry.intake.volumes import Volumes

_SERIES = ("func", "dwi", "perf", "fmap")
#: What BIDS needs of a field map of opposed phases.
POLARITY = ("PhaseEncodingDirection", "TotalReadoutTime")
_LONGEST_READOUT = 1.0  # s: no echo-planar image takes as long
_NO_DIFFUSION = 1.0  # s/mm²: below it, a volume of a series without gradients has none


@dataclass(frozen=True)
class Completed:
    """An item with its settled sidecar; or the reason why it cannot be placed."""

    item: Item
    warnings: tuple[str, ...] = ()
    reason: str = ""


def lacking_polarity(datatype: str, suffix: str, told: Container[str]) -> str:
    """Say what a field map lacks for BIDS; empty if nothing.

    Parameters
    ----------
    datatype, suffix : str
        Of the image.
    told : container of str
        Fields of the sidecar that are known.
    """
    missing = [key for key in POLARITY if key not in told]
    if datatype != "fmap" or suffix != "epi" or not missing:
        return ""
    return (
        f"It is a field map, for which BIDS needs {' and '.join(missing)}, and its headers do not"
        " tell: give them in a [[sidecar]] rule."
    )


def complete(
    item: Item,
    name: Name,
    volumes: Volumes,
    identifiers: Identifiers,
    rules: IntakeRules,
    given: Mapping[str, Any],
) -> Completed:
    """Complete the sidecar of an image, and check image and gradients against the headers.

    Parameters
    ----------
    item : Item
        The image; its file is changed where the header is wrong.
    name : Name
        Name of the series.
    volumes : Volumes
        Headers of the series.
    identifiers : Identifiers
        What no sidecar may hold.
    rules : IntakeRules
        Rules of dates.
    given : mapping
        What rules say that the sidecar holds.
    """
    content, telling = clean_sidecar(item.content, identifiers, times=rules.dates != "remove")
    warnings = [
        f"{key} held something that identifies a person, and was left out of the sidecar."
        for key in telling
    ]
    if rules.dates == "remove":
        clear_description(item.converted.image)
    n_volumes, counted = item.converted.n_volumes, volumes.count()
    if name.datatype == "func" and counted and n_volumes != counted:
        return Completed(
            item,
            reason=(
                f"dcm2niix wrote {n_volumes} volumes of it, but its headers tell of {counted}."
            ),
        )
    if name.datatype in _SERIES:
        warnings += _settle_times(content, item, volumes)
    if name.datatype == "func" and "task" in item.entities:
        content["TaskName"] = item.entities["task"]
    if item.entities.get("part") == "phase":
        content.setdefault("Units", "arbitrary")
    warnings += _drop_absurd(content)
    content |= given
    warnings += _say_lacking(content, item, volumes)
    lacking = lacking_polarity(name.datatype, item.suffix, content)
    if lacking:
        return Completed(item, reason=lacking)
    completed = replace(item, content=content)
    if item.suffix == "dwi":
        return _check_gradients(completed, volumes, warnings)
    return Completed(completed, tuple(warnings))


def _drop_absurd(content: dict[str, Any]) -> list[str]:
    """Leave out a readout time that is none; dcm2niix writes one for 3-D scans of UIH."""
    seconds = content.get("TotalReadoutTime")
    if not isinstance(seconds, int | float) or seconds <= _LONGEST_READOUT:
        return []
    for key in ("TotalReadoutTime", "EffectiveEchoSpacing"):
        content.pop(key, None)
    return [f"TotalReadoutTime of {seconds:g} s is no time of a readout, and was left out."]


def _say_lacking(content: Mapping[str, Any], item: Item, volumes: Volumes) -> list[str]:
    """Say what corrections will lack, and what is no run."""
    said = []
    if item.suffix == "bold" and item.converted.n_volumes == 1:
        said.append(
            "It has one volume only: the run was stopped, or its volumes came as series of their"
            " own."
        )
    if item.suffix not in ("bold", "dwi"):
        return said
    missing = [] if "PhaseEncodingDirection" in content else ["PhaseEncodingDirection"]
    if item.suffix == "bold" and volumes.planar and not item.content.get("SliceTiming"):
        missing += [] if "SliceTiming" in content else ["SliceTiming"]
    if missing:
        it = "it" if len(missing) == 1 else "them"
        said.append(
            f"Its headers do not tell {' and '.join(missing)}: what needs {it} is not corrected,"
            f" unless a [[sidecar]] rule gives {it}."
        )
    return said


def _settle_times(content: dict[str, Any], item: Item, volumes: Volumes) -> list[str]:
    said = []
    seconds, sentence = settle_repetition_time(content, volumes, item.converted.n_volumes)
    said.append(sentence)
    if seconds is not None:
        content["RepetitionTime"] = seconds
        if item.converted.n_volumes > 1:
            step = float(nb.Nifti1Image.from_filename(item.converted.image).header["pixdim"][4])
            if abs(step - seconds) > 1e-3:
                set_step(item.converted.image, seconds)
    times, sentence = settle_slice_times(content, volumes, seconds)
    said.append(sentence)
    if "SliceTiming" in content:
        if times is None:
            del content["SliceTiming"]
        else:
            content["SliceTiming"] = times
    return [sentence for sentence in said if sentence]


def _check_gradients(item: Item, volumes: Volumes, warnings: list[str]) -> Completed:
    converted = item.converted
    b_values = [frame.b_value for frame in volumes.frames]
    if not converted.gradients:
        known = [value for value in b_values if value is not None]
        if len(known) < len(b_values) or max(known, default=0.0) > _NO_DIFFUSION:
            return Completed(
                item,
                reason=(
                    "It is named as diffusion images, but dcm2niix finds no b values and gradients"
                    " in its headers."
                ),
            )
        stem = converted.image.name.removesuffix(".nii.gz")
        paths = tuple(converted.image.with_name(f"{stem}.{kind}") for kind in ("bval", "bvec"))
        zeros = " ".join(["0"] * converted.n_volumes) + "\n"
        write_text(paths[0], zeros)
        write_text(paths[1], zeros * 3)
        return Completed(
            replace(item, converted=replace(converted, gradients=paths)), tuple(warnings)
        )
    numbers = converted.gradients[0].read_text(encoding="utf-8").split()
    if len(numbers) != converted.n_volumes:
        return Completed(
            item,
            reason=(f"dcm2niix wrote {len(numbers)} b values for {converted.n_volumes} volumes."),
        )
    return Completed(item, tuple(warnings))
