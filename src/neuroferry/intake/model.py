"""Values that pass through the intake: DICOM objects, series, and what became of them.

``Instance`` -> ``Series`` -> ``Outcome``. The first two hold what identifies a patient and stay
inside the intake's private folder; an `Outcome` holds none of it, and may be logged and shown.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Literal

#: What became of a series: named and written into the dataset; kept aside because no rule names
#: it, or because it is no scan for BIDS (a localiser, a derived map, a second reconstruction);
#: refused because it is damaged or contradicts itself.
Fate = Literal["placed", "unassigned", "set aside", "refused"]


@dataclass(frozen=True)
class Instance:
    """One DICOM object, as far as sorting needs it.

    Attributes
    ----------
    path : pathlib.Path
        The file.
    sop_uid, sop_class : str
        SOPInstanceUID and SOPClassUID.
    series_uid, study_uid : str
        SeriesInstanceUID and StudyInstanceUID. The latter does not group: exports of some
        scanners make one for each volume.
    patient_id, patient_name, birth_date : str
        They identify the patient: never written anywhere.
    modality : str
        ``"MR"``.
    manufacturer, model, serial, station : str
        The scanner.
    study_description, protocol, description : str
        StudyDescription, ProtocolName, SeriesDescription.
    sequence : str
        SequenceName or PulseSequenceName.
    image_type : tuple of str
        ImageType; of an enhanced object, with FrameType's words that it lacks.
    series_number, acquisition_number, instance_number : int or None
        As numbered on the scanner.
    acquired : datetime.datetime or None
        Start of the acquisition by the scanner's clock.
    n_frames : int
        Frames of a multi-frame object, else 1.
    expected : int or None
        Objects that the series should have by its own account, if it says so.
    echo : int or None
        EchoNumbers, where an echo has a number.
    transfer_syntax : str
        UID of the encoding.
    """

    path: Path
    sop_uid: str
    sop_class: str
    series_uid: str
    study_uid: str
    patient_id: str = field(repr=False)
    patient_name: str = field(repr=False)
    birth_date: str = field(repr=False)
    modality: str = ""
    manufacturer: str = ""
    model: str = ""
    serial: str = ""
    station: str = ""
    study_description: str = ""
    protocol: str = ""
    description: str = ""
    sequence: str = ""
    image_type: tuple[str, ...] = ()
    series_number: int | None = None
    acquisition_number: int | None = None
    instance_number: int | None = None
    acquired: datetime | None = None
    n_frames: int = 1
    expected: int | None = None
    echo: int | None = None
    transfer_syntax: str = ""


@dataclass(frozen=True)
class Series:
    """The objects of one series of one patient.

    Attributes
    ----------
    key : str
        Name of its folder in the spool: hexadecimal digits, made of patient and
        SeriesInstanceUID, that reveal neither.
    instances : tuple of Instance
        At least one, in the order of their numbers.
    complete : bool
        Whether its own counts say that nothing is missing; otherwise the quiet time ended.
    """

    key: str
    instances: tuple[Instance, ...]
    complete: bool = True

    @property
    def first(self) -> Instance:
        """The first object, which describes the series."""
        return self.instances[0]


@dataclass(frozen=True)
class Outcome:
    """What became of a series. Nothing in it identifies the patient.

    Attributes
    ----------
    fate : str
        One of `Fate`.
    reason : str
        A sentence: the rule that named it, or why it was kept aside.
    dataset : pathlib.Path or None
        Root of the BIDS dataset.
    subject, session : str or None
        Labels, without ``sub-`` and ``ses-``.
    files : tuple of str
        What was written, below `dataset`.
    warnings : tuple of str
        What is doubtful about the series or its conversion, as sentences.
    """

    fate: Fate
    reason: str
    dataset: Path | None = None
    subject: str | None = None
    session: str | None = None
    files: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
