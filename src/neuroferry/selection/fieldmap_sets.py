"""Sets of field maps that belong together, and the sets assigned to a run."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from neuroferry.bids.intended import is_intended, lost_targets, texts_of
from neuroferry.bids.model import OTHER_PARTS, Image, Subject

SUFFIXES = (
    "phasediff",
    "phase1",
    "phase2",
    "magnitude1",
    "magnitude2",
    "fieldmap",
    "magnitude",
    "epi",
    "m0scan",
    "sbref",
)
MAGNITUDES = ("magnitude1", "magnitude2", "magnitude")
# Images outside fmap/ that show the distortion of an EPI.
_EPI_SUFFIXES = ("bold", "sbref", "dwi", "m0scan")
_APART = ("subject", "session", "acquisition", "run", "reconstruction", "ceagent", "task")


#: How a field map was chosen for a run.
Origin = Literal["B0FieldIdentifier", "IntendedFor", "inferred"]


@dataclass(frozen=True)
class MatchingSets:
    """Field maps assigned to a run, and the origin of the assignment.

    Attributes
    ----------
    sets : dict of str to list of Image
        Images that belong together, by a label of letters and digits; those that name the run
        come first.
    origin : Origin
        ``inferred``: the only set of the session, assigned to no run.
    why_none : str
        Without sets: the reason, as a clause.
    notes : tuple of str
        Sentences to show as warnings.
    ambiguous : bool
        Whether there are no sets because more than one can be meant.
    """

    sets: dict[str, list[Image]]
    origin: Origin
    why_none: str = ""
    notes: tuple[str, ...] = ()
    ambiguous: bool = False


def matching_sets(subject: Subject, echoes: Sequence[Image]) -> MatchingSets:
    """Find the field maps for a run, in sets that belong together.

    Parameters
    ----------
    subject : Subject
        Its images.
    echoes : sequence of Image
        Echoes of the BOLD run, or the DWI run.

    Returns
    -------
    MatchingSets
        By ``B0FieldSource`` if the run has one, else by ``IntendedFor``, of any session; else the
        only set of the session, if it is assigned to no run.
    """
    sources = dict.fromkeys(s for e in echoes for s in texts_of(e.metadata, "B0FieldSource"))
    if sources:
        return _identified(subject, echoes, tuple(sources))
    sets = _intended(subject, echoes)
    if sets:
        return MatchingSets(sets, "IntendedFor")
    return _only_set(subject, echoes[0])


def _identified(
    subject: Subject, echoes: Sequence[Image], sources: tuple[str, ...]
) -> MatchingSets:
    """Find the images with the run's ``B0FieldSource`` as ``B0FieldIdentifier``."""
    run = echoes[0]
    own = {echo.path for echo in echoes}
    sets: dict[str, list[Image]] = {}
    reasons: list[str] = []
    for source in sources:
        found = _with_identifier(subject, source)
        # Sidecars shared by sessions give all of them the same identifiers.
        here = [image for image in found if image.session in (run.session, None)]
        elsewhere = sorted({image.session or "" for image in found} - {run.session or ""})
        if any(image.path not in own for image in here):
            sets[_label(source, sets)] = [*here, *_partners(subject, here)]
        else:
            reasons.append(_unidentified(source, elsewhere, alone=bool(here)))
    why = "" if sets else "; ".join(reasons)
    notes = tuple(f"{run.path.name}: {reason}." for reason in reasons if sets)
    return MatchingSets(sets, "B0FieldIdentifier", why, notes)


def _with_identifier(subject: Subject, source: str) -> list[Image]:
    return [
        image
        for image in subject.images
        if (image.datatype == "fmap" or image.suffix in _EPI_SUFFIXES)
        and image.entities.get("part") not in OTHER_PARTS
        and source in texts_of(image.metadata, "B0FieldIdentifier")
    ]


def _unidentified(source: str, elsewhere: Sequence[str], *, alone: bool) -> str:
    """Explain that no field map has a B0FieldSource as its identifier."""
    others = "no other image" if alone else "no image"
    text = f"{others} of its session has its B0FieldSource, {source}, as B0FieldIdentifier"
    if elsewhere:
        where = " and ".join(f"ses-{session}" for session in elsewhere)
        text += f" (images of {where} have; use IntendedFor for runs of another session)"
    return text


def _partners(subject: Subject, members: Sequence[Image]) -> list[Image]:
    """Find the magnitude images, named like a phase or field, that have no identifier at all."""
    there = {member.path for member in members}
    names = {_kind_and_entities(member) for member in members if member.datatype == "fmap"}
    return [
        image
        for image in _fieldmaps(subject)
        if image.suffix in MAGNITUDES
        and image.path not in there
        and not texts_of(image.metadata, "B0FieldIdentifier")
        and _kind_and_entities(image) in names
    ]


def _intended(subject: Subject, echoes: Sequence[Image]) -> dict[str, list[Image]]:
    """Find the sets of which a member names the run, without members meant for other runs only."""
    own = {echo.path for echo in echoes}
    pool = [
        image
        for image in subject.images
        if image.path not in own
        and (
            (image.datatype == "fmap" and image.suffix in SUFFIXES)
            # Opposite DWI runs are looked at in their own way, without an IntendedFor as well.
            or (image.datatype == "func" and image.suffix in ("bold", "sbref"))
        )
        and image.entities.get("part") not in OTHER_PARTS
    ]
    named = {i.path for i in pool if any(is_intended(i, echo) for echo in echoes)}
    sets: dict[str, list[Image]] = {}
    for label, members in _grouped(pool).items():
        kept = [
            member
            for member in members
            if member.path in named
            or (member.datatype == "fmap" and not texts_of(member.metadata, "IntendedFor"))
            # A magnitude of the same name belongs to its phase image, whatever it is meant for.
            or member.suffix in MAGNITUDES
        ]
        if any(member.path in named for member in members):
            sets[label] = sorted(kept, key=lambda member: member.path not in named)
    return sets


def _only_set(subject: Subject, run: Image) -> MatchingSets:
    """Take the only set of the session, if nothing assigns its images to runs."""
    candidates = [i for i in _fieldmaps(subject) if i.session in (run.session, None)]
    if not candidates:
        return MatchingSets({}, "inferred", "its session has no field map")
    reasons = [
        *_lost(candidates),
        *(
            f"{image.path.name} has a B0FieldIdentifier, but the run no B0FieldSource"
            for image in candidates
            if image.suffix not in MAGNITUDES
            and texts_of(image.metadata, "B0FieldIdentifier")
            and not texts_of(image.metadata, "IntendedFor")
        ),
    ]
    assigned = any(
        texts_of(image.metadata, "IntendedFor") or texts_of(image.metadata, "B0FieldIdentifier")
        for image in candidates
    )
    sets = _grouped(candidates)
    if not assigned and len(sets) == 1:
        return MatchingSets(sets, "inferred")
    why = "no field map of its session is assigned to it (B0FieldSource or IntendedFor)"
    ambiguous = not assigned and len(sets) > 1
    if ambiguous:
        firsts = (members[0].path.name for members in sets.values())
        reasons.insert(0, f"more than one can be meant ({', '.join(firsts)})")
    return MatchingSets({}, "inferred", "; ".join([why, *reasons[:2]]), ambiguous=ambiguous)


def _lost(candidates: Iterable[Image]) -> list[str]:
    """Explain which ``IntendedFor`` names files that do not exist."""
    names: dict[str, str] = {}
    for image in sorted(candidates, key=lambda image: image.suffix in MAGNITUDES):
        for text in lost_targets(image):
            names.setdefault(text, image.path.name)
    return [
        f"the IntendedFor of {name} names {text}, which this dataset does not have"
        for text, name in names.items()
    ]


def _fieldmaps(subject: Subject) -> list[Image]:
    return [i for i in subject.images if i.datatype == "fmap" and i.suffix in SUFFIXES]


def _grouped(runs: Iterable[Image]) -> dict[str, list[Image]]:
    """Group field maps into sets by kind and distinguishing entities."""
    sets: dict[tuple[str, ...], list[Image]] = {}
    magnitudes = []
    for run in runs:
        if run.suffix in MAGNITUDES:
            magnitudes.append(run)
            continue
        sets.setdefault(_kind_and_entities(run), []).append(run)
    for run in magnitudes:
        own, *entities = _kind_and_entities(run)
        for kind in (own, "direct", "gre"):
            key = (kind, *entities)
            if key in sets:
                sets[key].append(run)
                break
    if not sets and magnitudes:
        sets["gre",] = magnitudes
    labels: dict[str, list[Image]] = {}
    for number, (key, members) in enumerate(sorted(sets.items())):
        labels[f"auto{key[0]}{number}"] = members
    return labels


def _kind_and_entities(image: Image) -> tuple[str, ...]:
    """Describe what images of one set have in common."""
    if image.suffix in ("fieldmap", "magnitude"):
        kind = "direct"
    elif image.suffix in ("epi", *_EPI_SUFFIXES):
        kind = "epi"
    else:
        kind = "gre"
    # The two directions of an EPI pair often have different run numbers.
    keys = [key for key in _APART if not (kind == "epi" and key == "run")]
    return (kind, *(image.entities.get(key, "") for key in keys))


def _label(text: str, taken: Iterable[str]) -> str:
    """Make a label of letters and digits that no other identifier has."""
    label = re.sub(r"[^a-zA-Z0-9]", "", text) or "fmap"
    taken = set(taken)
    number = 2
    found = label
    while found in taken:
        found, number = f"{label}{number}", number + 1
    return found
