"""Classic DICOM: an object for each slice, or for each volume as Siemens' mosaic."""

from __future__ import annotations

import gzip
import struct
from typing import TYPE_CHECKING

import numpy as np

from neuroferry.phantom.dicom.header import (
    Made,
    base,
    check_vendor,
    copied,
    date,
    decimal,
    decimals,
    finish,
    image_type,
    time,
)
from neuroferry.phantom.dicom.siemens import add_csa, add_xa, is_xa

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray
    from pydicom.dataset import Dataset

    from neuroferry.phantom.dicom.scans import Patient, ScannedSeries, Scanner


def classic(series: ScannedSeries, patient: Patient, scanner: Scanner) -> Iterator[Made]:
    """Make the objects of a series, one for each slice.

    Parameters
    ----------
    series : ScannedSeries
    patient : Patient
    scanner : Scanner
        Its vendor decides on private elements and on how volumes are told apart.

    Yields
    ------
    Made
        Volume by volume, slice by slice.
    """
    check_vendor(scanner.vendor)
    common = base(series, patient, scanner)
    common.ImageType = image_type(series)
    common.ImagesInAcquisition = series.n_slices * series.n_volumes
    for volume in range(series.n_volumes):
        for k in range(series.n_slices):
            ds = copied(common)
            _place(ds, series, volume, k)
            _VENDOR_PARTS[scanner.vendor](ds, series, volume, k)
            pixels = series.data[:, :, k, volume]
            ds.PixelData = np.ascontiguousarray(pixels.T).astype("<i2").tobytes()
            yield Made(finish(ds, series.echo, volume, k), volume, k)


def mosaic(series: ScannedSeries, patient: Patient, scanner: Scanner) -> Iterator[Made]:
    """Make the objects of an echo-planar series as Siemens writes them: the slices of a volume as
    the tiles of one image.

    Parameters
    ----------
    series : ScannedSeries
    patient : Patient
    scanner : Scanner

    Yields
    ------
    Made
        One for each volume.
    """  # noqa: D205
    common = base(series, patient, scanner)
    common.ImageType = image_type(series, "MOSAIC")
    tiles = int(np.ceil(np.sqrt(series.n_slices)))
    columns, rows = series.data.shape[:2]
    common.Columns, common.Rows = tiles * columns, tiles * rows
    # The position is that of an image of the mosaic's size around the same centre.
    shift = np.array([(tiles - 1) * columns / 2, (tiles - 1) * rows / 2, 0])
    position = series.position(0) - series.affine[:3, :3] @ shift
    common.ImagePositionPatient = decimals(position)
    common.SliceLocation = decimal(float(series.normal() @ series.position(0)))
    times = None if series.slice_times is None else series.slice_times * 1000
    for volume in range(series.n_volumes):
        ds = copied(common)
        _number(ds, series, volume)
        _clock(ds, series, volume, None)
        add_csa(ds, series, volume, mosaic=True, slice_ms=times)
        ds.PixelData = _tile(series.data[..., volume], tiles).astype("<i2").tobytes()
        yield Made(finish(ds, series.echo, volume), volume, None)


def _tile(volume: NDArray[np.int16], tiles: int) -> NDArray[np.int16]:
    columns, rows, slices = volume.shape
    image = np.zeros((tiles * rows, tiles * columns), dtype=np.int16)
    for k in range(slices):
        row, column = divmod(k, tiles)
        image[row * rows : (row + 1) * rows, column * columns : (column + 1) * columns] = volume[
            :, :, k
        ].T
    return image


def _place(ds: Dataset, series: ScannedSeries, volume: int, k: int) -> None:
    _number(ds, series, volume, k)
    _clock(ds, series, volume, k)
    ds.ImagePositionPatient = decimals(series.position(k))
    ds.SliceLocation = decimal(float(series.normal() @ series.position(k)))


def _number(ds: Dataset, series: ScannedSeries, volume: int, k: int | None = None) -> None:
    ds.AcquisitionNumber = volume + 1
    before = volume * series.n_echoes + series.echo - 1  # images of a volume, or volumes
    ds.InstanceNumber = before + 1 if k is None else before * series.n_slices + k + 1


def _clock(ds: Dataset, series: ScannedSeries, volume: int, k: int | None) -> None:
    moment = series.time_of(volume, k)
    ds.AcquisitionDate, ds.AcquisitionTime = date(moment), time(moment)
    ds.ContentDate, ds.ContentTime = date(moment), time(moment)


def _siemens(ds: Dataset, series: ScannedSeries, volume: int, k: int) -> None:
    if is_xa(str(ds.SoftwareVersions)):
        after = None if series.slice_times is None else float(series.slice_times[k])
        add_xa(ds, series, volume, after)
        if series.bvals is not None:
            _standard_diffusion(ds, series, volume)
    else:
        add_csa(ds, series, volume, mosaic=False, slice_ms=None)


def _philips(ds: Dataset, series: ScannedSeries, volume: int, k: int) -> None:
    ds.AcquisitionNumber = series.number
    ds.TemporalPositionIdentifier = volume + 1
    ds.NumberOfTemporalPositions = series.n_volumes
    ds.RescaleSlope, ds.RescaleIntercept, ds.RescaleType = "1", "0", "normalized"
    imaging = ds.private_block(0x2001, "Philips Imaging DD 001", create=True)
    imaging.add_new(0x0A, "IS", str(k + 1))
    imaging.add_new(0x18, "SL", series.n_slices)
    imaging.add_new(0x81, "IS", str(series.n_volumes))
    block = ds.private_block(0x2005, "Philips MR Imaging DD 001", create=True)
    block.add_new(0x0D, "FL", 0.0)
    block.add_new(0x0E, "FL", 1.0)
    if series.bvals is not None and series.bvecs is not None:
        _standard_diffusion(ds, series, volume)
        imaging.add_new(0x03, "FL", float(series.bvals[volume]))
        for element, value in zip((0xB0, 0xB1, 0xB2), series.bvecs[volume], strict=True):
            block.add_new(element, "FL", float(value))


def _standard_diffusion(ds: Dataset, series: ScannedSeries, volume: int) -> None:
    if series.bvals is None or series.bvecs is None:
        return
    ds.DiffusionBValue = float(series.bvals[volume])
    if series.bvals[volume] > 0:
        ds.DiffusionDirectionality = "DIRECTIONAL"
        ds.DiffusionGradientOrientation = series.bvecs[volume].tolist()
    else:
        ds.DiffusionDirectionality = "NONE"


def _ge(ds: Dataset, series: ScannedSeries, volume: int, k: int) -> None:
    ds.AcquisitionNumber = 1
    ds.ImagesInAcquisition = series.n_slices
    ds.TemporalPositionIdentifier = volume + 1
    ds.NumberOfTemporalPositions = series.n_volumes
    if series.phase_axis is not None:
        forwards = "REVERSE_LINEAR" if series.phase_positive else "LINEAR"
        ds.RectilinearPhaseEncodeReordering = forwards
    moment = series.time_of(0)
    ds.AcquisitionTime, ds.AcquisitionDate = time(moment), date(moment)
    if series.slice_times is not None:
        ds.TriggerTime = decimal(float(series.slice_times[k]) * 1000)
    acquisition = ds.private_block(0x0019, "GEMS_ACQU_01", create=True)
    if series.is_epi:
        ds.SequenceName = ""
        acquisition.add_new(0x9C, "LO", "epi2" if series.bvals is not None else "epiRT")
        acquisition.add_new(0x9E, "LO", "EPI2" if series.bvals is not None else "EPI")
    relations = ds.private_block(0x0021, "GEMS_RELA_01", create=True)
    relations.add_new(0x4F, "SS", series.n_slices)
    block = ds.private_block(0x0025, "GEMS_SERS_01", create=True)
    block.add_new(0x07, "SL", series.n_slices)
    block.add_new(0x1B, "OB", _ge_protocol(series))
    parameters = ds.private_block(0x0043, "GEMS_PARM_01", create=True)
    parameters.add_new(0x2F, "SS", int(series.phase_image))
    spacing = series.sidecar.get("EffectiveEchoSpacing")
    if spacing is not None:
        parameters.add_new(0x2C, "SS", round(float(spacing) * 1e6))
        parameters.add_new(0x83, "DS", ["1", "1"])
    if series.bvals is None or series.bvecs is None:
        return
    parameters.add_new(0x39, "IS", [str(round(series.bvals[volume])), "8", "0", "0"])
    acquisition.add_new(0xE0, "DS", str(int((series.bvals > 0).sum())))
    for element, value in zip((0xBB, 0xBC, 0xBD), _ge_gradient(series, volume), strict=True):
        acquisition.add_new(element, "DS", decimal(value))


def _ge_protocol(series: ScannedSeries) -> bytes:
    """Make GE's protocol block, from which converters learn the order of the slices."""
    odd_first = series.slice_times is None or series.slice_times[1] > series.slice_times[-1] / 3
    options = {"bold": "EPI, FMRI, FAST", "dwi": "EPI, DIFF, FAST"}.get(series.suffix, "FAST")
    lines = [
        f'set SLICEORDER "{int(odd_first)}"',
        'set VIEWORDER "1"',
        f'set NOSLC "{series.n_slices}"',
        'set MBACCEL "1"',
        'set DELACQNOAV "0"',
        f'set IOPT "{options}"',
        f'set PSEQ "{"epi" if series.is_epi else "fspgr"}"',
    ]
    packed = gzip.compress("\n".join(["", *lines, ""]).encode(), mtime=0)
    return struct.pack("<I", len(packed)) + packed + bytes(len(packed) % 2)


def _ge_gradient(series: ScannedSeries, volume: int) -> tuple[float, float, float]:
    """Express a gradient along the axes of readout, phase encoding and slices.

    GE's axes run against DICOM's along rows and slices.
    """
    assert series.bvecs is not None
    axes = series.affine[:3, :3] / series.zooms
    x, y, z = (float(value) for value in series.bvecs[volume] @ axes)
    return -x, -y, z


_VENDOR_PARTS = {"siemens": _siemens, "philips": _philips, "ge": _ge}
