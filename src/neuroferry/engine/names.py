"""Names of steps: of which participant, of which kind, and as a person reads them."""

from __future__ import annotations

import re
from typing import Any

_SUBJECT = re.compile(r"(?:^|\.)sub_([0-9A-Za-z]+)_wf(?:\.|$)")


def subject_of(step: str) -> str | None:
    """Tell which participant a step belongs to, by the name of its subject's graph.

    Examples
    --------
    >>> subject_of("neuroferry_wf.sub_01_wf.anat_wf.correct_bias")
    '01'
    >>> subject_of("some_wf.node") is None
    True
    """
    match = _SUBJECT.search(step)
    return match.group(1) if match else None


def step_name(node: Any) -> str:
    """Full name of a node, with the values of its iterables where it has some."""
    parameters = getattr(node, "parameterization", None) or ()
    return ".".join([node.fullname, *parameters])


_SUBJECT_NODE = re.compile(r"(^|\.)sub_[0-9A-Za-z]+_wf(?=\.|$)")


def generic_name(step: str) -> str:
    """Name that a step has in every subject.

    Examples
    --------
    >>> generic_name("neuroferry_wf.sub_01_wf.anat_wf.correct_bias")
    'neuroferry_wf.sub_*_wf.anat_wf.correct_bias'
    """
    return _SUBJECT_NODE.sub(r"\1sub_*_wf", step)


_SUBJECT_STEP = re.compile(r"(^|\.)sub_[0-9A-Za-z]+_wf(?=\.|$)")


_SESSION = re.compile(r"(^|\.)ses_[0-9A-Za-z]+_")


_RUN = re.compile(r"(^|\.)run_[0-9]+_")


_BOLD = re.compile(r"(^|\.)bold_[0-9A-Za-z]+_[0-9A-Za-z_]+_wf(?=\.fit_wf|\.apply_wf|\.bold_)")


# the way to one of several templates, and a series in the space of one, at whatever resolution
_TEMPLATE = re.compile(r"(?<=\.anatomy_wf\.)to_[0-9a-z_]+_wf(?=\.)")


_OUTPUTS = re.compile(r"(?<=\.)(template_outputs|write_\w+?)_res_\d+(?=_wf\.|$)")


_SPACE = re.compile(
    r"(?<=\.)((?:resample|carry_mask|make_grid|chain|write_[a-z]+)_)[0-9a-z_]+_res_\d+$"
)


_ITEM = re.compile(r"(?<=\.)_(\w*?[A-Za-z])\d+$")


def kind_of(step: str) -> str:
    """Name of a step that is the same for every participant, session, run, template and item.

    Examples
    --------
    >>> kind_of("neuroferry_wf.sub_01_wf.ses_a_anatomy_wf.anat_wf.correct_bias")
    'neuroferry_wf.sub_*_wf.anatomy_wf.anat_wf.correct_bias'
    >>> kind_of("w.sub_01_wf.bold_task_rest_run_1_wf.fit_wf.estimate_motion")
    'w.sub_*_wf.bold_wf.fit_wf.estimate_motion'
    >>> kind_of("w.sub_01_wf.anatomy_wf.to_oasis_wf.template_outputs_res_2_wf.carry_to_template")
    'w.sub_*_wf.anatomy_wf.anat_wf.template_outputs_wf.carry_to_template'
    >>> kind_of("w.sub_01_wf.bold_task_rest_wf.apply_wf.resample_oasis_res_2")
    'w.sub_*_wf.bold_wf.apply_wf.resample_template'
    >>> kind_of("w.smooth._smooth12")
    'w.smooth._smooth*'
    """
    name = _SUBJECT_STEP.sub(r"\1sub_*_wf", step)
    name = _BOLD.sub(r"\1bold_wf", _RUN.sub(r"\1", _SESSION.sub(r"\1", name)))
    if ".bold_wf." in name:
        name = _SPACE.sub(r"\1template", name)
    elif ".anatomy_wf.to_" in name:
        name = _OUTPUTS.sub(r"\1", _TEMPLATE.sub("anat_wf", name))
        name = name.replace(".anat_wf.template_derivatives_wf.", ".anat_derivatives_wf.")
    return _ITEM.sub(r"_\1*", name)


def short_name(step: str) -> str:
    """Name a step as a person would.

    Examples
    --------
    >>> short_name("neuroferry_wf.sub_01_wf.anat_wf.brain_extraction_wf.find_brain")
    'sub-01 anat > brain extraction > find brain'
    >>> short_name("neuroferry_wf.sub_01_wf.ses_a_anat_wf.correct_bias")
    'sub-01 ses a anat > correct bias'
    """
    parts = step.split(".")
    subject = ""
    names = []
    for part in parts[1:] if len(parts) > 1 else parts:
        match = re.fullmatch(r"sub_([0-9A-Za-z]+)_wf", part)
        if match:
            subject = f"sub-{match[1]} "
        else:
            names.append(part.removesuffix("_wf").strip("_").replace("_", " "))
    return subject + " > ".join(names)


def plain_step(step: str) -> str:
    """Name a step in plain words, without the graphs around it.

    Examples
    --------
    >>> plain_step("neuroferry_wf.sub_01_wf.ses_a_wf.anat_wf.brain_extraction_wf.fit_affine")
    'fit affine'
    """
    return step.rpartition(".")[2].replace("_", " ")


def step_place(step: str) -> str:
    """Name the graphs that a step lies in, without those of the run and the participant.

    Examples
    --------
    >>> step_place("neuroferry_wf.sub_01_wf.anat_wf.brain_extraction_wf.fit_affine")
    'anat > brain extraction'
    >>> step_place("neuroferry_wf.sub_01_wf.ses_a_anat_wf.fit")
    'ses a anat'
    """
    parts = step.split(".")[:-1]
    kept = [p for n, p in enumerate(parts) if n > 0 and not re.fullmatch(r"sub_\w+_wf", p)]
    return " > ".join(p.removesuffix("_wf").replace("_", " ") for p in kept)
