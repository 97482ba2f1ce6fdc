"""Brain extraction, or a precomputed brain mask."""

from __future__ import annotations

from nipype.interfaces.utility import IdentityInterface
from nipype.pipeline import engine as pe
from niworkflows.engine.workflows import LiterateWorkflow as Workflow

from neuroferry.interfaces.anat.brain import ExtractBrain
from neuroferry.interfaces.anat.precomputed import AdoptMask
from neuroferry.workflows.anat.memory import (
    BRAIN_BYTES,
    BRAIN_GB,
    LEAN_GB,
    RESAMPLE_BYTES,
    SLOPPY_BRAIN_GB,
    memory_gb,
)


def init_brain_extraction_wf(
    *,
    voxels: int,
    brain_mask: str | None = None,
    sloppy: bool = False,
    seed: int = 1,
    name: str = "brain_extraction_wf",
) -> Workflow:
    """Build the brain extraction workflow.

    Parameters
    ----------
    voxels : int
        Voxels of the T1w image, for the memory estimate.
    brain_mask : str, optional
        Precomputed mask, resampled onto the grid of the reference instead.
    sloppy : bool
        Fast and coarse.
    seed : int
        Seed of the sampling.
    name : str
        Name of the workflow.

    Returns
    -------
    LiterateWorkflow

    **Inputs**

    t1w_ref
        T1w reference, not bias-corrected.

    **Outputs**

    brain_mask, brain_score
        Mask, and its confidence.
    std2anat_affine
        ITK affine from template points to T1w points; undefined with a precomputed mask.
    """
    workflow = Workflow(name=name)
    inputnode = pe.Node(IdentityInterface(fields=["t1w_ref"]), name="inputnode")
    outputnode = pe.Node(
        IdentityInterface(fields=["brain_mask", "brain_score", "std2anat_affine"]),
        name="outputnode",
    )
    if brain_mask is not None:
        workflow.__desc__ = "A precomputed brain mask was used. "
        adopt_mask = pe.Node(
            AdoptMask(in_file=brain_mask),
            name="adopt_mask",
            mem_gb=memory_gb(RESAMPLE_BYTES, voxels, base_gb=LEAN_GB),
        )
        workflow.connect([
            (inputnode, adopt_mask, [("t1w_ref", "reference")]),
            (adopt_mask, outputnode, [
                ("out_mask", "brain_mask"), ("out_score", "brain_score"),
            ]),
        ])  # fmt: skip
        return workflow
    workflow.__desc__ = (
        "The brain was extracted by registering the skull-stripped template to the T1w image: "
        "an affine registration from many starting points, by mutual information inside the "
        "template's brain [@wells1996], followed by symmetric diffeomorphic registration "
        "[@avants2008; @dipy] in a band around it. "
    )
    extract_brain = pe.Node(
        ExtractBrain(sloppy=sloppy, seed=seed),
        name="extract_brain",
        mem_gb=memory_gb(BRAIN_BYTES, voxels, SLOPPY_BRAIN_GB if sloppy else BRAIN_GB),
    )
    workflow.connect([
        (inputnode, extract_brain, [("t1w_ref", "in_file")]),
        (extract_brain, outputnode, [
            ("out_mask", "brain_mask"),
            ("out_score", "brain_score"),
            ("std2anat_affine", "std2anat_affine"),
        ]),
    ])  # fmt: skip
    return workflow
