"""The anatomical workflow of one session: from T1w images to tissues and template space."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from nipype.interfaces.utility import IdentityInterface
from nipype.pipeline import engine as pe
from niworkflows.engine.workflows import LiterateWorkflow as Workflow

from neuroferry.interfaces.anat.average import AverageRuns
from neuroferry.interfaces.image.bias import CorrectBias
from neuroferry.workflows.anat.brain import init_brain_extraction_wf
from neuroferry.workflows.anat.memory import (
    BIAS_BYTES,
    BIAS_GB,
    SLOPPY_BIAS_GB,
    average_gb,
    memory_gb,
    n_voxels,
)
from neuroferry.workflows.anat.norm import init_normalisation_wf, init_template_outputs_wf
from neuroferry.workflows.anat.segment import init_segmentation_wf

OUTPUTS = (
    "t1w_ref",
    "t1w_preproc",
    "bias_field",
    "brain_mask",
    "brain_score",
    "average_report",
    "tissue_report",
    "t1w_brain",
    "dseg",
    "tpms",
    "anat2std_xfm",
    "std2anat_xfm",
    "norm_report",
    "std_t1w",
    "std_mask",
    "std_dseg",
    "std_tpms",
    "run2ref_xfms",
    "t1w_runs",
)


def init_anat_wf(
    *,
    t1w_shapes: Sequence[tuple[int, int, int]],
    precomputed: Mapping[str, Any] | None = None,
    std_resolution: int = 1,
    average: bool = True,
    sloppy: bool = False,
    omp_nthreads: int = 1,
    seed: int = 1,
    name: str = "anat_wf",
) -> Workflow:
    """Build the anatomical workflow of one session.

    The T1w images are reoriented to RAS+, aligned and averaged; the brain is extracted; the
    receive field is corrected inside it; the brain and the template are registered to each
    other; tissues are segmented with the template's maps as priors.

    Parameters
    ----------
    t1w_shapes : sequence of tuple of int
        Voxels of each image along each axis: the number of images decides which steps are
        added, their size how much memory each step takes.
    precomputed : mapping, optional
        Files that replace their branch: ``brain_mask``; ``dseg`` with ``tpms`` (list of
        GM, WM, CSF); ``anat2std_xfm`` with ``std2anat_xfm``.
    std_resolution : int
        Voxel size of the template-space outputs, mm.
    average : bool
        Average the images; otherwise only the one with the highest resolution is used.
    sloppy : bool
        Fast and of low quality, for tests.
    omp_nthreads : int
        Accepted by every builder; the steps of this workflow use one thread each, so that
        results are reproducible, and run in parallel.
    seed : int
        Seed of the sampling of registrations, positive.
    name : str
        Name of the workflow.

    Returns
    -------
    LiterateWorkflow

    **Inputs**

    t1w
        List of T1w images of one session.

    **Outputs**

    t1w_ref
        Reference image, RAS+, before bias correction.
    t1w_preproc, t1w_brain
        Reference divided by the bias field; the same, zero outside the brain.
    bias_field
        Multiplicative field, geometric mean one inside the brain.
    brain_mask, brain_score
        Brain mask (uint8), and its confidence (JSON).
    dseg, tpms
        Labels 1 GM, 2 WM, 3 CSF; probabilities in the same order.
    average_report, tissue_report
        Which images were averaged; contrast and fractions of the tissues (JSON).
    anat2std_xfm, std2anat_xfm, norm_report
        ITK transforms between T1w image and template; their fit (JSON), unless precomputed.
    std_t1w, std_mask, std_dseg, std_tpms
        The results on the template's grid.
    t1w_runs, run2ref_xfms
        Each image, RAS+, and its ITK affine onto the reference.
    """
    given = dict(precomputed or {})
    voxels = n_voxels(t1w_shapes)
    count = len(t1w_shapes)
    workflow = Workflow(name=name)
    workflow.__desc__ = _describe(count, average=average)
    inputnode = pe.Node(IdentityInterface(fields=["t1w"]), name="inputnode")
    outputnode = pe.Node(IdentityInterface(fields=list(OUTPUTS)), name="outputnode")
    average_runs = pe.Node(
        AverageRuns(average=average, sloppy=sloppy, seed=seed),
        name="average_runs",
        mem_gb=average_gb(voxels, count),
    )
    correct_bias = pe.Node(
        CorrectBias(sloppy=sloppy),
        name="correct_bias",
        mem_gb=memory_gb(BIAS_BYTES, voxels, base_gb=SLOPPY_BIAS_GB if sloppy else BIAS_GB),
    )
    brain_wf = init_brain_extraction_wf(
        voxels=voxels, brain_mask=given.get("brain_mask"), sloppy=sloppy, seed=seed
    )
    norm_wf = init_normalisation_wf(
        voxels=voxels,
        xfms=_pair(given, "anat2std_xfm", "std2anat_xfm"),
        with_start="brain_mask" not in given,
        sloppy=sloppy,
        seed=seed,
    )
    segment_wf = init_segmentation_wf(
        voxels=voxels, tissues=_pair(given, "dseg", "tpms"), sloppy=sloppy
    )
    carry_wf = init_template_outputs_wf(voxels=voxels, std_resolution=std_resolution)
    workflow.connect([
        (inputnode, average_runs, [("t1w", "t1w")]),
        (average_runs, brain_wf, [("t1w_ref", "inputnode.t1w_ref")]),
        (average_runs, correct_bias, [("t1w_ref", "in_file")]),
        (brain_wf, correct_bias, [("outputnode.brain_mask", "in_mask")]),
        (correct_bias, norm_wf, [("out_file", "inputnode.t1w_preproc")]),
        (brain_wf, norm_wf, [
            ("outputnode.brain_mask", "inputnode.brain_mask"),
            ("outputnode.std2anat_affine", "inputnode.std2anat_affine"),
        ]),
        (correct_bias, segment_wf, [("out_file", "inputnode.t1w_preproc")]),
        (brain_wf, segment_wf, [("outputnode.brain_mask", "inputnode.brain_mask")]),
        (norm_wf, segment_wf, [("outputnode.std2anat_xfm", "inputnode.std2anat_xfm")]),
        (correct_bias, carry_wf, [("out_file", "inputnode.t1w_preproc")]),
        (brain_wf, carry_wf, [("outputnode.brain_mask", "inputnode.brain_mask")]),
        (norm_wf, carry_wf, [("outputnode.anat2std_xfm", "inputnode.anat2std_xfm")]),
        (segment_wf, carry_wf, [
            ("outputnode.dseg", "inputnode.dseg"),
            ("outputnode.tpms", "inputnode.tpms"),
        ]),
        (average_runs, outputnode, [
            *((field, field) for field in ("t1w_ref", "t1w_runs", "run2ref_xfms")),
            ("report", "average_report"),
        ]),
        (correct_bias, outputnode, [
            ("out_file", "t1w_preproc"), ("out_brain", "t1w_brain"), ("bias_field", "bias_field"),
        ]),
        (brain_wf, outputnode, [
            (f"outputnode.{field}", field) for field in ("brain_mask", "brain_score")
        ]),
        (segment_wf, outputnode, [
            (f"outputnode.{field}", field) for field in ("dseg", "tpms", "tissue_report")
        ]),
        (norm_wf, outputnode, [
            (f"outputnode.{field}", field)
            for field in ("anat2std_xfm", "std2anat_xfm", "norm_report")
        ]),
        (carry_wf, outputnode, [
            (f"outputnode.{field}", field)
            for field in ("std_t1w", "std_mask", "std_dseg", "std_tpms")
        ]),
    ])  # fmt: skip
    return workflow


def _pair(given: Mapping[str, Any], first: str, second: str) -> tuple[Any, Any] | None:
    """Take two precomputed results that are only usable together."""
    if given.get(first) and given.get(second):
        return given[first], given[second]
    return None


def _describe(count: int, *, average: bool) -> str:
    """Describe in the methods text how the T1w images became one reference."""
    start = "\n\n### Anatomical data\n\n"
    if count == 1:
        sentence = "The T1-weighted (T1w) image was reoriented to RAS+."
    elif average:
        sentence = (
            f"The {count} T1-weighted (T1w) images of the session were reoriented to RAS+, "
            "rigidly aligned to the one with the highest resolution by mutual information "
            "[@wells1996], and robustly averaged [@huber1964]."
        )
    else:
        sentence = (
            f"Of the {count} T1-weighted (T1w) images of the session, the one with the highest "
            "resolution was used, reoriented to RAS+."
        )
    return (
        f"{start}{sentence} Intensity non-uniformity was corrected inside the brain with N4 "
        "[@tustison2010]; the bias field was scaled to a geometric mean of one in the brain. "
    )
