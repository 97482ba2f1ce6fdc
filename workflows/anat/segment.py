"""Tissue segmentation, or a precomputed segmentation."""

from __future__ import annotations

from collections.abc import Sequence

from nipype.interfaces.utility import IdentityInterface
from nipype.pipeline import engine as pe
from niworkflows.engine.workflows import LiterateWorkflow as Workflow

from neuroferry.interfaces.anat.precomputed import AdoptTissues
from neuroferry.interfaces.anat.segment import SegmentTissues
from neuroferry.workflows.anat.memory import (
    LEAN_GB,
    SEGMENT_BYTES,
    SEGMENT_GB,
    SLOPPY_SEGMENT_BYTES,
    TISSUE_BYTES,
    memory_gb,
)


def init_segmentation_wf(
    *,
    voxels: int,
    tissues: tuple[str, Sequence[str]] | None = None,
    sloppy: bool = False,
    name: str = "segmentation_wf",
) -> Workflow:
    """Build the tissue segmentation workflow.

    Parameters
    ----------
    voxels : int
        Voxels of the T1w image, for the memory estimate.
    tissues : tuple of str and sequence of str, optional
        Precomputed labels, and maps of GM, WM and CSF, resampled onto the grid of the T1w
        image instead.
    sloppy : bool
        Fast and coarse.
    name : str
        Name of the workflow.

    Returns
    -------
    LiterateWorkflow

    **Inputs**

    t1w_preproc, brain_mask
        Bias-corrected T1w image and its brain.
    std2anat_xfm
        ITK transform that resamples the template's tissue maps.

    **Outputs**

    dseg, tpms
        Labels 1 GM, 2 WM, 3 CSF; probabilities in the same order.
    tissue_report
        Contrast and fractions of the tissues (JSON); undefined for precomputed tissues.
    """
    workflow = Workflow(name=name)
    inputnode = pe.Node(
        IdentityInterface(fields=["t1w_preproc", "brain_mask", "std2anat_xfm"]), name="inputnode"
    )
    outputnode = pe.Node(
        IdentityInterface(fields=["dseg", "tpms", "tissue_report"]), name="outputnode"
    )
    if tissues is not None:
        workflow.__desc__ = "A precomputed tissue segmentation was used. "
        adopt_tissues = pe.Node(
            AdoptTissues(dseg=tissues[0], tpms=list(tissues[1])),
            name="adopt_tissues",
            mem_gb=memory_gb(TISSUE_BYTES, voxels, base_gb=LEAN_GB),
        )
        workflow.connect([
            (inputnode, adopt_tissues, [("t1w_preproc", "reference")]),
            (adopt_tissues, outputnode, [("dseg", "dseg"), ("tpms", "tpms")]),
        ])  # fmt: skip
        return workflow
    workflow.__desc__ = (
        "Grey matter, white matter and cerebrospinal fluid were segmented with a Gaussian "
        "mixture model, with the template's tissue maps and a Markov random field as priors "
        "[@vanleemput1999; @zhang2001]. "
    )
    segment_tissues = pe.Node(
        SegmentTissues(sloppy=sloppy),
        name="segment_tissues",
        mem_gb=memory_gb(
            SLOPPY_SEGMENT_BYTES if sloppy else SEGMENT_BYTES, voxels, base_gb=SEGMENT_GB
        ),
    )
    workflow.connect([
        (inputnode, segment_tissues, [
            ("t1w_preproc", "in_file"),
            ("brain_mask", "in_mask"),
            ("std2anat_xfm", "std2anat_xfm"),
        ]),
        (segment_tissues, outputnode, [
            ("dseg", "dseg"), ("tpms", "tpms"), ("report", "tissue_report"),
        ]),
    ])  # fmt: skip
    return workflow
