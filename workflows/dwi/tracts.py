"""Tractography of a DWI run, its bundles, and their tract profiles."""

from __future__ import annotations

from pathlib import Path

from nipype.interfaces.utility import IdentityInterface
from nipype.pipeline import engine as pe
from niworkflows.engine.workflows import LiterateWorkflow as Workflow

from neuroferry.bids.dwi import DwiRun
from neuroferry.interfaces.tracts.bundle_definitions import load_bundles
from neuroferry.interfaces.tracts.bundles import SegmentBundles
from neuroferry.interfaces.tracts.profiles import EXTENTS, MeasureProfiles
from neuroferry.interfaces.tracts.tracking import TrackStreamlines
from neuroferry.workflows.dwi.memory import (
    PROFILE_BYTES,
    segment_bundles_gb,
    track_gb,
    volume_gb,
)

MAPS = ("fa", "md", "rd", "ad")
TRANSFORMS = {"dwiref2anat_xfm": "dwi2anat_xfm", "std2anat_xfm": "std2anat_xfm"}


def init_dwi_tracts_wf(
    *,
    run: DwiRun,
    with_fod: bool = False,
    streamlines: int = 1000,
    bundles: str | Path | None = None,
    profile_extent: str = "waypoints",
    omp_nthreads: int = 1,
    seed: int = 1,
    name: str = "tracts_wf",
) -> Workflow:
    """Build the tractography and tractometry of one DWI run.

    Streamlines are seeded in the regions of each bundle, resampled from the template; they are
    assigned to bundles in template space, cleaned, and maps are sampled along them.

    Parameters
    ----------
    run : DwiRun
        The run.
    with_fod : bool
        Track on fibre orientation distributions, which need enough directions; otherwise on
        tensors.
    streamlines : int
        Largest number per bundle.
    bundles : path, optional
        TOML file that defines them; by default the package's own.
    profile_extent : {"waypoints", "whole"}
        Profiles cover the part from the first way-point to the last, or whole streamlines.
    omp_nthreads : int
        Threads per step; more than one does not change results.
    seed : int
        Seed of all random numbers.
    name : str
        Name of the workflow.

    Returns
    -------
    LiterateWorkflow

    **Inputs**

    dwi_preproc, dwi_bval, dwi_bvec, fod
        The series, or the fibre orientation distributions.
    dwi_mask, fa, md, rd, ad
        Brain mask and maps on its grid.
    dwiref2anat_xfm, std2anat_xfm
        ITK transforms that resample images of the run and of the template onto the T1w image.

    **Outputs**

    bundles, bundle_labels, bundles_report
        A file and a label for each bundle that was found, and the report (JSON).
    profiles_tsv, profiles_json
        Tract profiles of each map, and the description of the columns.
    tracking_report
        Report on the tracking (JSON).
    """
    count = len(load_bundles(None if bundles is None else Path(bundles)))
    source = ["fod"] if with_fod else ["dwi_preproc", "dwi_bval", "dwi_bvec"]
    fields = [*source, "dwi_mask", *MAPS, *TRANSFORMS]
    found = ["bundles", "bundle_labels", "bundles_report", "profiles_tsv", "profiles_json"]
    workflow = Workflow(name=name)
    workflow.__desc__ = _describe(
        with_fod=with_fod, own=bundles is not None, extent=profile_extent
    )
    inputnode = pe.Node(IdentityInterface(fields=fields), name="inputnode")
    outputnode = pe.Node(IdentityInterface(fields=[*found, "tracking_report"]), name="outputnode")
    track = pe.Node(
        TrackStreamlines(n_streamlines=streamlines, seed=seed, n_procs=omp_nthreads),
        name="track_streamlines",
        mem_gb=track_gb(run, omp_nthreads, with_fod=with_fod),
        n_procs=omp_nthreads,
    )
    segment = pe.Node(
        SegmentBundles(),
        name="segment_bundles",
        mem_gb=segment_bundles_gb(run, streamlines * count),
    )
    if bundles is not None:
        # A user's file: its content is part of the steps' hashes.
        track.inputs.definitions = segment.inputs.definitions = str(bundles)
    measure = pe.Node(
        MeasureProfiles(subject=f"sub-{run.entities['subject']}", extent=profile_extent),
        name="measure_profiles",
        mem_gb=volume_gb(PROFILE_BYTES, run),
    )
    taken = (
        [("fod", "fod")]
        if with_fod
        else [("dwi_preproc", "dwi"), ("dwi_bval", "bval"), ("dwi_bvec", "bvec")]
    )
    workflow.connect([
        (inputnode, track, [*taken, ("dwi_mask", "mask"), ("fa", "fa"), *TRANSFORMS.items()]),
        (inputnode, segment, [("fa", "reference"), *TRANSFORMS.items()]),
        (track, segment, [("tractogram", "tractogram")]),
        (track, outputnode, [("report", "tracking_report")]),
        (inputnode, measure, [(field, field) for field in MAPS]),
        (segment, measure, [("bundles", "bundles"), ("report", "report")]),
        (segment, outputnode, [
            ("bundles", "bundles"), ("labels", "bundle_labels"), ("report", "bundles_report"),
        ]),
        (measure, outputnode, [
            ("profiles_tsv", "profiles_tsv"), ("profiles_json", "profiles_json"),
        ]),
    ])  # fmt: skip
    return workflow


def _describe(*, with_fod: bool, own: bool, extent: str) -> str:
    """Describe the tractography in the methods text."""
    how = (
        "through the fibre orientation distributions"
        if with_fod
        else "through tensors fitted to bootstrapped signals [@jones2008]"
    )
    regions = "of our own definition" if own else "[@wakana2007; @hua2008]"
    return (
        f"Streamlines were tracked {how} with *MRtrix3* [@mrtrix3], seeded in regions of each "
        f"bundle {regions}, assigned to bundles by the regions that they traverse, and cleaned of "
        f"outliers. Tract profiles were computed at 100 nodes {EXTENTS[extent]}, with streamlines "
        "weighted by their distance from the core [@yeatman2012]. "
    )
