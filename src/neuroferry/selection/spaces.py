"""The spaces that BOLD series are written in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from neuroferry.errors import UsageError
from neuroferry.templates import (
    TEMPLATE_SPACE,
    OtherTemplate,
    SpaceName,
    TemplateGrid,
    parse_space,
)

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
        In template space: voxel size, mm, or of another template the label of the grid;
        elsewhere voxels are the BOLD's own.
    template : OtherTemplate or None
        The template, where it is another than the one that is always there.

    Examples
    --------
    >>> BoldSpace("T1w").entities, BoldSpace("MNI152NLin2009aSym", 2).node
    ({'space': 'T1w'}, 'mni152nlin2009asym_res_2')
    """

    name: str
    resolution: int | None = None
    template: OtherTemplate | None = None

    @property
    def is_native(self) -> bool:
        """Whether it is the space of the BOLD itself."""
        return self.name == "bold"

    @property
    def in_template(self) -> bool:
        """Whether it is the space of a template."""
        return self.resolution is not None or self.template is not None

    @property
    def grid(self) -> TemplateGrid | None:
        """Grid of another template, as files."""
        if self.template is None:
            return None
        return self.template.grid(None if self.resolution is None else str(self.resolution))

    @property
    def anat2std_xfm(self) -> str:
        """Field of the graph with the transform from the T1w image to the template."""
        return anat2std_field(self.template)

    @property
    def entities(self) -> dict[str, str]:
        """What a file's name says of its space."""
        if self.is_native:
            return {}
        space = {"space": self.name} if self.template is None else self.template.entities
        if self.resolution is None:
            return space
        return {**space, "resolution": str(self.resolution)}

    @property
    def node(self) -> str:
        """Name in a graph."""
        size = "" if self.resolution is None else f"_res_{self.resolution}"
        name = self.name.lower() if self.template is None else self.template.node
        return f"{name}{size}"


def wants_t1w(output_spaces: Sequence[str]) -> bool:
    """Tell whether the space of the T1w image is among those that are asked for.

    >>> wants_t1w(["MNI152NLin2009aSym:res-2", "anat"]), wants_t1w(["bold"])
    (True, False)
    """
    return any(text.partition(":")[0] in ANATOMICAL for text in output_spaces)


def anat2std_field(template: OtherTemplate | None) -> str:
    """Name the field with the transform from the T1w image to a template."""
    return "anat2std_xfm" if template is None else f"anat2{template.node}_xfm"


def bold_spaces(
    output_spaces: Sequence[str],
    *,
    with_anat: bool = True,
    templates: Sequence[OtherTemplate] = (),
) -> tuple[BoldSpace, ...]:
    """Choose the spaces of the BOLD series.

    Parameters
    ----------
    output_spaces : sequence of str
        As the user gives them; in template space a BOLD has 2 mm voxels unless ``res`` says
        something else, as 1 mm would be eight times the data and no more information. Of
        another template it is the grid with the label 2, or the only one that there is.
    with_anat : bool
        Whether there is a T1w image. Without one only the BOLD's own space can be had.
    templates : sequence of OtherTemplate
        The other templates among the spaces.

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
    others = {(template.name, template.cohort): template for template in templates}
    spaces: dict[BoldSpace, None] = {}
    for text in output_spaces:
        name, _, modifier = text.partition(":")
        if name in NATIVE:
            space = BoldSpace("bold")
        elif name in ANATOMICAL:
            space = BoldSpace("T1w")
        elif name == TEMPLATE_SPACE:
            label = modifier.removeprefix("res-")
            space = BoldSpace(TEMPLATE_SPACE, int(label) if label else DEFAULT_RESOLUTION)
        else:
            space = _other_space(text, others)
        spaces[space] = None
    return tuple(spaces)


def _other_space(text: str, others: Mapping[tuple[str, str | None], OtherTemplate]) -> BoldSpace:
    """Choose the grid of another template."""
    wanted = parse_space(text)
    if wanted is None:
        raise ValueError(f"{text!r} is no space of a template")
    template = others[wanted.name, wanted.cohort]
    if wanted.resolution is not None:
        return BoldSpace(wanted.name, int(wanted.resolution), template)
    usual = DEFAULT_RESOLUTION if str(DEFAULT_RESOLUTION) in template.grids else None
    return BoldSpace(wanted.name, usual, template)


_NATIVE_SPACES = ("T1w", "anat", "bold", "func")


def other_spaces(output_spaces: Sequence[str]) -> list[SpaceName]:
    """Pick the spaces of other templates than the one that is always there.

    Raises
    ------
    UsageError
        For what cannot be the space of a template.

    Examples
    --------
    >>> [space.name for space in other_spaces(["T1w", "MNI152NLin2009cAsym:res-2"])]
    ['MNI152NLin2009cAsym']
    """
    found = []
    for text in output_spaces:
        if text.partition(":")[0] in (*_NATIVE_SPACES, TEMPLATE_SPACE):
            continue
        space = parse_space(text)
        if space is None:
            raise UsageError(
                f"'{text}' is no output space: write the space of a template as NAME, NAME:res-2 "
                "or NAME:cohort-1:res-2."
            )
        found.append(space)
    return found


def std_resolution(output_spaces: Sequence[str]) -> int:
    """Find the voxel size in mm that is asked for in the space of our own template.

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
        native = template in _NATIVE_SPACES
        if (native and not modifier) or not (native or template == TEMPLATE_SPACE):
            continue
        label = modifier.removeprefix("res-")
        known = not native and (not modifier or modifier.startswith("res-"))
        if not known or (modifier and label not in ("1", "2", "3", "4")):
            raise UsageError(
                f"'{space}' is no output space that neuroferry can make. Choose bold, T1w, "
                f"{TEMPLATE_SPACE}, or {TEMPLATE_SPACE}:res-2 (1 to 4 mm)."
            )
        resolution = int(label or 1)
    return resolution
