"""Derivatives of a BOLD run, under their BIDS names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from niworkflows.engine.workflows import LiterateWorkflow as Workflow

from neuroferry.bids.bold import BoldRun
from neuroferry.selection.fieldmap_plan import FieldmapPlan
from neuroferry.selection.spaces import BoldSpace
from neuroferry.workflows.sinks import TABLE, TEXT, Output, RunNamer, hold_back, init_sinks_wf


def init_bold_derivatives_wf(
    *,
    out_dir: str | Path,
    bids_dir: str | Path,
    run: BoldRun,
    spaces: Sequence[BoldSpace],
    with_anat: bool = True,
    fieldmap: FieldmapPlan | None = None,
    given: Mapping[str, Sequence[str]] | None = None,
    slice_time_ref: float = 0.5,
    write_doubtful: bool = False,
    seed: int = 1,
    name: str = "bold_derivatives_wf",
) -> Workflow:
    """Build the sinks of the derivatives of one BOLD run.

    Parameters
    ----------
    out_dir : path
        Root of the derivatives dataset.
    bids_dir : path
        Root of the dataset that the run belongs to.
    run : BoldRun
        The run; its entities name the files.
    spaces : sequence of BoldSpace
        Spaces that the series is written in.
    with_anat : bool
        Whether there is a T1w image.
    fieldmap : FieldmapPlan, optional
        How distortion was corrected.
    given : mapping of str to sequence of str, optional
        Precomputed fields, and the BIDS URIs that they are cited by; these have no report.
    slice_time_ref : float
        Time that slices were shifted to, as a fraction of the time from the first to the last
        slice.
    write_doubtful : bool
        Write into the spaces of T1w image and templates even if the coregistration failed its
        check.
    seed : int
        Seed of the random numbers, written into the sidecars.
    name : str
        Name of the workflow.

    Returns
    -------
    Workflow

    Notes
    -----
    **Inputs**: the fields of the same names of the other workflows of a run: ``bold_ref``,
    ``reference_report``, ``bold_ref_sdc``, ``bold_mask``, ``motion_xfms``, ``confounds_tsv``,
    ``confounds_json``; with a T1w image ``boldref2anat_xfm``, ``anat2boldref_xfm``,
    ``coreg_report``; with a field map ``fieldmap``, ``sdc_report``, ``fmap2boldref_xfm``; with
    several echoes ``t2star``; and for each space ``bold_<space>``, ``boldref_<space>`` and,
    where it is not the BOLD's own, ``mask_<space>``.

    **Outputs**: ``out_files``, the derivatives, once all are written.
    """
    with_sdc = fieldmap is not None
    namer = _Namer(out_dir, bids_dir, run, seed, slice_time_ref, with_sdc=with_sdc)
    outputs = namer.fit_outputs()
    if with_anat:
        outputs += namer.coregistration_outputs()
    outputs = [_as_given(output, given or {}) for output in outputs]
    if fieldmap is not None:
        outputs += namer.fieldmap_outputs(fieldmap.fmap_id, fieldmap.sources)
    if run.echo_times:
        outputs.append(namer.t2star_output())
    checked = with_anat and not write_doubtful and "boldref2anat_xfm" not in (given or {})
    for space in spaces:
        check = "coreg_report" if checked and not space.is_native else ""
        outputs += hold_back(namer.space_outputs(space), check)

    return init_sinks_wf(outputs=outputs, out_dir=out_dir, name=name)


def _as_given(output: Output, given: Mapping[str, Sequence[str]]) -> Output:
    """Cite the sources of a precomputed result."""
    sources = given.get(output.source)
    if output.source == "anat2boldref_xfm":
        sources = sources or given.get("boldref2anat_xfm")
    if sources is None or output.metadata is None:
        return output
    about = {key: value for key, value in output.metadata.items() if key != "RandomSeed"}
    about["Description"] = f"{about['Description']}; precomputed"
    return replace(output, metadata={**about, "Sources": list(sources)}, report=None)


class _Namer(RunNamer):
    """Names and sidecars of the files of one run."""

    def __init__(
        self,
        out_dir: str | Path,
        bids_dir: str | Path,
        run: BoldRun,
        seed: int,
        slice_time_ref: float,
        *,
        with_sdc: bool,
    ) -> None:
        images = [echo.path for echo in run.echoes]
        super().__init__(
            *(out_dir, bids_dir, run.entities, images),
            datatype="func",
            reference="boldref",
            seed=seed,
        )
        self._run = run
        self._sbref = [] if run.sbref is None else [self._raw_uri(run.sbref)]
        self._with_sdc = with_sdc
        self._slice_time_ref = slice_time_ref

    @property
    def _timing(self) -> dict[str, Any]:
        """Make the timing metadata of the series, as defined by BIDS Derivatives."""
        run = self._run
        timing: dict[str, Any] = {
            "RepetitionTime": run.tr,
            "SliceTimingCorrected": bool(run.slice_times),
        }
        if run.task_name:
            timing["TaskName"] = run.task_name
        if run.unusable_volumes:
            timing["UnusableVolumes"] = list(run.unusable_volumes)
        if run.slice_times:
            first, last = min(run.slice_times), max(run.slice_times)
            timing["StartTime"] = round(first + self._slice_time_ref * (last - first), 6)
        return timing

    def fit_outputs(self) -> list[Output]:
        """List the files with the estimates of a run."""
        names = self._names
        reference = self._uri("boldref", description="hmc")
        made = [reference, self._raw[0]]
        unwarped = ", corrected for distortion" if self._with_sdc else ""
        space: dict[str, Any] = {"SpatialReference": reference}
        return [
            Output(
                "bold_ref",
                {**names, "description": "hmc"},
                "boldref",
                self._about(
                    "Reference volume for head motion",
                    self._sbref or self._raw[:1],
                    SkullStripped=False,
                ),
                report=("reference_report", "ReferenceVolume"),
            ),
            Output(
                "bold_ref_sdc",
                {**names, "description": "coreg"},
                "boldref",
                self._about(
                    f"Reference volume{unwarped}, as registered to the T1w image",
                    [reference],
                    SkullStripped=False,
                    **space,
                ),
                report=("sdc_report", "DistortionCorrection") if self._with_sdc else None,
            ),
            Output(
                "bold_mask",
                {**names, "description": "brain"},
                "mask",
                self._about(
                    "Brain mask",
                    [self._uri("boldref", description="coreg")],
                    Type="Brain",
                    **space,
                ),
            ),
            Output(
                "motion_xfms",
                {**names, **self._xfm("orig", "boldref", "hmc")},
                "xfm",
                self._about("One ITK affine per volume, onto the reference volume", made),
                TEXT,
            ),
            Output(
                "confounds_tsv",
                {**names, "description": "confounds"},
                "timeseries",
                None,
                TABLE,
                report=("confounds_json", None),
            ),
        ]

    def t2star_output(self) -> Output:
        """Make the sink of the T2* map of several echoes."""
        reference = self._uri("boldref", description="hmc")
        about = self._about("T2*", self._raw, Units="s", SpatialReference=reference)
        return Output("t2star", self._names, "T2starmap", about)

    def space_outputs(self, space: BoldSpace) -> list[Output]:
        """List the series, its mean and its mask in one space."""
        names = {**self._names, **space.entities}
        sources = [*self._raw, self._uri("xfm", TEXT, **self._xfm("orig", "boldref", "hmc"))]
        where = ""
        there: dict[str, Any] = {}
        if self._with_sdc:
            sources.append(self._uri("fieldmap", datatype="fmap", description="preproc"))
        if not space.is_native:
            sources.append(self._uri("xfm", TEXT, **self._xfm("boldref", "T1w", "coreg")))
            label = space.name if space.template is None else space.template.label
            where = f" in {label} space"
            there["SpatialReference"] = label
        if space.grid is not None:
            there["Resolution"] = space.grid.size
        elif space.resolution is not None:
            there["Resolution"] = f"{space.resolution} mm isotropic"
        combined = ", optimally combined echoes" if self._run.echo_times else ""
        series = self._about(
            f"Preprocessed series{combined}{where}, resampled in a single interpolation",
            sources,
            SkullStripped=False,
            **self._timing,
            **there,
        )
        own = self._uri("bold", description="preproc", **space.entities)
        outputs = [
            Output(
                f"bold_{space.node}",
                {**names, "description": "preproc"},
                "bold",
                series,
                kind=f"bold_{space.kind}",
            ),
            Output(
                f"boldref_{space.node}",
                names,
                "boldref",
                self._about(f"Temporal mean{where}", [own], SkullStripped=False, **there),
                kind=f"boldref_{space.kind}",
            ),
        ]
        if not space.is_native:
            mask = self._about(
                f"Brain mask{where}",
                [self._uri("mask", description="brain")],
                Type="Brain",
                **there,
            )
            outputs.append(
                Output(
                    f"mask_{space.node}",
                    {**names, "description": "brain"},
                    "mask",
                    mask,
                    kind=f"mask_{space.kind}",
                )
            )
        return outputs
