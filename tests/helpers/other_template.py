"""A made-up template of TemplateFlow: the one that is always there, moved, scaled and renamed."""

from pathlib import Path

import nibabel as nb
import numpy as np
from scipy import ndimage

from neuroferry.templates import load_template

NAME = "MNI152Moved"
#: Points of the template that is always there to points of the moved one, RAS+ mm.
MOVED = np.diag([1.06, 0.95, 1.04, 1.0])
MOVED[:3, 3] = (12.0, -25.0, 18.0)


def write_template(home: Path, *zooms: int, name: str = NAME, cohort: str | None = None) -> Path:
    """Write a template with skull-like surroundings, its first axis to the left.

    Each voxel size (mm) becomes a grid, with the label ``res-<zoom>`` of two digits.
    """
    folder = home / f"tpl-{name}"
    stem = f"tpl-{name}"
    if cohort is not None:
        folder, stem = folder / f"cohort-{cohort}", f"{stem}_cohort-{cohort}"
    folder.mkdir(parents=True, exist_ok=True)
    for zoom in zooms:
        template = load_template(zoom)
        around = ndimage.binary_dilation(template.brain_mask, iterations=max(1, 9 // zoom))
        shell = around & ~ndimage.binary_dilation(template.brain_mask, iterations=1)
        t1w = 800 * (template.t1w * template.brain_mask) + 500 * shell
        affine = MOVED @ template.affine
        affine[:3, 3] += affine[:3, 0] * (t1w.shape[0] - 1)
        affine[:3, 0] *= -1
        for suffix, data, kind in (
            ("T1w", t1w, np.float32),
            ("desc-brain_mask", template.brain_mask, np.uint8),
        ):
            image = nb.Nifti1Image(data[::-1].astype(kind), affine)
            image.to_filename(folder / f"{stem}_res-{zoom:02d}_{suffix}.nii.gz")
    return folder
