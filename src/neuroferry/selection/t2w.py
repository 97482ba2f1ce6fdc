"""Choice of the T2w images that are aligned with the anatomy of a session.

Each image is aligned on its own and written under its own name. Unlike T1w images they are never
averaged: one interpolation brings each onto the grid of the T1w image, and acquisitions of
different contrast or field of view stay apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from neuroferry.bids.entities import in_node_name
from neuroferry.bids.headers import image_grid
from neuroferry.bids.model import Image, Subject
from neuroferry.selection.t1w import why_no_head


@dataclass(frozen=True)
class T2wPlan:
    """Plan of one T2w image that is aligned with an anatomy.

    Attributes
    ----------
    image : Image
        The image, without metadata.
    shape : tuple of int
        Voxels along the stored axes.
    label : str
        Name in a graph: its entities other than participant and session; may be empty.
    """

    image: Image
    shape: tuple[int, int, int]

    @property
    def label(self) -> str:
        """Name in a graph: its entities other than participant and session; may be empty."""
        return "_".join(
            f"{key}_{in_node_name(value)}"
            for key, value in self.image.entities.items()
            if key not in ("subject", "session")
        )


def choose_t2w(subject: Subject) -> tuple[tuple[T2wPlan, ...], dict[Path, str]]:
    """Find the T2w images of a participant that are aligned with an anatomy.

    Parameters
    ----------
    subject : Subject
        Participant with readable images.

    Returns
    -------
    plans : tuple of T2wPlan
        One for each image, in the order of the names.
    left_out : dict of Path to str
        Why others are left out, as sentences without their subject.
    """
    images = subject.select("anat", "T2w")
    left_out = {image.path: why for image in images if (why := why_no_head(image))}
    plans = [_plan(image) for image in images if image.path not in left_out]
    return tuple(plans), left_out


def _plan(image: Image) -> T2wPlan:
    shape, _ = image_grid(image.path)
    return T2wPlan(replace(image, metadata={}, sidecars=(), volumes=None), shape)


def names_of(plans: Sequence[T2wPlan]) -> str:
    """Join the file names of images for a sentence."""
    return " and ".join(plan.image.path.name for plan in plans)
