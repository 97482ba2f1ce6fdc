#!/usr/bin/env bash
# dcm2niix 1.0.20260724: where enhanced MR keeps its orientation decides whether volumes of Siemens are mixed up.
#
# In an enhanced (multi-frame) DICOM object what holds for all frames may stand once, in the shared functional
# groups, and what differs in those of each frame. All frames of a series have one orientation, so both places are
# valid (DICOM PS3.3, C.7.6.16.2.4), and programs that make enhanced objects of classic ones use the shared one.
# Scanners of Siemens write it into each frame. If it stands in the shared groups, dcm2niix has it before the
# first position and sorts the frames by position alone, as if there were one volume: slices of different volumes
# end up in one volume, without a warning. Objects that say Philips are sorted by their dimension indices.
#
# Seen with dcm2niix 1.0.20260724 and pydicom 3.0.2 for an object of 3 volumes of 4 slices. This script installs
# them into a temporary folder, runs them, and fails if that changes.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check dcm2niix==1.0.20260724 pydicom==3.0.2 nibabel==5.4.2 \
    numpy==2.3.5

cd "$folder"
cat >run.py <<'PYTHON'
import subprocess
from pathlib import Path

import dcm2niix
import nibabel as nb
import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import EnhancedMRImageStorage, ExplicitVRLittleEndian, generate_uid

SLICES, VOLUMES, SIZE = 4, 3, 16


def item(**values):
    made = Dataset()
    for keyword, value in values.items():
        setattr(made, keyword, value)
    return Sequence([made])


def enhanced(manufacturer, shared):
    """Make an object whose frames hold 10 times their volume plus their slice."""
    ds = Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID = EnhancedMRImageStorage, generate_uid()
    ds.ImageType = ["ORIGINAL", "PRIMARY", "FMRI", "NONE"]
    ds.StudyDate, ds.StudyTime, ds.Modality = "20240108", "090000", "MR"
    ds.Manufacturer = manufacturer
    ds.PatientID, ds.PatientName, ds.PatientPosition = "01", "Nobody^Invented", "HFS"
    ds.StudyInstanceUID, ds.SeriesInstanceUID = generate_uid(), generate_uid()
    ds.SeriesNumber, ds.InstanceNumber, ds.ProtocolName = 1, 1, "rest"
    ds.MRAcquisitionType = "2D"
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.Rows = ds.Columns = SIZE
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 16, 15, 0
    ds.NumberOfFrames = SLICES * VOLUMES
    organisation = generate_uid()
    ds.DimensionOrganizationSequence = item(DimensionOrganizationUID=organisation)
    ds.DimensionIndexSequence = Sequence(
        item(
            DimensionOrganizationUID=organisation,
            DimensionIndexPointer=pointer,
            FunctionalGroupPointer=0x00209111,
        )[0]
        for pointer in (0x00209056, 0x00209057, 0x00209128)
    )
    orientation = item(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])
    groups = Dataset()
    groups.PixelMeasuresSequence = item(SliceThickness=4, SpacingBetweenSlices=4, PixelSpacing=[3, 3])
    groups.MRTimingAndRelatedParametersSequence = item(RepetitionTime=2000, FlipAngle=70)
    if shared:
        groups.PlaneOrientationSequence = orientation
    ds.SharedFunctionalGroupsSequence = Sequence([groups])
    frames, pixels = [], []
    for volume in range(VOLUMES):
        for number in range(SLICES):
            frame = Dataset()
            frame.FrameContentSequence = item(
                StackID="1",
                InStackPositionNumber=number + 1,
                TemporalPositionIndex=volume + 1,
                DimensionIndexValues=[1, number + 1, volume + 1],
            )
            frame.PlanePositionSequence = item(ImagePositionPatient=[0, 0, 4 * number])
            if not shared:
                frame.PlaneOrientationSequence = orientation
            frames.append(frame)
            pixels.append(np.full((SIZE, SIZE), 10 * volume + number, "<u2"))
    ds.PerFrameFunctionalGroupsSequence = Sequence(frames)
    ds.PixelData = np.stack(pixels).tobytes()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return ds


seen = {}
for manufacturer in ("SIEMENS", "Philips Medical Systems"):
    for shared in (False, True):
        folder = Path(f"{manufacturer[0]}{shared:d}")
        folder.mkdir()
        enhanced(manufacturer, shared).save_as(folder / "a.dcm", enforce_file_format=True)
        command = [dcm2niix.bin, "-z", "n", "-f", "image", folder]
        said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        image = nb.load(folder / "image.nii")
        values = np.asanyarray(image.dataobj)[0, 0]
        right = (values == 10 * np.arange(VOLUMES) + np.arange(SLICES)[:, None]).all()
        seen[manufacturer[0], shared] = bool(right)
        where = "shared groups" if shared else "each frame"
        print(f"{manufacturer}, orientation in {where}: {'right' if right else 'mixed up'}")
        if not right:
            print(f"first volume: {values[:, 0]}; warnings: {said.count('Warning')}")
if seen != {("S", False): True, ("S", True): False, ("P", False): True, ("P", True): True}:
    raise SystemExit("This is no longer so.")
PYTHON
"$folder/venv/bin/python" run.py
