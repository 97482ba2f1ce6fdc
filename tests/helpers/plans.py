"""Plans and graphs of participants that tests make up."""

from pathlib import Path
from typing import Any

from neuroferry.bids.model import Subject
from neuroferry.config import WorkflowConfig
from neuroferry.selection.participant import ParticipantPlan, plan_participant
from neuroferry.selection.spaces import parse_output_spaces
from neuroferry.workflows.base import BuildSettings, init_neuroferry_wf

ANATOMY = ("anat", "qc")


def plan_of(
    subject: Subject,
    *,
    templateflow_home: Path | None = None,
    derivatives: dict[str, Path] | None = None,
    **workflow: Any,
) -> ParticipantPlan:
    """Plan a participant with some settings; without ``workflows`` its anatomy alone."""
    config = WorkflowConfig(**{"workflows": ANATOMY, **workflow})
    spaces = parse_output_spaces(config.output_spaces, templateflow_home)
    return plan_participant(subject, config, spaces, derivatives)


def workflow_of(
    *subjects: Subject,
    folder: Path,
    templateflow_home: Path | None = None,
    derivatives: dict[str, Path] | None = None,
    omp_nthreads: int = 1,
    **workflow: Any,
) -> Any:
    """Build the workflow of some participants, with input and output below a folder."""
    config = WorkflowConfig(**{"workflows": ANATOMY, **workflow})
    spaces = parse_output_spaces(config.output_spaces, templateflow_home)
    plans = [plan_participant(subject, config, spaces, derivatives) for subject in subjects]
    settings = BuildSettings(folder / "bids", folder / "out", config, omp_nthreads)
    built = init_neuroferry_wf(plans=plans, settings=settings)
    built.base_dir = str(folder / "work")
    return built
