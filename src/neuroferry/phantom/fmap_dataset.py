"""Field maps of a session written as BIDS, with their truth."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from neuroferry.phantom import files
from neuroferry.phantom.bold import ECHO_SPACING
from neuroferry.phantom.fmap import (
    EPI_ECHO_TIME,
    EPI_TR,
    EPI_VOLUMES,
    GRE_ECHO_TIMES,
    GRE_FLIP,
    GRE_TR,
    PHASE_UNIT,
    GradientEchoes,
    OpposedEpi,
    scan_gradient_echoes,
    scan_opposed,
)
from neuroferry.phantom.subject import STREAM_FMAP

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from neuroferry.phantom.bold import BoldSession
    from neuroferry.phantom.epi import EpiOptions
    from neuroferry.phantom.place import Place
    from neuroferry.phantom.subject import SubjectAnatomy

GRE_FIELD, EPI_FIELD = "gre", "epi"


@dataclass(frozen=True)
class FieldmapNames:
    """Names and random streams of the field maps of one kind of scan.

    Attributes
    ----------
    field : str
        Prefix of each B0FieldIdentifier.
    acquisition : str
        Prefix of each file's other entities; empty, or ends in an underscore.
    reference : str
        Target space of the transforms.
    streams : tuple of two ints
        Random streams of the gradient echoes and of the spin echoes.
    """

    field: str
    acquisition: str
    reference: str
    streams: tuple[int, int]


BOLD_NAMES = FieldmapNames("", "", "boldref", (1, 2))
DWI_NAMES = FieldmapNames("dwi", "acq-dwi_", "dwiref", (3, 4))


@dataclass(frozen=True)
class PhantomFieldmaps:
    """Files of the field maps of one session and of their truth.

    Attributes
    ----------
    session : str or None
        Label without ``ses-``.
    images : mapping of str to Path
        Keyed by suffix: ``magnitude1``, ``magnitude2``, ``phasediff``, ``phase1``, ``phase2``,
        ``magnitude``, ``fieldmap``; ``epi-AP`` and the like by direction.
    truth : mapping of str to Path
        ``gre_fieldmap`` (Hz) and ``gre_mask`` on the gradient echoes' grid;
        ``gre_to_boldref`` and ``epi_to_boldref``: transforms that map points of the first
        run's reference to points of the field map scan (``gre_to_dwiref`` and
        ``epi_to_dwiref`` if they are intended for a diffusion scan).
    """

    session: str | None
    images: Mapping[str, Path]
    truth: Mapping[str, Path]


def field_sources(options: EpiOptions, names: FieldmapNames = BOLD_NAMES) -> dict[str, Any]:
    """Make the sidecar field of a run that names its field maps."""
    sources = [names.field + GRE_FIELD] if set(options.fieldmaps) - {"epi"} else []
    sources += [names.field + EPI_FIELD] if "epi" in options.fieldmaps else []
    if not sources:
        return {}
    return {"B0FieldSource": sources if len(sources) > 1 else sources[0]}


def write_fieldmaps(
    place: Place,
    anatomy: SubjectAnatomy,
    session: BoldSession,
    options: EpiOptions,
    targets: Sequence[Path],
    names: FieldmapNames = BOLD_NAMES,
) -> PhantomFieldmaps:
    """Simulate and write the field maps that `options` requests.

    Parameters
    ----------
    place : Place
    anatomy : SubjectAnatomy
    session : BoldSession
    options : EpiOptions
    targets : sequence of Path
        Files that the field maps are intended for.
    names : FieldmapNames
    """
    number = int(place.session or 0)
    intended = [f"bids::{path.relative_to(place.root).as_posix()}" for path in targets]
    images: dict[str, Path] = {}
    truth: dict[str, Path] = {}
    kinds = set(options.fieldmaps)
    if kinds - {"epi"}:
        rng = anatomy.parameters.stream(STREAM_FMAP, number, names.streams[0])
        gre = scan_gradient_echoes(anatomy, session, options, rng)
        images |= _write_gre(place, gre, kinds, intended, names)
        truth |= _write_gre_truth(place, gre, names)
    if "epi" in kinds:
        rng = anatomy.parameters.stream(STREAM_FMAP, number, names.streams[1])
        opposed = scan_opposed(anatomy, session, options, rng)
        images |= _write_opposed(place, opposed, options, intended, names)
        truth |= _write_position(place, "epi", opposed.motion, names)
    return PhantomFieldmaps(place.session, images, truth)


def _write_position(
    place: Place, kind: str, motion: NDArray[np.float64], names: FieldmapNames
) -> dict[str, Path]:
    ways = f"from-{kind}_to-{names.reference}"
    path = place.truth("fmap", f"{names.acquisition}{ways}_mode-image_desc-truth_xfm.txt")
    return {f"{kind}_to_{names.reference}": files.write_affines(path, motion[None])}


def _write_gre(
    place: Place,
    gre: GradientEchoes,
    kinds: set[str],
    intended: list[str],
    names: FieldmapNames,
) -> dict[str, Path]:
    affine = gre.head.grid.affine
    common = {
        "Manufacturer": "neuroferry",
        "MagneticFieldStrength": 3,
        "RepetitionTime": GRE_TR,
        "FlipAngle": GRE_FLIP,
        "B0FieldIdentifier": names.field + GRE_FIELD,
        "IntendedFor": intended,
    }
    first, second = GRE_ECHO_TIMES

    def write(suffix: str, data: NDArray[np.float32], more: dict[str, Any]) -> Path:
        path = place.raw("fmap", f"{names.acquisition}{suffix}.nii.gz")
        files.write_json(path.with_name(path.name.replace(".nii.gz", ".json")), common | more)
        return files.write_image(path, data, affine, dtype=np.int16)

    images: dict[str, Path] = {}
    if kinds & {"phasediff", "phases"}:
        for number, (te, data) in enumerate(zip(GRE_ECHO_TIMES, gre.magnitude, strict=True), 1):
            images[f"magnitude{number}"] = write(f"magnitude{number}", data, {"EchoTime": te})
    if "phasediff" in kinds:
        times = {"EchoTime1": first, "EchoTime2": second, "Units": "arbitrary"}
        images["phasediff"] = write("phasediff", gre.difference / PHASE_UNIT, times)
    if "phases" in kinds:
        for number, (te, data) in enumerate(zip(GRE_ECHO_TIMES, gre.phase, strict=True), 1):
            sidecar = {"EchoTime": te, "Units": "arbitrary"}
            images[f"phase{number}"] = write(f"phase{number}", data / PHASE_UNIT, sidecar)
    if "direct" in kinds:
        images["magnitude"] = write("magnitude", gre.magnitude[0], {"EchoTime": first})
        path = place.raw("fmap", f"{names.acquisition}fieldmap.nii.gz")
        sidecar = {**common, "Units": "Hz"}
        files.write_json(path.with_name(path.name.replace(".nii.gz", ".json")), sidecar)
        images["fieldmap"] = files.write_image(path, gre.field, affine, dtype=np.float32)
    return images


def _write_gre_truth(place: Place, gre: GradientEchoes, names: FieldmapNames) -> dict[str, Path]:
    affine = gre.head.grid.affine
    brain = gre.head.tissues.sum(axis=0) >= 0.5
    field = place.truth("fmap", f"{names.acquisition}desc-truth_fieldmap.nii.gz")
    mask = place.truth("fmap", f"{names.acquisition}desc-brain_mask.nii.gz")
    files.write_json(field.with_name(field.name.replace(".nii.gz", ".json")), {"Units": "Hz"})
    files.write_json(mask.with_name(mask.name.replace(".nii.gz", ".json")), {"Type": "Brain"})
    return {
        "gre_fieldmap": files.write_image(
            field, gre.head.field_on_grid(), affine, dtype=np.float32
        ),
        "gre_mask": files.write_image(mask, brain, affine, dtype=np.uint8),
        **_write_position(place, "gre", gre.motion, names),
    }


def _write_opposed(
    place: Place,
    opposed: OpposedEpi,
    options: EpiOptions,
    intended: list[str],
    names: FieldmapNames,
) -> dict[str, Path]:
    images = {}
    ways = (options.direction, options.direction[::-1])
    for way, grid, series in zip(ways, opposed.grids, opposed.series, strict=True):
        path = place.raw("fmap", f"{names.acquisition}dir-{way}_epi.nii.gz")
        sidecar = {
            "Manufacturer": "neuroferry",
            "MagneticFieldStrength": 3,
            "PulseSequenceType": "Spin echo EPI",
            "RepetitionTime": EPI_TR,
            "EchoTime": EPI_ECHO_TIME,
            "FlipAngle": 90,
            **readout_metadata(grid.direction, grid.readout),
            "B0FieldIdentifier": names.field + EPI_FIELD,
            "IntendedFor": intended,
        }
        files.write_json(path.with_name(path.name.replace(".nii.gz", ".json")), sidecar)
        shape = (*grid.shape, EPI_VOLUMES)
        with files.SeriesFile(path, grid.affine, shape, EPI_TR) as file:
            for volume in series:
                file.add(volume)
        images[f"epi-{way}"] = path
    return images


def readout_metadata(direction: str, readout: float) -> dict[str, Any]:
    """Make the sidecar fields of an echo-planar readout."""
    return {
        "PhaseEncodingDirection": direction,
        "EffectiveEchoSpacing": ECHO_SPACING,
        "TotalReadoutTime": round(readout, 8),
    }
