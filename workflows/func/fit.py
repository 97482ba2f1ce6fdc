"""Estimates for a BOLD run before it is resampled: motion, distortion, coregistration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from nipype.interfaces.utility import IdentityInterface, Select
from nipype.pipeline import engine as pe
from niworkflows.engine.workflows import LiterateWorkflow as Workflow

from neuroferry.bids.bold import BoldRun
from neuroferry.interfaces.epi.brain_mask import MaskBold
from neuroferry.interfaces.epi.coregister import Coregister
from neuroferry.interfaces.epi.motion import EstimateMotion
from neuroferry.interfaces.func.precomputed import InvertAffine, TabulateMotion
from neuroferry.interfaces.func.reference import FindReference
from neuroferry.workflows.func.memory import (
    MASK_BYTES,
    MOTION_BYTES,
    MOTION_THREAD_BYTES,
    T1W_MASK_BYTES,
    coregister_gb,
    reference_gb,
)
from neuroferry.workflows.memory import memory_gb, volume_voxels

ANAT_FIELDS = ("t1w_preproc", "brain_mask", "tpms")
REFERENCE = ("bold_ref",)
MOTION = ("motion_xfms", "motion_tsv")
POSITION = ("boldref2anat_xfm", "anat2boldref_xfm")
MASK = ("bold_mask",)
SDC_FIELDS = ("fieldmap", "bold_ref_sdc", "sdc_report", "fmap2boldref_xfm")
OUTPUTS = (
    *("n_dummy", "reference_report", "coreg_report"),
    *REFERENCE,
    *MOTION,
    *POSITION,
    *MASK,
    *SDC_FIELDS,
)


def init_bold_fit_wf(
    *,
    run: BoldRun,
    sdc_wf: Workflow | None = None,
    with_anat: bool = True,
    t1w_voxels: int = 256**3,
    dummy_scans: int | None = None,
    precomputed: Mapping[str, str] | None = None,
    sloppy: bool = False,
    omp_nthreads: int = 1,
    seed: int = 1,
    name: str = "fit_wf",
) -> Workflow:
    """Build the estimation steps of one BOLD run.

    The reference volume comes first; head motion is estimated against it, its distortion is
    corrected, it is registered to the T1w image, and the brain is masked on it.

    Parameters
    ----------
    run : BoldRun
        The run; everything is estimated from its shortest echo.
    sdc_wf : Workflow, optional
        From `init_sdc_wf`; without it distortion is not corrected.
    with_anat : bool
        Whether there is a T1w image.
    t1w_voxels : int
        Its voxels, for the memory estimates.
    dummy_scans : int, optional
        Number of volumes at the start before steady state; by default detected.
    precomputed : mapping, optional
        Files that replace their step: ``bold_ref``; ``motion_xfms``; ``boldref2anat_xfm``,
        with or without ``anat2boldref_xfm``; ``bold_mask``. Missing ``motion_tsv`` or
        ``anat2boldref_xfm`` are derived from the others.
    sloppy : bool
        Fast processing of low quality, for tests.
    omp_nthreads : int
        Threads per step, where more than one does not change results.
    seed : int
        Seed of the sampling of registrations, positive.
    name : str
        Name of the workflow.

    Returns
    -------
    LiterateWorkflow

    **Inputs**

    t1w_preproc, brain_mask, tpms
        Results of the anatomical workflow, where there is a T1w image.

    **Outputs**

    bold_ref, n_dummy, reference_report
        Reference volume; number of volumes before steady state; report on both.
    motion_xfms, motion_tsv
        One affine per volume, which resamples it onto the reference; motion parameters.
    fieldmap, sdc_report, fmap2boldref_xfm
        Off-resonance in Hz on the reference's grid, with a field map.
    bold_ref_sdc
        The reference, unwarped where there is a field map.
    boldref2anat_xfm, anat2boldref_xfm, coreg_report
        Rigid transforms between the reference and the T1w image.
    bold_mask
        Brain mask on the reference's grid.
    """
    voxels = volume_voxels(run.shape)
    given = dict(precomputed or {})
    bold_file = str(run.reference.path)
    workflow = Workflow(name=name)
    workflow.__desc__ = _describe(run, given, dummy_scans, with_anat=with_anat)
    inputnode = pe.Node(IdentityInterface(fields=list(ANAT_FIELDS)), name="inputnode")
    outputnode = pe.Node(IdentityInterface(fields=list(OUTPUTS)), name="outputnode")
    workflow.add_nodes([inputnode])
    reference = _add_part(workflow, outputnode, "reference", REFERENCE, given)
    motion = _add_part(workflow, outputnode, "motion", MOTION, given)
    find_reference = pe.Node(
        FindReference(in_file=bold_file, tr=run.tr, slice_axis=run.slice_axis),
        name="find_reference",
        mem_gb=reference_gb(run),
    )
    if run.sbref is not None:
        find_reference.inputs.sbref = str(run.sbref)
    if dummy_scans is not None:
        find_reference.inputs.dummy_scans = dummy_scans
    if run.unusable_volumes:
        find_reference.inputs.unusable = list(run.unusable_volumes)
    workflow.connect([
        (find_reference, outputnode, [("n_dummy", "n_dummy"), ("report", "reference_report")]),
    ])  # fmt: skip
    if "bold_ref" not in given:
        workflow.connect(find_reference, "bold_ref", reference, "bold_ref")
    if "motion_xfms" in given:
        _complete_motion(workflow, reference, motion, given)
    else:
        estimate_motion = pe.Node(
            EstimateMotion(in_file=bold_file, slice_axis=run.slice_axis, n_procs=omp_nthreads),
            name="estimate_motion",
            mem_gb=memory_gb(MOTION_BYTES + MOTION_THREAD_BYTES * omp_nthreads, voxels),
            n_procs=omp_nthreads,
        )
        estimate_motion.volumes = run.n_volumes
        if run.unusable_volumes:
            estimate_motion.inputs.unusable = list(run.unusable_volumes)
        workflow.connect([
            (reference, estimate_motion, [("bold_ref", "ref_file")]),
            (find_reference, estimate_motion, [("n_dummy", "n_dummy")]),
            (estimate_motion, motion, [(field, field) for field in MOTION]),
        ])  # fmt: skip
    select_wm = None
    if with_anat:
        select_wm = pe.Node(Select(index=[1]), name="select_wm", run_without_submitting=True)
        workflow.connect(inputnode, "tpms", select_wm, "inlist")
    best = _add_sdc(workflow, reference, outputnode, sdc_wf, select_wm)
    position = register_bold = None
    if with_anat:
        position = _add_part(workflow, outputnode, "position", POSITION, given)
        if "boldref2anat_xfm" in given:
            _complete_position(workflow, position, given)
        else:
            register_bold = pe.Node(
                Coregister(sloppy=sloppy, seed=seed),
                name="register_bold",
                mem_gb=coregister_gb(t1w_voxels),
            )
            workflow.connect(*best, register_bold, "bold_ref")
            workflow.connect([
                (inputnode, register_bold, [
                    ("t1w_preproc", "t1w_preproc"), ("brain_mask", "t1w_mask"),
                ]),
                (select_wm, register_bold, [("out", "wm_probseg")]),
                (register_bold, position, [(field, field) for field in POSITION]),
                (register_bold, outputnode, [("coreg_report", "coreg_report")]),
            ])  # fmt: skip
    mask = _add_part(workflow, outputnode, "mask", MASK, given)
    if "bold_mask" not in given:
        t1w_gb = T1W_MASK_BYTES * t1w_voxels / 1e9 if with_anat else 0.0
        mask_bold = pe.Node(
            MaskBold(seed=seed), name="mask_bold", mem_gb=memory_gb(MASK_BYTES, voxels, t1w_gb)
        )
        workflow.connect(*best, mask_bold, "bold_ref")
        workflow.connect(mask_bold, "bold_mask", mask, "bold_mask")
        if position is not None:
            workflow.connect([
                (inputnode, mask_bold, [("brain_mask", "t1w_mask")]),
                (position, mask_bold, [("anat2boldref_xfm", "anat2boldref_xfm")]),
            ])  # fmt: skip
            if register_bold is not None:
                workflow.connect(register_bold, "coreg_report", mask_bold, "coreg_report")
    return workflow


def _add_part(
    workflow: Workflow,
    outputnode: pe.Node,
    name: str,
    fields: Sequence[str],
    given: Mapping[str, str],
) -> pe.Node:
    """Add the node that passes on a part, computed or precomputed."""
    node = pe.Node(IdentityInterface(fields=list(fields)), name=name)
    if fields[0] in given:
        node.inputs.trait_set(**{field: given[field] for field in fields if field in given})
    for field in fields:
        workflow.connect(node, field, outputnode, field)
    return node


def _complete_motion(
    workflow: Workflow, reference: pe.Node, motion: pe.Node, given: Mapping[str, str]
) -> None:
    """Derive the table of precomputed motion, if it is missing."""
    if "motion_tsv" not in given:
        tabulate = pe.Node(
            TabulateMotion(motion_xfms=given["motion_xfms"]), name="tabulate_motion", mem_gb=0.2
        )
        workflow.connect(reference, "bold_ref", tabulate, "ref_file")
        workflow.connect(tabulate, "motion_tsv", motion, "motion_tsv")


def _complete_position(workflow: Workflow, position: pe.Node, given: Mapping[str, str]) -> None:
    """Invert a precomputed coregistration, if the inverse transform is missing."""
    if "anat2boldref_xfm" not in given:
        invert = pe.Node(
            InvertAffine(in_xfm=given["boldref2anat_xfm"]), name="invert_position", mem_gb=0.2
        )
        workflow.connect(invert, "out_xfm", position, "anat2boldref_xfm")


def _add_sdc(
    workflow: Workflow,
    reference: pe.Node,
    outputnode: pe.Node,
    sdc_wf: Workflow | None,
    select_wm: pe.Node | None,
) -> tuple[pe.Node, str]:
    """Add the distortion correction; return the source of the best reference volume."""
    if sdc_wf is None:
        workflow.connect(reference, "bold_ref", outputnode, "bold_ref_sdc")
        return reference, "bold_ref"
    inputnode = workflow.get_node("inputnode")
    sources = {
        "bold_ref": (reference, "bold_ref"),
        "t1w_preproc": (inputnode, "t1w_preproc"),
        "t1w_mask": (inputnode, "brain_mask"),
    }
    if select_wm is not None:
        sources["wm_probseg"] = select_wm, "out"
    for field in sdc_wf.get_node("inputnode").inputs.copyable_trait_names():
        workflow.connect(*sources[field], sdc_wf, f"inputnode.{field}")
    for field in SDC_FIELDS:
        workflow.connect(sdc_wf, f"outputnode.{field}", outputnode, field)
    return sdc_wf, "outputnode.bold_ref_sdc"


def _describe(
    run: BoldRun, given: Mapping[str, str], dummy_scans: int | None, *, with_anat: bool
) -> str:
    """Describe the estimation steps in the methods text."""
    text = ""
    if "bold_ref" in given:
        text += "A precomputed reference volume was used. "
    elif run.sbref is not None:
        text += "The run's single-band reference served as the reference volume. "
    else:
        text += "The reference volume is the robust average of aligned volumes of the run. "
    if dummy_scans is None:
        text += "Volumes before steady state were identified from the global signal. "
    elif dummy_scans:
        text += f"The first {dummy_scans} volumes were treated as before steady state. "
    if "motion_xfms" in given:
        text += "Precomputed head-motion parameters were used. "
    else:
        text += (
            "Head motion was estimated by robust, inverse compositional Gauss-Newton "
            "registration of each volume to the reference [@baker2004]. "
        )
    if with_anat and "boldref2anat_xfm" in given:
        text += "A precomputed registration of the reference to the T1w image was used. "
    elif with_anat:
        text += (
            "The reference was rigidly registered to the T1w image by mutual information "
            "[@wells1996], followed by boundary-based registration [@greve2009]. "
        )
    return text
