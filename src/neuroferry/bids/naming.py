"""Facts of an image from its folders and its name, relative to the root of its dataset.

Nothing above the root counts: a dataset below a folder named ``func`` or ``sub-01`` reads as it
does anywhere. A name is read whole or not at all: what is odd about it is a `BadNameError`, and
the image is left out, as half a name could make it a repeat of another image or its results those
of another participant.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from neuroferry.bids.entities import ENTITIES, NAMES, did_you_mean, is_label

#: Folders of data below a participant or session.
DATATYPES = frozenset(
    [
        "anat",
        "func",
        "dwi",
        "fmap",
        "perf",
        "beh",
        "eeg",
        "emg",
        "ieeg",
        "meg",
        "micr",
        "motion",
        "mrs",
        "nirs",
        "pet",
    ]
)
#: Folders in which an image with one of these suffixes may lie; those of field maps and of series.
FOLDERS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("T1w", "T2w", "FLAIR"), ("anat",)),
    **dict.fromkeys(("phasediff", "phase1", "phase2", "magnitude1", "magnitude2"), ("fmap",)),
    **dict.fromkeys(("magnitude", "fieldmap", "epi"), ("fmap",)),
    "bold": ("func",),
    "dwi": ("dwi",),
    "sbref": ("func", "dwi", "perf", "fmap"),
    "m0scan": ("perf", "fmap"),
    "asl": ("perf",),
}
#: Suffixes of the images that some workflow reads.
USED = (*FOLDERS.keys() - {"T2w", "FLAIR", "m0scan", "asl"},)
_OTHERS = frozenset(
    [
        "PDw",
        "PDT2",
        "PD",
        "T2star",
        "T2starw",
        "inplaneT1",
        "inplaneT2",
        "angio",
        "defacemask",
        "FLASH",
        "UNIT1",
        "T1map",
        "R1map",
        "T2map",
        "R2map",
        "T2starmap",
        "R2starmap",
        "PDmap",
        "MTRmap",
        "MTsat",
        "MTVmap",
        "MWFmap",
        "Chimap",
        "S0map",
        "M0map",
        "T1rho",
        "MESE",
        "MEGRE",
        "VFA",
        "IRT1",
        "MP2RAGE",
        "MPM",
        "MTS",
        "MTR",
        "cbv",
        "phase",
        "noRF",
        "ADC",
        "FA",
        "trace",
        "colFA",
        "expADC",
        "pet",
        "mrsref",
        "TB1DAM",
        "TB1EPI",
        "TB1AFI",
        "TB1TFL",
        "TB1RFM",
        "TB1SRGE",
        "TB1map",
        "RB1COR",
        "RB1map",
        "svs",
        "mrsi",
        "unloc",
        "asllabeling",
    ]
)
_EXTENSIONS = (".nii", ".nii.gz")
_PARTS = ("mag", "phase", "real", "imag")
#: Entities that only derivatives have.
_DERIVED = (
    *("template", "cohort", "space", "atlas", "segmentation", "scale", "resolution", "density"),
    *("from", "to", "mode", "label", "model", "parameter", "bundle", "description"),
)


class Facts(NamedTuple):
    """Facts of an image: entities by their long names as written, suffix, datatype."""

    entities: dict[str, str]
    suffix: str
    datatype: str


class BadNameError(Exception):
    """Something about folders or name that leaves the facts of an image open.

    Attributes
    ----------
    derived : bool
        Whether the name is one of a derivative.
    """

    def __init__(self, message: str, *, derived: bool = False) -> None:
        super().__init__(message)
        self.derived = derived


def read_place(parts: Sequence[str]) -> Facts:
    """Read the facts of an image from its place.

    Parameters
    ----------
    parts : sequence of str
        Folders below the root of the dataset, and the name of the file: ``("sub-01", "anat",
        "sub-01_T1w.nii.gz")``.

    Returns
    -------
    Facts

    Raises
    ------
    BadNameError
        If the place is not one of BIDS, or name and folders contradict each other.

    Examples
    --------
    >>> read_place(("sub-01", "ses-a", "anat", "sub-01_ses-a_run-02_T1w.nii.gz"))
    Facts(entities={'subject': '01', 'session': 'a', 'run': '02'}, suffix='T1w', datatype='anat')
    >>> read_place(("sub-02", "anat", "sub-01_T1w.nii.gz"))
    Traceback (most recent call last):
    ...
    neuroferry.bids.naming.BadNameError: its name says sub-01, but its folder sub-02
    """
    *folders, name = parts
    owner = dict(_pair(folder) for folder in folders[:-1])
    odd = [folder for folder in folders if folder[:4] == "ses-" and not is_session(folder)]
    if odd:
        raise BadNameError(f"'{printable(odd[0])}' may have only letters, digits and + after ses-")
    if not _is_place(folders):
        raise BadNameError(f"{'/'.join(folders)} is not a folder of images in BIDS")
    entities, suffix = _read_name(name)
    for key, long in (("sub", "subject"), ("ses", "session")):
        said, there = entities.get(long), owner.get(key)
        if said != there:
            raise BadNameError(_contradiction(key, said, there))
    datatype = folders[-1]
    _check_suffix(suffix, datatype)
    derived = [name for name in _DERIVED if name in entities]
    if derived:
        keys = " and ".join(key for key, name in NAMES.items() if name in derived)
        raise BadNameError(f"{keys} names a derivative, not an image of the scanner", derived=True)
    if entities.get("part", "mag") not in _PARTS:
        raise BadNameError(f"part-{entities['part']} is not one of {', '.join(_PARTS)}")
    return Facts(entities, suffix, datatype)


def seems_used(name: str, suffixes: Iterable[str]) -> bool:
    """Check whether an odd name holds the suffix of an image that is read, in any case.

    Examples
    --------
    >>> seems_used("sub-01_t1w (copy).nii.gz", ["T1w"]), seems_used("mask.nii", ["T1w"])
    (True, False)
    """
    words = set(re.split(r"[^0-9a-z]+", name.lower()))
    return any(suffix.lower() in words for suffix in suffixes)


def printable(name: str) -> str:
    r"""Make a name that is not UTF-8 printable.

    >>> printable("sub-\udcff")
    'sub-\\xff'
    """
    return name.encode(errors="surrogateescape").decode(errors="backslashreplace")


def _pair(text: str) -> tuple[str, str]:
    key, _, value = text.partition("-")
    return key, value


def _is_place(folders: Sequence[str]) -> bool:
    session = len(folders) == 3 and is_session(folders[1])
    return folders[-1] in DATATYPES and (len(folders) == 2 or session)


def is_session(folder: str) -> bool:
    """Check that a folder is named as one of a session."""
    return folder.startswith("ses-") and is_label(folder[4:])


def _read_name(name: str) -> tuple[dict[str, str], str]:
    stem, dot, extension = name.partition(".")
    if dot + extension not in _EXTENSIONS:
        raise BadNameError(f"'{printable(dot + extension)}' is not .nii.gz or .nii")
    *pairs, suffix = stem.split("_")
    entities: dict[str, str] = {}
    for pair in pairs:
        key, dash, value = pair.partition("-")
        if not pair:
            raise BadNameError("its name has an underscore with nothing before it")
        if not dash or key not in NAMES:
            hint = f" (its key is {ENTITIES[key]}-)" if key in ENTITIES else ""
            raise BadNameError(f"'{printable(pair)}' in its name is not an entity of BIDS{hint}")
        if not is_label(value):
            raise BadNameError(
                f"'{printable(pair)}' may have only letters, digits and + after {key}-"
            )
        if NAMES[key] in entities:
            raise BadNameError(f"its name has {key}- twice")
        entities[NAMES[key]] = value
    if not suffix.isalnum() or not suffix.isascii():
        raise BadNameError(
            f"its name ends in '{printable(suffix)}' instead of a suffix such as _T1w"
        )
    return entities, suffix


def _contradiction(key: str, said: str | None, there: str | None) -> str:
    if said is None:
        return f"its name lacks {key}-{there}, the folder that it is in"
    if there is None:
        return f"its name says {key}-{said}, but it is in no folder {key}-{said}"
    return f"its name says {key}-{said}, but its folder {key}-{there}"


def _check_suffix(suffix: str, datatype: str) -> None:
    allowed = FOLDERS.get(suffix)
    if allowed is None and suffix not in _OTHERS:
        hint = did_you_mean(suffix, [*FOLDERS, *_OTHERS])
        close = hint if hint.startswith("; did") else ""
        raise BadNameError(f"_{suffix} is not a suffix of images in BIDS{close}")
    if allowed is not None and datatype not in allowed:
        right = " or ".join(f"{folder}/" for folder in allowed)
        raise BadNameError(f"_{suffix} belongs into {right}, but it is in {datatype}/")
