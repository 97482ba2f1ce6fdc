"""Anatomical results in the space of a template other than the built-in one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from nipype.interfaces.utility import IdentityInterface
from nipype.pipeline import engine as pe
from niworkflows.engine.workflows import LiterateWorkflow as Workflow

from neuroferry.templates import OtherTemplate
from neuroferry.workflows.anat.memory import TEMPLATE_VOXELS
from neuroferry.workflows.anat.norm import init_normalisation_wf, init_template_outputs_wf
from neuroferry.workflows.anat.outputs import init_template_derivatives_wf, res_suffix
from neuroferry.workflows.parts import of_kind

INPUTS = ("t1w_preproc", "brain_mask", "dseg", "tpms", "anat2std_xfm")
XFMS = ("anat2std_xfm", "std2anat_xfm")
_STD = ("std_t1w", "std_mask", "std_dseg", "std_tpms")


def init_other_template_wf(
    *,
    template: OtherTemplate,
    voxels: int,
    out_dir: str | Path,
    bids_dir: str | Path,
    source_files: Sequence[str],
    resolutions: Sequence[str | None] = (),
    xfms: tuple[str, str] | None = None,
    precomputed: Mapping[str, Sequence[str]] | None = None,
    sloppy: bool = False,
    seed: int = 1,
    name: str | None = None,
) -> Workflow:
    """Build the registration to another template, and the outputs in its space.

    Parameters
    ----------
    template : OtherTemplate
        The template.
    voxels : int
        Voxels of the T1w image, for the memory estimates.
    out_dir, bids_dir, source_files
        As for `init_anat_derivatives_wf`.
    resolutions : sequence of str or None
        Labels of the grids that are written; None is the registration grid, without a label.
    xfms : tuple of str, optional
        Precomputed transforms, T1w to template and back, used instead.
    precomputed : mapping, optional
        BIDS URIs of these.
    sloppy : bool
        Fast and coarse.
    seed : int
        Seed of the affine's sampling.
    name : str, optional
        Name of the workflow; by default ``to_<template>_wf``.

    Returns
    -------
    LiterateWorkflow

    **Inputs**

    t1w_preproc, brain_mask, dseg, tpms, anat2std_xfm
        Outputs of `init_anat_wf`; the last, to the built-in template, initialises the
        registration.

    **Outputs**

    anat2std_xfm, std2anat_xfm
        ITK transforms between T1w image and this template.
    """
    # what it takes to reach this template is known from the one that is always there
    workflow = of_kind(Workflow(name=name or f"to_{template.node}_wf"), "anat")
    inputnode = pe.Node(IdentityInterface(fields=list(INPUTS)), name="inputnode")
    outputnode = pe.Node(IdentityInterface(fields=list(XFMS)), name="outputnode")
    norm_wf = init_normalisation_wf(
        voxels=voxels, xfms=xfms, template=template, sloppy=sloppy, seed=seed
    )
    write_wf = init_template_derivatives_wf(
        out_dir=out_dir,
        bids_dir=bids_dir,
        source_files=source_files,
        seed=seed,
        template=template,
        resolutions=resolutions,
        precomputed=precomputed,
    )
    workflow.connect([
        (inputnode, norm_wf, [
            ("t1w_preproc", "inputnode.t1w_preproc"),
            ("brain_mask", "inputnode.brain_mask"),
            ("anat2std_xfm", "inputnode.own_xfm"),
        ]),
        (norm_wf, outputnode, [(f"outputnode.{field}", field) for field in XFMS]),
        (norm_wf, write_wf, [(f"outputnode.{field}", f"inputnode.{field}") for field in XFMS]),
    ])  # fmt: skip
    if xfms is None:
        workflow.connect(norm_wf, "outputnode.norm_report", write_wf, "inputnode.norm_report")
    for label in resolutions:
        suffix = res_suffix(label)
        carry_wf = init_template_outputs_wf(
            voxels=voxels,
            grid=template.grid(label),
            # precomputed fields have grids of their own, usually of 1 mm
            field_voxels=template.registration.voxels if xfms is None else TEMPLATE_VOXELS,
            name=f"template_outputs{suffix}_wf",
        )
        of_kind(carry_wf, "template_outputs")
        results = [name for name in INPUTS if name not in XFMS]
        workflow.connect([
            (inputnode, carry_wf, [(field, f"inputnode.{field}") for field in results]),
            (norm_wf, carry_wf, [("outputnode.anat2std_xfm", "inputnode.anat2std_xfm")]),
            (carry_wf, write_wf, [
                (f"outputnode.{field}", f"inputnode.{field}{suffix}") for field in _STD
            ]),
        ])  # fmt: skip
    return workflow
