"""The whole graph: each participant's data decide which workflows it takes part in."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from nipype.interfaces.utility import IdentityInterface, Merge, Select
from nipype.pipeline import engine as pe
from niworkflows.engine.workflows import LiterateWorkflow as Workflow

from neuroferry.bids.bold import bold_runs
from neuroferry.bids.dwi import dwi_runs
from neuroferry.bids.headers import image_grid, image_shape
from neuroferry.bids.precomputed import (
    Precomputed,
    cite_precomputed,
    find_precomputed,
)
from neuroferry.bids.precomputed_bold import find_bold
from neuroferry.config import Settings
from neuroferry.selection.anatomy import given_anatomy, sessions_to_compute, t1w_of_session
from neuroferry.selection.dwi_fieldmaps import choose_dwi_fieldmap
from neuroferry.selection.fieldmaps import choose_fieldmap
from neuroferry.selection.joining import Joined, plan_joined
from neuroferry.selection.spaces import (
    anat2std_field,
    bold_spaces,
    other_spaces,
    std_resolution,
    wants_t1w,
)
from neuroferry.templates import (
    TEMPLATE_SPACE,
    OtherTemplate,
    find_templates,
)
from neuroferry.workflows.anat import init_anat_wf
from neuroferry.workflows.anat.outputs import init_anat_derivatives_wf
from neuroferry.workflows.anat.reports import init_anat_reports_wf
from neuroferry.workflows.anat.template import XFMS, init_other_template_wf
from neuroferry.workflows.dwi.apply import T1wGrid
from neuroferry.workflows.dwi.base import INPUTS as DWI_INPUTS
from neuroferry.workflows.dwi.base import DwiOptions, init_dwi_wf
from neuroferry.workflows.dwi.joined import ANATOMY, SERIES, init_joined_wf
from neuroferry.workflows.func.base import BoldOptions, init_bold_wf
from neuroferry.workflows.parts import join
from neuroferry.workflows.qc.anat import init_anat_qc_wf

if TYPE_CHECKING:
    from neuroferry.bids.model import Run, Subject


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
    spaces = _Spaces(
        std_resolution(settings.output_spaces),
        find_templates(other_spaces(settings.output_spaces), settings.templateflow_home),
    )
    workflow = Workflow(name=name)
    for subject in subjects:
        workflow.add_nodes([init_single_subject_wf(subject, settings, spaces)])
    return workflow


class _Spaces(NamedTuple):
    """Voxel size in the space of the template that is always there, and the other templates."""

    resolution: int
    others: tuple[OtherTemplate, ...]


def init_single_subject_wf(subject: Subject, settings: Settings, spaces: _Spaces) -> Workflow:
    """Build the graph of one participant, with one anatomical branch for each session."""
    workflow = Workflow(name=f"sub_{subject.label}_wf")
    workflow.__desc__ = """\
Results come from *neuroferry*, which runs *Nipype* workflows [@nipype] on datasets in the
Brain Imaging Data Structure [@bids].

"""
    anatomies: dict[str | None, _Anatomy] = {}
    for session in sessions_to_compute(subject, settings):
        anatomies[session] = _compute_anatomy(subject, session, settings, spaces)
        workflow.add_nodes([anatomies[session].node])
    of_session = _Anatomies(subject, settings, spaces.others, anatomies)
    if "func" in settings.workflows:
        _add_bold(workflow, subject, settings, of_session, spaces.others)
    if "dwi" in settings.workflows:
        _add_dwi(workflow, subject, settings, of_session)
    return workflow


@dataclass(frozen=True)
class _Anatomy:
    """Where the results of an anatomy come from in the graph, and the size of its T1w image."""

    node: pe.Node | Workflow
    sources: Mapping[str, str]
    shape: tuple[int, int, int]
    zooms: tuple[float, float, float]
    given: bool = False


def _compute_anatomy(
    subject: Subject, session: str | None, settings: Settings, spaces: _Spaces
) -> _Anatomy:
    """Add the anatomical workflow of a session."""
    runs = [run for run in subject.select("anat", "T1w") if run.session == session]
    workflow = _init_session_wf(subject, session, runs, settings, spaces)
    sources = {name: f"anat_wf.outputnode.{name}" for name in DWI_INPUTS}
    for other in spaces.others:
        sources[anat2std_field(other)] = f"to_{other.node}_wf.outputnode.anat2std_xfm"
    return _Anatomy(workflow, sources, *image_grid(runs[0].path))


def _add_bold(
    workflow: Workflow,
    subject: Subject,
    settings: Settings,
    anatomies: _Anatomies,
    others: Sequence[OtherTemplate],
) -> None:
    """Add the functional workflow of every BOLD run, joined to its session's anatomy."""
    for run in bold_runs(subject, ignore=settings.ignore):
        t1w = t1w_of_session(subject, run.session)
        anatomy = anatomies.of(run.session)
        # a position is that of one T1w image: the only one, or the one that it came with
        one_source = anatomy is not None and anatomy.given and len(settings.derivatives) == 1
        same_t1w = anatomy is not None and (one_source or len(t1w) == 1)
        precomputed, cited = find_bold(settings.derivatives, run, with_position=same_t1w)
        bold_wf = init_bold_wf(
            run=run,
            precomputed=precomputed,
            cited=cited,
            fieldmap=choose_fieldmap(
                subject, run.echoes, ignore=settings.ignore, b0_threshold=settings.b0_threshold
            ),
            spaces=bold_spaces(
                settings.output_spaces, with_anat=anatomy is not None, templates=others
            ),
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
        _add_run(workflow, bold_wf, anatomy)


def _add_dwi(
    workflow: Workflow, subject: Subject, settings: Settings, anatomies: _Anatomies
) -> None:
    """Add the diffusion workflow of every DWI run, joined to its session's anatomy."""
    options = DwiOptions(
        ignore=settings.ignore,
        b0_threshold=settings.b0_threshold,
        fix_gradients=settings.fix_gradients,
        streamlines=settings.streamlines,
        bundles=settings.bundles,
        profile_extent=settings.profile_extent,
        sloppy=settings.sloppy,
        omp_nthreads=settings.omp_nthreads,
        seed=settings.seed,
    )
    runs = dwi_runs(subject, b0_threshold=settings.b0_threshold)
    built: dict[Path, Workflow] = {}
    corrected: set[Path] = set()
    for run in runs:
        anatomy = anatomies.of(run.session)
        grid = None
        if anatomy is not None and wants_t1w(settings.output_spaces):
            grid = T1wGrid.of(run, anatomy.shape, anatomy.zooms)
        fieldmap = choose_dwi_fieldmap(
            subject, run, ignore=settings.ignore, b0_threshold=settings.b0_threshold
        )
        dwi_wf = init_dwi_wf(
            run=run,
            fieldmap=fieldmap,
            bids_dir=settings.bids_dir,
            out_dir=settings.out_dir,
            t1w_shape=None if anatomy is None else anatomy.shape,
            t1w_grid=grid,
            options=options,
            name="_".join(filter(None, [f"{_prefix(run.session)}dwi", run.label, "wf"])),
        )
        _add_run(workflow, dwi_wf, anatomy)
        if fieldmap.method is not None:
            corrected.add(run.run.path)
        if grid is not None:
            built[run.run.path] = dwi_wf
    if "dwi-joining" in settings.ignore:
        return
    there = [run for run in runs if run.run.path in built]
    for joined in plan_joined(there, corrected, b0_threshold=settings.b0_threshold)[0]:
        _add_joined_dwi(
            workflow,
            joined,
            [built[run.run.path] for run in joined.runs],
            settings,
            options,
            anatomies.of(joined.run.session),
        )


def _add_joined_dwi(
    workflow: Workflow,
    joined: Joined,
    run_wfs: Sequence[Workflow],
    settings: Settings,
    options: DwiOptions,
    anatomy: _Anatomy | None,
) -> None:
    """Add what is done with several DWI runs of a session together."""
    assert anatomy is not None  # they are in the space of its T1w image
    joined_wf = init_joined_wf(
        joined=joined,
        bids_dir=settings.bids_dir,
        out_dir=settings.out_dir,
        t1w=(anatomy.shape, anatomy.zooms),
        options=options,
        name="_".join(filter(None, [f"{_prefix(joined.run.session)}dwi", joined.run.label, "wf"])),
    )
    workflow.add_nodes([joined_wf])
    pairs = [(anatomy.sources[name], f"inputnode.{name}") for name in ANATOMY]
    workflow.connect([(anatomy.node, joined_wf, pairs)])
    for number, run_wf in enumerate(run_wfs, start=1):
        pairs = [
            (f"apply_wf.outputnode.{field}", f"inputnode.{field}_{number}") for field in SERIES
        ]
        workflow.connect([(run_wf, joined_wf, pairs)])


def _add_run(workflow: Workflow, run_wf: Workflow, anatomy: _Anatomy | None) -> None:
    """Add the workflow of a run, and connect it to its anatomy, where there is one."""
    workflow.add_nodes([run_wf])
    if anatomy is not None:
        wanted = run_wf.get_node("inputnode").inputs.copyable_trait_names()
        pairs = [(anatomy.sources[name], f"inputnode.{name}") for name in sorted(wanted)]
        workflow.connect([(anatomy.node, run_wf, pairs)])


class _Anatomies:
    """Finds the anatomy that goes with a run: computed here, or before."""

    def __init__(
        self,
        subject: Subject,
        settings: Settings,
        others: Sequence[OtherTemplate],
        computed: Mapping[str | None, _Anatomy],
    ) -> None:
        self._subject = subject
        self._settings = settings
        self._others = others
        self._computed = computed
        self._given: dict[str | None, _Anatomy | None] = {}

    def of(self, session: str | None) -> _Anatomy | None:
        """Give the anatomy for the runs of a session; None where there is none at all."""
        t1w = t1w_of_session(self._subject, session)
        if t1w and t1w[0].session in self._computed:
            return self._computed[t1w[0].session]
        if session not in self._given:
            self._given[session] = _take_anatomy(
                self._subject, session, self._settings, self._others
            )
        return self._given[session]


def _take_anatomy(
    subject: Subject,
    session: str | None,
    settings: Settings,
    others: Sequence[OtherTemplate],
) -> _Anatomy | None:
    """Make a node of an anatomy that was computed before, where there is one."""
    labels = [other.label for other in others]
    found = given_anatomy(settings.derivatives, subject, session, labels)
    if found is None:
        return None
    files: dict[str, Any] = {name: found[name] for name in DWI_INPUTS}  # type: ignore[literal-required]
    for other in others:
        files[anat2std_field(other)] = found["other_xfms"][other.label]
    node = pe.Node(IdentityInterface(fields=list(files)), name=f"{_prefix(session)}given_anatomy")
    node.inputs.trait_set(**files)
    grid = image_grid(Path(found["t1w_preproc"]))
    return _Anatomy(node, {name: name for name in files}, *grid, given=True)


def _prefix(session: str | None) -> str:
    return "" if session is None else f"ses_{session}_"


def _init_session_wf(
    subject: Subject,
    session: str | None,
    runs: Sequence[Run],
    settings: Settings,
    spaces: _Spaces,
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
        std_resolution=spaces.resolution,
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
        std_resolution=spaces.resolution,
        with_iqms=with_qc,
        precomputed=cite_precomputed(precomputed, settings.derivatives, subject.label),
    )
    join(workflow, anat_wf, derivatives_wf)
    for other in spaces.others:
        other_wf = _init_other_wf(subject, session, runs, settings, other)
        join(workflow, anat_wf, other_wf)
    if with_qc:
        gather = _add_qc(workflow, anat_wf, shapes)
        workflow.connect(gather, "out", derivatives_wf, "inputnode.iqms")
    return workflow


def _init_other_wf(
    subject: Subject,
    session: str | None,
    runs: Sequence[Run],
    settings: Settings,
    other: OtherTemplate,
) -> Workflow:
    """Build the way from one session's anatomy to another template."""
    found = find_precomputed(settings.derivatives, subject.label, session, other.label)
    xfms = Precomputed(
        **{name: found[name] for name in XFMS if name in found}  # type: ignore[literal-required, typeddict-item]
    )
    wanted = [
        space.resolution
        for space in other_spaces(settings.output_spaces)
        if (space.name, space.cohort) == (other.name, other.cohort)
    ]
    return init_other_template_wf(
        template=other,
        voxels=max(math.prod(image_shape(run.path)) for run in runs),
        out_dir=settings.out_dir,
        bids_dir=settings.bids_dir,
        source_files=[str(run.path) for run in runs],
        resolutions=[*dict.fromkeys(wanted)] if "anat" in settings.workflows else (),
        xfms=(xfms["anat2std_xfm"], xfms["std2anat_xfm"]) if xfms else None,
        precomputed=cite_precomputed(xfms, settings.derivatives, subject.label),
        sloppy=settings.sloppy,
        seed=settings.seed,
    )


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
