"""Derivatives of a DWI run, under their BIDS names."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from niworkflows.engine.workflows import LiterateWorkflow as Workflow

from neuroferry.bids.dwi import DwiRun
from neuroferry.selection.fieldmap_plan import FieldmapPlan
from neuroferry.workflows.dwi.models import MAPS, DwiMap
from neuroferry.workflows.sinks import (
    NIFTI,
    TABLE,
    TEXT,
    Output,
    RunNamer,
    hold_back,
    init_sinks_wf,
)


def init_dwi_derivatives_wf(
    *,
    out_dir: str | Path,
    bids_dir: str | Path,
    run: DwiRun,
    models: Collection[str] = (),
    with_anat: bool = True,
    with_tracts: bool = False,
    with_slices: bool = True,
    in_t1w: bool = False,
    fieldmap: FieldmapPlan | None = None,
    write_doubtful: bool = False,
    seed: int = 1,
    name: str = "dwi_derivatives_wf",
) -> Workflow:
    """Build the sinks of the derivatives of one DWI run.

    Parameters
    ----------
    out_dir : path
        Root of the derivatives dataset.
    bids_dir : path
        Root of the dataset that the run belongs to.
    run : DwiRun
        The run; its entities name the files.
    models : collection of str
        Computed models, as named by `neuroferry.workflows.dwi.models.plan_models`.
    with_anat, with_tracts, with_slices : bool
        Whether there is a T1w image, bundles were tracked, and slices with dropout replaced.
    in_t1w : bool
        Whether series and tensors are also written in the space of the T1w image.
    fieldmap : FieldmapPlan, optional
        How distortion was corrected.
    write_doubtful : bool
        Write what needs the coregistration even if it failed its check.
    seed : int
        Seed of the random numbers, written into the sidecars.
    name : str
        Name of the workflow.

    Returns
    -------
    Workflow
        **Inputs**: the fields of the same names of the other workflows of a run.
        **Outputs**: ``out_files``, the derivatives, once all are written.
    """
    namer = _Namer(out_dir, bids_dir, run, seed, with_sdc=fieldmap is not None)
    outputs = namer.series_outputs(with_slices=with_slices)
    if with_anat:
        outputs += namer.coregistration_outputs()
    if fieldmap is not None:
        outputs += namer.fieldmap_outputs(fieldmap.fmap_id, fieldmap.sources)
    outputs += [namer.map_output(key, what) for key, what in MAPS.items() if what.model in models]
    placed = []
    if in_t1w:
        placed += namer.t1w_outputs(with_slices=with_slices)
        if "DTI" in models:
            tensors = ((key, what) for key, what in MAPS.items() if what.model == "DTI")
            placed += [namer.map_output(key, what, "_t1w", T1W) for key, what in tensors]
    if with_tracts:
        placed += namer.tract_outputs()
    outputs += hold_back(placed, "coreg_report" if with_anat and not write_doubtful else "")
    return init_sinks_wf(outputs=outputs, out_dir=out_dir, name=name)


def init_joined_derivatives_wf(
    *,
    out_dir: str | Path,
    bids_dir: str | Path,
    run: DwiRun,
    runs: Sequence[DwiRun],
    models: Collection[str] = (),
    with_tracts: bool = False,
    write_doubtful: bool = False,
    seed: int = 1,
    name: str = "dwi_derivatives_wf",
) -> Workflow:
    """Build the sinks of the derivatives of joined runs, in the space of the T1w image.

    Parameters
    ----------
    out_dir, bids_dir : path
        Roots of the derivatives, and of the dataset that the runs belong to.
    run : DwiRun
        The joined run; its entities name the files.
    runs : sequence of DwiRun
        The runs.
    models : collection of str
        Computed models, as named by `neuroferry.workflows.dwi.models.plan_models`.
    with_tracts : bool
        Whether bundles were tracked.
    write_doubtful : bool
        Write even if the coregistration of a run failed its check.
    seed : int
        Seed of the random numbers, written into the sidecars.
    name : str
        Name of the workflow.

    Returns
    -------
    Workflow
        **Inputs**: the fields of the same names of the other workflows of joined runs.
        **Outputs**: ``out_files``, the derivatives, once all are written.
    """
    namer = _JoinedNamer(out_dir, bids_dir, run, runs, seed)
    outputs = namer.joined_outputs()
    outputs += [
        namer.map_output(key, what, space=T1W)
        for key, what in MAPS.items()
        if what.model in models
    ]
    if with_tracts:
        outputs += namer.tract_outputs()
    outputs = hold_back(outputs, "" if write_doubtful else "coreg_reports")
    return init_sinks_wf(outputs=outputs, out_dir=out_dir, name=name)


T1W = {"space": "T1w"}


class _Namer(RunNamer):
    """Names and sidecars of the files of one run."""

    def __init__(
        self,
        out_dir: str | Path,
        bids_dir: str | Path,
        run: DwiRun,
        seed: int,
        *,
        with_sdc: bool,
    ) -> None:
        super().__init__(
            *(out_dir, bids_dir, run.entities, [run.image.path]),
            datatype="dwi",
            reference="dwiref",
            seed=seed,
        )
        self._with_sdc = with_sdc
        self._left_out: dict[str, Any] = {}
        if run.unusable_volumes:
            self._left_out["LeftOutVolumes"] = list(run.unusable_volumes)

    def _output(
        self,
        source: str,
        suffix: str,
        metadata: dict[str, Any] | None,
        entities: Mapping[str, str],
        extension: str = NIFTI,
        datatype: str = "dwi",
        report: tuple[str, str | None] | None = None,
    ) -> Output:
        names = {**self._names, **entities}
        return Output(source, names, suffix, metadata, extension, datatype, report)

    def series_outputs(self, *, with_slices: bool) -> list[Output]:
        """List the files that are written for every run."""
        reference = self._uri("dwiref", description="hmc")
        hmc = self._xfm("orig", "dwiref", "hmc")
        xfm = self._uri("xfm", TEXT, **hmc)
        preproc = {"description": "preproc"}
        unwarped = ", corrected for distortion" if self._with_sdc else ""
        field = []
        if self._with_sdc:
            field = [self._uri("fieldmap", datatype="fmap", description="preproc")]
        series = self._about(
            "Preprocessed series, resampled in a single interpolation",
            [*self._raw, xfm, *field],
            SkullStripped=False,
            **self._left_out,
        )
        replaced = ("slices_report", "SliceReplacement") if with_slices else None
        return [
            self._output("dwi_preproc", "dwi", series, preproc, report=replaced),
            self._output("dwi_bval", "dwi", None, preproc, ".bval"),
            self._output("dwi_bvec", "dwi", None, preproc, ".bvec"),
            self._output(
                "dwi_ref",
                "dwiref",
                self._about(
                    "Mean b0 image, the reference for head motion",
                    self._raw,
                    SkullStripped=False,
                ),
                {"description": "hmc"},
                report=("gradient_report", "Gradients"),
            ),
            self._output(
                "dwi_ref_sdc",
                "dwiref",
                self._about(
                    f"Mean b0 image{unwarped}, as registered to the T1w image",
                    [reference, *field],
                    SkullStripped=False,
                    SpatialReference=reference,
                ),
                {"description": "coreg"},
                report=("sdc_report", "DistortionCorrection") if self._with_sdc else None,
            ),
            self._output(
                "dwi_mask",
                "mask",
                self._about(
                    "Brain mask",
                    [self._uri("dwiref", description="coreg")],
                    Type="Brain",
                    SpatialReference=reference,
                ),
                {"description": "brain"},
            ),
            self._output(
                "eddy_xfms",
                "xfm",
                self._about(
                    "One ITK affine per volume, onto the reference: head motion and eddy currents",
                    [reference, *self._raw],
                ),
                hmc,
                TEXT,
                report=("eddy_report", "HeadMotion"),
            ),
            self._output(
                "confounds_tsv",
                "timeseries",
                None,
                {"description": "confounds"},
                TABLE,
                report=("confounds_json", None),
            ),
        ]

    def t1w_outputs(self, *, with_slices: bool) -> list[Output]:
        """List the series, its reference and the brain mask in the space of the T1w image."""
        sources = [*self._raw, self._uri("xfm", TEXT, **self._xfm("orig", "dwiref", "hmc"))]
        if self._with_sdc:
            sources.append(self._uri("fieldmap", datatype="fmap", description="preproc"))
        sources.append(self._uri("xfm", TEXT, **self._xfm("dwiref", "T1w", "coreg")))
        space: dict[str, Any] = {"SpatialReference": "T1w"}
        preproc = {**T1W, "description": "preproc"}
        series = self._about(
            "Preprocessed series in T1w space, resampled in a single interpolation; its "
            "gradients are rotated into that space",
            sources,
            SkullStripped=False,
            **self._left_out,
            **space,
        )
        own = self._uri("dwi", **preproc)
        reference = self._about("Mean b0 image in T1w space", [own], SkullStripped=False)
        mask = self._about(
            "Brain mask in T1w space",
            [self._uri("mask", description="brain")],
            Type="Brain",
            **space,
        )
        replaced = ("slices_report", "SliceReplacement") if with_slices else None
        return [
            self._output("dwi_preproc_t1w", "dwi", series, preproc, report=replaced),
            self._output("dwi_bval_t1w", "dwi", None, preproc, ".bval"),
            self._output("dwi_bvec_t1w", "dwi", None, preproc, ".bvec"),
            self._output("dwi_ref_t1w", "dwiref", {**reference, **space}, T1W),
            self._output("dwi_mask_t1w", "mask", mask, {**T1W, "description": "brain"}),
        ]

    def map_output(
        self,
        key: str,
        what: DwiMap,
        suffix: str = "",
        space: Mapping[str, str] | None = None,
    ) -> Output:
        """Make the sink of one map of a model, in the run's own space or another."""
        there = dict(space or {})
        made = [
            self._uri("dwi", description="preproc", **there),
            self._uri("mask", description="brain", **there),
        ]
        more = {"Units": what.unit} if what.unit else {}
        more |= {"SpatialReference": there["space"]} if there else {}
        about = self._about(what.description, made, **more)
        entities = {**there, "model": what.model, "parameter": what.parameter}
        if what.variant:
            entities["description"] = what.variant
        return self._output(
            f"{key}{suffix}",
            "dwimap",
            about,
            entities,
            what.extension,
            report=(f"{what.report}{suffix}", "Model") if what.report else None,
        )

    def tract_outputs(self) -> list[Output]:
        """List the bundles and their tract profiles."""
        about = self._about(
            "Streamlines of a bundle, in RAS+ mm of the reference",
            [self._uri("dwi", description="preproc")],
        )
        bundles = Output(
            "bundles",
            self._names,
            "tractogram",
            about,
            ".trk",
            "dwi",
            labels=("bundle_labels", "bundle"),
        )
        table = self._output(
            "profiles_tsv",
            "tractometry",
            None,
            {"description": "profiles"},
            TABLE,
            report=("profiles_json", None),
        )
        return [bundles, table]


class _JoinedNamer(_Namer):
    """Names and sidecars of the files of joined runs."""

    def __init__(
        self,
        out_dir: str | Path,
        bids_dir: str | Path,
        run: DwiRun,
        runs: Sequence[DwiRun],
        seed: int,
    ) -> None:
        super().__init__(out_dir, bids_dir, run, seed, with_sdc=False)
        self._raw = [self._raw_uri(one.image.path) for one in runs]
        self._parts = [
            self._uri_of(one.entities, "dwi", **T1W, description="preproc") for one in runs
        ]
        self._names = {**self._names, **T1W}

    def joined_outputs(self) -> list[Output]:
        """List the series, its mean b0 image and the brain mask."""
        space: dict[str, Any] = {"SpatialReference": "T1w"}
        preproc = {"description": "preproc"}
        series = self._about(
            "Preprocessed series of several runs, concatenated, each matched in intensity to "
            "the first",
            [*self._raw, *self._parts],
            SkullStripped=False,
            **space,
        )
        own = [self._uri("dwi", **preproc)]
        mean = self._about("Mean of the b0 volumes of all runs", own, SkullStripped=False, **space)
        mask = self._about(
            "Intersection of the brain masks of all runs", self._parts, Type="Brain", **space
        )
        return [
            self._output("dwi_preproc", "dwi", series, preproc, report=("join_report", "Joined")),
            self._output("dwi_bval", "dwi", None, preproc, ".bval"),
            self._output("dwi_bvec", "dwi", None, preproc, ".bvec"),
            self._output("dwi_ref", "dwiref", mean, {}),
            self._output("dwi_mask", "mask", mask, {"description": "brain"}),
        ]
