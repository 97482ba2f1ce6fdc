"""What the intake would do with a folder of DICOM files, without doing it."""

from __future__ import annotations

import hashlib
import json
import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path

from neuroferry.errors import ExitCode, InputError
from neuroferry.intake.aside import aside_folder, folder_name
from neuroferry.intake.convert import acquired, dataset_of, item_path
from neuroferry.intake.headers import read_instance
from neuroferry.intake.identity import Identifiers, find_identifiers
from neuroferry.intake.labels import Labels, patient_of, private_folder, series_key
from neuroferry.intake.ledger import Entry, Ledger
from neuroferry.intake.model import Instance, Series
from neuroferry.intake.naming import said_by_rules
from neuroferry.intake.outputs import Item, assign
from neuroferry.intake.owners import MIXED, is_of_another
from neuroferry.intake.place import used_labels
from neuroferry.intake.prepare import Prepared, foresee, prepare
from neuroferry.intake.reproin import Aside, Name
from neuroferry.intake.rulebook import IntakeRules
from neuroferry.intake.runs import Candidate, base_of, find_place
from neuroferry.intake.sidecars import POLARITY, lacking_polarity


@dataclass(frozen=True)
class Explained:
    """Where a series would go, and why. Nothing in it identifies the patient.

    Attributes
    ----------
    number : int or None
        Number of the series on the scanner.
    description : str
        What the scanner calls it, without what identifies the patient.
    objects : int
        DICOM objects found.
    fate : str
        As `neuroferry.intake.model.Outcome.fate`.
    targets : tuple of str
        Images in the dataset, or the folder below ``sourcedata``; empty if refused.
    reason : str
        The rule that names it, or why it is kept aside.
    warnings : tuple of str
        What is doubtful, as far as headers tell.
    """

    number: int | None
    description: str
    objects: int
    fate: str
    targets: tuple[str, ...]
    reason: str
    warnings: tuple[str, ...] = ()


def explain_folder(folder: Path, rules: IntakeRules, root: Path | None = None) -> list[Explained]:
    """Say of each series in a folder where it would go and why; nothing is written.

    Parameters
    ----------
    folder : pathlib.Path
        Folder of DICOM files, with subfolders.
    rules : IntakeRules
        Rules to try.
    root : pathlib.Path or None
        Folder of an intake whose labels and dataset count; None for a new one.

    Raises
    ------
    InputError
        If no DICOM image is found in it.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder.", exit_code=ExitCode.NO_INPUT)
    found = read_folder(folder)
    if not found:
        raise InputError(f"{folder} holds no DICOM image.", exit_code=ExitCode.NO_INPUT)
    explainer = _Explainer(rules, root)
    return [explainer.explain(series) for series in found]


def read_folder(folder: Path) -> list[Series]:
    """Group the DICOM images of a folder into series, in the order of acquisition."""
    groups: dict[str, list[Instance]] = defaultdict(list)
    for path in _files(folder):
        try:
            instance = read_instance(path)
        except InputError:
            continue
        groups[f"{patient_of(instance)} {instance.series_uid}"].append(instance)
    found = [
        Series(
            hashlib.sha256(name.encode()).hexdigest(),
            tuple(sorted(group, key=lambda one: (one.instance_number or 0, one.path))),
        )
        for name, group in groups.items()
    ]
    return sorted(found, key=lambda one: (acquired(one) or datetime.max, _number(one.first)))


def as_table(explained: list[Explained]) -> str:
    """Write it as text, for people."""
    lines = []
    for one in explained:
        number = "-" if one.number is None else str(one.number)
        objects = f"{one.objects} object{'' if one.objects == 1 else 's'}"
        lines.append(f"{number:>4}  {one.description or '(no description)'}  ({objects})")
        arrows = [*one.targets] if one.fate == "placed" else [f"{one.fate}: {one.reason}"]
        lines += [f"      -> {target}" for target in arrows]
        if one.fate == "placed":
            lines.append(f"         {one.reason}")
        elif one.targets:
            lines.append(f"         kept in {one.targets[0]}")
        lines += [f"       ! {warning}" for warning in one.warnings]
    return "\n".join(lines) + "\n"


def as_json(explained: list[Explained]) -> str:
    """Write it as JSON, for programs."""
    return json.dumps([asdict(one) for one in explained], indent=2, ensure_ascii=False) + "\n"


class _Explainer:
    """Gives labels and places as the intake would, one series after the other."""

    def __init__(self, rules: IntakeRules, root: Path | None) -> None:
        folder = private_folder(root) if root else None
        self.rules, self.root = rules, root
        self.folder = folder if folder and folder.exists() else None
        self.labels = Labels(self.folder, keep=False)
        self.ledgers: dict[str, Ledger] = {}
        self.planned: set[str] = set()
        self.owners: dict[str, str] = {}

    def explain(self, series: Series) -> Explained:
        # the name under which the intake knows it, if it is there already
        series = replace(series, key=series_key(self.labels.key, series.first))
        patient = patient_of(series.first) if series.first.patient_id else ""
        owner = self.owners.setdefault(series.first.series_uid, patient)
        of_another = self.folder is not None and is_of_another(self.folder, series)
        identifiers = find_identifiers(series)
        prepared = prepare(series, self.rules, identifiers)
        dataset = dataset_of(series, self.rules, identifiers)
        name = prepared.name
        if isinstance(name, Aside) and name.fate == "refused":
            return self._explained(series, identifiers, name, "", prepared.warnings)
        if of_another or owner != patient:
            mixed = Aside("refused", MIXED)
            return self._explained(series, identifiers, mixed, "", prepared.warnings)
        used = used_labels(self.root / dataset) if self.root else frozenset()
        participant, notes = self.labels.participant(series.first, self.rules, used)
        if participant is None:
            reason = notes[0] if notes else "The rules give its participant no label."
            return self._explained(series, identifiers, Aside("refused", reason), "", ())
        identifiers = find_identifiers(series, participant.label)
        session, more = self.labels.session(participant, series.first, name.session, self.rules)
        warnings = (*notes, *more, *prepared.warnings)
        where = (dataset, participant.label, session)
        found = self._place(series, prepared, where, warnings)
        if isinstance(found, Explained):
            return found
        target = aside_folder(participant.label, session, folder_name(series.first, identifiers))
        return self._explained(series, identifiers, found, f"{dataset}/{target}", warnings)

    def _place(
        self,
        series: Series,
        prepared: Prepared,
        where: tuple[str, str, str],
        warnings: tuple[str, ...],
    ) -> Explained | Aside:
        name, findings, first = prepared.name, prepared.findings, series.first
        if isinstance(name, Aside) or findings is None:
            return name if isinstance(name, Aside) else Aside("refused", "It cannot be read.")
        items, reason, _ = assign(name, foresee(findings.volumes))
        reason = reason or self._lacks(first, name, items)
        if reason:
            return Aside("unassigned", reason)
        dataset, label, session = where
        ledger = self.ledgers.setdefault(label, Ledger(self.folder, label))

        def images(run: str) -> list[str]:
            return [item_path(item, name, label, session, run, ".nii.gz") for item in items]

        def exists(file: str) -> bool:
            there = self.root is not None and (self.root / dataset / file).exists()
            return there or f"{dataset}/{file}" in self.planned

        candidate = Candidate(
            name,
            base_of(name, first.protocol),
            acquired(series),
            first.image_type,
            n_volumes=findings.volumes.count(),
            before=ledger.entries.get(series.key),
        )
        others = ledger.others(series.key, session, dataset)
        found = find_place(candidate, others, images, exists, self.rules.repeats)
        if found.reason:
            return Aside("set aside", found.reason)
        files = tuple(images(found.run))
        when = acquired(series)
        entry = Entry(
            series.key,
            "",
            "placed",
            "",
            dataset,
            label,
            session,
            files,
            datatype=name.datatype,
            suffix=name.suffix,
            base=candidate.base,
            run=found.run,
            number=first.series_number,
            acquired=when.isoformat() if when else "",
            image_type=first.image_type,
            n_volumes=findings.volumes.count(),
        )
        ledger.entries[series.key] = entry
        self.planned |= {f"{dataset}/{file}" for file in files}
        identifiers = find_identifiers(series, label)
        return Explained(
            first.series_number,
            identifiers.remove(first.description or first.protocol),
            len(series.instances),
            "placed",
            tuple(f"{dataset}/{file}" for file in files),
            f"{name.by[:1].upper()}{name.by[1:]}.",
            tuple(map(identifiers.remove, (*warnings, *found.notes))),
        )

    def _lacks(self, first: Instance, name: Name, items: Sequence[Item]) -> str:
        """Say what a field map will lack: Philips writes no polarity into its headers."""
        given = said_by_rules(first, self.rules)
        told = given if "philips" in first.manufacturer.lower() else {*POLARITY, *given}
        lacking = (lacking_polarity(name.datatype, item.suffix, told) for item in items)
        return next(filter(None, lacking), "")

    def _explained(
        self,
        series: Series,
        identifiers: Identifiers,
        aside: Aside,
        target: str,
        warnings: tuple[str, ...],
    ) -> Explained:
        first = series.first
        return Explained(
            first.series_number,
            identifiers.remove(first.description or first.protocol),
            len(series.instances),
            aside.fate,
            (target,) if target else (),
            identifiers.remove(aside.reason),
            tuple(map(identifiers.remove, warnings)),
        )


def _files(folder: Path) -> Iterator[Path]:
    for place, folders, names in os.walk(folder):
        folders.sort()
        yield from (Path(place, name) for name in sorted(names))


def _number(first: Instance) -> int:
    return first.series_number or 0
