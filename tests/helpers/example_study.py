"""A participant with every kind of scan, for building graphs: the images hold noise alone."""

import json
from pathlib import Path

import nibabel as nb
import numpy as np

_EPI = {
    "MagneticFieldStrength": 3,
    "PhaseEncodingDirection": "j-",
    "TotalReadoutTime": 0.03,
}
_SLICES = [round(0.05 * index, 2) for index in range(24)]


def write_example_study(root: Path) -> Path:
    """Write the dataset; ``sub-01`` has T1w and T2w images, two BOLD runs and two DWI runs."""
    random = np.random.default_rng(1)

    def image(name, volumes, sidecar, zoom=4.0):
        path = root / "sub-01" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        shape = (28, 32, 24) if volumes is None else (28, 32, 24, volumes)
        data = random.integers(1, 2000, shape).astype(np.int16)
        nifti = nb.Nifti1Image(data, np.diag([zoom, zoom, zoom, 1.0]))
        nifti.header.set_xyzt_units("mm", "sec")
        if volumes is not None:
            nifti.header["pixdim"][4] = sidecar.get("RepetitionTime", 1.0)
        nifti.to_filename(f"{path}.nii.gz")
        Path(f"{path}.json").write_text(json.dumps(sidecar))
        return path

    for run in (1, 2):
        image(f"anat/sub-01_run-{run}_T1w", None, {"MagneticFieldStrength": 3}, zoom=6.0)
    image("anat/sub-01_T2w", None, {"MagneticFieldStrength": 3}, zoom=6.0)
    bold = {**_EPI, "RepetitionTime": 2.0, "SliceTiming": _SLICES}
    for echo, seconds in enumerate((0.012, 0.030, 0.048), 1):
        about = {"TaskName": "rest", "EchoTime": seconds, "B0FieldSource": "pepolar"}
        image(f"func/sub-01_task-rest_echo-{echo}_bold", 8, {**bold, **about})
    about = {"TaskName": "words", "EchoTime": 0.03, "B0FieldSource": "gre"}
    image("func/sub-01_task-words_bold", 8, {**bold, **about})
    for direction, axis in (("AP", "j-"), ("PA", "j")):
        about = {"PhaseEncodingDirection": axis, "B0FieldIdentifier": "pepolar"}
        image(f"fmap/sub-01_dir-{direction}_epi", None, {**_EPI, **about})
    gre = {"B0FieldIdentifier": "gre", "EchoTime1": 0.00492, "EchoTime2": 0.00738}
    image("fmap/sub-01_phasediff", None, gre)
    for echo, seconds in ((1, 0.00492), (2, 0.00738)):
        about = {"B0FieldIdentifier": "gre", "EchoTime": seconds}
        image(f"fmap/sub-01_magnitude{echo}", None, about)
    directions = random.normal(size=(3, 30))
    directions /= np.linalg.norm(directions, axis=0)
    bvals = np.repeat([0, 1000, 2000], [2, 15, 15])
    bvecs = np.hstack([np.zeros((3, 2)), directions])
    for direction, axis in (("AP", "j-"), ("PA", "j")):
        about = {"PhaseEncodingDirection": axis, "RepetitionTime": 4.0, "EchoTime": 0.08}
        path = image(f"dwi/sub-01_dir-{direction}_dwi", 32, {**_EPI, **about})
        np.savetxt(f"{path}.bval", bvals[None], fmt="%d")
        np.savetxt(f"{path}.bvec", bvecs, fmt="%.6f")
    description = {"Name": "example", "BIDSVersion": "1.10.0", "License": "CC0"}
    (root / "dataset_description.json").write_text(json.dumps(description))
    return root
