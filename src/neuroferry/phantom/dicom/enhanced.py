"""Enhanced DICOM: one object holds the slices of a volume, or of all volumes, as frames."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import EnhancedMRImageStorage

from neuroferry.phantom.dicom.header import (
    Made,
    base,
    copied,
    date,
    decimal,
    decimals,
    finish,
    time,
    uid,
)
from neuroferry.phantom.dicom.siemens import add_xa

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from datetime import datetime

    from neuroferry.phantom.dicom.scans import Patient, ScannedSeries, Scanner

_DIMENSIONS = (  # index pointer, functional group pointer
    (0x00209056, 0x00209111),  # StackID
    (0x00209057, 0x00209111),  # InStackPositionNumber
    (0x00209128, 0x00209111),  # TemporalPositionIndex
)
_PER_FRAME = ("SliceThickness", "PixelSpacing", "SpacingBetweenSlices", "ImageOrientationPatient")
_NOT_ENHANCED = ("ScanningSequence", "SequenceVariant", "ScanOptions", "SequenceName", "EchoTime")
_XA = "syngo MR XA30"


def enhanced(series: ScannedSeries, patient: Patient, scanner: Scanner) -> Iterator[Made]:
    """Make the objects of a series: one of all volumes, or of Siemens one for each volume.

    Parameters
    ----------
    series : ScannedSeries
    patient : Patient
    scanner : Scanner
        Siemens writes this form with numaris X, whose private elements every frame gets.

    Yields
    ------
    Made
    """
    common = _common(series, patient, scanner)
    if scanner.vendor == "siemens":
        for volume in range(series.n_volumes):
            ds = copied(common)
            ds.AcquisitionNumber = volume + 1
            ds.InstanceNumber = volume * series.n_echoes + series.echo
            _add_frames(ds, series, scanner, [volume])
            yield Made(finish(ds, series.echo, volume), volume, None)
    else:
        _add_frames(common, series, scanner, range(series.n_volumes))
        yield Made(finish(common, series.echo), None, None)


def _common(series: ScannedSeries, patient: Patient, scanner: Scanner) -> Dataset:
    """Make what all objects of a series share."""
    ds = base(series, patient, scanner)
    if scanner.vendor == "siemens" and not scanner.software:
        ds.SoftwareVersions = _XA
    ds.SOPClassUID = EnhancedMRImageStorage
    ds.ImageType = _kind(series)
    ds.PulseSequenceName = ds.SequenceName
    ds.AcquisitionContrast = "DIFFUSION" if series.bvals is not None else "UNKNOWN"
    ds.ComplexImageComponent = "PHASE" if series.phase_image else "MAGNITUDE"
    ds.VolumetricProperties = "VOLUME"
    ds.AcquisitionDuration = float(series.tr * series.n_volumes)
    ds.AcquisitionNumber, ds.InstanceNumber = 1, series.echo
    _add_dimensions(ds)
    ds.SharedFunctionalGroupsSequence = Sequence([_shared(ds, series)])
    for keyword in (*_PER_FRAME, *_NOT_ENHANCED, "WindowCenter", "WindowWidth"):
        if keyword in ds:
            delattr(ds, keyword)
    return ds


def _add_frames(
    ds: Dataset, series: ScannedSeries, scanner: Scanner, volumes: Iterable[int]
) -> None:
    """Add the frames of some volumes, with their pixels and the time of the first."""
    volumes = list(volumes)
    moment = series.time_of(volumes[0])
    ds.AcquisitionDateTime = _moment(moment)
    ds.AcquisitionDate, ds.AcquisitionTime = date(moment), time(moment)
    ds.ContentDate, ds.ContentTime = date(moment), time(moment)
    ds.NumberOfFrames = series.n_slices * len(volumes)
    frames = [
        _frame(series, scanner, volume, k) for volume in volumes for k in range(series.n_slices)
    ]
    ds.PerFrameFunctionalGroupsSequence = Sequence(frames)
    pixels = series.data[..., volumes].transpose(3, 2, 1, 0)
    ds.PixelData = np.ascontiguousarray(pixels).astype("<i2").tobytes()


def _kind(series: ScannedSeries) -> list[str]:
    word = {"bold": "FMRI", "dwi": "DIFFUSION"}.get(series.suffix, "M")
    return ["ORIGINAL", "PRIMARY", "P" if series.phase_image else word, "NONE"]


def _moment(value: datetime) -> str:
    return value.strftime("%Y%m%d%H%M%S.%f")


def _item(**values: object) -> Sequence:
    item = Dataset()
    for keyword, value in values.items():
        setattr(item, keyword, value)
    return Sequence([item])


def _add_dimensions(ds: Dataset) -> None:
    organisation = uid("dimensions", ds.SeriesInstanceUID)
    ds.DimensionOrganizationSequence = _item(DimensionOrganizationUID=organisation)
    ds.DimensionIndexSequence = Sequence(
        [
            _item(
                DimensionOrganizationUID=organisation,
                DimensionIndexPointer=pointer,
                FunctionalGroupPointer=group,
            )[0]
            for pointer, group in _DIMENSIONS
        ]
    )


def _shared(ds: Dataset, series: ScannedSeries) -> Dataset:
    """Functional groups that hold for every frame."""
    item = Dataset()
    item.PixelMeasuresSequence = _item(
        SliceThickness=ds.SliceThickness,
        SpacingBetweenSlices=ds.SpacingBetweenSlices,
        PixelSpacing=ds.PixelSpacing,
    )
    item.MRTimingAndRelatedParametersSequence = _item(
        RepetitionTime=ds.RepetitionTime,
        FlipAngle=ds.FlipAngle,
        EchoTrainLength=ds.EchoTrainLength,
        RFEchoTrainLength=0 if series.is_epi else 1,
        GradientEchoTrainLength=ds.EchoTrainLength if series.is_epi else 0,
    )
    item.MREchoSequence = _item(EffectiveEchoTime=series.echo_time * 1000)
    phase = "ROW" if ds.InPlanePhaseEncodingDirection == "ROW" else "COLUMN"
    item.MRFOVGeometrySequence = _item(
        InPlanePhaseEncodingDirection=phase,
        MRAcquisitionFrequencyEncodingSteps=int(ds.Columns),
        MRAcquisitionPhaseEncodingStepsInPlane=int(ds.NumberOfPhaseEncodingSteps),
        PercentSampling=100.0,
        PercentPhaseFieldOfView=100.0,
    )
    item.MRImagingModifierSequence = _item(
        PixelBandwidth=ds.PixelBandwidth, TransmitterFrequency=123.2
    )
    if "InversionTime" in series.sidecar:
        item.MRModifierSequence = _item(InversionTimes=[series.sidecar["InversionTime"] * 1000])
    return item


def _frame(series: ScannedSeries, scanner: Scanner, volume: int, k: int) -> Dataset:
    """Functional groups of one frame."""
    frame = Dataset()
    moment = series.time_of(volume, k)
    frame.FrameContentSequence = _item(
        FrameAcquisitionNumber=volume + 1,
        FrameReferenceDateTime=_moment(moment),
        FrameAcquisitionDateTime=_moment(moment),
        FrameAcquisitionDuration=float(series.tr * 1000 / series.n_slices),
        StackID="1",
        InStackPositionNumber=k + 1,
        TemporalPositionIndex=volume + 1,
        DimensionIndexValues=[1, k + 1, volume + 1],
    )
    frame.PlanePositionSequence = _item(ImagePositionPatient=decimals(series.position(k)))
    # Of each frame, as scanners write it: dcm2niix takes a shared one for a hint that the frames
    # of Siemens are in no order, and sorts all volumes by position alone.
    frame.PlaneOrientationSequence = _item(ImageOrientationPatient=decimals(series.orientation()))
    frame.MRImageFrameTypeSequence = _item(
        FrameType=_kind(series),
        ComplexImageComponent="PHASE" if series.phase_image else "MAGNITUDE",
        AcquisitionContrast="DIFFUSION" if series.bvals is not None else "UNKNOWN",
        PixelPresentation="MONOCHROME",
        VolumetricProperties="VOLUME",
        VolumeBasedCalculationTechnique="NONE",
    )
    frame.PixelValueTransformationSequence = _item(
        RescaleIntercept="0", RescaleSlope="1", RescaleType="US"
    )
    high = float(series.data[:, :, k, volume].max())
    frame.FrameVOILUTSequence = _item(
        WindowCenter=decimal(high / 2), WindowWidth=decimal(max(high, 1.0))
    )
    if series.bvals is not None and series.bvecs is not None:
        weighted = series.bvals[volume] > 0
        diffusion = _item(
            DiffusionBValue=float(series.bvals[volume]),
            DiffusionDirectionality="DIRECTIONAL" if weighted else "NONE",
        )
        if weighted:
            diffusion[0].DiffusionGradientDirectionSequence = _item(
                DiffusionGradientOrientation=series.bvecs[volume].tolist()
            )
        frame.MRDiffusionSequence = diffusion
    if scanner.vendor == "siemens":
        private = Dataset()
        after = None if series.slice_times is None else float(series.slice_times[k])
        add_xa(private, series, volume, after)
        block = frame.private_block(0x0021, "SIEMENS MR SDI 02", create=True)
        block.add_new(0xFE, "SQ", Sequence([private]))
    return frame
