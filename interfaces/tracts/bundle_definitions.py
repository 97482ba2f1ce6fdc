"""Definitions of white matter bundles: template regions that their streamlines pass.

Definitions are data (``configs/bundles.toml``, or a user's file in the same format): shapes in mm
of MNI152NLin2009aSym, RAS+. A bundle with a left and a right side is defined on the left; the
template is symmetric, so the right side is its mirror image.
"""

from __future__ import annotations

import difflib
import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from neuroferry.errors import InputError
from neuroferry.files import read_toml
from neuroferry.templates import TEMPLATE_SPACE

DEFAULT_DEFINITIONS = Path(str(files("neuroferry.configs"))) / "bundles.toml"
SIDES = ("Left", "Right")
ROLES = ("include", "exclude", "start", "end")
# Bounds of the template's brain, mm: a region beyond them has other units or axes.
BRAIN = ((-76.0, -112.0, -75.0), (76.0, 80.0, 88.0))

Vector = tuple[float, float, float]


@dataclass(frozen=True)
class Region:
    """Region of the template.

    Attributes
    ----------
    name : str
        Name of the region.
    kind : {"box", "ellipsoid"}
        Axis-aligned box, or ellipsoid (a sphere has equal radii).
    first, second : tuple of float
        Lowest and highest corner of a box, or centre and radii of an ellipsoid; mm, RAS+.

    Examples
    --------
    >>> ball = Region("ball", "ellipsoid", (0.0, 0.0, 0.0), (2.0, 2.0, 2.0))
    >>> ball.contains(np.array([[0.0, 1.5], [0.0, 1.5], [0.0, 0.0]])).tolist()
    [True, False]
    """

    name: str
    kind: Literal["box", "ellipsoid"]
    first: Vector
    second: Vector

    def contains(self, points: NDArray[np.floating[Any]]) -> NDArray[np.bool_]:
        """Find the points inside the region.

        Parameters
        ----------
        points : ndarray of float, shape (3, N)
            RAS+ mm of the template.

        Returns
        -------
        ndarray of bool, shape (N,)
        """
        if self.kind == "box":
            inside = np.ones(points.shape[1], dtype=np.bool_)
            for axis in range(3):
                inside &= points[axis] >= self.first[axis]
                inside &= points[axis] <= self.second[axis]
            return inside
        distance = np.zeros(points.shape[1], dtype=points.dtype)
        for axis in range(3):
            distance += ((points[axis] - self.first[axis]) / self.second[axis]) ** 2
        return np.asarray(distance <= 1.0)

    def mirrored(self) -> Region:
        """Mirror the region across the midline.

        >>> Region("a", "box", (-9.0, 0.0, 0.0), (-3.0, 1.0, 1.0)).mirrored().first
        (3.0, 0.0, 0.0)
        """
        if self.kind == "box":
            low, high = -self.second[0], -self.first[0]
            return replace(self, first=(low, *self.first[1:]), second=(high, *self.second[1:]))
        return replace(self, first=(-self.first[0], *self.first[1:]))


@dataclass(frozen=True)
class BundleDefinition:
    """Criteria for the streamlines of a bundle.

    Attributes
    ----------
    name : str
        Name as spelt by AFQ and AFQ-Browser, such as ``Left Arcuate``.
    colour : tuple of int
        Red, green and blue, 0 to 255.
    include : tuple of Region
        All must be passed, in this order or in reverse; the bundle starts at the first.
    exclude : tuple of Region
        None may be passed.
    start, end : tuple of Region
        The bundle's first and last points lie in one of these; anywhere if empty.
    min_length, max_length : float
        Length of a streamline, mm in the participant's brain.
    sources : tuple of str
        Keys of the references in ``configs/references.toml``.
    """

    name: str
    colour: tuple[int, int, int]
    include: tuple[Region, ...]
    exclude: tuple[Region, ...]
    start: tuple[Region, ...]
    end: tuple[Region, ...]
    min_length: float
    max_length: float
    sources: tuple[str, ...]

    @property
    def label(self) -> str:
        """The name without characters that a file name cannot hold.

        >>> load_bundles()[0].label
        'LeftCorticospinal'
        """
        return "".join(c for c in self.name if c.isascii() and c.isalnum())


_BUNDLE_KEYS = (
    "name",
    "paired",
    "colour",
    "sources",
    "min_length",
    "max_length",
    *ROLES,
)


def load_bundles(path: Path | None = None) -> tuple[BundleDefinition, ...]:
    """Read and check bundle definitions.

    Parameters
    ----------
    path : pathlib.Path, optional
        TOML file; by default, the built-in definitions. With ``extend = true`` its bundles are
        added to the built-in ones, replacing those of the same name.

    Returns
    -------
    tuple of BundleDefinition
        Left before right, in the order of the file.

    Raises
    ------
    InputError
        If the file cannot be read or is not valid: the message names the bundle, the error and,
        for an unknown key, the nearest known one.
    """
    path = DEFAULT_DEFINITIONS if path is None else path
    values = read_toml(path, "file of bundles")
    check = _Reader(path.name)
    check.keys("the file", values, ("space", "extend", "bundles"))
    extend = values.get("extend", False)
    if not isinstance(extend, bool):
        raise check.wrong("the file", "extend must be true or false")
    if values.get("space") != TEMPLATE_SPACE:
        raise check.wrong("the file", f"space must be '{TEMPLATE_SPACE}'")
    entries = values.get("bundles")
    if not isinstance(entries, list) or not entries:
        raise check.wrong("the file", "it has no [[bundles]] table")
    bundles = [bundle for entry in entries for bundle in check.bundle(entry)]
    names = [bundle.name for bundle in bundles]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise check.wrong(twice[0], "it is defined twice")
    if extend and path != DEFAULT_DEFINITIONS:
        bundles = _extended(load_bundles(), bundles)
    labels: dict[str, str] = {}
    for bundle in bundles:
        other = labels.setdefault(bundle.label.lower(), bundle.name)
        if other != bundle.name:
            raise check.wrong(
                bundle.name, f"its files would have the same names as those of '{other}'"
            )
    return tuple(bundles)


def _extended(
    own: Sequence[BundleDefinition], more: Sequence[BundleDefinition]
) -> list[BundleDefinition]:
    """Add bundles to others, replacing those of the same name."""
    given = {bundle.name: bundle for bundle in more}
    first = [given.get(bundle.name, bundle) for bundle in own]
    taken = {bundle.name for bundle in first}
    return [*first, *(bundle for bundle in more if bundle.name not in taken)]


def digest_definitions(path: Path | None = None) -> str:
    """Compute the SHA-256 of a bundle definition file, by default the built-in one."""
    path = DEFAULT_DEFINITIONS if path is None else path
    return hashlib.sha256(path.read_bytes()).hexdigest()


@dataclass(frozen=True)
class _Reader:
    """Parser of the content of a TOML file, with errors that name the place."""

    file: str

    def wrong(self, where: str, what: str) -> InputError:
        return InputError(
            f"{self.file}, {where}: {what}. The format is described in docs/bundles.rst."
        )

    def keys(self, where: str, values: Mapping[str, Any], known: Iterable[str]) -> None:
        known = tuple(known)
        for key in values:
            if key not in known:
                near = difflib.get_close_matches(key, known, n=1, cutoff=0.0)[0]
                raise self.wrong(where, f"the key '{key}' is unknown; the nearest is '{near}'")

    def bundle(self, values: Any) -> list[BundleDefinition]:
        """Parse one entry: one bundle, or its left and right side."""
        if not isinstance(values, dict) or not isinstance(values.get("name"), str):
            raise self.wrong("a bundle", "it has no name")
        name = values["name"]
        if not name.isprintable() or not re.search("[0-9A-Za-z]", name):
            raise self.wrong(repr(name), "a name must be one line with letters or digits")
        self.keys(name, values, _BUNDLE_KEYS)
        regions = {role: self.regions(name, role, values.get(role, [])) for role in ROLES}
        if len(regions["include"]) < 2:
            raise self.wrong(name, "it needs at least two regions to include")
        for role in ("include", "start", "end"):
            for region in regions[role]:
                self.within(f"{name}, {role}, {region.name}", region)
        low = self.number(name, "min_length", values.get("min_length", 40))
        high = self.number(name, "max_length", values.get("max_length", 250))
        if not 0 <= low < high:
            raise self.wrong(name, "min_length must be below max_length")
        one = BundleDefinition(
            name=name,
            colour=self.colour(name, values.get("colour")),
            **regions,
            min_length=low,
            max_length=high,
            sources=self.words(name, values.get("sources", [])),
        )
        paired = values.get("paired", False)
        if not isinstance(paired, bool):
            raise self.wrong(name, "paired must be true or false")
        return [_side(one, side) for side in SIDES] if paired else [one]

    def regions(self, bundle: str, role: str, values: Any) -> tuple[Region, ...]:
        """Parse the regions of one role."""
        if not isinstance(values, list):
            raise self.wrong(bundle, f"{role} must be a list of regions")
        return tuple(self.region(f"{bundle}, {role}", value) for value in values)

    def region(self, where: str, values: Any) -> Region:
        """Parse one region."""
        if not isinstance(values, dict):
            raise self.wrong(where, "a region must be a table such as {name = ..., box = [...]}")
        name = values.get("name")
        if not isinstance(name, str):
            raise self.wrong(where, "a region has no name")
        where = f"{where}, {name}"
        self.keys(where, values, ("name", "box", "sphere", "ellipsoid"))
        shapes = [key for key in ("box", "sphere", "ellipsoid") if key in values]
        if len(shapes) != 1:
            raise self.wrong(where, "a region must have one of box, sphere and ellipsoid")
        kind = shapes[0]
        numbers = values[kind]
        count = 4 if kind == "sphere" else 6
        if not isinstance(numbers, list) or len(numbers) != count:
            raise self.wrong(where, f"{kind} needs {count} numbers (mm)")
        mm = [self.number(where, kind, number) for number in numbers]
        first: Vector = (mm[0], mm[1], mm[2])
        second: Vector = (mm[3],) * 3 if kind == "sphere" else (mm[3], mm[4], mm[5])
        if kind == "box":
            if any(low >= high for low, high in zip(first, second, strict=True)):
                raise self.wrong(where, "box must be the lowest corner, then the highest")
            return Region(name, "box", first, second)
        if min(second) <= 0:
            raise self.wrong(where, "a radius must be above zero")
        return Region(name, "ellipsoid", first, second)

    def within(self, where: str, region: Region) -> None:
        """Refuse a region outside the template's brain."""
        low, high = np.array(region.first), np.array(region.second)
        if region.kind == "ellipsoid":
            low, high = low - high, low + high
        if np.any(high < BRAIN[0]) or np.any(low > BRAIN[1]):
            raise self.wrong(
                where,
                f"the region lies outside the brain; use mm of {TEMPLATE_SPACE} (RAS+), not "
                "voxels",
            )

    def number(self, where: str, key: str, value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise self.wrong(where, f"{key} must be a number")
        if not np.isfinite(value):
            raise self.wrong(where, f"{key} must be finite")
        return float(value)

    def colour(self, where: str, value: Any) -> tuple[int, int, int]:
        if not isinstance(value, str) or not re.fullmatch("#[0-9a-fA-F]{6}", value):
            raise self.wrong(where, "colour must be a string such as '#E69F00'")
        red, green, blue = (int(value[n : n + 2], 16) for n in (1, 3, 5))
        return red, green, blue

    def words(self, where: str, value: Any) -> tuple[str, ...]:
        if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
            raise self.wrong(where, "sources must be a list of keys")
        return tuple(value)


def _side(bundle: BundleDefinition, side: str) -> BundleDefinition:
    """Make the left or the right bundle of a pair defined on the left."""
    if side == "Left":
        return replace(bundle, name=f"Left {bundle.name}")
    include, exclude, start, end = (
        tuple(region.mirrored() for region in getattr(bundle, role)) for role in ROLES
    )
    return replace(
        bundle,
        name=f"Right {bundle.name}",
        include=include,
        exclude=exclude,
        start=start,
        end=end,
    )
