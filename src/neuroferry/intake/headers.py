"""Headers of DICOM objects: what the intake reads of each, whoever wrote it."""

from __future__ import annotations

from pathlib import Path

from neuroferry.intake.model import Instance


def read_instance(path: Path) -> Instance:
    """Read what sorting needs from the header of a DICOM object; pixels are not read.

    Parameters
    ----------
    path : pathlib.Path
        The file.

    Returns
    -------
    Instance

    Raises
    ------
    InputError
        If it is no DICOM image, is cut off before its pixels, or cannot be read; the message is
        one sentence and names the file, but nothing of its content.
    """
    raise NotImplementedError
