"""Choice of the anatomy of each session: computed from T1w images, or precomputed."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from neuroferry.bids.entities import in_node_name
from neuroferry.bids.headers import image_grid
from neuroferry.bids.model import Image, Subject
from neuroferry.bids.precomputed import (
    Anatomy,
    cite_precomputed,
    find_anatomy,
    find_precomputed,
)
from neuroferry.selection.spaces import OutputSpaces
from neuroferry.selection.t2w import T2wPlan
from neuroferry.templates import TEMPLATE_SPACE, OtherTemplate

Shape = tuple[int, int, int]
Zooms = tuple[float, float, float]
_XFMS = ("anat2std_xfm", "std2anat_xfm")


@dataclass(frozen=True)
class TemplatePlan:
    """Another template that an anatomy is registered to.

    Attributes
    ----------
    template : OtherTemplate
        The template.
    resolutions : tuple of (str or None)
        Labels of the grids that anatomical images are written on.
    xfms : tuple of (str, str) or None
        Precomputed transforms from the T1w image to the template and back.
    cited : mapping of str to list of str
        BIDS URIs of these.
    """

    template: OtherTemplate
    resolutions: tuple[str | None, ...] = ()
    xfms: tuple[str, str] | None = None
    cited: Mapping[str, list[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class AnatomyPlan:
    """Plan of one anatomy: its source, and the size of its T1w image.

    Attributes
    ----------
    session : str or None
        Session of the T1w images or, for a precomputed anatomy, of the runs that use it.
    source : {"computed", "precomputed"}
        Whether a workflow computes it or its files are used as they are.
    why : str
        Reason, as a clause.
    shape : tuple of int
        Voxels of the T1w image along the stored axes.
    zooms : tuple of float
        Voxel size, mm.
    images : tuple of Image
        T1w images that it is computed from.
    shapes : tuple of tuple of int
        Voxels of each image.
    files : mapping of str to (str or list of str)
        Precomputed files: those that replace steps, or a complete precomputed anatomy.
    cited : mapping of str to list of str
        BIDS URIs of these.
    templates : tuple of TemplatePlan
        Other templates to which it has transforms.
    with_std : bool
        Whether its images are written in the space of the built-in template.
    std_label : str or None
        Value of their ``res`` entity, the voxel size in mm; None for voxels of 1 mm without it.
    t2w : tuple of T2wPlan
        T2w images that are aligned with it.
    """

    session: str | None
    source: Literal["computed", "precomputed"]
    why: str
    shape: Shape
    zooms: Zooms
    images: tuple[Image, ...] = ()
    shapes: tuple[Shape, ...] = ()
    files: Mapping[str, Any] = field(default_factory=dict)
    cited: Mapping[str, list[str]] = field(default_factory=dict)
    templates: tuple[TemplatePlan, ...] = ()
    with_std: bool = False
    std_label: str | None = None
    t2w: tuple[T2wPlan, ...] = ()

    @property
    def node(self) -> str:
        """Name of its workflow or node in the participant's graph."""
        own = "anatomy_wf" if self.source == "computed" else "given_anatomy"
        return session_prefix(self.session) + own


def session_prefix(session: str | None) -> str:
    """Begin the names of a session's workflows and nodes.

    >>> session_prefix("a"), session_prefix(None)
    ('ses_a_', '')
    """
    return "" if session is None else f"ses_{in_node_name(session)}_"


@dataclass(frozen=True)
class Anatomies:
    """The anatomies of a participant.

    Attributes
    ----------
    plans : tuple of AnatomyPlan
        Each once.
    of_session : mapping of (str or None) to AnatomyPlan
        The anatomy used by the runs of a session; sessions without one are missing.
    errors, warnings : tuple of str
        Sentences for the user.
    """

    plans: tuple[AnatomyPlan, ...]
    of_session: Mapping[str | None, AnatomyPlan]
    errors: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def t1w_of_session(subject: Subject, session: str | None) -> tuple[Image, ...]:
    """Choose the T1w images for a session's runs.

    Returns
    -------
    tuple of Image
        Those of the session itself, or else of the first session that has any.

    Examples
    --------
    >>> t1w = Image(Path("sub-01_ses-a_T1w.nii.gz"), {"session": "a"}, "T1w", "anat")
    >>> t1w_of_session(Subject("01", (t1w,)), "b") == (t1w,)
    True
    """
    sessions = _t1w_sessions(subject)
    if not sessions:
        return ()
    chosen = session if session in sessions else sessions[0]
    return tuple(run for run in subject.select("anat", "T1w") if run.session == chosen)


def _t1w_sessions(subject: Subject) -> list[str | None]:
    images = subject.select("anat", "T1w")
    return [label for label in subject.sessions if any(r.session == label for r in images)]


def plan_anatomies(
    subject: Subject,
    run_sessions: Iterable[str | None],
    *,
    workflows: Collection[str],
    derivatives: Mapping[str, Path],
    spaces: OutputSpaces,
) -> Anatomies:
    """Decide which anatomies to compute, and which precomputed ones to use.

    Parameters
    ----------
    subject : Subject
        Its images.
    run_sessions : iterable of (str or None)
        Sessions of the BOLD and DWI runs and T2w images that need an anatomy.
    workflows : collection of str
        Requested workflows: with ``anat`` or ``qc`` the anatomy of every session is computed,
        with ``anat`` it is also written in template space.
    derivatives : mapping of str to pathlib.Path
        Precomputed datasets by name.
    spaces : OutputSpaces
        A precomputed anatomy replaces a computed one only if it has the transforms to all of
        their templates.

    Returns
    -------
    Anatomies

    Raises
    ------
    InputError
        If a precomputed dataset has two files for one part.
    """
    there, wanted = _t1w_sessions(subject), [*dict.fromkeys(run_sessions)]
    precomputed: dict[str | None, AnatomyPlan] = {}
    whys: dict[str | None, str] = {}
    warnings: list[str] = []
    asked = [name for name in ("anat", "qc") if name in workflows]
    if asked:
        whys = dict.fromkeys(there, f"for {' and '.join(asked)}")
    for session in wanted:
        t1w = t1w_of_session(subject, session)
        if t1w and t1w[0].session in whys:
            continue
        found = _find_whole(subject, session, derivatives, spaces.templates)
        if found is None and t1w:
            whys[t1w[0].session] = "for its BOLD or DWI runs"
            warnings += _lacking(subject, session, derivatives, spaces.templates)
        elif found is not None:
            precomputed[session] = _precomputed(session, found, spaces.templates)
    computed = {
        session: _computed(subject, session, whys[session], workflows, derivatives, spaces)
        for session in there
        if session in whys
    }
    errors: list[str] = []
    of_session: dict[str | None, AnatomyPlan] = {}
    for session in wanted:
        t1w = t1w_of_session(subject, session)
        plan = computed.get(t1w[0].session) if t1w else precomputed.get(session)
        plan = plan or precomputed.get(session)
        if plan is None:
            plan, lost = _find_partly(subject, session, derivatives, spaces.templates)
            errors += lost
        if plan is not None:
            of_session[session] = plan
    own = [plan for plan in of_session.values() if plan.source == "precomputed"]
    return Anatomies((*computed.values(), *own), of_session, tuple(errors), tuple(warnings))


def _computed(
    subject: Subject,
    session: str | None,
    why: str,
    workflows: Collection[str],
    derivatives: Mapping[str, Path],
    spaces: OutputSpaces,
) -> AnatomyPlan:
    """Plan an anatomy computed from a session's T1w images, with its precomputed parts."""
    images = tuple(run for run in subject.select("anat", "T1w") if run.session == session)
    parts = find_precomputed(derivatives, subject.label, session, TEMPLATE_SPACE)
    templates = []
    for template in spaces.templates:
        found = find_precomputed(derivatives, subject.label, session, template.label)
        cited = cite_precomputed(found, derivatives, subject.label)
        templates.append(
            TemplatePlan(
                template,
                spaces.resolutions_of(template) if "anat" in workflows else (),
                (found["anat2std_xfm"], found["std2anat_xfm"]) if _XFMS[0] in found else None,
                {name: cited[name] for name in _XFMS if name in cited},
            )
        )
    grids = [image_grid(run.path) for run in images]
    return AnatomyPlan(
        session,
        "computed",
        why,
        *grids[0],
        images=images,
        shapes=tuple(shape for shape, _ in grids),
        files=parts,
        cited=cite_precomputed(parts, derivatives, subject.label),
        templates=tuple(templates),
        with_std="anat" in workflows and spaces.with_std,
        std_label=spaces.std_label,
    )


def _precomputed(
    session: str | None, found: Anatomy, templates: Sequence[OtherTemplate]
) -> AnatomyPlan:
    """Plan the use of a complete precomputed anatomy."""
    t1w = Path(found["t1w_preproc"])
    why = f"complete in --derivatives, as {t1w.name}"
    return AnatomyPlan(
        session,
        "precomputed",
        why,
        *image_grid(t1w),
        files=found,
        templates=tuple(TemplatePlan(template) for template in templates),
    )


def _find_whole(
    subject: Subject,
    session: str | None,
    derivatives: Mapping[str, Path],
    templates: Sequence[OtherTemplate],
) -> Anatomy | None:
    """Find a complete precomputed anatomy: of the session, or without session.

    That of another session counts only for a session without a T1w image of its own.
    """
    others = [template.label for template in templates]
    elsewhere = () if session in _t1w_sessions(subject) else subject.sessions
    for label in dict.fromkeys([session, None, *elsewhere]):
        found = find_anatomy(derivatives, subject.label, label, TEMPLATE_SPACE, others)
        if found is not None:
            return found
    return None


def _lacking(
    subject: Subject,
    session: str | None,
    derivatives: Mapping[str, Path],
    templates: Sequence[OtherTemplate],
) -> list[str]:
    """Explain why an existing precomputed anatomy is not used."""
    if not templates or _find_whole(subject, session, derivatives, ()) is None:
        return []
    missing = _unreached(subject, session, derivatives, templates)
    where = f" of ses-{session}" if session else ""
    return [
        f"the precomputed anatomy{where} has no transform to {_listed(missing)}, so the anatomy is"
        " computed from the T1w image"
    ]


def _find_partly(
    subject: Subject,
    session: str | None,
    derivatives: Mapping[str, Path],
    templates: Sequence[OtherTemplate],
) -> tuple[AnatomyPlan | None, list[str]]:
    """Find a precomputed anatomy that lacks transforms, for use without a T1w image."""
    if not templates or _find_whole(subject, session, derivatives, ()) is None:
        return None, []
    missing = _unreached(subject, session, derivatives, templates)
    reached = [template for template in templates if template not in missing]
    found = _find_whole(subject, session, derivatives, reached)
    assert found is not None
    where = f" of ses-{session}" if session else ""
    text = (
        f"no outputs{where} are written in {_listed(missing)}: the precomputed anatomy has no"
        " transform to that space, and there is no T1w image to compute one from. Add the"
        " transform to the derivatives, or omit the space"
    )
    return _precomputed(session, found, reached), [text]


def _unreached(
    subject: Subject,
    session: str | None,
    derivatives: Mapping[str, Path],
    templates: Sequence[OtherTemplate],
) -> list[OtherTemplate]:
    """List the templates that no single precomputed anatomy reaches along with the others."""
    reached: list[OtherTemplate] = []
    for template in templates:
        if _find_whole(subject, session, derivatives, [*reached, template]) is not None:
            reached.append(template)
    return [template for template in templates if template not in reached]


def _listed(templates: Sequence[OtherTemplate]) -> str:
    return " and ".join(template.label for template in templates)
