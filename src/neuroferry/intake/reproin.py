"""Names of ReproIn: what the operator typed at the scanner, read as a name of BIDS.

``[PREFIX:][WIP ]<datatype[-suffix]>[_ses-..][_task-..][_acq-..][_run-..][_dir-..][__<custom>]``,
see https://github.com/ReproNim/reproin. Values lose what no label of BIDS may have, in the way in
which HeuDiConv's heuristic does it, so that both give the same names.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from neuroferry.bids.entities import NAMES, is_label
from neuroferry.bids.naming import FOLDERS
from neuroferry.intake.model import Fate, Instance

_DATATYPES = ("anat", "beh", "func", "fmap", "dwi")
#: Signs that are dropped from a value; underscores and hyphens have become X by then.
_DROPPED = str.maketrans("", "", "#!@$%^&.,:; ")
#: Ends that Siemens adds to the description of one of several series of a protocol.
_MP2RAGE = {
    "_INV1": ("MP2RAGE", {"inv": "1"}),
    "_INV2": ("MP2RAGE", {"inv": "2"}),
    "_UNI_Images": ("UNIT1", {}),
    "_UNI-DEN": ("UNIT1", {"reconstruction": "denoised"}),
}


@dataclass(frozen=True)
class Name:
    """The name of a series in BIDS, but for what depends on other series and on its images.

    Attributes
    ----------
    datatype, suffix : str
        As in BIDS; the suffix of a field map's magnitude or phase may still get its number.
    entities : mapping of str to str
        Long names to labels, without participant, session and run.
    run : str
        A number, ``"+"`` for the next, ``"="`` for the same as before, or empty.
    session : str
        What the name itself says: a label, ``"+"``, ``"="``, ``"{date}"``, or empty.
    by : str
        The rule that gave the name, as a clause.
    notes : tuple of str
        What is doubtful, as sentences.
    """

    datatype: str
    suffix: str
    by: str
    entities: Mapping[str, str] = field(default_factory=dict)
    run: str = ""
    session: str = ""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Aside:
    """A series that is no image for the dataset, and why: a sentence."""

    fate: Fate
    reason: str
    session: str = ""


@dataclass(frozen=True)
class Spec:
    """A name of ReproIn in its parts; `odd` are parts that are none."""

    datatype: str
    suffix: str
    entities: Mapping[str, str]
    run: str = ""
    session: str = ""
    odd: tuple[str, ...] = ()


def parse_spec(text: str) -> Spec | None:
    """Take a name of ReproIn apart; None if the text is none.

    Examples
    --------
    >>> spec = parse_spec("PU:func-bold_task-n-back_run-1__mb4")
    >>> spec.datatype, spec.suffix, dict(spec.entities), spec.run
    ('func', 'bold', {'task': 'nXback'}, '01')
    >>> parse_spec("WIP anat-T1w_ses-(date)").session, parse_spec("t1_mprage_sag")
    ('{date}', None)
    >>> parse_spec("func_run+").run, parse_spec("AAHead_Scout_64ch").suffix
    ('+', 'scout')
    """
    text = text.strip().replace("AAHead_Scout", "anat-scout").replace("anat_T1w", "anat-T1w")
    text = re.sub(r"^[A-Z]*:", "", text).removeprefix("WIP ").split("__", 1)[0]
    first, *others = text.removeprefix("bids_").split("_")
    if first == "scout":
        first = "anat-scout"
    datatype, _, suffix = first.partition("-")
    if datatype not in _DATATYPES:
        return None
    entities: dict[str, str] = {}
    odd = []
    for part in others:
        key, dash, value = part.partition("-")
        if not dash and key[-1:] in ("+", "="):
            key, value = key[:-1], key[-1]
        if key in ("run", "ses") or (key in NAMES and value):
            value = _clean(value)
            entities.setdefault(key, value)
            if not (is_label(value) or value in ("=", "{date}")):
                odd.append(part)
        elif part and not dash and not suffix and part == others[-1]:
            suffix = part
        elif part and not (suffix == "scout" or part == suffix):
            odd.append(part)
    run, session = entities.pop("run", ""), entities.pop("ses", "")
    if run.isdigit():
        run = f"{int(run):02d}"
    elif run not in ("", "+", "="):
        odd.append(f"run-{run}")
    long = {NAMES[key]: value for key, value in entities.items() if key != "sub"}
    return Spec(datatype, suffix, long, run, _session(session), tuple(odd))


def name_by_reproin(first: Instance) -> Name | Aside | None:
    """Name a series by ReproIn: from ProtocolName, else from SeriesDescription.

    Parameters
    ----------
    first : Instance
        An object of the series.

    Returns
    -------
    Name or Aside or None
        None if neither is a name of ReproIn.
    """
    for what, text in (("protocol", first.protocol), ("description", first.description)):
        spec = parse_spec(text)
        if spec is not None:
            return _named(spec, first, f"the name of ReproIn in its {what}")
    return None


def _named(spec: Spec, first: Instance, by: str) -> Name | Aside:
    description = first.description
    if (
        spec.suffix.startswith("scout")
        or "_Scout" in description
        or description.lower() == f"{first.protocol.lower()}_setter"
    ):
        return Aside("set aside", "It is a localiser.", spec.session)
    if spec.odd:
        return Aside(
            "unassigned",
            f"Its name is one of ReproIn, but {_quoted(spec.odd)} is no entity of BIDS with a"
            " label; rename the protocol, or write a rule.",
            spec.session,
        )
    if spec.datatype == "beh":
        return Aside("unassigned", "ReproIn's beh names no image.", spec.session)
    entities, notes = dict(spec.entities), []
    suffix = spec.suffix or _suffix(spec, first)
    for end, (kind, extra) in _MP2RAGE.items():
        if spec.datatype == "anat" and description.endswith(end):
            suffix, entities = kind, entities | extra
    if description.endswith("_SBRef"):
        suffix = "sbref"
    if not suffix:
        return Aside(
            "unassigned",
            f"Its name is one of ReproIn without a suffix, such as {spec.datatype}-T1w.",
            spec.session,
        )
    folders = FOLDERS.get(suffix, (spec.datatype,))
    if spec.datatype not in folders or not suffix.isalnum():
        return Aside(
            "unassigned",
            f"Its name is one of ReproIn, but _{suffix} does not belong into {spec.datatype}/.",
            spec.session,
        )
    if spec.datatype == "func" and "task" not in entities:
        entities["task"] = "UNKNOWN"
        notes.append("The name has no task- and got task-UNKNOWN: rename the protocol.")
    if "MOCO" in first.image_type:
        entities.setdefault("reconstruction", "moco")
    return Name(spec.datatype, suffix, by, entities, spec.run, spec.session, tuple(notes))


def _suffix(spec: Spec, first: Instance) -> str:
    if spec.datatype == "fmap":
        if "DIFFUSION" in first.image_type:
            return "epi"
        if {"P", "PHASE"} & set(first.image_type[2:]):
            return "phasediff"
        return "epi" if "direction" in spec.entities else "magnitude"
    return {"func": "bold", "dwi": "dwi"}.get(spec.datatype, "")


def _clean(value: str) -> str:
    braces = value.replace("(", "{").replace(")", "}")
    return braces.replace("_", "X").replace("-", "X").translate(_DROPPED)


def _session(value: str) -> str:
    return "{date}" if value in ("DATE", "{date}") else value


def _quoted(parts: tuple[str, ...]) -> str:
    return " and ".join(f"'{part}'" for part in parts)
