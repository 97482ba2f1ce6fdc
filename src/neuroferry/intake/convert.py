"""From a series of DICOM objects to files of a dataset."""

from __future__ import annotations

import errno
import hashlib
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from neuroferry import __version__
from neuroferry.bids.entities import build_name
from neuroferry.errors import ExitCode, InputError, ResourceError
from neuroferry.files import write_json
from neuroferry.intake.aside import aside_folder, folder_name, keep_objects
from neuroferry.intake.dcm2niix import convert
from neuroferry.intake.deidentify import Pseudonym
from neuroferry.intake.identity import Identifiers, find_identifiers
from neuroferry.intake.labels import Labels, Participant, locked
from neuroferry.intake.ledger import Entry, Ledger, digest_of
from neuroferry.intake.model import Outcome, Series
from neuroferry.intake.naming import said_by_rules
from neuroferry.intake.outputs import Item, assign
from neuroferry.intake.owners import MIXED, claim, is_of_another
from neuroferry.intake.place import (
    Placing,
    finish_interrupted,
    place,
    plan_moves,
    staging,
    used_labels,
)
from neuroferry.intake.prepare import Prepared, prepare
from neuroferry.intake.reproin import Aside, Name
from neuroferry.intake.rulebook import IntakeRules
from neuroferry.intake.runs import Candidate, base_of, find_place
from neuroferry.intake.sidecars import complete
from neuroferry.intake.tables import acquisition_time

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)


@dataclass(frozen=True)
class _Work:
    """A series on its way: what is known of it, and what it was made into."""

    series: Series
    rules: IntakeRules
    root: Path
    dataset: str
    digest: str
    participant: Participant
    token: str
    key: bytes
    identifiers: Identifiers
    warnings: tuple[str, ...] = ()

    def pseudonym(self) -> Pseudonym:
        return Pseudonym(
            self.participant.label,
            self.token,
            self.key,
            self.participant.shift,
            self.rules.dates,
        )


def process_series(series: Series, rules: IntakeRules, root: Path, scratch: Path) -> Outcome:
    """Convert a series, check it, and place it in the dataset; or keep it aside, with the reason.

    It may be called again with the same series, after a crash or for objects that arrived late:
    the same objects give the same outcome without converting again; more objects of the same
    series replace what was placed under the same names. Several processes and threads may call it
    at once for different series.

    Parameters
    ----------
    series : Series
        Its files are read, and not changed.
    rules : IntakeRules
        The rules of `neuroferry.intake.rules.read_rules`.
    root : pathlib.Path
        Folder of the intake: the dataset is ``ROOT/bids``, what only the intake may know
        ``ROOT/.intake``.
    scratch : pathlib.Path
        Folder for temporary files; a folder of the series is made in it and removed.

    Returns
    -------
    Outcome
        Of the fate ``refused``, nothing was written into the dataset: the caller keeps the files.
        Of any other fate, what the dataset needs of them is kept there.

    Raises
    ------
    NeuroferryError
        If the disk is full or a program is missing: nothing is wrong with the series, and the call
        can be repeated.
    """
    identifiers = find_identifiers(series)
    prepared = prepare(series, rules, identifiers)
    if isinstance(prepared.name, Aside) and prepared.name.fate == "refused":
        return _refuse(prepared.name.reason, prepared.warnings, identifiers)
    dataset = dataset_of(series, rules, identifiers)
    digest = digest_of(series, repr(rules))
    with locked(root) as folder:
        finish_interrupted(folder, root)
        if is_of_another(folder, series):
            return Outcome("refused", MIXED, warnings=_clean(prepared.warnings, identifiers))
        labels = Labels(folder)
        participant, notes = labels.participant(series.first, rules, used_labels(root / dataset))
        labels.save()
        if participant is None:
            reason = "The rules give its participant no label: add it to the table of labels."
            return _refuse(notes[0] if notes else reason, (), identifiers)
        known = Ledger(folder, participant.label).entries.get(series.key)
    if (
        known
        and known.digest == digest
        and all((root / known.dataset / name).exists() for name in known.files)
    ):
        return known.outcome(root)
    work = _Work(
        series,
        rules,
        root,
        dataset,
        digest,
        participant,
        labels.token(participant.label),
        labels.key,
        find_identifiers(series, participant.label),
        notes,
    )
    scratch.mkdir(parents=True, exist_ok=True)
    with _disk(scratch):
        own = Path(tempfile.mkdtemp(prefix=f"{series.key[:16]}-", dir=scratch))
        try:
            outcome = _process(work, prepared, own)
        except InputError as error:
            return _refuse(str(error), prepared.warnings, identifiers)
        finally:
            shutil.rmtree(own, ignore_errors=True)
    with locked(root) as folder:
        claim(folder, series)
    return outcome


def dataset_of(series: Series, rules: IntakeRules, identifiers: Identifiers) -> str:
    """Tell the path of the dataset of a series below the root of the intake."""
    text = identifiers.remove(series.first.study_description) if rules.by_study else ""
    first, *rest = re.split(r"[ ^]+", text.strip(), maxsplit=1)
    parts = [re.sub(r"[^A-Za-z0-9+]+", "", part) for part in re.split(r"[-_]", first, maxsplit=1)]
    parts += [re.sub(r"[^A-Za-z0-9+_-]+", "-", part).strip("-_") for part in rest]
    if rules.by_study and not any(parts):
        parts = ["unknown"]
    return "/".join(["bids", *filter(None, parts)])


def item_path(item: Item, name: Name, label: str, session: str, run: str, extension: str) -> str:
    """Name a file of an item, below the dataset."""
    entities = {"subject": label, **item.entities}
    if session:
        entities["session"] = session
    if run:
        entities["run"] = run
    folders = [f"sub-{label}", f"ses-{session}" if session else "", name.datatype]
    return "/".join([*filter(None, folders), build_name(entities, item.suffix, extension)])


def acquired(series: Series) -> datetime | None:
    """Tell when the first image of a series was taken."""
    return min((one.acquired for one in series.instances if one.acquired), default=None)


def _process(work: _Work, prepared: Prepared, own: Path) -> Outcome:
    name, findings = prepared.name, prepared.findings
    work = replace(work, warnings=(*work.warnings, *prepared.warnings))
    if isinstance(name, Aside):
        return _keep_aside(work, name, own)
    if findings is None:
        raise InputError("Its headers cannot be read.")
    paths = [one.path for one in work.series.instances if one.path not in findings.left_out]
    converted, said = convert(paths, own / "converted")
    work = replace(work, warnings=(*work.warnings, *said))
    items, reason, notes = assign(name, converted)
    work = replace(work, warnings=(*work.warnings, *notes))
    completed = []
    given = said_by_rules(work.series.first, work.rules)
    for item in items:
        done = complete(item, name, findings.volumes, work.identifiers, work.rules, given)
        reason = reason or done.reason
        completed.append(done.item)
        work = replace(work, warnings=tuple(dict.fromkeys([*work.warnings, *done.warnings])))
    if reason:
        return _keep_aside(work, Aside("unassigned", reason, name.session), own)
    outcome = _place(work, name, completed)
    return outcome if isinstance(outcome, Outcome) else _keep_aside(work, outcome, own)


def _place(work: _Work, name: Name, items: Sequence[Item]) -> Outcome | Aside:
    """Place the images of a series; what gets no place is to be kept aside."""
    label, first = work.participant.label, work.series.first
    checksums = tuple(_checksum(item.converted.image) for item in items)
    n_volumes = max(item.converted.n_volumes for item in items)
    with locked(work.root) as folder:
        finish_interrupted(folder, work.root)
        labels, ledger = Labels(folder), Ledger(folder, label)
        session, notes = labels.session(work.participant, first, name.session, work.rules)
        labels.save()
        dataset = work.root / work.dataset
        before = ledger.entries.get(work.series.key)
        candidate = Candidate(
            name,
            base_of(name, first.protocol),
            acquired(work.series),
            first.image_type,
            checksums,
            n_volumes,
            before,
        )

        def images(run: str) -> list[str]:
            return [item_path(item, name, label, session, run, ".nii.gz") for item in items]

        found = find_place(
            candidate,
            ledger.others(work.series.key, session, work.dataset),
            images,
            lambda file: (dataset / file).exists(),
            work.rules.repeats,
        )
        if found.reason:
            return Aside("set aside", found.reason, name.session)
        staged = staging(folder, work.series.key)
        files = {}
        for number, item in enumerate(items):
            for extension, source in _files_of(item, staged, number):
                target = item_path(item, name, label, session, found.run, extension)
                files[source] = target
        when = acquired(work.series)
        time = acquisition_time(when, work.participant.shift, work.rules.dates)
        entry = Entry(
            work.series.key,
            work.digest,
            "placed",
            _capital(f"{name.by}."),
            work.dataset,
            label,
            session,
            tuple(sorted(files.values())),
            _clean((*work.warnings, *notes, *found.notes), work.identifiers),
            name.datatype,
            items[0].suffix,
            candidate.base,
            found.run,
            first.series_number,
            when.isoformat() if when else "",
            first.image_type,
            checksums,
            n_volumes,
            _shims(items),
        )
        placing = Placing(
            entry,
            files,
            dict.fromkeys(images(found.run), time),
            _gone(before, entry),
            found.instead_of,
            plan_moves(found.instead_of, dataset) if found.instead_of else {},
            work.rules.intended_for,
            work.rules.match_shims,
            __version__,
        )
        place(placing, staged, folder, work.root)
        return entry.outcome(work.root)


def _keep_aside(work: _Work, aside: Aside, own: Path) -> Outcome:
    label, first = work.participant.label, work.series.first
    warnings = _clean(work.warnings, work.identifiers)
    reason = work.identifiers.remove(aside.reason)
    names = keep_objects(
        work.series, own / "aside", work.pseudonym(), work.identifiers, [reason, *warnings]
    )
    with locked(work.root) as folder:
        finish_interrupted(folder, work.root)
        labels, ledger = Labels(folder), Ledger(folder, label)
        session, notes = labels.session(work.participant, first, aside.session, work.rules)
        labels.save()
        before = ledger.entries.get(work.series.key)
        target = aside_folder(label, session, folder_name(first, work.identifiers))
        number = 1
        while (work.root / work.dataset / _numbered(target, number)).exists() and not (
            before and any(_within(name, _numbered(target, number)) for name in before.files)
        ):
            number += 1
        target = _numbered(target, number)
        staged = staging(folder, work.series.key)
        for name in names:
            shutil.move(own / "aside" / name, staged / name)
        when = acquired(work.series)
        entry = Entry(
            work.series.key,
            work.digest,
            aside.fate,
            reason,
            work.dataset,
            label,
            session,
            tuple(f"{target}/{name}" for name in names),
            (*warnings, *notes),
            number=first.series_number,
            acquired=when.isoformat() if when else "",
            image_type=first.image_type,
        )
        files = {name: f"{target}/{name}" for name in names}
        placing = Placing(entry, files, gone=_gone(before, entry), version=__version__)
        place(placing, staged, folder, work.root)
        return entry.outcome(work.root)


def _files_of(item: Item, staged: Path, number: int) -> Iterator[tuple[str, str]]:
    """Stage the files of an item; extensions, and names in the staging folder."""
    converted = item.converted
    sources = [
        (".nii.gz", converted.image),
        *((path.suffix, path) for path in converted.gradients),
    ]
    for extension, source in sources:
        shutil.copyfile(source, staged / f"{number}{extension}")
        yield extension, f"{number}{extension}"
    write_json(staged / f"{number}.json", item.content)
    yield ".json", f"{number}.json"


def _gone(before: Entry | None, entry: Entry) -> tuple[str, ...]:
    """List files of an earlier state of a series that it has no more."""
    return tuple(sorted(set(before.files) - set(entry.files))) if before else ()


def _refuse(reason: str, warnings: Sequence[str], identifiers: Identifiers) -> Outcome:
    return Outcome("refused", identifiers.remove(reason), warnings=_clean(warnings, identifiers))


def _clean(sentences: Sequence[str], identifiers: Identifiers) -> tuple[str, ...]:
    return tuple(dict.fromkeys(identifiers.remove(sentence) for sentence in sentences))


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _numbered(target: str, number: int) -> str:
    return target if number == 1 else f"{target}-{number}"


def _within(name: str, folder: str) -> bool:
    return name.startswith(f"{folder}/")


def _checksum(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _shims(items: Sequence[Item]) -> tuple[float, ...]:
    given = items[0].content.get("ShimSetting")
    numbers = given if isinstance(given, list) else []
    return tuple(float(value) for value in numbers if isinstance(value, int | float))


@contextmanager
def _disk(folder: Path) -> Iterator[None]:
    """Tell errors of the disk, after which the series is tried again, from those of the series."""
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise ResourceError(
            f"{folder} or the folder of the intake cannot be written ({error.strerror}): make"
            " room; the series is tried again.",
            exit_code=ExitCode.IO,
        ) from error
