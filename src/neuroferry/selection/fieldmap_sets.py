"""Sets of field maps that belong together, and the sets assigned to a run."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from neuroferry.bids.model import Image, Subject

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
_APART = ("subject", "session", "acquisition", "run", "reconstruction", "ceagent", "task")


#: How a field map was chosen for a run.
Origin = Literal["B0FieldIdentifier", "IntendedFor", "inferred"]


class MatchingSets(NamedTuple):
    """Field maps assigned to a run, and the origin of the assignment.

    Attributes
    ----------
    sets : dict of str to list of Image
        Images that belong together, by a label of letters and digits.
    origin : Origin
        ``inferred``: the only set of the session, assigned to no run.
    """

    sets: dict[str, list[Image]]
    origin: Origin


def fieldmap_runs(subject: Subject, session: str | None) -> list[Image]:
    """List the field maps of a session, and those without a session.

    Parameters
    ----------
    subject : Subject
        Its images.
    session : str or None
        Label of the session.

    Returns
    -------
    list of Image
    """
    return [
        run
        for run in subject.images
        if run.datatype == "fmap" and run.suffix in SUFFIXES and run.session in (session, None)
    ]


def matching_sets(subject: Subject, echoes: Sequence[Image]) -> MatchingSets:
    """Find the field maps for a run, in sets that belong together.

    Parameters
    ----------
    subject : Subject
        Its images.
    echoes : sequence of Image
        Echoes of the BOLD run.

    Returns
    -------
    MatchingSets
        Empty if nothing is assigned to the run.
    """
    session = echoes[0].session
    candidates = fieldmap_runs(subject, session)
    sources = list(dict.fromkeys(s for e in echoes for s in texts_of(e.metadata, "B0FieldSource")))
    if sources:
        # Sidecars shared by sessions give all of them the same identifiers.
        others = [r for r in subject.images if r.datatype != "fmap" and r.session == session]
        named = {
            source: [
                run
                for run in (*candidates, *others)
                if source in texts_of(run.metadata, "B0FieldIdentifier")
            ]
            for source in sources
        }
        sets = {_label(source): runs for source, runs in named.items() if runs}
        return MatchingSets(sets, "B0FieldIdentifier")
    wanted = [
        run for run in candidates if any(is_intended(run, echo, subject.label) for echo in echoes)
    ]
    sets = _grouped(candidates)
    if wanted:
        chosen = {id(run) for run in wanted}
        meant = {
            label: members
            for label, members in sets.items()
            if any(id(member) in chosen for member in members)
        }
        return MatchingSets(meant, "IntendedFor")
    if len(sets) == 1 and not any(
        run.metadata.get("IntendedFor") or run.metadata.get("B0FieldIdentifier")
        for run in candidates
    ):
        return MatchingSets(sets, "inferred")
    return MatchingSets({}, "inferred")


def _grouped(runs: Iterable[Image]) -> dict[str, list[Image]]:
    """Group field maps into sets by kind and distinguishing entities."""
    sets: dict[tuple[str, ...], list[Image]] = {}
    magnitudes = []
    for run in runs:
        if run.suffix in ("magnitude1", "magnitude2", "magnitude"):
            magnitudes.append(run)
            continue
        kind = {"epi": "epi", "fieldmap": "direct"}.get(run.suffix, "gre")
        sets.setdefault((kind, *_entities(run, kind)), []).append(run)
    for run in magnitudes:
        kind = "direct" if run.suffix == "magnitude" else "gre"
        key = (kind, *_entities(run, kind))
        if key in sets:
            sets[key].append(run)
    labels: dict[str, list[Image]] = {}
    for number, (key, members) in enumerate(sorted(sets.items())):
        labels[f"auto{key[0]}{number}"] = members
    return labels


def _entities(run: Image, kind: str) -> tuple[str, ...]:
    # The two directions of an EPI pair often have different run numbers.
    keys = [key for key in _APART if not (kind == "epi" and key == "run")]
    return tuple(run.entities.get(key, "") for key in keys)


def texts_of(metadata: Mapping[str, Any], key: str) -> list[str]:
    """List the values of a field that may be a string or a list of strings."""
    value = metadata.get(key)
    values = value if isinstance(value, list) else [value]
    return [text for text in values if isinstance(text, str)]


def _label(text: str) -> str:
    return re.sub(r"[^a-zA-Z0-9]", "", text) or "fmap"


def is_intended(fieldmap: Image, bold: Image, label: str) -> bool:
    """Check whether ``IntendedFor`` names the run, by BIDS URI or path below the subject."""
    subject = f"sub-{label}"
    below = bold.place.removeprefix(f"{subject}/")
    names = {
        below,
        f"bids::{subject}/{below}",
        f"{subject}/{below}",
        f"bids:raw:{subject}/{below}",
    }
    return any(text.lstrip("/") in names for text in texts_of(fieldmap.metadata, "IntendedFor"))
