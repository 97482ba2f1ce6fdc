"""Tiny BIDS images of every kind, and derivatives, for tests of decisions."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nb
import numpy as np
from dwi_tables import directions

from neuroferry.bids.index import index_subjects
from neuroferry.bids.model import Subject

TEMPLATE = "MNI152NLin2009aSym"
BOLD: dict[str, Any] = {
    "RepetitionTime": 2.0,
    "EchoTime": 0.03,
    "PhaseEncodingDirection": "j-",
    "TotalReadoutTime": 0.03,
}
DWI: dict[str, Any] = {**BOLD, "EchoTime": 0.08}
PHASEDIFF = {"EchoTime1": 0.0045, "EchoTime2": 0.007, "Units": "rad"}
_VOLUMES = {"bold": 6, "dwi": 13, "epi": 2}


def write_dataset(root: Path, images: Mapping[str, Mapping[str, Any]]) -> Subject:
    """Write images with their sidecars, and index the one participant.

    Parameters
    ----------
    root : path
        Folder of the dataset.
    images : mapping of str to mapping
        Path below ``sub-01`` without ``sub-01_`` and extension, such as ``"func/task-x_bold"``
        or ``"ses-a/anat/T1w"``, to its sidecar.
    """
    root.mkdir(parents=True, exist_ok=True)
    (root / "dataset_description.json").write_text('{"Name": "tiny", "BIDSVersion": "1.10.0"}')
    for where, sidecar in images.items():
        folder, _, stem = where.rpartition("/")
        session = "".join(f"{part}_" for part in folder.split("/") if part.startswith("ses-"))
        path = root / "sub-01" / folder / f"sub-01_{session}{stem}.nii.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        suffix = stem.rpartition("_")[2]
        count = _VOLUMES.get(suffix)
        shape = (20, 22, 18) if count is None else (20, 22, 12, count)
        nb.Nifti1Image(np.ones(shape, np.int16), np.diag([3, 3, 4, 1])).to_filename(path)
        name = str(path).removesuffix(".nii.gz")
        Path(f"{name}.json").write_text(json.dumps(sidecar))
        if suffix == "dwi":
            np.savetxt(f"{name}.bval", [[0.0] + [1000.0] * 12], fmt="%g")
            vectors = np.vstack([np.zeros((1, 3)), directions(12)])
            np.savetxt(f"{name}.bvec", vectors.T, fmt="%.6f")
    (subject,) = index_subjects(root)
    return subject


def write_anatomy(root: Path, spaces: Sequence[str] = (TEMPLATE,), session: str = "") -> Path:
    """Write the derivatives of a whole anatomy, with transforms to some templates."""
    folder = root / "sub-01" / (f"ses-{session}" if session else "") / "anat"
    folder.mkdir(parents=True)
    stem = f"sub-01_ses-{session}_" if session else "sub-01_"
    names = ["desc-brain_mask.nii.gz", "dseg.nii.gz"]
    names += [f"label-{tissue}_probseg.nii.gz" for tissue in ("GM", "WM", "CSF")]
    for space in spaces:
        names += [f"from-T1w_to-{space}_mode-image_xfm.h5"]
        names += [f"from-{space}_to-T1w_mode-image_xfm.h5"]
    for name in names:
        (folder / f"{stem}{name}").touch()
    image = nb.Nifti1Image(np.zeros((30, 30, 30), np.int16), np.eye(4))
    image.to_filename(folder / f"{stem}desc-preproc_T1w.nii.gz")
    return root
