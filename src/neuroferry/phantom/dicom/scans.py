"""What a scanner would know about the scans of a BIDS dataset: grids, times, names, gradients."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import groupby
from typing import TYPE_CHECKING, Any

import nibabel as nb
import numpy as np
from nibabel.orientations import (
    apply_orientation,
    axcodes2ornt,
    inv_ornt_aff,
    io_orientation,
    ornt_transform,
)

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
#: Directions of columns, rows and slices.
_PLANES = {"axial": ("L", "P", "S"), "sagittal": ("P", "I", "R"), "coronal": ("L", "I", "P")}
_COMPUTED = ("_fieldmap.nii.gz", "_magnitude.nii.gz")  # in Hz, and what belongs to it
_PAUSE = timedelta(seconds=45)  # between two series
_ANATOMICAL = timedelta(minutes=5)  # duration of a scan without volumes
_FIRST_DAY = datetime(2024, 1, 8, 9, 0)


@dataclass(frozen=True)
class Patient:
    """An invented patient.

    Attributes
    ----------
    id : str
        PatientID.
    name : str
        In DICOM's form: family name, caret, given name.
    birth_date : str
        YYYYMMDD.
    sex : str
        ``M``, ``F`` or ``O``.
    """

    id: str
    name: str = "Nobody^Invented"
    birth_date: str = "19010203"
    sex: str = "O"


@dataclass(frozen=True)
class Scanner:
    """An invented scanner that writes as those of a real vendor do.

    Attributes
    ----------
    vendor : str
        ``siemens``, ``ge`` or ``philips``.
    serial : str
        DeviceSerialNumber.
    station : str
        StationName.
    software : str
        SoftwareVersions; empty for one that the vendor has used.
    """

    vendor: str = "siemens"
    serial: str = "000001"
    station: str = "PHANTOM1"
    software: str = ""


@dataclass(frozen=True)
class ScannedSeries:
    """One series, on DICOM's axes.

    Attributes
    ----------
    data : ndarray of int16, shape (I, J, K, T)
        I columns (along a row), J rows, K slices, T volumes.
    affine : ndarray of float64, shape (4, 4)
        Voxel indices to LPS+ mm.
    sidecar : mapping of str
        Of the BIDS image.
    protocol : str
        ProtocolName, as ReproIn has it.
    suffix : str
        Of the BIDS image.
    number : int
        SeriesNumber.
    started : datetime.datetime
        Start of the first volume.
    study, uid : str
        What the UIDs of the study and of the series are made from.
    volume_times : ndarray of float64, shape (T,)
        Start of each volume, s after `started`.
    slice_times : ndarray of float64, shape (K,), or None
        Start of each slice, s after that of its volume.
    bvals : ndarray of float64, shape (T,), or None
        s/mm2.
    bvecs : ndarray of float64, shape (T, 3), or None
        Unit vectors, LPS+; zero where b is 0.
    phase_axis : int or None
        Axis of `data` along which phase is encoded, 0 or 1.
    phase_positive : bool
        Whether it is encoded towards higher indices.
    echo, n_echoes : int
        Which echo of its series it is, and how many there are.
    phase_image : bool
    source : Path or None
        The BIDS image.
    """

    data: NDArray[np.int16]
    affine: NDArray[np.float64]
    sidecar: Mapping[str, Any]
    protocol: str
    suffix: str
    number: int
    started: datetime
    study: str
    uid: str
    volume_times: NDArray[np.float64]
    slice_times: NDArray[np.float64] | None = None
    bvals: NDArray[np.float64] | None = None
    bvecs: NDArray[np.float64] | None = None
    phase_axis: int | None = None
    phase_positive: bool = True
    echo: int = 1
    n_echoes: int = 1
    phase_image: bool = False
    source: Path | None = None

    @property
    def n_volumes(self) -> int:
        """Number of volumes."""
        return int(self.data.shape[3])

    @property
    def n_slices(self) -> int:
        """Slices of a volume."""
        return int(self.data.shape[2])

    @property
    def zooms(self) -> NDArray[np.float64]:
        """Distance of voxel centres along columns, rows and slices, mm."""
        lengths: NDArray[np.float64] = np.linalg.norm(self.affine[:3, :3], axis=0)
        return lengths

    @property
    def is_3d(self) -> bool:
        """Whether the volume is excited as a whole."""
        return self.suffix in ("T1w", "T2w")

    @property
    def is_epi(self) -> bool:
        """Whether the readout is echo-planar."""
        return self.suffix in ("bold", "dwi", "epi", "sbref")

    @property
    def tr(self) -> float:
        """RepetitionTime, s."""
        return float(
            self.sidecar.get("RepetitionTimePreparation", self.sidecar.get("RepetitionTime", 1.0))
        )

    @property
    def echo_time(self) -> float:
        """EchoTime, s; of a phase difference, the second one."""
        return float(self.sidecar.get("EchoTime", self.sidecar.get("EchoTime2", 0.003)))

    def position(self, k: int) -> NDArray[np.float64]:
        """Position of the first voxel of slice `k`, LPS+ mm."""
        corner: NDArray[np.float64] = self.affine[:3, :3] @ (0, 0, k) + self.affine[:3, 3]
        return corner

    def orientation(self) -> NDArray[np.float64]:
        """Directions along a row and along a column, six numbers, LPS+."""
        axes = self.affine[:3, :2] / self.zooms[:2]
        return np.asarray(axes.T.ravel(), dtype=np.float64)

    def normal(self) -> NDArray[np.float64]:
        """Direction from slice to slice, LPS+."""
        along: NDArray[np.float64] = self.affine[:3, 2] / self.zooms[2]
        return along

    def time_of(self, volume: int, k: int | None = None) -> datetime:
        """When a volume, or its slice `k`, began."""
        seconds = float(self.volume_times[volume])
        if k is not None and self.slice_times is not None:
            seconds += float(self.slice_times[k])
        return self.started + timedelta(seconds=round(seconds, 6))


def read_session(folder: Path) -> list[ScannedSeries]:
    """Read the scans of one participant's session, in the order in which they are scanned.

    Parameters
    ----------
    folder : Path
        ``sub-01`` or ``sub-01/ses-01`` of a BIDS dataset that the phantom wrote.

    Returns
    -------
    list of ScannedSeries
        Anatomical, field maps, functional, diffusion; numbered from 2, as the first series is the
        localiser. Echoes of a scan share a number and a UID; its phase is another series. Field
        maps in Hz are left out: scanners do not export them as scans.
    """
    kinds = ("anat", "fmap", "func", "dwi")
    paths = [
        path
        for kind in kinds
        for path in sorted((folder / kind).glob("*.nii.gz"))
        if not path.name.endswith(_COMPUTED)
    ]
    label = next(part for part in folder.parts[::-1] if part.startswith("sub-"))
    session = folder.name.removeprefix("ses-") if folder.name.startswith("ses-") else ""
    start = _first_start(label, session)
    found: list[ScannedSeries] = []
    for number, (_, echoes) in enumerate(groupby(paths, _scan_of), 2):
        series = _read_echoes(list(echoes), number=number, started=start)
        found += series
        span = timedelta(seconds=series[0].tr * series[0].n_volumes)
        start += (_ANATOMICAL if series[0].n_volumes == 1 else span) + _PAUSE
    digest = hashlib.sha256(f"{label}/{session}".encode())
    for one in found:
        digest.update(one.uid.encode())
    # A study of other pixels is another study: UIDs never stand for two things.
    return [replace(one, study=digest.hexdigest()) for one in found]


def localiser(series: ScannedSeries) -> list[ScannedSeries]:
    """Make the localiser of a session: one slice in each of three planes, series 1.

    Parameters
    ----------
    series : ScannedSeries
        The first of the session, through the middle of which the slices go.

    Returns
    -------
    list of ScannedSeries
        Of the same series; like echoes, they share its number and its UID.
    """
    session = re.search(r"_ses-[^_]+", series.protocol)
    image = series.data[..., :1]
    made = []
    for index, plane in enumerate(_PLANES, 1):
        data, affine, _ = _onto_plane(image, _LPS @ series.affine, plane)
        middle = data.shape[2] // 2
        corner = affine.copy()
        corner[:3, 3] += affine[:3, 2] * middle
        made.append(
            replace(
                series,
                data=data[:, :, middle : middle + 1],
                affine=corner,
                sidecar={"RepetitionTime": 0.0086, "EchoTime": 0.004, "FlipAngle": 20},
                protocol="anat-scout" + (session[0] if session else ""),
                suffix="scout",
                number=1,
                started=series.started - 2 * _PAUSE,
                uid=f"scout/{series.uid}",
                volume_times=np.zeros(1),
                slice_times=None,
                bvals=None,
                bvecs=None,
                phase_axis=None,
                echo=index,
                n_echoes=len(_PLANES),
            )
        )
    return made


def multiband(series: ScannedSeries, factor: int) -> ScannedSeries:
    """Let slices be excited together: the same times for each of `factor` blocks of slices.

    Parameters
    ----------
    series : ScannedSeries
        With slice times.
    factor : int
        Slices excited at once.
    """
    packs = int(np.ceil(series.n_slices / factor))
    order = np.r_[np.arange(0, packs, 2), np.arange(1, packs, 2)]
    times = np.empty(packs)
    times[order] = np.arange(packs) * series.tr / packs
    return replace(series, slice_times=np.tile(times, factor)[: series.n_slices])


def _scan_of(path: Path) -> str:
    """Name the scan that an image is an echo of; its magnitude and phase are two series."""
    return re.sub(r"_echo-\d+|(?<=_magnitude)[12]\b|(?<=_phase)[12]\b", "", path.name)


def _first_start(label: str, session: str) -> datetime:
    def number(text: str) -> int:
        digits = re.sub(r"\D", "", text)
        return int(digits) if digits else 1

    days, hours = divmod(number(label) - 1, 4)
    return _FIRST_DAY + timedelta(days=days + 7 * (number(session) - 1), hours=2 * hours)


def _read_echoes(paths: list[Path], *, number: int, started: datetime) -> list[ScannedSeries]:
    """Read the echoes of a scan, as parts of one series."""
    found = [_read_series(path, number=number, started=started) for path in paths]
    together = "/".join(one.uid for one in found)
    return [
        replace(one, uid=together, echo=index, n_echoes=len(found))
        for index, one in enumerate(found, 1)
    ]


def _read_series(path: Path, *, number: int, started: datetime) -> ScannedSeries:
    stem = path.name.removesuffix(".nii.gz")
    sidecar = json.loads(path.with_name(f"{stem}.json").read_text())
    image: Any = nb.load(path)
    data = np.rint(np.asanyarray(image.dataobj)).astype(np.int16)
    data = data if data.ndim == 4 else data[..., None]
    suffix = stem.rsplit("_", 1)[1]
    plane = "sagittal" if suffix in ("T1w", "T2w") else "axial"
    world = np.asarray(image.affine, np.float64)
    turned, affine, turn = _onto_plane(data, world, plane)
    axis, positive = _phase(sidecar.get("PhaseEncodingDirection"), turn)
    times = sidecar.get("SliceTiming")
    bvals, bvecs = _gradients(path, world)
    tr = float(sidecar.get("RepetitionTimePreparation", sidecar.get("RepetitionTime", 1.0)))
    content = hashlib.sha256(np.ascontiguousarray(turned).tobytes()).hexdigest()
    return ScannedSeries(
        data=turned,
        affine=affine,
        sidecar=sidecar,
        protocol=_protocol(path, stem, suffix),
        suffix=suffix,
        number=number,
        started=started,
        study="",
        uid=f"{stem}/{content}",
        volume_times=np.arange(turned.shape[3], dtype=np.float64) * tr,
        slice_times=None if times is None else _turned_times(np.asarray(times, float), turn),
        bvals=bvals,
        bvecs=bvecs,
        phase_axis=axis,
        phase_positive=positive,
        phase_image=suffix.startswith("phase"),
        source=path,
    )


def _onto_plane(
    data: NDArray[np.int16], affine: NDArray[np.float64], plane: str
) -> tuple[NDArray[np.int16], NDArray[np.float64], NDArray[np.float64]]:
    """Turn an image so that its slices lie in a plane; return data, LPS affine, orientation."""
    turn = ornt_transform(io_orientation(affine), axcodes2ornt(_PLANES[plane]))
    turned = apply_orientation(data, turn)
    return turned, _LPS @ affine @ inv_ornt_aff(turn, data.shape[:3]), turn


def _phase(direction: str | None, turn: NDArray[np.float64]) -> tuple[int | None, bool]:
    if direction is None:
        return None, True
    axis, flip = turn["ijk".index(direction[0])]
    return int(axis), (flip > 0) != direction.endswith("-")


def _turned_times(times: NDArray[np.float64], turn: NDArray[np.float64]) -> NDArray[np.float64]:
    return times if turn[2][1] > 0 else times[::-1]


def _gradients(
    path: Path, affine: NDArray[np.float64]
) -> tuple[NDArray[np.float64] | None, NDArray[np.float64] | None]:
    """Read FSL's table beside an image, as vectors along LPS+ axes."""
    bval = path.with_name(path.name.replace(".nii.gz", ".bval"))
    if not bval.is_file():
        return None, None
    bvals = np.loadtxt(bval, ndmin=1)
    along = np.loadtxt(bval.with_suffix(".bvec"), ndmin=2).T
    axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    if np.linalg.det(axes) > 0:
        along = along * (-1, 1, 1)
    return bvals, along @ axes.T @ _LPS[:3, :3]


def _protocol(path: Path, stem: str, suffix: str) -> str:
    """Name a scan as ReproIn does, from the name of its BIDS image.

    The suffix of a field map, and the number of an echo, are found out from the images.
    """
    entities = dict(part.split("-", 1) for part in stem.split("_") if "-" in part)
    kind = path.parent.name
    seq = {"anat": f"anat-{suffix}", "func": f"func-{suffix}"}.get(kind, kind)
    order = ("ses", "task", "acq", "run", "dir")
    return "_".join([seq, *(f"{key}-{entities[key]}" for key in order if key in entities)])
