"""The whole graph: each participant's data decide which workflows it takes part in."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from nipype.interfaces.utility import IdentityInterface, Merge, Select
from nipype.pipeline import engine as pe
from niworkflows.engine.workflows import LiterateWorkflow as Workflow

from neuroferry.bids.bold import bold_runs, t1w_of_session
from neuroferry.bids.precomputed import (
    Anatomy,
    cite_precomputed,
    find_anatomy,
    find_precomputed,
)
from neuroferry.errors import UsageError
from neuroferry.templates import TEMPLATE_SPACE
from neuroferry.workflows.anat import init_anat_wf
from neuroferry.workflows.anat.outputs import init_anat_derivatives_wf
from neuroferry.workflows.anat.reports import init_anat_reports_wf
from neuroferry.workflows.func.bold import INPUTS as BOLD_INPUTS
from neuroferry.workflows.func.bold import BoldOptions, init_bold_wf
from neuroferry.workflows.func.fieldmaps import choose_fieldmap
from neuroferry.workflows.func.spaces import bold_spaces
from neuroferry.workflows.qc.anat import init_anat_qc_wf

if TYPE_CHECKING:
    from neuroferry.bids.model import Run, Subject

_NATIVE_SPACES = ("T1w", "anat", "bold", "func")


@dataclass(frozen=True)
class Settings:
    """What every participant's graph is built with.

    Attributes
    ----------
    bids_dir, out_dir : pathlib.Path
        Input dataset and derivatives.
    workflows : sequence of str
        Of ``anat``, ``func`` and ``qc``; without ``anat`` nothing of the anatomy is written in
        template space.
    output_spaces : sequence of str
        ``MNI152NLin2009aSym``, with ``:res-2`` where wanted, ``T1w``, and ``bold``.
    derivatives : mapping of str to pathlib.Path
        Precomputed derivatives by name.
    average_t1w, sloppy : bool
        Average the T1w images of a session; fast and of low quality.
    ignore : sequence of str
        Steps of BOLD runs to leave out: ``fieldmaps``, ``slicetiming``, ``fmap-jacobian``.
    dummy_scans : int or None
        Volumes of BOLD runs before the steady state; found where it is None.
    slice_time_ref : float
        Moment that slices are shifted to, 0 to 1 of their times.
    fd_spike_threshold, dvars_spike_threshold : float
        Motion in mm and standardised DVARS above which a volume is marked.
    omp_nthreads, seed : int
        Threads of one step; seed of the random numbers.
    """

    bids_dir: Path
    out_dir: Path
    workflows: Sequence[str] = ("anat", "qc")
    output_spaces: Sequence[str] = (TEMPLATE_SPACE,)
    derivatives: Mapping[str, Path] = field(default_factory=dict)
    average_t1w: bool = True
    sloppy: bool = False
    ignore: Sequence[str] = ()
    dummy_scans: int | None = None
    slice_time_ref: float = 0.5
    fd_spike_threshold: float = 0.5
    dvars_spike_threshold: float = 1.5
    omp_nthreads: int = 1
    seed: int = 1


def init_neuroferry_wf(
    *, subjects: Sequence[Subject], settings: Settings, name: str = "neuroferry_wf"
) -> Workflow:
    """Build the graph of all participants.

    Parameters
    ----------
    subjects : sequence of Subject
        Participants with at least one T1w image each.
    settings : Settings
        What the graphs are built with.
    name : str
        Name of the workflow.

    Returns
    -------
    Workflow
        One workflow ``sub_<label>_wf`` for each participant.
    """
    resolution = std_resolution(settings.output_spaces)
    workflow = Workflow(name=name)
    for subject in subjects:
        workflow.add_nodes([init_single_subject_wf(subject, settings, resolution)])
    return workflow


def std_resolution(output_spaces: Sequence[str]) -> int:
    """Find the voxel size in mm that is asked for in template space.

    Raises
    ------
    UsageError
        For a space that is not there.

    Examples
    --------
    >>> std_resolution(["T1w", "MNI152NLin2009aSym:res-2"])
    2
    """
    resolution = 1
    for space in output_spaces:
        template, _, modifier = space.partition(":")
        if template in _NATIVE_SPACES and not modifier:
            continue
        label = modifier.removeprefix("res-")
        known = template == TEMPLATE_SPACE and (not modifier or modifier.startswith("res-"))
        if not known or (modifier and label not in ("1", "2", "3", "4")):
            raise UsageError(
                f"'{space}' is no output space that neuroferry can make. Choose bold, T1w, "
                f"{TEMPLATE_SPACE}, or {TEMPLATE_SPACE}:res-2 (1 to 4 mm)."
            )
        resolution = int(label or 1)
    return resolution


def init_single_subject_wf(subject: Subject, settings: Settings, resolution: int) -> Workflow:
    """Build the graph of one participant, with one anatomical branch for each session."""
    workflow = Workflow(name=f"sub_{subject.label}_wf")
    workflow.__desc__ = """\
Results come from *neuroferry*, which runs *Nipype* workflows [@nipype] on datasets in the
Brain Imaging Data Structure [@bids].

"""
    anatomies: dict[str | None, _Anatomy] = {}
    for session in _sessions_to_compute(subject, settings):
        anatomies[session] = _compute_anatomy(subject, session, settings, resolution)
        workflow.add_nodes([anatomies[session].node])
    if "func" in settings.workflows:
        _add_bold(workflow, subject, settings, anatomies)
    return workflow


@dataclass(frozen=True)
class _Anatomy:
    """Where the results of an anatomy come from in the graph, and the size of its T1w image."""

    node: pe.Node | Workflow
    prefix: str
    shape: tuple[int, int, int]
    zooms: tuple[float, float, float]


def _sessions_to_compute(subject: Subject, settings: Settings) -> list[str | None]:
    """Name the sessions whose anatomy is computed: those that are asked for, or needed."""
    images = subject.select("anat", "T1w")
    there = [session for session in subject.sessions if any(r.session == session for r in images)]
    if {"anat", "qc"} & set(settings.workflows):
        return there
    needed: set[str | None] = set()
    for run in subject.select("func", "bold"):
        if given_anatomy(settings.derivatives, subject, run.session) is None:
            needed |= {t1w.session for t1w in t1w_of_session(subject, run.session)}
    return [session for session in there if session in needed]


def _compute_anatomy(
    subject: Subject, session: str | None, settings: Settings, resolution: int
) -> _Anatomy:
    """Add the anatomical workflow of a session."""
    runs = [run for run in subject.select("anat", "T1w") if run.session == session]
    workflow = _init_session_wf(subject, session, runs, settings, resolution)
    return _Anatomy(workflow, "anat_wf.outputnode.", *image_grid(runs[0].path))


def _add_bold(
    workflow: Workflow,
    subject: Subject,
    settings: Settings,
    anatomies: Mapping[str | None, _Anatomy],
) -> None:
    """Add the functional workflow of every BOLD run, joined to its session's anatomy."""
    given: dict[str | None, _Anatomy | None] = {}
    for run in bold_runs(subject, ignore=settings.ignore):
        t1w = t1w_of_session(subject, run.session)
        anatomy = anatomies.get(t1w[0].session) if t1w else None
        if anatomy is None:
            if run.session not in given:
                given[run.session] = _take_anatomy(subject, run.session, settings)
            anatomy = given[run.session]
        bold_wf = init_bold_wf(
            run=run,
            fieldmap=choose_fieldmap(subject, run.echoes, ignore=settings.ignore),
            spaces=bold_spaces(settings.output_spaces, with_anat=anatomy is not None),
            bids_dir=settings.bids_dir,
            out_dir=settings.out_dir,
            t1w=None if anatomy is None else (anatomy.shape, anatomy.zooms),
            options=BoldOptions(
                dummy_scans=settings.dummy_scans,
                slice_time_ref=settings.slice_time_ref,
                fd_threshold=settings.fd_spike_threshold,
                dvars_threshold=settings.dvars_spike_threshold,
                jacobian="fmap-jacobian" not in settings.ignore,
                sloppy=settings.sloppy,
                omp_nthreads=settings.omp_nthreads,
                seed=settings.seed,
            ),
            name=f"{_prefix(run.session)}bold_{run.label}_wf",
        )
        workflow.add_nodes([bold_wf])
        if anatomy is not None:
            pairs = [(f"{anatomy.prefix}{name}", f"inputnode.{name}") for name in BOLD_INPUTS]
            workflow.connect([(anatomy.node, bold_wf, pairs)])


def _take_anatomy(subject: Subject, session: str | None, settings: Settings) -> _Anatomy | None:
    """Make a node of an anatomy that was computed before, where there is one."""
    found = given_anatomy(settings.derivatives, subject, session)
    if found is None:
        return None
    node = pe.Node(
        IdentityInterface(fields=list(BOLD_INPUTS)), name=f"{_prefix(session)}given_anatomy"
    )
    for name in BOLD_INPUTS:
        setattr(node.inputs, name, found[name])  # type: ignore[literal-required]
    return _Anatomy(node, "", *image_grid(Path(found["t1w_preproc"])))


def _prefix(session: str | None) -> str:
    return "" if session is None else f"ses_{session}_"


def given_anatomy(
    derivatives: Mapping[str, Path], subject: Subject, session: str | None
) -> Anatomy | None:
    """Find a whole anatomy that was computed before, for the BOLD runs of a session.

    Parameters
    ----------
    derivatives : mapping of str to pathlib.Path
        Precomputed datasets by name.
    subject : Subject
        The participant.
    session : str or None
        Of the runs; where it has none, another session's is taken.
    """
    for label in dict.fromkeys([session, None, *subject.sessions]):
        found = find_anatomy(derivatives, subject.label, label, TEMPLATE_SPACE)
        if found is not None:
            return found
    return None


def _init_session_wf(
    subject: Subject,
    session: str | None,
    runs: Sequence[Run],
    settings: Settings,
    resolution: int,
) -> Workflow:
    """Build one session's anatomical workflow, its metrics, its outputs and its pictures."""
    shapes = [image_shape(run.path) for run in runs]
    files = [str(run.path) for run in runs]
    workflow = Workflow(name=f"{_prefix(session)}anatomy_wf")
    inputnode = pe.Node(IdentityInterface(fields=["t1w"]), name="inputnode")
    inputnode.inputs.t1w = files
    precomputed = find_precomputed(settings.derivatives, subject.label, session, TEMPLATE_SPACE)
    anat_wf = init_anat_wf(
        t1w_shapes=shapes,
        precomputed=precomputed,
        std_resolution=resolution,
        average=settings.average_t1w,
        sloppy=settings.sloppy,
        seed=settings.seed,
    )
    workflow.connect(inputnode, "t1w", anat_wf, "inputnode.t1w")
    reports_wf = init_anat_reports_wf(
        out_dir=settings.out_dir, subject=subject.label, session=session, shape=shapes[0]
    )
    join(workflow, anat_wf, reports_wf)
    with_qc = "qc" in settings.workflows
    derivatives_wf = init_anat_derivatives_wf(
        out_dir=settings.out_dir,
        bids_dir=settings.bids_dir,
        source_files=files,
        seed=settings.seed,
        output_spaces=settings.output_spaces if "anat" in settings.workflows else (),
        std_resolution=resolution,
        with_iqms=with_qc,
        precomputed=cite_precomputed(precomputed, settings.derivatives, subject.label),
    )
    join(workflow, anat_wf, derivatives_wf)
    if with_qc:
        gather = _add_qc(workflow, anat_wf, shapes)
        workflow.connect(gather, "out", derivatives_wf, "inputnode.iqms")
    return workflow


def _add_qc(
    workflow: Workflow, anat_wf: Workflow, shapes: Sequence[tuple[int, int, int]]
) -> pe.Node:
    """Measure each run on its own voxels; give the node that gathers the metrics."""
    gather = pe.Node(Merge(len(shapes)), name="gather_iqms", run_without_submitting=True)
    for index, shape in enumerate(shapes):
        suffix = f"_{index + 1}" if len(shapes) > 1 else ""
        qc_wf = init_anat_qc_wf(n_voxels=math.prod(shape), name=f"anat_qc{suffix}_wf")
        join(workflow, anat_wf, qc_wf)
        for field_name, source in (("t1w", "t1w_runs"), ("run2ref_xfm", "run2ref_xfms")):
            select = pe.Node(Select(index=[index]), name=f"select_{field_name}{suffix}")
            workflow.connect(anat_wf, f"outputnode.{source}", select, "inlist")
            workflow.connect(select, "out", qc_wf, f"inputnode.{field_name}")
        workflow.connect(qc_wf, "outputnode.iqms", gather, f"in{index + 1}")
    return gather


def join(workflow: Workflow, source: Workflow, target: Workflow) -> None:
    """Connect every output of ``source`` to the input of the same name of ``target``."""
    given = set(source.get_node("outputnode").inputs.copyable_trait_names())
    wanted = target.get_node("inputnode").inputs.copyable_trait_names()
    pairs = [(f"outputnode.{n}", f"inputnode.{n}") for n in sorted(wanted) if n in given]
    workflow.connect([(source, target, pairs)])


def image_grid(path: Path) -> tuple[tuple[int, int, int], tuple[float, float, float]]:
    """Read the number of voxels along each axis, and their size in mm, from a header."""
    import nibabel as nb

    header = nb.nifti1.load(path).header
    i, j, k = header.get_data_shape()[:3]
    x, y, z = header.get_zooms()[:3]
    return (int(i), int(j), int(k)), (float(x), float(y), float(z))


def image_shape(path: Path) -> tuple[int, int, int]:
    """Read the number of voxels along each axis from an image's header."""
    import nibabel as nb

    first, second, third = nb.nifti1.load(path).shape[:3]
    return int(first), int(second), int(third)
