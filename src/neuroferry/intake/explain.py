"""What the intake would do with a folder of DICOM files, without doing it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from neuroferry.intake.rules import IntakeRules


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
    target : str
        File names in the dataset, without extension; a folder below ``sourcedata``.
    reason : str
        The rule that names it, or why it is kept aside.
    warnings : tuple of str
        What is doubtful, as far as headers tell.
    """

    number: int | None
    description: str
    objects: int
    fate: str
    target: str
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
    raise NotImplementedError


def as_table(explained: list[Explained]) -> str:
    """Write it as text, for people."""
    raise NotImplementedError


def as_json(explained: list[Explained]) -> str:
    """Write it as JSON, for programs."""
    raise NotImplementedError
