"""Output spaces, parsed once from the command line."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from neuroferry.errors import UsageError
from neuroferry.templates import (
    TEMPLATE_SPACE,
    OtherTemplate,
    SpaceName,
    TemplateGrid,
    find_templates,
    parse_space,
)

#: Voxel size of BOLD series in template space, mm, and the label of that grid: 1 mm would be
#: eight times the data without more information.
BOLD_RESOLUTION = 2
_BOLD = ("bold", "func")
_ANATOMICAL = ("T1w", "anat")
_RESOLUTIONS = ("1", "2", "3", "4")


@dataclass(frozen=True)
class BoldSpace:
    """One space that a BOLD series is written in.

    Attributes
    ----------
    name : str
        ``bold``, ``T1w`` or the template's.
    resolution : int or None
        In the built-in template's space the voxel size in mm, in another template's the label
        of the grid; None for the BOLD's own voxel size.
    template : OtherTemplate or None
        The template, unless it is the built-in one.

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
        """Whether it is the native space of the BOLD run."""
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
        """BIDS entities of the space, by their long names."""
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

    @property
    def kind(self) -> str:
        """Kind of space, the same for all templates and resolutions."""
        return "template" if self.in_template else self.node

    @property
    def text(self) -> str:
        """The space as written on the command line.

        >>> BoldSpace("MNI152NLin2009aSym", 2).text
        'MNI152NLin2009aSym:res-2'
        """
        cohort = self.template.cohort if self.template is not None else None
        parts = [self.name]
        parts += [] if cohort is None else [f"cohort-{cohort}"]
        parts += [] if self.resolution is None else [f"res-{self.resolution}"]
        return ":".join(parts)


def anat2std_field(template: OtherTemplate | None) -> str:
    """Build the name of the field with the transform from the T1w image to a template."""
    return "anat2std_xfm" if template is None else f"anat2{template.node}_xfm"


@dataclass(frozen=True)
class OutputSpaces:
    """The requested output spaces.

    Attributes
    ----------
    requested : tuple of SpaceName
        Each as parsed, in the order given; ``bold`` and ``T1w`` for the native ones.
    templates : tuple of OtherTemplate
        Those from the user's TemplateFlow folder, each once.
    """

    requested: tuple[SpaceName, ...]
    templates: tuple[OtherTemplate, ...] = ()

    @property
    def with_t1w(self) -> bool:
        """Whether the space of the T1w image is among them."""
        return any(space.name == "T1w" for space in self.requested)

    @property
    def std_labels(self) -> tuple[str | None, ...]:
        """Labels of ``res-`` for the built-in template's space, each once."""
        labels = (s.resolution for s in self.requested if s.name == TEMPLATE_SPACE)
        return tuple(dict.fromkeys(labels))

    @property
    def std_label(self) -> str | None:
        """Label of ``res-`` for the built-in template's space; None where it has none."""
        labels = [s.resolution for s in self.requested if s.name == TEMPLATE_SPACE]
        return labels[-1] if labels else None

    @property
    def with_std(self) -> bool:
        """Whether the built-in template's space is among them."""
        return any(space.name == TEMPLATE_SPACE for space in self.requested)

    @property
    def std_resolution(self) -> int:
        """Voxel size of anatomical files in the built-in template's space, mm."""
        return int(self.std_label or 1)

    def resolutions_of(self, template: OtherTemplate) -> tuple[str | None, ...]:
        """List the requested grids of another template, each once."""
        key = (template.name, template.cohort)
        wanted = (s.resolution for s in self.requested if (s.name, s.cohort) == key)
        return tuple(dict.fromkeys(wanted))

    def of_bold(
        self, *, with_anat: bool = True, templates: Collection[OtherTemplate] | None = None
    ) -> tuple[BoldSpace, ...]:
        """Choose the spaces of a BOLD series.

        Parameters
        ----------
        with_anat : bool
            Whether there is an anatomy. Without one only the BOLD's own space is possible.
        templates : collection of OtherTemplate, optional
            Other templates to which the anatomy has transforms; by default all.

        Returns
        -------
        tuple of BoldSpace
            Each once, in the requested order. In template space voxels are 2 mm unless ``res`` is
            given; for another template it is the grid with the label 2, or its registration grid.
        """
        if not with_anat:
            return (BoldSpace("bold"),)
        reachable = self.templates if templates is None else templates
        others = {(template.name, template.cohort): template for template in reachable}
        spaces: dict[BoldSpace, None] = {}
        for space in self.requested:
            if space.name in ("bold", "T1w"):
                spaces[BoldSpace(space.name)] = None
            elif space.name == TEMPLATE_SPACE:
                spaces[BoldSpace(space.name, int(space.resolution or BOLD_RESOLUTION))] = None
            elif (space.name, space.cohort) in others:
                spaces[_on_grid(space, others[space.name, space.cohort])] = None
        return tuple(spaces)


def _on_grid(space: SpaceName, template: OtherTemplate) -> BoldSpace:
    """Choose the grid of another template."""
    if space.resolution is not None:
        return BoldSpace(space.name, int(space.resolution), template)
    usual = BOLD_RESOLUTION if str(BOLD_RESOLUTION) in template.grids else None
    return BoldSpace(space.name, usual, template)


def parse_output_spaces(
    texts: Sequence[str], templateflow_home: Path | None = None
) -> OutputSpaces:
    """Parse the output spaces of the command line, and find their templates.

    Parameters
    ----------
    texts : sequence of str
        ``bold`` or ``func``, ``T1w`` or ``anat``, ``MNI152NLin2009aSym`` with ``:res-1`` to
        ``:res-4``, and templates of `templateflow_home` as ``NAME``, ``NAME:res-2`` or
        ``NAME:cohort-1:res-2``.
    templateflow_home : pathlib.Path or None
        Folder with TemplateFlow templates.

    Raises
    ------
    UsageError
        For a text that is not an output space, or a template without a TemplateFlow folder.
    InputError
        For a template that is not in the folder.

    Examples
    --------
    >>> spaces = parse_output_spaces(["MNI152NLin2009aSym", "func", "anat"])
    >>> [space.entities for space in spaces.of_bold()]
    [{'space': 'MNI152NLin2009aSym', 'resolution': '2'}, {}, {'space': 'T1w'}]
    >>> spaces.std_resolution, spaces.with_t1w
    (1, True)
    >>> parse_output_spaces(["MNI152NLin2009aSym:res-7"])
    Traceback (most recent call last):
        ...
    neuroferry.errors.UsageError: 'MNI152NLin2009aSym:res-7' is not an output space: choose \
bold, T1w, MNI152NLin2009aSym, or MNI152NLin2009aSym:res-2 (1 to 4 mm).
    """
    requested = tuple(_parse(text) for text in texts)
    own = ("bold", "T1w", TEMPLATE_SPACE)
    others = [space for space in requested if space.name not in own]
    return OutputSpaces(requested, find_templates(others, templateflow_home))


def _parse(text: str) -> SpaceName:
    name, _, modifier = text.partition(":")
    if name in (*_BOLD, *_ANATOMICAL, TEMPLATE_SPACE):
        native = {**dict.fromkeys(_BOLD, "bold"), **dict.fromkeys(_ANATOMICAL, "T1w")}.get(name)
        if native is not None and not modifier:
            return SpaceName(native, None, None)
        label = modifier.removeprefix("res-")
        if native is None and (not modifier or (label != modifier and label in _RESOLUTIONS)):
            return SpaceName(name, None, label or None)
        raise UsageError(
            f"'{text}' is not an output space: choose bold, T1w, {TEMPLATE_SPACE}, or "
            f"{TEMPLATE_SPACE}:res-2 (1 to 4 mm)."
        )
    space = parse_space(text)
    if space is None:
        raise UsageError(
            f"'{text}' is not an output space: write a template's space as NAME, NAME:res-2 "
            "or NAME:cohort-1:res-2."
        )
    return space
