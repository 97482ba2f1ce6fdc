"""From a series of DICOM objects to files of a dataset."""

from __future__ import annotations

from pathlib import Path

from neuroferry.intake.model import Outcome, Series
from neuroferry.intake.rules import IntakeRules


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
    raise NotImplementedError
