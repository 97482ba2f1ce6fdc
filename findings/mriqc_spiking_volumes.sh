#!/usr/bin/env bash
# MRIQC 24.0.2: of a diffusion-weighted series, only the first two volumes are searched for spikes.
#
# NumberOfShells tells which volumes belong to a shell by a list of booleans. SpikingVoxelsMask takes them as
# lists of integers, so that they become zeros and ones, and indexes the volumes with them: volumes 0 and 1, many
# times, in place of those of the shell. Spikes in any other volume are missed, and the metrics spikes_* count
# none. Booleans given to get_spike_mask, the function behind the interface, find them.
#
# Seen with mriqc 24.0.2: in 12 volumes with 40 spiking voxels in volume 7, NumberOfShells and SpikingVoxelsMask,
# connected as in MRIQC's workflow, find 0; get_spike_mask with the booleans finds 40. This script installs the
# packages into a temporary folder, runs them, and fails if that changes.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
pip=("$folder/venv/bin/pip" install -q --disable-pip-version-check --only-binary :all:)
"${pip[@]}" numpy==1.26.4 scipy==1.14.1 pandas==2.2.3 scikit-learn==1.5.2 nibabel==5.3.2 nilearn==0.10.4 \
    nipype==1.9.2 nitransforms==24.0.2 pybids==0.17.2 templateflow==24.2.2 attrs==24.3.0 jinja2==3.1.5 \
    matplotlib==3.9.4 setuptools==75.8.0
"${pip[@]}" --no-deps mriqc==24.0.2 niworkflows==1.12.0

cd "$folder"
cat >run.py <<'PYTHON'
import sys
import types
from importlib.metadata import distribution

import nibabel as nb
import numpy as np

# The interfaces are imported without the package's __init__, which imports all of MRIQC.
package = types.ModuleType("mriqc.interfaces")
package.__path__ = [str(distribution("mriqc").locate_file("mriqc/interfaces"))]
sys.modules["mriqc.interfaces"] = package

from mriqc.interfaces.diffusion import NumberOfShells, SpikingVoxelsMask, get_spike_mask

bvals = np.array([0] * 2 + [1000] * 10)
rng = np.random.default_rng(1)
data = 100 + rng.standard_normal((20, 20, 10, bvals.size))
data = np.clip(data, 98, 102)
data[5:9, 5:10, 4:6, 7] = 500  # 40 voxels of volume 7
brain = np.ones(data.shape[:3], dtype=np.uint8)
np.savetxt("dwi.bval", bvals[None], fmt="%d")
nb.Nifti1Image(data.astype(np.float32), np.eye(4)).to_filename("dwi.nii")
nb.Nifti1Image(brain, np.eye(4)).to_filename("brain.nii")

shells = NumberOfShells(in_bvals="dwi.bval").run().outputs
spikes = SpikingVoxelsMask(in_file="dwi.nii", brain_mask="brain.nii", b_masks=shells.b_masks)
found = np.asarray(nb.load(spikes.run().outputs.out_mask).dataobj) > 0
right = get_spike_mask(data, [np.array(mask) for mask in shells.b_masks], brain)
print("the interface gets", spikes.inputs.b_masks)
print("voxels found:", int(found.sum()), "with booleans:", int(right.sum()))
if (found.sum(), right.sum()) != (0, 40):
    raise SystemExit("This is no longer so.")
PYTHON
NO_ET=1 "$folder/venv/bin/python" run.py
