"""The JSON file of an image's quality metrics, in the form of MRIQC.

Flat metrics, ``bids_meta`` (what the image is) and ``provenance`` (which file, how, by what). A
metric that is undefined for an image is null; ``provenance.warnings.undefined`` says why.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nipype.interfaces.base import (
    BaseInterfaceInputSpec,
    File,
    InputMultiObject,
    isdefined,
    traits,
)

from neuroferry import __version__
from neuroferry.bids.metadata import read_json
from neuroferry.files import write_json

#: Entities of the image in ``bids_meta``, under the names that MRIQC gives them.
IDENTIFIERS = {
    "subject": "subject_id",
    "session": "session_id",
    "task": "task_id",
    "acquisition": "acq_id",
    "ceagent": "ce_id",
    "reconstruction": "rec_id",
    "direction": "dir_id",
    "run": "run_id",
    "echo": "echo_id",
    "part": "part_id",
}
#: Fields that some converters leave in sidecars; they identify a person and are not passed on.
IDENTIFYING = frozenset(
    {
        *("PatientName", "PatientID", "PatientBirthDate", "PatientAddress", "OtherPatientIDs"),
        *("ReferringPhysicianName", "PerformingPhysicianName", "OperatorsName", "AccessionNumber"),
    }
)
_CHUNK = 1 << 20


class IqmInputSpec(BaseInterfaceInputSpec):
    """Inputs of every step that writes quality metrics: what the image is."""

    source = File(exists=True, mandatory=True, desc="the image in the dataset")
    sidecars = InputMultiObject(
        File(exists=True), desc="JSON files that apply to it, the farthest first"
    )
    entities = traits.Dict(
        traits.Str, traits.Str, desc="entities of the image, by long name", usedefault=True
    )
    description = File(exists=True, desc="dataset_description.json of its dataset")


def write_iqms(
    path: str | Path,
    values: Mapping[str, float],
    undefined: Mapping[str, str],
    *,
    inputs: Any,
    modality: str,
    settings: Mapping[str, Any],
    warnings: Mapping[str, Any] | None = None,
) -> Path:
    """Write the metrics of an image, whole or not at all.

    Parameters
    ----------
    path : path
        The file.
    values : mapping of str to float
        Metrics; what is not finite becomes null, floats are written with nine digits.
    undefined : mapping of str to str
        Reasons, in a sentence, for metrics that are not finite.
    inputs : IqmInputSpec
        Inputs of the step.
    modality : str
        Suffix of the image.
    settings : mapping
        Settings that the metrics depend on.
    warnings : mapping, optional
        What is doubtful about the image.

    Returns
    -------
    pathlib.Path
        The file.
    """
    sidecars = inputs.sidecars if isdefined(inputs.sidecars) else []
    meta = bids_meta(modality, inputs.entities, [Path(sidecar) for sidecar in sidecars])
    if isdefined(inputs.description):
        meta["dataset"] = str(read_json(Path(inputs.description)).get("Name", ""))
    document = {
        **{name: _rounded(value) for name, value in values.items()},
        "bids_meta": meta,
        "provenance": {
            "md5sum": md5sum(Path(inputs.source)),
            "settings": dict(settings),
            "software": "neuroferry",
            "version": __version__,
            "warnings": {**(warnings or {}), "undefined": dict(sorted(undefined.items()))},
        },
    }
    path = Path(path)
    write_json(path, dict(sorted(document.items())))
    return path


def bids_meta(
    modality: str, entities: Mapping[str, str], sidecars: Sequence[Path]
) -> dict[str, Any]:
    """Collect what is known about an image: its identifiers and the fields of its sidecars.

    Parameters
    ----------
    modality : str
        Suffix of the image.
    entities : mapping of str to str
        Its entities by long name.
    sidecars : sequence of pathlib.Path
        JSON files that apply to it; the last one wins.

    Returns
    -------
    dict
        Fields that identify a person are left out.

    Raises
    ------
    InputError
        If a sidecar cannot be read.
    """
    fields: dict[str, Any] = {}
    for sidecar in sidecars:
        fields.update(read_json(sidecar))
    meta = {key: _jsonable(v) for key, v in fields.items() if key not in IDENTIFYING}
    names = {IDENTIFIERS.get(key, f"{key}_id"): value for key, value in entities.items()}
    return {**meta, **names, "modality": modality}


def md5sum(path: Path) -> str:
    """Compute the MD5 checksum of a file, by which MRIQC identifies an image."""
    digest = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as stream:
        while block := stream.read(_CHUNK):
            digest.update(block)
    return digest.hexdigest()


def _rounded(value: float) -> float | int | None:
    if isinstance(value, int):
        return value
    return float(f"{value:.9g}") if math.isfinite(value) else None


def _jsonable(value: Any) -> Any:
    """Replace the numbers that JSON does not have; sidecars of converters hold some."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, list):
        return [_jsonable(item) for item in value]
    if isinstance(value, dict):
        return {key: _jsonable(item) for key, item in value.items()}
    return value
