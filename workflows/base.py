"""The whole graph, built from the plans of the participants."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from nipype.interfaces.utility import IdentityInterface, Merge, Select
from nipype.pipeline import engine as pe
from niworkflows.engine.workflows import LiterateWorkflow as Workflow

from neuroferry.bids.entities import in_node_name
from neuroferry.config import WorkflowConfig
from neuroferry.interfaces.derivatives import DerivativesNode
from neuroferry.selection.anatomy import AnatomyPlan, TemplatePlan, session_prefix
from neuroferry.selection.joining import Joined
from neuroferry.selection.participant import BoldPlan, DwiPlan, ParticipantPlan
from neuroferry.selection.spaces import anat2std_field
from neuroferry.selection.t2w import T2wPlan
from neuroferry.workflows.anat import init_anat_wf
from neuroferry.workflows.anat.memory import TEMPLATE_VOXELS
from neuroferry.workflows.anat.outputs import init_anat_derivatives_wf
from neuroferry.workflows.anat.reports import init_anat_reports_wf
from neuroferry.workflows.anat.t2w import init_t2w_wf
from neuroferry.workflows.anat.template import init_other_template_wf
from neuroferry.workflows.dwi.apply import T1wGrid
from neuroferry.workflows.dwi.base import INPUTS as DWI_INPUTS
from neuroferry.workflows.dwi.base import init_dwi_wf
from neuroferry.workflows.dwi.joined import ANATOMY, CHECK, SERIES, init_joined_wf
from neuroferry.workflows.func.base import init_bold_wf
from neuroferry.workflows.parts import join, of_kind, state_kinds
from neuroferry.workflows.qc.anat import init_anat_qc_wf
from neuroferry.workflows.qc.base import init_quality_wf


@dataclass(frozen=True)
class BuildSettings:
    """Settings shared by the graphs of all participants.

    Attributes
    ----------
    bids_dir, out_dir : pathlib.Path
        Input dataset and derivatives.
    workflow : WorkflowConfig
        Settings of the steps.
    omp_nthreads : int
        Threads of one step.
    """

    bids_dir: Path
    out_dir: Path
    workflow: WorkflowConfig
    omp_nthreads: int = 1


def init_neuroferry_wf(
    *, plans: Sequence[ParticipantPlan], settings: BuildSettings, name: str = "neuroferry_wf"
) -> Workflow:
    """Build the graph of all participants.

    Parameters
    ----------
    plans : sequence of ParticipantPlan
        What is done with each; see `neuroferry.selection.participant.plan_participant`.
    settings : BuildSettings
        Settings that all share.
    name : str
        Name of the workflow.

    Returns
    -------
    Workflow
        One workflow ``sub_<label>_wf`` for each participant.
    """
    workflow = Workflow(name=name)
    for plan in plans:
        workflow.add_nodes([init_single_subject_wf(plan, settings)])
    return workflow


def init_single_subject_wf(plan: ParticipantPlan, settings: BuildSettings) -> Workflow:
    """Build the graph of one participant, with an anatomical branch per session."""
    workflow = Workflow(name=f"sub_{in_node_name(plan.label)}_wf")
    workflow.__desc__ = """\
Results were obtained with *neuroferry*, which runs *Nipype* workflows [@nipype] on datasets
in the Brain Imaging Data Structure [@bids].

"""
    anatomies: dict[str, _Anatomy] = {}
    for anatomy in plan.anatomies:
        anatomies[anatomy.node] = _build_anatomy(plan.label, anatomy, settings)
        if anatomy.source == "computed":
            workflow.add_nodes([anatomies[anatomy.node].node])
        for t2w in anatomy.t2w:
            _add_t2w(workflow, t2w, settings, anatomies[anatomy.node])
    for bold in plan.bold:
        _add_bold(workflow, bold, settings, anatomies)
    _add_dwi(workflow, plan, settings, anatomies)
    for measured in plan.quality:
        quality_wf = init_quality_wf(
            plan=measured,
            bids_dir=settings.bids_dir,
            out_dir=settings.out_dir,
            config=settings.workflow,
            omp_nthreads=settings.omp_nthreads,
            name=f"quality_{measured.label}_wf",
        )
        workflow.add_nodes([quality_wf])
    state_kinds(workflow)
    return workflow


def find_written_twice(workflow: pe.Workflow) -> dict[Path, list[str]]:
    """Find the files that more than one sink of a workflow would write.

    Returns
    -------
    dict of pathlib.Path to list of str
        Names of the sinks, by the file; empty for a sound workflow.
    """
    writers: dict[Path, list[str]] = {}
    for node in workflow._get_all_nodes():
        if isinstance(node, DerivativesNode):
            for path in (*node.interface.output_paths(), *node.interface.sidecar_paths()):
                writers.setdefault(path, []).append(node.fullname)
    return {path: names for path, names in writers.items() if len(names) > 1}


@dataclass(frozen=True)
class _Anatomy:
    """Source of an anatomy's results in the graph."""

    plan: AnatomyPlan
    node: pe.Node | Workflow
    sources: Mapping[str, str]


def _build_anatomy(label: str, plan: AnatomyPlan, settings: BuildSettings) -> _Anatomy:
    """Build the workflow that computes an anatomy, or the node with a precomputed one."""
    if plan.source == "computed":
        workflow = _init_session_wf(label, plan, settings)
        sources = {name: f"anat_wf.outputnode.{name}" for name in DWI_INPUTS}
        for other in plan.templates:
            field = f"to_{other.template.node}_wf.outputnode.anat2std_xfm"
            sources[anat2std_field(other.template)] = field
        return _Anatomy(plan, workflow, sources)
    files = {name: plan.files[name] for name in DWI_INPUTS}
    for other in plan.templates:
        files[anat2std_field(other.template)] = plan.files["other_xfms"][other.template.label]
    node = pe.Node(IdentityInterface(fields=list(files)), name=plan.node)
    of_kind(node, "given_anatomy")
    node.inputs.trait_set(**files)
    return _Anatomy(plan, node, {name: name for name in files})


def _add_t2w(
    workflow: Workflow, plan: T2wPlan, settings: BuildSettings, anatomy: _Anatomy
) -> None:
    """Add the workflow of a T2w image, connected to its anatomy."""
    prefix = f"{session_prefix(plan.image.session)}t2w"
    t2w_wf = init_t2w_wf(
        plan=plan,
        t1w_shape=anatomy.plan.shape,
        bids_dir=settings.bids_dir,
        out_dir=settings.out_dir,
        config=settings.workflow,
        name="_".join(filter(None, [prefix, plan.label, "wf"])),
    )
    _add_run(workflow, t2w_wf, anatomy)


def _add_bold(
    workflow: Workflow,
    plan: BoldPlan,
    settings: BuildSettings,
    anatomies: Mapping[str, _Anatomy],
) -> None:
    """Add the functional workflow of a BOLD run, connected to its anatomy."""
    anatomy = anatomies.get(plan.anatomy or "")
    bold_wf = init_bold_wf(
        run=plan.run,
        precomputed=plan.precomputed,
        cited=plan.cited,
        fieldmap=plan.fieldmap,
        spaces=plan.spaces,
        bids_dir=settings.bids_dir,
        out_dir=settings.out_dir,
        t1w=None if anatomy is None else (anatomy.plan.shape, anatomy.plan.zooms),
        config=settings.workflow,
        omp_nthreads=settings.omp_nthreads,
        name=f"{session_prefix(plan.run.session)}bold_{plan.run.label}_wf",
    )
    _add_run(workflow, bold_wf, anatomy)


def _add_dwi(
    workflow: Workflow,
    plan: ParticipantPlan,
    settings: BuildSettings,
    anatomies: Mapping[str, _Anatomy],
) -> None:
    """Add the diffusion workflows of all runs and joined runs."""
    built: dict[Path, Workflow] = {}
    for dwi in plan.dwi:
        anatomy = anatomies.get(dwi.anatomy or "")
        built[dwi.run.image.path] = _init_run_wf(dwi, settings, anatomy)
        _add_run(workflow, built[dwi.run.image.path], anatomy)
    for joined in plan.joined:
        first = next(dwi for dwi in plan.dwi if dwi.run.image.path == joined.runs[0].image.path)
        _add_joined_dwi(
            workflow,
            joined,
            [built[run.image.path] for run in joined.runs],
            settings,
            anatomies[first.anatomy or ""],
        )


def _init_run_wf(plan: DwiPlan, settings: BuildSettings, anatomy: _Anatomy | None) -> Workflow:
    """Build the diffusion workflow of one DWI run."""
    run, t1w = plan.run, None if anatomy is None else anatomy.plan
    return init_dwi_wf(
        run=run,
        fieldmap=plan.fieldmap,
        bids_dir=settings.bids_dir,
        out_dir=settings.out_dir,
        t1w_shape=None if t1w is None else t1w.shape,
        t1w_grid=T1wGrid.of(run, t1w.shape, t1w.zooms) if t1w and plan.in_t1w else None,
        config=settings.workflow,
        omp_nthreads=settings.omp_nthreads,
        name="_".join(filter(None, [f"{session_prefix(run.session)}dwi", run.label, "wf"])),
    )


def _add_joined_dwi(
    workflow: Workflow,
    joined: Joined,
    run_wfs: Sequence[Workflow],
    settings: BuildSettings,
    anatomy: _Anatomy,
) -> None:
    """Add the workflow of several joined DWI runs of a session."""
    joined_wf = init_joined_wf(
        joined=joined,
        bids_dir=settings.bids_dir,
        out_dir=settings.out_dir,
        t1w=(anatomy.plan.shape, anatomy.plan.zooms),
        config=settings.workflow,
        omp_nthreads=settings.omp_nthreads,
        name="_".join(
            filter(None, [f"{session_prefix(joined.run.session)}dwi", joined.run.label, "wf"])
        ),
    )
    workflow.add_nodes([joined_wf])
    pairs = [(anatomy.sources[name], f"inputnode.{name}") for name in ANATOMY]
    workflow.connect([(anatomy.node, joined_wf, pairs)])
    for number, run_wf in enumerate(run_wfs, start=1):
        pairs = [
            (f"apply_wf.outputnode.{field}", f"inputnode.{field}_{number}") for field in SERIES
        ]
        pairs.append((f"fit_wf.outputnode.{CHECK}", f"inputnode.{CHECK}_{number}"))
        workflow.connect([(run_wf, joined_wf, pairs)])


def _add_run(workflow: Workflow, run_wf: Workflow, anatomy: _Anatomy | None) -> None:
    """Add the workflow of a run, and connect it to its anatomy, if any."""
    workflow.add_nodes([run_wf])
    if anatomy is not None:
        wanted = run_wf.get_node("inputnode").inputs.copyable_trait_names()
        pairs = [(anatomy.sources[name], f"inputnode.{name}") for name in sorted(wanted)]
        workflow.connect([(anatomy.node, run_wf, pairs)])


def _init_session_wf(label: str, plan: AnatomyPlan, settings: BuildSettings) -> Workflow:
    """Build one session's anatomical workflow with its metrics, outputs and reportlets."""
    config = settings.workflow
    files = [str(run.path) for run in plan.images]
    workflow = of_kind(Workflow(name=plan.node), "anatomy")
    inputnode = pe.Node(IdentityInterface(fields=["t1w"]), name="inputnode")
    inputnode.inputs.t1w = files
    resolution = int(plan.std_label or 1)
    anat_wf = init_anat_wf(
        t1w_shapes=plan.shapes,
        precomputed=plan.files,
        std_resolution=resolution,
        average=config.average_t1w,
        sloppy=config.sloppy,
        seed=config.random_seed,
    )
    workflow.connect(inputnode, "t1w", anat_wf, "inputnode.t1w")
    reports_wf = init_anat_reports_wf(
        out_dir=settings.out_dir,
        subject=label,
        session=plan.session,
        shape=plan.shapes[0],
        std_voxels=TEMPLATE_VOXELS / resolution**3,
    )
    join(workflow, anat_wf, reports_wf)
    with_qc = "T1w" in config.measured
    derivatives_wf = init_anat_derivatives_wf(
        out_dir=settings.out_dir,
        bids_dir=settings.bids_dir,
        source_files=files,
        seed=config.random_seed,
        with_std=plan.with_std,
        std_label=plan.std_label,
        with_iqms=with_qc,
        precomputed=plan.cited,
    )
    join(workflow, anat_wf, derivatives_wf)
    for other in plan.templates:
        join(workflow, anat_wf, _init_other_wf(plan, other, settings))
    if with_qc:
        gather = _add_qc(workflow, anat_wf, plan)
        workflow.connect(gather, "out", derivatives_wf, "inputnode.iqms")
    return workflow


def _init_other_wf(plan: AnatomyPlan, other: TemplatePlan, settings: BuildSettings) -> Workflow:
    """Build the registration of one session's anatomy to another template."""
    return init_other_template_wf(
        template=other.template,
        voxels=max(math.prod(shape) for shape in plan.shapes),
        out_dir=settings.out_dir,
        bids_dir=settings.bids_dir,
        source_files=[str(run.path) for run in plan.images],
        resolutions=other.resolutions,
        xfms=other.xfms,
        precomputed=other.cited,
        sloppy=settings.workflow.sloppy,
        seed=settings.workflow.random_seed,
    )


def _add_qc(workflow: Workflow, anat_wf: Workflow, plan: AnatomyPlan) -> pe.Node:
    """Measure each T1w image on its own voxel grid; return the node that collects the metrics."""
    count = len(plan.images)
    gather = pe.Node(Merge(count), name="gather_iqms", run_without_submitting=True)
    for index, (image, shape) in enumerate(zip(plan.images, plan.shapes, strict=True)):
        suffix = f"_{index + 1}" if count > 1 else ""
        qc_wf = init_anat_qc_wf(image=image, n_voxels=math.prod(shape), name=f"anat_qc{suffix}_wf")
        join(workflow, anat_wf, of_kind(qc_wf, "anat_qc"))
        for field_name, source in (("t1w", "t1w_runs"), ("run2ref_xfm", "run2ref_xfms")):
            name = f"select_{field_name}"
            select = of_kind(pe.Node(Select(index=[index]), name=f"{name}{suffix}"), name)
            workflow.connect(anat_wf, f"outputnode.{source}", select, "inlist")
            workflow.connect(select, "out", qc_wf, f"inputnode.{field_name}")
        workflow.connect(qc_wf, "outputnode.iqms", gather, f"in{index + 1}")
    return gather
