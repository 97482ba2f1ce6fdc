"""Plan of the processing of a participant, made once and read by everything else.

Checks, warnings, ``--dry-run``, the graph, SLURM jobs and the receipts of finished participants
use a `ParticipantPlan`; none of them reads the dataset again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from neuroferry.bids.bold import BoldRun, check_bold
from neuroferry.bids.dwi import DwiRun, check_dwi
from neuroferry.bids.model import OTHER_PARTS, Image, Problem, Severity, Subject
from neuroferry.bids.precomputed_bold import find_bold, without_position
from neuroferry.config import WorkflowConfig
from neuroferry.errors import InputError
from neuroferry.selection.anatomy import Anatomies, AnatomyPlan, plan_anatomies, t1w_of_session
from neuroferry.selection.dwi_fieldmaps import choose_dwi_fieldmap
from neuroferry.selection.fieldmap_plan import FieldmapPlan
from neuroferry.selection.fieldmaps import choose_fieldmap
from neuroferry.selection.joining import Joined, plan_joined
from neuroferry.selection.quality import QualityPlan, measures_t1w_alone, plan_quality
from neuroferry.selection.spaces import BoldSpace, OutputSpaces
from neuroferry.selection.t1w import choose_t1w
from neuroferry.selection.t2w import T2wPlan, choose_t2w, names_of
from neuroferry.templates import TEMPLATE_SPACE

#: Files by part, and the BIDS URIs that sidecars cite them by.
_PrecomputedBold = tuple[dict[str, str], dict[str, list[str]]]

FIELDMAP_SUFFIXES = (
    *("phasediff", "phase1", "phase2"),
    *("magnitude", "magnitude1", "magnitude2", "fieldmap", "epi"),
)


@dataclass(frozen=True)
class BoldPlan:
    """Plan of one BOLD run.

    Attributes
    ----------
    run : BoldRun
        The run, with its final repetition time, slice times and echo times.
    fieldmap : FieldmapPlan
        Its distortion correction, and the basis of that decision.
    spaces : tuple of BoldSpace
        Spaces that the series is written in.
    anatomy : str or None
        `AnatomyPlan.node` of the anatomy that it is registered to.
    precomputed : mapping of str to str
        Files that replace steps, by part.
    cited : mapping of str to list of str
        BIDS URIs of these.
    """

    run: BoldRun
    fieldmap: FieldmapPlan
    spaces: tuple[BoldSpace, ...]
    anatomy: str | None = None
    precomputed: Mapping[str, str] = field(default_factory=dict)
    cited: Mapping[str, list[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class DwiPlan:
    """Plan of one DWI run.

    Attributes
    ----------
    run : DwiRun
        The run, with its final gradients, phase encoding and readout time.
    fieldmap : FieldmapPlan
        Its distortion correction, and the basis of that decision.
    anatomy : str or None
        `AnatomyPlan.node` of the anatomy that it is registered to.
    in_t1w : bool
        Whether series and tensors are also written in the space of the T1w image.
    """

    run: DwiRun
    fieldmap: FieldmapPlan
    anatomy: str | None = None
    in_t1w: bool = False


@dataclass(frozen=True)
class ParticipantPlan:
    """Plan of one participant.

    Attributes
    ----------
    label : str
        Label without ``sub-``.
    anatomies : tuple of AnatomyPlan
        Anatomies that are computed or precomputed, each once.
    bold : tuple of BoldPlan
        BOLD runs, in the order of their names.
    dwi : tuple of DwiPlan
        DWI runs, in the order of their names.
    joined : tuple of Joined
        DWI runs that are joined in the space of the T1w image.
    quality : tuple of QualityPlan
        Images whose quality is measured on their own.
    problems : tuple of Problem
        All problems of the participant's data, and everything that is skipped.
    inputs : tuple of Path
        Files that results depend on.

    Notes
    -----
    Its images have no raw metadata: the plan holds everything derived from them, so that two
    participants with equal plans have equal graphs.
    """

    label: str
    anatomies: tuple[AnatomyPlan, ...] = ()
    bold: tuple[BoldPlan, ...] = ()
    dwi: tuple[DwiPlan, ...] = ()
    joined: tuple[Joined, ...] = ()
    quality: tuple[QualityPlan, ...] = ()
    problems: tuple[Problem, ...] = ()
    inputs: tuple[Path, ...] = ()

    @property
    def has_work(self) -> bool:
        """Whether anything is computed."""
        computed = any(a.source == "computed" or a.t2w for a in self.anatomies)
        return bool(self.bold or self.dwi or self.quality or computed)

    def anatomy(self, node: str | None) -> AnatomyPlan | None:
        """Find an anatomy by its name in the graph."""
        return next((plan for plan in self.anatomies if plan.node == node), None)

    @property
    def digest(self) -> str:
        """SHA-256 of everything that results depend on except the content of the input files."""
        return hashlib.sha256(repr(replace(self, problems=())).encode()).hexdigest()


def wanted_suffixes(config: WorkflowConfig) -> tuple[str, ...]:
    """List the suffixes of the images that the workflows read."""
    workflows, measured = config.chosen, config.measured
    suffixes = ["T1w"] if {"anat", "func", "dwi"} & set(workflows) or "T1w" in measured else []
    if aligns_t2w(config) or "T2w" in measured:
        suffixes.append("T2w")
    if "func" in workflows or "bold" in measured:
        suffixes.append("bold")
    if "dwi" in workflows or "dwi" in measured:
        suffixes.append("dwi")
    if {"func", "dwi"} & set(workflows) and "fieldmaps" not in config.ignore:
        suffixes += FIELDMAP_SUFFIXES
    return tuple(suffixes)


def aligns_t2w(config: WorkflowConfig) -> bool:
    """Whether T2w images are aligned with the T1w image."""
    return "anat" in config.chosen and "t2w" not in config.ignore


def plan_participant(
    subject: Subject,
    config: WorkflowConfig,
    spaces: OutputSpaces,
    derivatives: Mapping[str, Path] | None = None,
) -> ParticipantPlan:
    """Plan the processing of a participant.

    Parameters
    ----------
    subject : Subject
        Participant with readable images, see `neuroferry.bids.validate.check_subjects`.
    config : WorkflowConfig
        Settings of the workflows.
    spaces : OutputSpaces
        Output spaces, parsed from the same settings.
    derivatives : mapping of str to pathlib.Path, optional
        Precomputed datasets by name, see `neuroferry.bids.precomputed.check_dataset`.

    Returns
    -------
    ParticipantPlan
        With every problem of the participant. If nothing can be done it has no work, and a
        problem says why.
    """
    planner = _Planner(subject, config, spaces, derivatives or {})
    try:
        return planner.plan()
    except InputError as error:
        return ParticipantPlan(
            subject.label,
            problems=(*planner.problems, Problem(str(error), "error", error.path, subject.label)),
        )


class _Planner:
    """Planner of one participant, which collects problems on the way."""

    def __init__(
        self,
        subject: Subject,
        config: WorkflowConfig,
        spaces: OutputSpaces,
        derivatives: Mapping[str, Path],
    ) -> None:
        self._config, self._spaces, self._derivatives = config, spaces, derivatives
        self._subject = subject
        self.problems = [*subject.problems]

    def plan(self) -> ParticipantPlan:
        everything = self._subject
        left_out = self._choose_t1w()
        bold_runs, dwi_runs = self._check_runs()
        quality = plan_quality(everything, self._config, bold_runs, dwi_runs)
        bold_runs = bold_runs if "func" in self._config.chosen else []
        dwi_runs = dwi_runs if "dwi" in self._config.chosen else []
        precomputed = self._find_precomputed(bold_runs)
        bold_runs = [run for run in bold_runs if run.reference.path in precomputed]
        t2w, left_out_t2w = choose_t2w(everything) if aligns_t2w(self._config) else ((), {})
        images = (*(run.reference for run in bold_runs), *(run.image for run in dwi_runs))
        anatomies = plan_anatomies(
            self._subject,
            [image.session for image in (*images, *(plan.image for plan in t2w))],
            workflows=self._workflows_of_t1w(),
            derivatives=self._derivatives,
            spaces=self._spaces,
        )
        self._say_what_is_no_repeat(left_out, anatomies)
        bold = [*self._plan_bold(bold_runs, precomputed, anatomies)]
        dwi = [*self._plan_dwi(dwi_runs, anatomies)]
        joined = self._join(dwi)
        plan = ParticipantPlan(
            self._subject.label,
            tuple(_with_t2w(anatomies, t2w)),
            tuple(bold),
            tuple(dwi),
            tuple(joined),
            quality,
        )
        if not plan.has_work:
            self._say_nothing_to_do()
        else:
            self._add("error", anatomies.errors)
            self._add("warning", anatomies.warnings)
            self._say_what_is_missing(bold_runs, dwi_runs, anatomies)
            self._say_what_is_not_aligned(t2w, left_out_t2w, anatomies)
            self._say_what_is_not_used(plan)
        plan = replace(plan, problems=tuple(self.problems), inputs=tuple(_inputs(plan)))
        return _bare(plan)

    def _workflows_of_t1w(self) -> tuple[str, ...]:
        """List the workflows, with ``qc`` only if it needs the anatomical workflow."""
        without = "T1w" not in self._config.measured or measures_t1w_alone(self._config)
        return tuple(name for name in self._config.chosen if name != "qc" or not without)

    def _add(self, severity: Severity, texts: Sequence[str]) -> None:
        label = self._subject.label
        self.problems += [Problem(f"sub-{label}: {t}", severity, None, label) for t in texts]

    def _choose_t1w(self) -> dict[Image, str]:
        """Remove the T1w images of each session that are no repeats of the chosen one."""
        left_out: dict[Image, str] = {}
        for session in self._subject.sessions:
            images = [r for r in self._subject.select("anat", "T1w") if r.session == session]
            reasons = choose_t1w(images)
            left_out |= {image: reasons[image.path] for image in images if image.path in reasons}
        self._subject = self._subject.without({image.path for image in left_out})
        return left_out

    def _say_what_is_no_repeat(self, left_out: Mapping[Image, str], anatomies: Anatomies) -> None:
        """Report the T1w images without part in a computed anatomy, and phases of series."""
        computed = {plan.session for plan in anatomies.plans if plan.source == "computed"}
        there = {image.session for image in self._subject.select("anat", "T1w")}
        label = self._subject.label
        for image, why in left_out.items():
            if image.session in computed or image.session not in there:
                self.problems.append(Problem(f"{image.path} {why}.", "warning", image.path, label))
        kinds = [("func", "bold"), ("dwi", "dwi")]
        series = [
            run
            for datatype, suffix in kinds
            if datatype in self._config.chosen or suffix in self._config.measured
            for run in self._subject.select(datatype, suffix)
        ]
        parts = [r for r in series if r.entities.get("part") in OTHER_PARTS]
        if parts:
            names = ", ".join(run.path.name for run in parts[:3]) + ", ..." * (len(parts) > 3)
            self._add("warning", [f"phase and complex images are not used: {names}"])

    def _check_runs(self) -> tuple[list[BoldRun], list[DwiRun]]:
        """Read the runs, and remove the unusable ones."""
        bold: list[BoldRun] = []
        dwi: list[DwiRun] = []
        if "func" in self._config.chosen or "bold" in self._config.measured:
            checked = check_bold(self._subject, ignore=self._config.ignore)
            bold, unusable = checked.runs, checked.unusable
            self.problems += checked.problems
            self._subject = self._subject.without(unusable)
        if "dwi" in self._config.chosen or "dwi" in self._config.measured:
            found = check_dwi(self._subject, b0_threshold=self._config.b0_threshold)
            dwi, unusable = found.runs, found.unusable
            self.problems += found.problems
            self._subject = self._subject.without(unusable)
        return bold, dwi

    def _find_precomputed(self, runs: Sequence[BoldRun]) -> dict[Path, _PrecomputedBold]:
        """Find the precomputed parts of each run; a run that contradicts them is skipped."""
        found: dict[Path, _PrecomputedBold] = {}
        for run in runs:
            path = run.reference.path
            try:
                found[path] = find_bold(self._derivatives, run)
            except InputError as error:
                text, label = f"{path} is skipped: {error}", self._subject.label
                self.problems.append(Problem(text, "error", path, label))
        return found

    def _plan_bold(
        self,
        runs: Sequence[BoldRun],
        precomputed: Mapping[Path, _PrecomputedBold],
        anatomies: Anatomies,
    ) -> Iterator[BoldPlan]:
        config = self._config
        for run in runs:
            anatomy = anatomies.of_session.get(run.session)
            # a transform belongs to one T1w image: the only one, or the one it was computed with
            came_with_it = (
                anatomy is not None
                and anatomy.source == "precomputed"
                and len(self._derivatives) == 1
            )
            one_t1w = len(t1w_of_session(self._subject, run.session)) == 1
            same_t1w = anatomy is not None and (came_with_it or one_t1w)
            parts, cited = precomputed[run.reference.path]
            if not same_t1w:
                parts, cited = without_position(parts), without_position(cited)
            fieldmap = choose_fieldmap(
                self._subject, run.echoes, ignore=config.ignore, b0_threshold=config.b0_threshold
            )
            self._add("warning", fieldmap.warnings)
            templates = [plan.template for plan in anatomy.templates] if anatomy else []
            yield BoldPlan(
                run,
                fieldmap,
                self._spaces.of_bold(with_anat=anatomy is not None, templates=templates),
                None if anatomy is None else anatomy.node,
                parts,
                cited,
            )

    def _plan_dwi(self, runs: Sequence[DwiRun], anatomies: Anatomies) -> Iterator[DwiPlan]:
        config = self._config
        for run in runs:
            anatomy = anatomies.of_session.get(run.session)
            fieldmap = choose_dwi_fieldmap(
                self._subject, run, ignore=config.ignore, b0_threshold=config.b0_threshold
            )
            if run.phase_encoding is not None:  # its absence was reported for the run itself
                self._add("warning", fieldmap.warnings)
            yield DwiPlan(
                run,
                fieldmap,
                None if anatomy is None else anatomy.node,
                anatomy is not None and self._spaces.with_t1w,
            )

    def _join(self, plans: Sequence[DwiPlan]) -> list[Joined]:
        """Join the runs of a session that are written in the space of the T1w image."""
        if "dwi-joining" in self._config.ignore:
            return []
        in_t1w = [plan for plan in plans if plan.in_t1w]
        corrected = {plan.run.image.path for plan in in_t1w if plan.fieldmap.method is not None}
        joined, reasons = plan_joined(
            [plan.run for plan in in_t1w], corrected, b0_threshold=self._config.b0_threshold
        )
        self._add("warning", reasons)
        return joined

    def _say_nothing_to_do(self) -> None:
        workflows = set(self._config.chosen)
        measured = self._config.measured
        kinds = ["T1w image"] if "anat" in workflows or "T1w" in measured else []
        kinds += ["T2w image"] if "T2w" in measured else []
        kinds += ["BOLD run"] if "func" in workflows or "bold" in measured else []
        kinds += ["DWI run"] if "dwi" in workflows or "dwi" in measured else []
        label = self._subject.label
        text = f"sub-{label} has no usable {' and no usable '.join(kinds)}, so nothing was run."
        if aligns_t2w(self._config) and self._subject.select("anat", "T2w"):
            text += " Its T2w images cannot be processed without a T1w image to align them with."
        self.problems.append(Problem(text, "error", None, label))

    def _say_what_is_missing(
        self, bold: Sequence[BoldRun], dwi: Sequence[DwiRun], anatomies: Anatomies
    ) -> None:
        asked = self._config.workflows
        kinds = (
            ("func", bold, "BOLD", "without coregistration, template space or tissues"),
            ("dwi", dwi, "DWI", "without coregistration, template space or bundles"),
        )
        if "anat" in asked and not any(a.source == "computed" for a in anatomies.plans):
            self._add("warning", ["there is no T1w image, so anat cannot be computed"])
        for modality in self._config.modalities:
            datatype = {"bold": "func", "dwi": "dwi"}.get(modality, "anat")
            if not self._subject.select(datatype, modality):
                self._add("warning", [f"there is no usable {modality} image to measure"])
        for workflow, runs, word, without in kinds:
            if not runs and workflow in asked:
                self._add("warning", [f"there is no usable {word} run"])
            sessions = [run.session for run in runs]
            self._add("warning", [*_anatomy_notes(sessions, anatomies, f"{word} runs", without)])

    def _say_what_is_not_aligned(
        self, plans: Sequence[T2wPlan], left_out: Mapping[Path, str], anatomies: Anatomies
    ) -> None:
        """Report the T2w images that are not aligned, or with another session's anatomy."""
        label = self._subject.label
        for path, why in left_out.items():
            self.problems.append(Problem(f"{path} {why}.", "warning", path, label))
        alone = [plan for plan in plans if plan.image.session not in anatomies.of_session]
        if alone:
            text = (
                f"there is no T1w image to align {names_of(alone)} with, so no preprocessed T2w"
                " image is written"
            )
            self._add("warning", [text])
        sessions = [plan.image.session for plan in plans if plan not in alone]
        self._add("warning", [*_anatomy_notes(sessions, anatomies, "T2w images", "")])

    def _say_what_is_not_used(self, plan: ParticipantPlan) -> None:
        """Report requests that change nothing for this participant."""
        used = any(a.files or any(t.xfms for t in a.templates) for a in plan.anatomies)
        used = used or any(bold.precomputed for bold in plan.bold)
        if self._derivatives and not used:
            names = " or ".join(f"'{name}'" for name in self._derivatives)
            text = (
                f"nothing in the derivatives {names} is used: a part of the anatomy needs the"
                " session of its T1w image, an anatomy as a whole needs a preprocessed T1w image,"
                " brain mask, segmentation with three tissues and both transforms in one dataset"
            )
            self._add("warning", [text])
        sizes = self._spaces.std_labels
        if len(sizes) > 1 and "anat" in self._config.chosen and plan.anatomies:
            text = (
                f"anatomical images are written in {TEMPLATE_SPACE} with voxels of"
                f" {self._spaces.std_resolution} mm only, although {len(sizes)} resolutions are"
                " requested"
            )
            self._add("warning", [text])


def _with_t2w(anatomies: Anatomies, plans: Sequence[T2wPlan]) -> Iterator[AnatomyPlan]:
    """Add to each anatomy the T2w images of the sessions that use it."""
    for anatomy in anatomies.plans:
        ours = [p for p in plans if anatomies.of_session.get(p.image.session) is anatomy]
        yield replace(anatomy, t2w=tuple(ours))


def _anatomy_notes(
    sessions: Sequence[str | None], anatomies: Anatomies, runs: str, without: str
) -> Iterator[str]:
    """Report the sessions whose runs have no anatomy, or that of another session."""
    without_any = [s for s in dict.fromkeys(sessions) if s not in anatomies.of_session]
    if without_any:
        where = " and ".join(f"ses-{session}" for session in without_any if session)
        where = f" of {where}" if where else ""
        yield f"there is no T1w image. The {runs}{where} stay in native space, {without}"
    for session in dict.fromkeys(sessions):
        plan = anatomies.of_session.get(session)
        where = f" of ses-{session}" if session else ""
        if plan is None:
            continue
        if plan.source == "computed" and plan.session != session:
            other = f"of ses-{plan.session}" if plan.session else "without session"
            yield f"the {runs}{where} use the T1w image {other}"


def _inputs(plan: ParticipantPlan) -> Iterator[Path]:
    """List the files that results depend on, each once."""
    paths: dict[Path, None] = {}
    for anatomy in plan.anatomies:
        files = [path for image in anatomy.images for path in (image.path, *image.sidecars)]
        files += [t2w.image.path for t2w in anatomy.t2w]
        files += [Path(path) for path in _texts(anatomy.files)]
        files += [Path(x) for template in anatomy.templates for x in template.xfms or ()]
        for other in anatomy.templates:
            grids = (other.template.registration, *other.template.grids.values())
            files += [path for grid in grids for path in (grid.t1w, grid.mask)]
        paths |= dict.fromkeys(files)
    for bold in plan.bold:
        files = [run.path for run in bold.run.echoes]
        files += [bold.run.sbref] if bold.run.sbref is not None else []
        files += [Path(path) for path in (*bold.precomputed.values(), *bold.fieldmap.sources)]
        paths |= dict.fromkeys(files)
    for dwi in plan.dwi:
        files = [dwi.run.image.path, dwi.run.bval, dwi.run.bvec]
        paths |= dict.fromkeys([*files, *(Path(path) for path in dwi.fieldmap.sources)])
    for measured in plan.quality:
        paths |= dict.fromkeys(measured.inputs)
    yield from paths


def _texts(files: Mapping[str, Any]) -> Iterator[str]:
    for value in files.values():
        if isinstance(value, str):
            yield value
        elif isinstance(value, Mapping):
            yield from _texts(value)
        else:
            yield from value


def _bare(plan: ParticipantPlan) -> ParticipantPlan:
    """Remove the raw metadata of the images, and what was found on reading them."""

    def bare(image: Image) -> Image:
        return replace(image, metadata={}, sidecars=(), volumes=None)

    def bare_dwi(run: DwiRun) -> DwiRun:
        return replace(run, image=bare(run.image))

    return replace(
        plan,
        # the sidecars of T1w images are copied into their metrics
        anatomies=tuple(
            replace(a, images=tuple(replace(bare(i), sidecars=i.sidecars) for i in a.images))
            for a in plan.anatomies
        ),
        bold=tuple(
            replace(b, run=replace(b.run, echoes=tuple(map(bare, b.run.echoes))))
            for b in plan.bold
        ),
        dwi=tuple(replace(d, run=bare_dwi(d.run)) for d in plan.dwi),
        joined=tuple(Joined(tuple(map(bare_dwi, j.runs)), bare_dwi(j.run)) for j in plan.joined),
    )
