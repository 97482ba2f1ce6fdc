"""Write a phantom's dataset as a tree of DICOM files."""

from __future__ import annotations

from itertools import chain, groupby
from typing import TYPE_CHECKING

from neuroferry.errors import InputError, UsageError
from neuroferry.files import whole_file
from neuroferry.phantom.dicom.classic import classic, mosaic
from neuroferry.phantom.dicom.enhanced import enhanced
from neuroferry.phantom.dicom.header import check_vendor
from neuroferry.phantom.dicom.scans import Patient, Scanner, localiser, read_session

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from neuroferry.phantom.dicom.header import Made
    from neuroferry.phantom.dicom.scans import ScannedSeries

#: Forms of export.
FORMS = ("classic", "mosaic", "enhanced")


def objects(
    series: ScannedSeries, patient: Patient, scanner: Scanner, form: str
) -> Iterator[Made]:
    """Make the DICOM objects of a series in one of `FORMS`.

    In the form ``mosaic`` only echo-planar series are mosaics, as on a real scanner.

    Raises
    ------
    UsageError
        If the form or the vendor is not known, or the vendor does not write this form.
    """
    check_vendor(scanner.vendor)
    if form not in FORMS:
        raise UsageError(f"the form must be one of {', '.join(FORMS)}, not {form}")
    if form == "mosaic" and scanner.vendor != "siemens":
        raise UsageError(f"mosaics are Siemens' own: choose another form for {scanner.vendor}")
    if form == "enhanced":
        if scanner.vendor == "ge":
            raise UsageError("enhanced objects are written as Siemens and Philips do, not GE")
        return enhanced(series, patient, scanner)
    if form == "mosaic" and series.is_epi:
        return mosaic(series, patient, scanner)
    return classic(series, patient, scanner)


def write_objects(folder: Path, made: Iterable[Made], *, prefix: str = "IM") -> list[Path]:
    """Write DICOM objects as files, numbered in their order.

    Parameters
    ----------
    folder : Path
        Folder of the series; made if missing.
    made : iterable of Made
    prefix : str
        Begins the names: another one writes a second export beside the first.

    Returns
    -------
    list of Path
    """
    paths = []
    for number, one in enumerate(made, 1):
        path = folder / f"{prefix}{number:06d}.dcm"
        with whole_file(path) as beside:
            one.dataset.save_as(beside, enforce_file_format=True)
        paths.append(path)
    return paths


def write_dicom(
    bids_dir: Path, out_dir: Path, *, form: str = "classic", vendor: str = "siemens"
) -> list[Path]:
    """Write every scan of a phantom's dataset as a series of DICOM files.

    Parameters
    ----------
    bids_dir : Path
        Dataset that `write_phantom_dataset` wrote.
    out_dir : Path
        Gets ``sub-<label>[/ses-<label>]/<number>-<protocol>/IM000001.dcm`` and so on.
    form : str
        One of `FORMS`.
    vendor : str
        ``siemens``, ``ge`` or ``philips``.

    Returns
    -------
    list of Path
        Folders of the series.

    Raises
    ------
    UsageError
        If the form or the vendor is not known, or the vendor does not write this form.
    InputError
        If there is no participant in `bids_dir`.
    """
    scanner = Scanner(vendor)
    folders = []
    people = sorted(bids_dir.glob("sub-*"))
    if not people:
        raise InputError(f"{bids_dir} holds no participant; give the folder of a phantom")
    for person in people:
        patient = Patient(person.name.removeprefix("sub-"))
        for session in sorted(person.glob("ses-*")) or [person]:
            scans = read_session(session)
            for number, group in groupby(localiser(scans[0]) + scans, lambda one: one.number):
                echoes = list(group)
                name = f"{number:03d}-{echoes[0].protocol}"
                folder = out_dir / session.relative_to(bids_dir) / name
                parts = [objects(one, patient, scanner, form) for one in echoes]
                write_objects(folder, chain.from_iterable(parts))
                folders.append(folder)
    return folders
