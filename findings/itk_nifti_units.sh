#!/usr/bin/env bash
# SimpleITK 2.5.7 and nibabel 5.4.2: one NIfTI file in micrometres is a thousand times larger for nibabel.
#
# The header of a NIfTI file names the unit of its lengths: metre, millimetre or micrometre. ITK (and ANTs,
# 3D Slicer and ITK-SNAP, which read with it) turns spacing and origin into millimetres. nibabel keeps the unit
# in the header and returns affine and voxel size in the numbers of the file; so does everything that is built
# on it and calls them millimetres. Both are right by their documentation. Where two such programs meet, as in a
# pipeline that registers with ANTs and resamples with nibabel, the transform and the grid of one file disagree
# by a factor of 1,000. Scanners of small animals and microscopes write such files.
#
# Seen with simpleitk 2.5.7 and nibabel 5.4.2: voxels of 700 micrometres are 0.7 for ITK and 700.0 for nibabel, those
# of 0.0007 m are 0.7 and 0.0007. This script installs them into a temporary folder, runs them, and fails if that
# changes.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check SimpleITK==2.5.7 nibabel==5.4.2 numpy==2.3.5

cd "$folder"
cat >run.py <<'PYTHON'
import nibabel as nb
import numpy as np
import SimpleITK

seen = {}
for unit, size in (("mm", 0.7), ("micron", 700.0), ("meter", 0.0007)):
    affine = np.diag([size, size, size, 1])
    image = nb.Nifti1Image(np.zeros((8, 8, 8), np.int16), affine)
    image.set_sform(affine, 1)
    image.set_qform(affine, 1)
    image.header.set_xyzt_units(unit, "sec")
    image.to_filename("image.nii")
    itk = SimpleITK.ReadImage("image.nii").GetSpacing()[0]
    python = nb.load("image.nii").header.get_zooms()[0]
    corner = nb.load("image.nii").affine[0, 0]
    seen[unit] = round(float(itk), 5), round(float(python), 5), round(float(corner), 5)
    print(f"{unit}: ITK {seen[unit][0]}, nibabel {seen[unit][1]}, its affine {seen[unit][2]}")
if seen != {"mm": (0.7, 0.7, 0.7), "micron": (0.7, 700.0, 700.0), "meter": (0.7, 0.0007, 0.0007)}:
    raise SystemExit("This is no longer so.")
PYTHON
"$folder/venv/bin/python" run.py
