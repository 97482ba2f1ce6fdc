"""Placing of converted series in a BIDS dataset, whole or not at all."""

from __future__ import annotations

from pathlib import Path


def recover(root: Path) -> int:
    """Finish placings that a crash interrupted.

    Parameters
    ----------
    root : pathlib.Path
        Folder of the intake.

    Returns
    -------
    int
        Number of placings that were finished. `neuroferry.intake.convert.process_series` does it
        too, before it places anything.
    """
    raise NotImplementedError
