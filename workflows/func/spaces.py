"""The spaces that BOLD series are written in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from neuroferry.templates import TEMPLATE_SPACE

DEFAULT_RESOLUTION = 2
NATIVE = ("bold", "func")
ANATOMICAL = ("T1w", "anat")


@dataclass(frozen=True)
class BoldSpace:
    """One output space.

    Attributes
    ----------
    name : str
        ``bold``, ``T1w`` or the template's.
    resolution : int or None
        Voxel size in template space, mm; elsewhere the BOLD's own.

    Examples
    --------
    >>> BoldSpace("T1w").entities, BoldSpace("MNI152NLin2009aSym", 2).node
    ({'space': 'T1w'}, 'mni152nlin2009asym_res_2')
    """

    name: str
    resolution: int | None = None

    @property
    def is_native(self) -> bool:
        """Whether it is the space of the BOLD itself."""
        return self.name == "bold"

    @property
    def entities(self) -> dict[str, str]:
        """What a file's name says of its space."""
        if self.is_native:
            return {}
        if self.resolution is None:
            return {"space": self.name}
        return {"space": self.name, "resolution": str(self.resolution)}

    @property
    def node(self) -> str:
        """Name in a graph."""
        size = "" if self.resolution is None else f"_res_{self.resolution}"
        return f"{self.name.lower()}{size}"


def bold_spaces(output_spaces: Sequence[str], *, with_anat: bool = True) -> tuple[BoldSpace, ...]:
    """Choose the spaces of the BOLD series.

    Parameters
    ----------
    output_spaces : sequence of str
        As the user gives them; in template space a BOLD has 2 mm voxels unless ``res`` says
        something else, as 1 mm would be eight times the data and no more information.
    with_anat : bool
        Whether there is a T1w image. Without one only the BOLD's own space can be had.

    Returns
    -------
    tuple of BoldSpace
        Each once, in the order of `output_spaces`.

    Examples
    --------
    >>> [space.entities for space in bold_spaces(["MNI152NLin2009aSym", "bold", "T1w"])]
    [{'space': 'MNI152NLin2009aSym', 'resolution': '2'}, {}, {'space': 'T1w'}]
    """
    if not with_anat:
        return (BoldSpace("bold"),)
    spaces: dict[BoldSpace, None] = {}
    for text in output_spaces:
        name, _, modifier = text.partition(":")
        if name in NATIVE:
            space = BoldSpace("bold")
        elif name in ANATOMICAL:
            space = BoldSpace("T1w")
        else:
            label = modifier.removeprefix("res-")
            space = BoldSpace(TEMPLATE_SPACE, int(label) if label else DEFAULT_RESOLUTION)
        spaces[space] = None
    return tuple(spaces)
