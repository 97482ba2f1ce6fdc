"""Confounds of one BOLD run: signals of non-neuronal origin."""

from __future__ import annotations

from collections.abc import Sequence

from nipype.interfaces.utility import IdentityInterface
from nipype.pipeline import engine as pe
from niworkflows.engine.workflows import LiterateWorkflow as Workflow

from neuroferry.interfaces.epi.confound_table import DVARS_THRESHOLD, FD_THRESHOLD
from neuroferry.interfaces.func.confounds import ComputeConfounds
from neuroferry.interfaces.func.tissues import TissuesToBold

_BASE_GB = 0.17
"""Interpreter and libraries, in GB."""
_VOLUME_BYTES = 40
"""Bytes per voxel of one volume: the volume, tissues, masks, distances."""
_BLOCK_GB = 0.03
"""A block of 2 million values in double precision, and arrays computed from it."""
_TISSUE_BYTES = 14
"""Bytes per voxel of the T1w image; measured: 0.62 GB with 40 million voxels."""


def confounds_mem_gb(n_voxels: int, n_volumes: int) -> float:
    """Estimate the peak memory of computing confounds.

    Parameters
    ----------
    n_voxels : int
        Voxels of one volume.
    n_volumes : int
        Length of the series.

    Returns
    -------
    float
        In GB: 0.2 for interpreter, libraries and one block; 40 bytes per voxel of one
        volume; 24 bytes per pair of volumes (the Gram matrix and its decomposition).
        Measured with 147,456 voxels: 0.22 GB for 500 volumes, 0.30 GB for 2,000.

    Examples
    --------
    >>> round(confounds_mem_gb(64 * 64 * 36, 2000), 2)
    0.3
    """
    fixed = _BASE_GB + _BLOCK_GB
    return fixed + (_VOLUME_BYTES * n_voxels + 24 * n_volumes**2) / 1e9


def init_bold_confounds_wf(
    *,
    tr: float,
    n_volumes: int,
    shape: Sequence[int],
    t1w_shape: Sequence[int] = (256, 256, 256),
    with_anat: bool = True,
    fd_threshold: float = FD_THRESHOLD,
    dvars_threshold: float = DVARS_THRESHOLD,
    unusable: Sequence[int] = (),
    name: str = "bold_confounds_wf",
) -> Workflow:
    """Build the confounds of one run.

    Parameters
    ----------
    tr : float
        Repetition time, s.
    n_volumes : int
        Length of the series, for the memory estimate.
    shape : sequence of int
        Voxels of one volume, for the memory estimate.
    t1w_shape : sequence of int
        Voxels of the T1w image, for the memory estimate.
    with_anat : bool
        Whether there is a T1w image with its tissues. Without one there are no white-matter
        and CSF signals, and no anatomical components.
    fd_threshold, dvars_threshold : float
        Framewise displacement in mm and standardised DVARS above which a volume is a motion
        outlier.
    unusable : sequence of int
        Volumes without an image.
    name : str
        Name of the workflow.

    Returns
    -------
    LiterateWorkflow

    **Inputs**

    bold
        Preprocessed series in its own space.
    bold_mask
        Brain mask on its grid.
    motion_tsv
        Motion parameters.
    n_dummy
        Number of volumes at the start before steady state.
    tpms
        With a T1w image: GM, WM, CSF probabilities in its space.
    anat2boldref_xfm
        With a T1w image: ITK transform that resamples it onto the series.

    **Outputs**

    confounds_tsv, confounds_json
        The table, and the description of its columns.
    summary_json
        Values for the report.
    compcor_masks
        Bits: 1 CSF, 2 white matter, 4 combined, 8 temporal.
    tsnr_map
        Temporal signal-to-noise ratio.
    bold_tpms
        With a T1w image: tissues on the grid of the series.
    """
    n_voxels = int(shape[0]) * int(shape[1]) * int(shape[2])
    workflow = Workflow(name=name)
    workflow.__desc__ = _describe(with_anat, fd_threshold, dvars_threshold)
    fields = ["bold", "bold_mask", "motion_tsv", "n_dummy"]
    found = ["confounds_tsv", "confounds_json", "summary_json", "compcor_masks", "tsnr_map"]
    anatomical = ["tpms", "anat2boldref_xfm"] if with_anat else []
    inputnode = pe.Node(IdentityInterface(fields=fields + anatomical), name="inputnode")
    outputnode = pe.Node(
        IdentityInterface(fields=found + (["bold_tpms"] if with_anat else [])), name="outputnode"
    )
    compute = pe.Node(
        ComputeConfounds(tr=tr, fd_threshold=fd_threshold, dvars_threshold=dvars_threshold),
        name="compute_confounds",
        mem_gb=confounds_mem_gb(n_voxels, n_volumes),
        n_procs=1,
    )
    compute.volumes = n_volumes
    if unusable:
        compute.inputs.unusable = list(unusable)
    workflow.connect([
        (inputnode, compute, [(field, field) for field in fields]),
        (compute, outputnode, [(field, field) for field in found]),
    ])  # fmt: skip
    if with_anat:
        t1w_voxels = int(t1w_shape[0]) * int(t1w_shape[1]) * int(t1w_shape[2])
        carry = pe.Node(
            TissuesToBold(),
            name="carry_tissues",
            mem_gb=_BASE_GB + (_TISSUE_BYTES * t1w_voxels + _VOLUME_BYTES * n_voxels) / 1e9,
            n_procs=1,
        )
        workflow.connect([
            (inputnode, carry, [(field, field) for field in (*anatomical, "bold_mask")]),
            (carry, compute, [("bold_tpms", "tpms")]),
            (carry, outputnode, [("bold_tpms", "bold_tpms")]),
        ])  # fmt: skip
    return workflow


def _describe(with_anat: bool, fd_threshold: float, dvars_threshold: float) -> str:
    """Describe the confounds in the methods text."""
    tissues = ", the cerebrospinal fluid and the white matter" if with_anat else ""
    anatomical = (
        " and within masks of cerebrospinal fluid, deep white matter, and both together "
        "(aCompCor; voxels that contain or adjoin grey matter were excluded)"
        if with_anat
        else ""
    )
    return f"""\
Framewise displacement [@power2012] and standardised DVARS [@afyouni2018] were computed for
each volume; volumes above {fd_threshold:g} mm or {dvars_threshold:g} were marked as motion
outliers. Mean signals of the brain{tissues} were extracted; these
and the motion parameters were expanded by their derivatives and squares [@satterthwaite2013].
After removal of slow cosine drifts (periods of 128 s and more), the noise components
[@behzadi2007] that explain half of the variance [@muschelli2014] were computed from the 2% of
brain voxels with the highest variance (tCompCor){anatomical}. The table
has the columns of *fMRIPrep* [@fmriprep].
"""
