"""Registers a brain and the template to each other, and carries results to the template."""

from __future__ import annotations

from nipype.interfaces.utility import IdentityInterface
from nipype.pipeline import engine as pe
from niworkflows.engine.workflows import LiterateWorkflow as Workflow

from neuroferry.interfaces.carry import CarryToTemplate
from neuroferry.interfaces.register import Normalise
from neuroferry.templates import TEMPLATE_SPACE
from neuroferry.workflows.anat.memory import (
    CARRY_BYTES,
    NORMALISE_BYTES,
    STD_GB,
    SYN_GB,
    memory_gb,
)


def init_normalisation_wf(
    *,
    voxels: int,
    xfms: tuple[str, str] | None = None,
    with_start: bool = True,
    sloppy: bool = False,
    seed: int = 1,
    name: str = "normalisation_wf",
) -> Workflow:
    """Build the registration of a brain and the template to each other.

    Parameters
    ----------
    voxels : int
        Voxels of the T1w image, for the memory estimates.
    xfms : tuple of str, optional
        Precomputed transforms, head to template and back, used instead.
    with_start : bool
        Whether brain extraction gives an affine to begin from.
    sloppy : bool
        Fast and coarse.
    seed : int
        Seed of the affine's sampling.
    name : str
        Name of the workflow.

    Returns
    -------
    LiterateWorkflow

    **Inputs**

    t1w_preproc, brain_mask
        Bias-corrected T1w image and its brain.
    std2anat_affine
        ITK affine to begin from.

    **Outputs**

    anat2std_xfm, std2anat_xfm
        ITK transforms.
    """
    workflow = Workflow(name=name)
    inputnode = pe.Node(
        IdentityInterface(fields=["t1w_preproc", "brain_mask", "std2anat_affine"]),
        name="inputnode",
    )
    outputnode = pe.Node(
        IdentityInterface(fields=["anat2std_xfm", "std2anat_xfm"]), name="outputnode"
    )
    if xfms is not None:
        workflow.__desc__ = f"Precomputed transforms to *{TEMPLATE_SPACE}* were used. "
        outputnode.inputs.anat2std_xfm, outputnode.inputs.std2anat_xfm = xfms
        workflow.add_nodes([inputnode, outputnode])
        return workflow
    workflow.__desc__ = (
        f"The brain was registered to the template *{TEMPLATE_SPACE}* by an affine with "
        "mutual information [@wells1996], then by symmetric diffeomorphic registration with "
        "local cross-correlation [@avants2008; @dipy]. "
    )
    register_template = pe.Node(
        Normalise(sloppy=sloppy, seed=seed),
        name="register_template",
        mem_gb=memory_gb(NORMALISE_BYTES, voxels, 0.1 if sloppy else SYN_GB),
    )
    fields = [("t1w_preproc", "in_file"), ("brain_mask", "in_mask")]
    if with_start:
        fields.append(("std2anat_affine", "start"))
    workflow.connect([
        (inputnode, register_template, fields),
        (register_template, outputnode, [
            ("anat2std_xfm", "anat2std_xfm"), ("std2anat_xfm", "std2anat_xfm"),
        ]),
    ])  # fmt: skip
    return workflow


def init_template_outputs_wf(
    *, voxels: int, std_resolution: int = 1, name: str = "template_outputs_wf"
) -> Workflow:
    """Build the resampling of the results onto the template's grid.

    Parameters
    ----------
    voxels : int
        Voxels of the T1w image, for the memory estimates.
    std_resolution : int
        Voxel size of the template-space outputs, mm.
    name : str
        Name of the workflow.

    Returns
    -------
    LiterateWorkflow

    **Inputs**

    t1w_preproc, brain_mask, dseg, tpms
        Results on the head's grid.
    anat2std_xfm
        ITK transform.

    **Outputs**

    std_t1w, std_mask, std_dseg, std_tpms
        Results on the template's grid.
    """
    workflow = Workflow(name=name)
    inputnode = pe.Node(
        IdentityInterface(fields=["t1w_preproc", "brain_mask", "dseg", "tpms", "anat2std_xfm"]),
        name="inputnode",
    )
    outputnode = pe.Node(
        IdentityInterface(fields=["std_t1w", "std_mask", "std_dseg", "std_tpms"]),
        name="outputnode",
    )
    carry_to_template = pe.Node(
        CarryToTemplate(resolution=std_resolution),
        name="carry_to_template",
        mem_gb=memory_gb(CARRY_BYTES, voxels, STD_GB / std_resolution**3),
    )
    workflow.connect([
        (inputnode, carry_to_template, [
            ("t1w_preproc", "t1w"),
            ("brain_mask", "mask"),
            ("dseg", "dseg"),
            ("tpms", "tpms"),
            ("anat2std_xfm", "anat2std_xfm"),
        ]),
        (carry_to_template, outputnode, [
            (field, field) for field in ("std_t1w", "std_mask", "std_dseg", "std_tpms")
        ]),
    ])  # fmt: skip
    return workflow
