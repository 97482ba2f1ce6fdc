"""Registration of a brain and a template to each other, and resampling onto the template."""

from __future__ import annotations

from nipype.interfaces.utility import IdentityInterface
from nipype.pipeline import engine as pe
from niworkflows.engine.workflows import LiterateWorkflow as Workflow

from neuroferry.interfaces.anat.normalise import Normalise
from neuroferry.interfaces.image.to_template import CarryToTemplate
from neuroferry.templates import TEMPLATE_SPACE, OtherTemplate, TemplateGrid
from neuroferry.workflows.anat.memory import (
    CARRY_BYTES,
    FIELD_GB,
    NORMALISE_BYTES,
    SLOPPY_SYN_GB,
    STD_GB,
    SYN_GB,
    TEMPLATE_VOXELS,
    memory_gb,
    syn_gb,
)


def init_normalisation_wf(
    *,
    voxels: int,
    xfms: tuple[str, str] | None = None,
    with_start: bool = True,
    template: OtherTemplate | None = None,
    sloppy: bool = False,
    seed: int = 1,
    name: str = "normalisation_wf",
) -> Workflow:
    """Build the registration of brain and template to each other.

    Parameters
    ----------
    voxels : int
        Voxels of the T1w image, for the memory estimates.
    xfms : tuple of str, optional
        Precomputed transforms, T1w to template and back, used instead.
    with_start : bool
        Whether brain extraction provides an initial affine.
    template : OtherTemplate, optional
        Another template than the built-in one.
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
        Initial ITK affine.
    own_xfm
        For another template: ITK transform to the built-in one, the initial transform.

    **Outputs**

    anat2std_xfm, std2anat_xfm
        ITK transforms.
    norm_report
        Fit of brain and template (JSON), unless the transforms are precomputed.
    """
    workflow = Workflow(name=name)
    inputnode = pe.Node(
        IdentityInterface(fields=["t1w_preproc", "brain_mask", "std2anat_affine", "own_xfm"]),
        name="inputnode",
    )
    outputnode = pe.Node(
        IdentityInterface(fields=["anat2std_xfm", "std2anat_xfm", "norm_report"]),
        name="outputnode",
    )
    space = TEMPLATE_SPACE if template is None else template.label
    if xfms is not None:
        workflow.__desc__ = f"Precomputed transforms to *{space}* were used. "
        outputnode.inputs.anat2std_xfm, outputnode.inputs.std2anat_xfm = xfms
        workflow.add_nodes([inputnode, outputnode])
        return workflow
    workflow.__desc__ = (
        f"The brain was registered to the template *{space}* by an affine transform with "
        "mutual information [@wells1996], followed by symmetric diffeomorphic registration "
        "with local cross-correlation [@avants2008; @dipy]. "
    )
    fixed_gb = SLOPPY_SYN_GB if sloppy else SYN_GB
    if template is not None:
        fixed_gb = syn_gb(template.registration.voxels, sloppy=sloppy)
    register_template = pe.Node(
        Normalise(sloppy=sloppy, seed=seed),
        name="register_template",
        mem_gb=memory_gb(NORMALISE_BYTES, voxels, fixed_gb),
    )
    fields = [("t1w_preproc", "in_file"), ("brain_mask", "in_mask")]
    if template is not None:
        register_template.inputs.template = str(template.registration.t1w)
        register_template.inputs.template_mask = str(template.registration.mask)
        fields.append(("own_xfm", "own_xfm"))
    elif with_start:
        fields.append(("std2anat_affine", "start"))
    workflow.connect([
        (inputnode, register_template, fields),
        (register_template, outputnode, [
            (field, field) for field in ("anat2std_xfm", "std2anat_xfm", "norm_report")
        ]),
    ])  # fmt: skip
    return workflow


def init_template_outputs_wf(
    *,
    voxels: int,
    std_resolution: int = 1,
    grid: TemplateGrid | None = None,
    field_voxels: int = TEMPLATE_VOXELS,
    name: str = "template_outputs_wf",
) -> Workflow:
    """Build the resampling of the results onto a template's grid.

    Parameters
    ----------
    voxels : int
        Voxels of the T1w image, for the memory estimates.
    std_resolution : int
        Voxel size of the template-space outputs, mm.
    grid : TemplateGrid, optional
        Of another template, used instead.
    field_voxels : int
        Voxels of the displacement field to another template, for the memory estimates.
    name : str
        Name of the workflow.

    Returns
    -------
    LiterateWorkflow

    **Inputs**

    t1w_preproc, brain_mask, dseg, tpms
        Results on the grid of the T1w image.
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
    std_gb = STD_GB / std_resolution**3
    if grid is not None:
        # The displacement field may be on another grid than the output, and is held as well.
        std_gb = (FIELD_GB * field_voxels + STD_GB * grid.voxels) / TEMPLATE_VOXELS
    carry_to_template = pe.Node(
        CarryToTemplate(resolution=std_resolution),
        name="carry_to_template",
        mem_gb=memory_gb(CARRY_BYTES, voxels, std_gb),
    )
    if grid is not None:
        carry_to_template.inputs.template = str(grid.t1w)
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
