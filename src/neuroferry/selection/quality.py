"""Which images have their quality measured, and what the measurement needs to know about each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from neuroferry.bids.bold import BoldRun
from neuroferry.bids.dwi import DwiRun
from neuroferry.bids.entities import in_node_name
from neuroferry.bids.headers import image_grid
from neuroferry.bids.model import OTHER_PARTS, Image, Subject
from neuroferry.config import WorkflowConfig

Modality = Literal["T1w", "T2w", "bold", "dwi"]


@dataclass(frozen=True)
class QualityPlan:
    """Plan of the quality metrics of one image.

    Attributes
    ----------
    modality : str
        Its suffix: ``"T1w"``, ``"T2w"``, ``"bold"`` or ``"dwi"``.
    image : Image
        The image with its sidecars, but without their content. Each echo of a run is an image of
        its own.
    shape : tuple of int
        Voxels along the stored axes, of one volume.
    zooms : tuple of float
        Voxel size, mm.
    n_volumes : int
        Number of volumes; 1 for an anatomical image.
    bold : BoldRun or None
        The run of a BOLD image, with its final repetition time.
    dwi : DwiRun or None
        The run of a DWI image, with its final gradients.
    label : str
        Name in a graph: its entities other than the participant, and its suffix.
    """

    modality: Modality
    image: Image
    shape: tuple[int, int, int]
    zooms: tuple[float, float, float]
    n_volumes: int = 1
    bold: BoldRun | None = None
    dwi: DwiRun | None = None

    @property
    def label(self) -> str:
        """Name in a graph: its entities other than the participant, and its suffix."""
        words = [
            f"{key}_{in_node_name(value)}"
            for key, value in self.image.entities.items()
            if key != "subject"
        ]
        return "_".join([*words, self.image.suffix])

    @property
    def inputs(self) -> tuple[Path, ...]:
        """Files that the metrics depend on."""
        gradients = () if self.dwi is None else (self.dwi.bval, self.dwi.bvec)
        return (self.image.path, *self.image.sidecars, *gradients)


def measures_t1w_alone(config: WorkflowConfig) -> bool:
    """Whether T1w images are measured without the anatomical workflow."""
    return set(config.chosen) == {"qc"} and "T1w" in config.measured


def plan_quality(
    subject: Subject,
    config: WorkflowConfig,
    bold: Sequence[BoldRun] = (),
    dwi: Sequence[DwiRun] = (),
) -> tuple[QualityPlan, ...]:
    """Plan the metrics that need no other workflow.

    Parameters
    ----------
    subject : Subject
        Participant with readable images.
    config : WorkflowConfig
        Settings. T1w images are listed only if no other workflow is requested: otherwise the
        anatomical workflow measures them with its own masks.
    bold, dwi : sequence of run
        The usable runs.

    Returns
    -------
    tuple of QualityPlan
        In the order T1w, T2w, BOLD, DWI, and of names.
    """
    plans: list[QualityPlan] = []
    for modality in ("T1w", "T2w"):
        if modality == "T1w" and not measures_t1w_alone(config):
            continue
        if modality in config.measured:
            plans += [
                _of_image(modality, image)
                for image in subject.select("anat", modality)
                if image.entities.get("part") not in OTHER_PARTS
            ]
    if "bold" in config.measured:
        plans += [
            replace(
                _plan("bold", echo, run.shape, run.zooms), n_volumes=run.n_volumes, bold=_bare(run)
            )
            for run in bold
            for echo in run.echoes
        ]
    if "dwi" in config.measured:
        plans += [
            replace(
                _plan("dwi", run.image, run.shape, run.zooms),
                n_volumes=run.n_volumes,
                dwi=replace(run, image=_without_metadata(run.image)),
            )
            for run in dwi
        ]
    return tuple(plans)


def _of_image(modality: Modality, image: Image) -> QualityPlan:
    return _plan(modality, image, *image_grid(image.path))


def _plan(
    modality: Modality,
    image: Image,
    shape: tuple[int, int, int],
    zooms: tuple[float, float, float],
) -> QualityPlan:
    bare = replace(_without_metadata(image), sidecars=image.sidecars)
    return QualityPlan(modality, bare, shape, zooms)


def _bare(run: BoldRun) -> BoldRun:
    return replace(run, echoes=tuple(map(_without_metadata, run.echoes)))


def _without_metadata(image: Image) -> Image:
    return replace(image, metadata={}, sidecars=(), volumes=None)
