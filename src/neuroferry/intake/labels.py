"""Labels of participants and sessions, and the private tables that keep them the same for ever."""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import date, datetime, timedelta
from pathlib import Path

from neuroferry.bids.entities import is_label
from neuroferry.bids.tables import read_table
from neuroferry.engine.locks import NO_LOCKS
from neuroferry.errors import InputError
from neuroferry.files import write_text
from neuroferry.intake.identity import keyed, name_words, secret
from neuroferry.intake.model import Instance
from neuroferry.intake.rulebook import FIELDS, IntakeRules

_PARTICIPANTS = ("patient_id", "participant_id", "shift_days", "check")
_VISITS = ("participant_id", "session_id", "start", "end", "studies")
#: First days of shifted dates lie in these years, so that decades later it is still before 1925.
_SHIFTED = (date(1900, 1, 1), 15 * 365)


@dataclass(frozen=True)
class Participant:
    """A participant of the private table.

    Attributes
    ----------
    patient : str
        PatientID, or the study where there is none.
    label : str
        Label in the dataset.
    shift : int
        Days that are added to dates.
    check : str
        Pseudonym of name and birth date.
    """

    patient: str = field(repr=False)
    label: str
    shift: int = field(repr=False)
    check: str = field(repr=False, default="")


@dataclass(frozen=True)
class Visit:
    """A visit of a participant: from the first scan to the last, without a long gap."""

    label: str
    session: str
    start: datetime | None = field(repr=False)
    end: datetime | None = field(repr=False)
    studies: tuple[str, ...] = field(repr=False, default=())


def private_folder(root: Path) -> Path:
    """Name the folder of what only the intake may know."""
    return root / ".intake" / "names"


@contextmanager
def locked(root: Path) -> Iterator[Path]:
    """Let one process and thread at a time give labels and place series.

    Parameters
    ----------
    root : pathlib.Path
        Folder of the intake.

    Yields
    ------
    pathlib.Path
        The private folder, which nobody else may read.
    """
    folder = private_folder(root)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    for private in (folder, folder.parent):
        if private.stat().st_mode & 0o077:
            private.chmod(0o700)
    descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        except OSError as error:
            # without locks, one process has to do it all
            if error.errno not in NO_LOCKS:
                raise
        yield folder
    finally:
        os.close(descriptor)


class Labels:
    """The tables of participants and visits of an intake.

    Parameters
    ----------
    folder : pathlib.Path or None
        The private folder; None for an intake that has none yet.
    keep : bool
        Whether labels that are given are kept; else nothing is written.
    """

    def __init__(self, folder: Path | None, *, keep: bool = True) -> None:
        self._folder = folder if keep else None
        has_key = folder is not None and (keep or (folder / "key").exists())
        self.key = secret(folder) if folder and has_key else b"\0" * 32
        self._participants = {row.patient: row for row in _read_participants(folder)}
        self._visits = _read_visits(folder)

    def participant(
        self, first: Instance, rules: IntakeRules, used: frozenset[str] = frozenset()
    ) -> tuple[Participant | None, tuple[str, ...]]:
        """Give the participant of a series its label; the same patient keeps it.

        Parameters
        ----------
        first : Instance
            An object of the series.
        rules : IntakeRules
            Rules of labels.
        used : frozenset of str
            Labels that are in the dataset, so that no number is given to another participant.

        Returns
        -------
        participant : Participant or None
            None if the rules refuse patients without a label.
        notes : tuple of str
            What is doubtful, as sentences.
        """
        own = self._own(first)
        if own is not None:
            return own, ()
        patient = patient_of(first)
        known = self._participants.get(patient)
        check = self._check(first)
        wanted, notes = self._wanted(first, rules)
        if known is None:
            label = wanted or self._new_label(patient, rules, used)
            if label is None:
                return None, notes
            known = Participant(patient, label, self._shift(patient, first), check)
            same = next((row for row in self._participants.values() if row.label == label), None)
            if same is not None and first.patient_id not in rules.subjects.table:
                return None, (
                    f"Its PatientID says sub-{label}, which another PatientID has: write both into"
                    " a table of labels if they are one person, or give it another.",
                )
            if same is not None:  # two numbers of one person share the shift
                known = replace(known, shift=same.shift)
            self._participants[patient] = known
        elif wanted and wanted != known.label:
            notes += (
                f"The rules now call the participant sub-{wanted}; its earlier scans are"
                f" sub-{known.label}, and so are these.",
            )
        pairs = zip(known.check.split(":"), check.split(":"), strict=False)
        if any(old and new and old != new for old, new in pairs):
            notes += (
                "Name or birth date differ from those of earlier scans with the same PatientID:"
                " check that it is the same person.",
            )
        return known, notes

    def session(
        self, participant: Participant, first: Instance, said: str, rules: IntakeRules
    ) -> tuple[str, tuple[str, ...]]:
        """Give the visit of a series its session; empty if the dataset has none.

        Parameters
        ----------
        participant : Participant
            Of `participant`.
        first : Instance
            An object of the series.
        said : str
            What the name of the series says: a label, ``"+"``, ``"="``, ``"{date}"`` or empty.
        rules : IntakeRules
            Rules of sessions.

        Returns
        -------
        session : str
        notes : tuple of str
            What is doubtful, as sentences.
        """
        place = self._visit(participant.label, first, rules)
        visit = self._visits[place]
        session, notes = self._session(participant, visit, place, first, said, rules)
        self._visits[place] = replace(visit, session=session or visit.session)
        return session, notes

    def save(self) -> None:
        """Write both tables, each whole or not at all."""
        if self._folder is None:
            return
        rows = [
            (row.patient, row.label, str(row.shift), row.check)
            for row in self._participants.values()
        ]
        _write(self._folder / "participants.tsv", _PARTICIPANTS, rows)
        visits = [
            (row.label, row.session, _iso(row.start), _iso(row.end), " ".join(row.studies))
            for row in self._visits
        ]
        _write(self._folder / "visits.tsv", _VISITS, visits)

    def token(self, label: str) -> str:
        """Make the mark by which an object that the intake wrote without a name is known again."""
        return keyed(self.key, f"label {label}").hex()[:12]

    def _own(self, first: Instance) -> Participant | None:
        """Recognise the participant of an object that the intake kept aside earlier.

        Its dates are shifted already.
        """
        label = first.patient_id.removeprefix("sub-")
        if first.patient_name == f"sub-{label}^{self.token(label)}" and is_label(label):
            return Participant(first.patient_id, label, 0)
        return None

    def _check(self, first: Instance) -> str:
        """Make pseudonyms of name and birth date, each empty if it is not known."""
        words = " ".join(sorted(word.casefold() for word in name_words(first.patient_name)))
        return ":".join(
            keyed(self.key, text).hex()[:12] if text else "" for text in (words, first.birth_date)
        )

    def _wanted(self, first: Instance, rules: IntakeRules) -> tuple[str, tuple[str, ...]]:
        by = rules.subjects
        given = by.table.get(first.patient_id)
        if given:
            return given[0], ()
        found = by.pattern.search(first.patient_id) if by.pattern else None
        if found is None or not found[1]:
            return "", ()
        label = re.sub(r"[^A-Za-z0-9+]", "", found[1])
        label = label.lower() if by.lower else label
        if not is_label(label):
            return "", ()
        names = {word.casefold() for word in name_words(first.patient_name)}
        if first.patient_name.casefold() != first.patient_id.casefold() and any(
            name in label.casefold() for name in names if len(name) > 3
        ):
            return "", (
                "PatientID holds a part of the patient's name and gives no label: use a table of"
                " labels.",
            )
        return label, ()

    def _new_label(self, patient: str, rules: IntakeRules, used: frozenset[str]) -> str | None:
        taken = used | {row.label for row in self._participants.values()}
        if rules.subjects.otherwise == "refuse":
            return None
        if rules.subjects.otherwise == "hash":
            digits = keyed(self.key, patient).hex()
            return next(
                label for length in range(8, 64) if (label := digits[:length]) not in taken
            )
        numbers = (f"{number:02d}" for number in range(1, len(taken) + 2))
        return next(label for label in numbers if label not in taken)

    def _shift(self, patient: str, first: Instance) -> int:
        start, span = _SHIFTED
        days = int.from_bytes(keyed(self.key, f"days {patient}")[:4], "big") % span
        day = first.acquired.date() if first.acquired else date(2000, 1, 1)
        return (start + timedelta(days=days) - day).days

    def _visit(self, label: str, first: Instance, rules: IntakeRules) -> int:
        gap = timedelta(hours=rules.sessions.gap_hours)
        when, study = first.acquired, first.study_uid
        for place, visit in enumerate(self._visits):
            if visit.label != label:
                continue
            near = (
                when is not None
                and visit.start is not None
                and visit.end is not None
                and visit.start - gap <= when <= visit.end + gap
            )
            if near or (when is None and study in visit.studies):
                clocks = [clock for clock in (visit.start, visit.end, when) if clock]
                self._visits[place] = replace(
                    visit,
                    start=min(clocks, default=None),
                    end=max(clocks, default=None),
                    # exports with a study for each volume would make this long
                    studies=tuple(dict.fromkeys([*visit.studies, study]))[:20],
                )
                return place
        self._visits.append(Visit(label, "", when, when, (study,)))
        return len(self._visits) - 1

    def _session(
        self,
        participant: Participant,
        visit: Visit,
        place: int,
        first: Instance,
        said: str,
        rules: IntakeRules,
    ) -> tuple[str, tuple[str, ...]]:
        by = rules.sessions
        table = rules.subjects.table.get(first.patient_id, ("", ""))[1]
        if table or by.by == "none":
            return table, ()
        others = [
            row.session
            for number, row in enumerate(self._visits)
            if row.label == participant.label and number != place and row.session
        ]
        if by.by == "pattern" and by.pattern is not None:
            found = by.pattern.search(FIELDS[by.field](first))
            label = re.sub(r"[^A-Za-z0-9+]", "", found[1] or "") if found else ""
            return label, () if label else ("No session is found by the pattern of sessions.",)
        if by.by == "date":
            return visit.session or _next(others), self._late(participant.label, place)
        if said in ("", "+", "="):
            if visit.session or not said:
                return visit.session, ()
            last = max(others, key=_number, default="")
            return (last or "01") if said == "=" else _next(others), ()
        label = self._of_date(participant, visit, others, rules) if said == "{date}" else said
        if visit.session and visit.session != label:
            return label, (
                f"The name of the series says ses-{label}, others of the same visit"
                f" ses-{visit.session}.",
            )
        return label, ()

    def _of_date(
        self, participant: Participant, visit: Visit, others: list[str], rules: IntakeRules
    ) -> str:
        if visit.session:
            return visit.session
        if visit.start is None or rules.dates == "remove":
            return _next(others)
        shift = participant.shift if rules.dates == "shift" else 0
        return (visit.start + timedelta(days=shift)).strftime("%Y%m%d")

    def _late(self, label: str, place: int) -> tuple[str, ...]:
        """Say that an earlier visit arrived after a later one."""
        mine = self._visits[place]
        earlier = [
            row.start
            for number, row in enumerate(self._visits)
            if row.label == label and number < place and row.start
        ]
        if mine.start and any(start > mine.start for start in earlier):
            return (
                "An earlier visit arrived after a later one, so numbers of sessions are not in"
                " the order of dates.",
            )
        return ()


def series_key(key: bytes, instance: Instance) -> str:
    """Name the series of an object by patient and SeriesInstanceUID, 32 hexadecimal digits.

    Parameters
    ----------
    key : bytes
        The secret key of the intake.
    instance : Instance
        Any object of the series.
    """
    return keyed(key, f"series\0{patient_of(instance)}\0{instance.series_uid}").hex()[:32]


def patient_of(first: Instance) -> str:
    """Tell what stands for the patient: PatientID, or the study where it is empty or a mask.

    Two patients without a PatientID are never taken for one.
    """
    if any(map(str.isalnum, first.patient_id)):
        return re.sub(r"\s+", " ", first.patient_id).strip()
    return f"study {first.study_uid}"


def _next(labels: list[str]) -> str:
    highest = max(map(_number, labels), default=0)
    return f"{max(highest, 0) + 1:02d}"


def _number(label: str) -> int:
    return int(label) if label.isdigit() and len(label) < 6 else 0


def _read_participants(folder: Path | None) -> list[Participant]:
    rows = _rows(folder, "participants.tsv", _PARTICIPANTS)
    return [
        Participant(row[0], row[1], int(row[2]) if re.fullmatch(r"-?\d+", row[2]) else 0, row[3])
        for row in rows
    ]


def _read_visits(folder: Path | None) -> list[Visit]:
    rows = _rows(folder, "visits.tsv", _VISITS)
    return [
        Visit(row[0], row[1], _moment(row[2]), _moment(row[3]), tuple(row[4].split()))
        for row in rows
    ]


def _rows(folder: Path | None, name: str, columns: tuple[str, ...]) -> list[list[str]]:
    path = folder / name if folder else None
    if path is None or not path.exists():
        return []
    table = read_table(path)
    if table.columns[: len(columns)] != columns:
        raise InputError(
            f"{path} is damaged: its columns are not {', '.join(columns)}; restore it from a"
            " backup, as labels depend on it"
        )
    return [cells for _, cells in table.rows()]


def _write(path: Path, columns: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    lines = ["\t".join(columns), *("\t".join(row) for row in rows)]
    write_text(path, "".join(f"{line}\n" for line in lines))


def _iso(when: datetime | None) -> str:
    return when.isoformat() if when else ""


def _moment(text: str) -> datetime | None:
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        return None
