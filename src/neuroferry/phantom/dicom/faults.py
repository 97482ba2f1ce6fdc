"""What goes wrong at scanners and their exports, done to the objects of a series.

Each function takes what `objects` makes and yields what a bad export would hold. Objects are
changed in place: make them anew for each fault.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import numpy as np

from neuroferry.phantom.dicom.header import decimal, time, uid

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

    from pydicom.dataset import Dataset

    from neuroferry.phantom.dicom.header import Made
    from neuroferry.phantom.dicom.scans import ScannedSeries

#: Words of ImageType of maps and series that a scanner computes: of DIFFUSION, and of all others.
DERIVED = {
    "ADC": ["DERIVED", "PRIMARY", "DIFFUSION", "ADC", "ND"],
    "FA": ["DERIVED", "PRIMARY", "DIFFUSION", "FA", "ND"],
    "TRACEW": ["DERIVED", "PRIMARY", "DIFFUSION", "TRACEW", "ND"],
    "MOCO": ["DERIVED", "PRIMARY", "M", "ND", "MOCO"],
}


def lose(
    made: Iterable[Made],
    *,
    volumes: Collection[int] = (),
    slices: Collection[tuple[int, int]] = (),
) -> Iterator[Made]:
    """Lose whole volumes, and single slices (volume, slice), on the way."""
    for one in made:
        if one.volume in volumes or (one.volume, one.slice) in slices:
            continue
        yield one


def stop(made: Iterable[Made], volume: int, *, slices: int = 0) -> Iterator[Made]:
    """Stop the run: keep the volumes before `volume`, and so many slices of that one."""
    for one in made:
        at = one.volume or 0
        if at < volume or (at == volume and one.slice is not None and one.slice < slices):
            yield one


def reconstruct_again(
    made: Iterable[Made],
    *,
    words: tuple[str, ...] = ("NORM", "DIS2D"),
    name: str = "",
    scale: float = 1.0,
) -> Iterator[Made]:
    """Make a second reconstruction: a series of its own, of the same protocol and times.

    Parameters
    ----------
    made : iterable of Made
    words : tuple of str
        Added to ImageType, in place of ``ND``.
    name : str
        Added to SeriesDescription.
    scale : float
        Of the pixels.
    """
    for one in made:
        ds = one.dataset
        ds.ImageType = [word for word in ds.ImageType if word != "ND"] + list(words)
        _new_series(ds, "again", *words, name)
        ds.SeriesDescription = f"{ds.SeriesDescription}{name}"
        _scale(ds, scale)
        yield one


def derive(made: Iterable[Made], kind: str) -> Iterator[Made]:
    """Make what the scanner computes from a series: one of `DERIVED`.

    Maps have one volume; a motion-corrected series has all.
    """
    for one in made:
        if kind != "MOCO" and (one.volume or 0) > 0:
            return
        ds = one.dataset
        mosaic = ["MOSAIC"] if "MOSAIC" in ds.ImageType else []
        ds.ImageType = [*DERIVED[kind], *mosaic]
        _new_series(ds, "derived", kind)
        ds.SeriesDescription = "MoCoSeries" if kind == "MOCO" else f"{ds.SeriesDescription}_{kind}"
        yield one


def phase(made: Iterable[Made]) -> Iterator[Made]:
    """Make the phase images of a series, which the scanner saves beside its magnitude."""
    for one in made:
        ds = one.dataset
        ds.ImageType = ["P" if word == "M" else word for word in ds.ImageType]
        _new_series(ds, "phase")
        ds.SeriesDescription = f"{ds.SeriesDescription}_Pha"
        yield one


def change_pixels(made: Iterable[Made]) -> Iterator[Made]:
    """Send the same objects, by their UIDs, with other pixels."""
    for one in made:
        pixels = np.frombuffer(one.dataset.PixelData, dtype="<i2")
        one.dataset.PixelData = (pixels // 2 + 1).astype("<i2").tobytes()
        yield one


def study_per_volume(made: Iterable[Made], *, series_too: bool = False) -> Iterator[Made]:
    """Give each volume a StudyInstanceUID of its own, as exports of numaris X do.

    Parameters
    ----------
    made : iterable of Made
    series_too : bool
        Whether also SeriesInstanceUID and SeriesNumber change from volume to volume.
    """
    for one in made:
        ds = one.dataset
        ds.StudyInstanceUID = uid(ds.StudyInstanceUID, "volume", one.volume)
        if series_too:
            ds.SeriesInstanceUID = uid(ds.SeriesInstanceUID, "volume", one.volume)
            ds.SeriesNumber = int(ds.SeriesNumber) * 1000 + (one.volume or 0)
        yield one


def single_band_first(made: Iterable[Made], series: ScannedSeries, factor: int) -> Iterator[Made]:
    """Give the first volume the times of its single-band reference, as numaris XA30 does.

    Parameters
    ----------
    made : iterable of Made
        Classic, one object for each slice.
    series : ScannedSeries
        With the times of `multiband`.
    factor : int
        Slices excited at once: the single-band volume takes so many repetition times.
    """
    order = np.r_[np.arange(0, series.n_slices, 2), np.arange(1, series.n_slices, 2)]
    times = np.empty(series.n_slices)
    times[order] = np.arange(series.n_slices) * series.tr * factor / series.n_slices
    for one in made:
        if one.volume == 0 and one.slice is not None:
            seconds = float(times[one.slice])
            block = one.dataset.private_block(0x0021, "SIEMENS MR SDI 02")
            block[0x04].value = f"{seconds:.6f}"
            shift = seconds - float(times.max())  # the reference ends before the first volume
            moment = series.started.replace(microsecond=0)
            one.dataset.AcquisitionTime = time(moment + timedelta(seconds=shift))
        yield one


def state_tr(made: Iterable[Made], tr: float) -> Iterator[Made]:
    """State a RepetitionTime (s) that the times of the volumes contradict."""
    for one in made:
        ds = one.dataset
        if "SharedFunctionalGroupsSequence" in ds:
            shared = ds.SharedFunctionalGroupsSequence[0]
            shared.MRTimingAndRelatedParametersSequence[0].RepetitionTime = decimal(tr * 1000)
        ds.RepetitionTime = decimal(tr * 1000)
        yield one


def interleave(*series: Iterable[Made]) -> Iterator[Made]:
    """Send several series at once, object by object, as two scanners do."""
    left = [iter(one) for one in series]
    while left:
        for one in list(left):
            made = next(one, None)
            if made is None:
                left.remove(one)
            else:
                yield made


def _new_series(ds: Dataset, *sources: str) -> None:
    """Make an object part of another series of the same study."""
    ds.SeriesInstanceUID = uid(ds.SeriesInstanceUID, *sources)
    ds.SOPInstanceUID = uid(ds.SOPInstanceUID, *sources)
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    ds.SeriesNumber = int(ds.SeriesNumber) + 100


def _scale(ds: Dataset, scale: float) -> None:
    if scale != 1.0:
        pixels = np.frombuffer(ds.PixelData, dtype="<i2")
        ds.PixelData = np.rint(pixels * scale).astype("<i2").tobytes()
