"""Siemens' private elements: the header of the image, and those of numaris XA."""

from __future__ import annotations

from typing import TYPE_CHECKING

from neuroferry.phantom.dicom.csa import csa_header

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray
    from pydicom.dataset import Dataset

    from neuroferry.phantom.dicom.scans import ScannedSeries


def is_xa(software: str) -> bool:
    """Whether a version of the software is one of numaris X, which writes no CSA header."""
    return "XA" in software


def phase_bandwidth(series: ScannedSeries) -> float | None:
    """Bandwidth of a pixel along the phase encoding, Hz; None without an echo spacing."""
    spacing = series.sidecar.get("EffectiveEchoSpacing")
    if spacing is None or series.phase_axis is None:
        return None
    return 1.0 / (float(spacing) * int(series.data.shape[series.phase_axis]))


def add_csa(
    ds: Dataset,
    series: ScannedSeries,
    volume: int,
    *,
    mosaic: bool,
    slice_ms: NDArray[np.float64] | None,
) -> None:
    """Add the CSA header of an image, and the elements of group 19 that repeat it.

    Parameters
    ----------
    ds : Dataset
    series : ScannedSeries
    volume : int
    mosaic : bool
        Whether the image holds all slices.
    slice_ms : ndarray of float64, shape (K,), or None
        Start of each slice, ms after that of the volume.
    """
    slices: Sequence[float] = [series.n_slices] if mosaic else []
    times: Sequence[float] = slice_ms.tolist() if mosaic and slice_ms is not None else []
    bandwidth = phase_bandwidth(series)
    weighted = series.bvals is not None and series.bvals[volume] > 0
    bvalue: Sequence[float] = [] if series.bvals is None else [float(series.bvals[volume])]
    gradient = series.bvecs[volume].tolist() if weighted and series.bvecs is not None else []
    phase = [] if series.phase_axis is None else [float(series.phase_positive)]
    header = csa_header(
        {
            "EchoLinePosition": ("IS", [series.data.shape[1] // 2]),
            "ProtocolSliceNumber": ("IS", [0]),
            "NumberOfImagesInMosaic": ("IS", slices),
            "BandwidthPerPixelPhaseEncode": ("FD", [] if bandwidth is None else [bandwidth]),
            "PhaseEncodingDirectionPositive": ("IS", phase),
            "B_value": ("IS", bvalue),
            "DiffusionDirectionality": (
                "CS",
                [] if not bvalue else ["DIRECTIONAL" if weighted else "NONE"],
            ),
            "DiffusionGradientDirection": ("FD", gradient),
            "SliceNormalVector": ("FD", series.normal().tolist()),
            "MosaicRefAcqTimes": ("FD", times),
            "AcquisitionMatrixText": ("SH", [f"{series.data.shape[0]}*{series.data.shape[1]}"]),
            "ICE_Dims": ("LO", [f"X_{series.echo}_1_1_1_1_{volume + 1}_1_1_1_1_1_1"]),
        }
    )
    block = ds.private_block(0x0029, "SIEMENS CSA HEADER", create=True)
    block.add_new(0x08, "CS", "IMAGE NUM 4")
    block.add_new(0x09, "LO", "20240101")
    block.add_new(0x10, "OB", header)
    block = ds.private_block(0x0019, "SIEMENS MR HEADER", create=True)
    block.add_new(0x08, "CS", "IMAGE NUM 4")
    if mosaic:
        block.add_new(0x0A, "US", series.n_slices)
    if bvalue:
        block.add_new(0x0C, "IS", str(round(bvalue[0])))
        block.add_new(0x0D, "CS", "DIRECTIONAL" if weighted else "NONE")
    if gradient:
        block.add_new(0x0E, "FD", gradient)
    if bandwidth is not None:
        block.add_new(0x28, "FD", bandwidth)
    if len(times):
        block.add_new(0x29, "FD", list(times))


def add_xa(ds: Dataset, series: ScannedSeries, volume: int, after_s: float | None) -> None:
    """Add the private elements that numaris X writes for an image or a frame.

    Parameters
    ----------
    ds : Dataset
        An image, or the item of a frame.
    series : ScannedSeries
    volume : int
    after_s : float or None
        Start of the slice after that of its volume, s.
    """
    block = ds.private_block(0x0021, "SIEMENS MR SDI 02", create=True)
    if after_s is not None:
        block.add_new(0x04, "DS", f"{after_s:.6f}")
    block.add_new(0x06, "LO", f"X_{series.echo}_1_1_1_1_{volume + 1}_1_1_1_1_1_1")
    if series.phase_axis is not None:
        block.add_new(0x1C, "IS", str(int(series.phase_positive)))
    bandwidth = phase_bandwidth(series)
    if bandwidth is not None:
        block.add_new(0x53, "FD", bandwidth)
