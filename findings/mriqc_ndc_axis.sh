#!/usr/bin/env bash
# MRIQC 24.0.2: the neighbouring DWI correlation (ndc) correlates the time series of two voxels, not two volumes.
#
# neighboring_dwi_correlation gets a list of pairs of volumes. It takes the voxels inside the mask first, so that
# voxels are the first axis, and then takes rows of it by the numbers of the volumes: the first voxels of the mask,
# as many as there are volumes, at the edge of the brain, are compared with each other. A run whose neighbouring
# volumes are equal has an ndc of 1 by definition. DIPY, where the function comes from, gives 1.
#
# Seen with mriqc 24.0.2 and dipy 1.10.0: 1.00 with DIPY, 0.69 with MRIQC, for 13 volumes (b0 and two copies of each
# of six directions) of independent noise in each voxel; a figure that looks like a measurement. MRIQC's is 1.00 as
# well if volumes are the first axis. This script installs the packages into a temporary folder, runs them, and fails
# if that changes.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
pip=("$folder/venv/bin/pip" install -q --disable-pip-version-check --only-binary :all:)
"${pip[@]}" numpy==1.26.4 scipy==1.14.1 pandas==2.2.3 statsmodels==0.14.4 nibabel==5.3.2 dipy==1.10.0
"${pip[@]}" --no-deps mriqc==24.0.2

cd "$folder"
cat >run.py <<'PYTHON'
import numpy as np
from dipy.core.gradients import gradient_table
from dipy.stats import qc as dipy_qc
from mriqc.qc.diffusion import neighboring_dwi_correlation

directions = np.array([[1, 1, 0], [1, -1, 0], [1, 0, 1], [1, 0, -1], [0, 1, 1], [0, 1, -1]]) / np.sqrt(2)
bvecs = np.vstack([[[0, 0, 0]], np.repeat(directions, 2, axis=0)])
bvals = np.array([0] + [1000] * 12)
rng = np.random.default_rng(1)
weighted = np.repeat(rng.uniform(50, 150, (8, 8, 8, 6)), 2, axis=-1)
data = np.concatenate([rng.uniform(200, 300, (8, 8, 8, 1)), weighted], axis=-1)
mask = np.zeros(data.shape[:3], dtype=bool)
mask[2:6, 2:6, 2:6] = True

table = gradient_table(bvals, bvecs=bvecs)
pairs = dipy_qc.find_qspace_neighbors(table)
dipy = dipy_qc.neighboring_dwi_correlation(data, table, mask=mask)
mriqc = neighboring_dwi_correlation(data, pairs, mask=mask)
turned = neighboring_dwi_correlation(data[mask].T[:, None, None, :], pairs)
print("neighbours", [tuple(int(n) for n in pair) for pair in pairs])
print(f"DIPY {dipy:.4f}, MRIQC {mriqc:.4f}, MRIQC with volumes first {turned:.4f}")
if not (dipy > 0.9999 and turned > 0.9999 and mriqc < 0.9):
    raise SystemExit("This is no longer so.")
PYTHON
"$folder/venv/bin/python" run.py
