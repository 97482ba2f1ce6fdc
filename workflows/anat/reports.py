"""Reportlets of the anatomical steps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from nipype.interfaces.utility import IdentityInterface
from nipype.pipeline import engine as pe
from niworkflows.engine.workflows import LiterateWorkflow as Workflow

from neuroferry.interfaces.derivatives import DerivativesNode
from neuroferry.interfaces.draw.anat import (
    BiasPicture,
    BrainPicture,
    NormalisationPicture,
    QualityPicture,
    TissuesPicture,
)
from neuroferry.interfaces.draw.base import SaveFigure
from neuroferry.workflows.anat.memory import TEMPLATE_VOXELS
from neuroferry.workflows.pictures import SAVE_GB

_BASE_GB = 0.2
"""Interpreter and libraries, in GB."""
_TEMPLATE_GB = 0.31
_TEMPLATE_BYTES = 20
"""The same with the template and an image, per voxel of its grid."""


def picture_mem_gb(n_voxels: int, images: int) -> float:
    """Estimate the peak memory of drawing one reportlet.

    Parameters
    ----------
    n_voxels : int
        Voxels of one image.
    images : int
        Number of images that are read.

    Returns
    -------
    float
        In GB: 0.2, plus 8 bytes per voxel and 3 more per voxel of each image. Measured with 11
        and 40 million voxels: 0.28 and 0.66 GB for two images, 0.36 and 0.98 GB for four.

    Examples
    --------
    >>> round(picture_mem_gb(256**3, 1), 2)
    0.38
    """
    return _BASE_GB + n_voxels * (8 + 3 * images) / 1e9


def init_anat_reports_wf(
    *,
    out_dir: str | Path,
    subject: str,
    session: str | None = None,
    shape: Sequence[int] = (256, 256, 256),
    std_voxels: float = TEMPLATE_VOXELS,
    name: str = "anat_reports_wf",
) -> Workflow:
    """Build the reportlets: input, bias correction, brain mask, tissues and template overlap.

    Parameters
    ----------
    out_dir : str or pathlib.Path
        Root of the derivatives; reportlets go to ``sub-<subject>/figures``.
    subject : str
        Label without ``sub-``.
    session : str or None
        Label without ``ses-``.
    shape : sequence of int
        Voxels of the T1w image, for the memory estimates.
    std_voxels : float
        Voxels of the image in template space, for the same.
    name : str
        Name of the workflow.

    Returns
    -------
    LiterateWorkflow

    **Inputs**

    t1w_ref
        T1w image before bias correction.
    t1w_preproc
        The same, bias-corrected.
    bias_field
        Multiplicative bias field.
    brain_mask
        Brain mask.
    dseg
        Tissues: 1 = GM, 2 = WM, 3 = CSF.
    std_t1w
        T1w image in template space.

    **Outputs**

    conform, bias, brain, tissues, norm
        Path of each reportlet in the output folder.
    """
    n_voxels = int(shape[0]) * int(shape[1]) * int(shape[2])
    std_gb = _TEMPLATE_GB + _TEMPLATE_BYTES * std_voxels / 1e9
    prefix = f"sub-{subject}" + (f"_ses-{session}" if session else "")
    figures = Path(out_dir).absolute() / f"sub-{subject}" / "figures"

    workflow = Workflow(name=name)
    inputnode = pe.Node(
        IdentityInterface(
            fields=["t1w_ref", "t1w_preproc", "bias_field", "brain_mask", "dseg", "std_t1w"]
        ),
        name="inputnode",
    )
    outputnode = pe.Node(
        IdentityInterface(fields=["conform", "bias", "brain", "tissues", "norm"]),
        name="outputnode",
    )
    steps = [
        ("conform", QualityPicture, {"t1w_ref": "t1w"}),
        (
            "bias",
            BiasPicture,
            {field: field for field in ("t1w_ref", "t1w_preproc", "bias_field", "brain_mask")},
        ),
        ("brain", BrainPicture, {"t1w_ref": "t1w", "brain_mask": "brain_mask"}),
        ("tissues", TissuesPicture, {"t1w_preproc": "t1w", "dseg": "dseg"}),
        ("norm", NormalisationPicture, {"std_t1w": "std_t1w"}),
    ]
    for desc, interface, fields in steps:
        memory = picture_mem_gb(n_voxels, len(fields)) if desc != "norm" else std_gb
        draw = pe.Node(interface(), name=f"draw_{desc}", mem_gb=memory, n_procs=1)
        save = DerivativesNode(
            SaveFigure(out_path=str(figures / f"{prefix}_desc-{desc}_T1w.svg")),
            name=f"save_{desc}",
            mem_gb=SAVE_GB,
        )
        workflow.connect([
            (inputnode, draw, list(fields.items())),
            (draw, save, [("out_file", "in_file")]),
            (save, outputnode, [("out_file", desc)]),
        ])  # fmt: skip
    return workflow
