"""Tissues around the brain (meninges, skull, scalp, face, neck), painted in template space.

The head is a list of solids painted one over the other, each of one tissue. A :class:`Contrast`
defines the brightness of each tissue, so that another kind of image of the same head is the same
painting with other intensities.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

from neuroferry.phantom.anatomy import hull_of
from neuroferry.phantom.grids import Grid, resample_grid, smooth_noise
from neuroferry.phantom.shapes import Solid, capsule, coverage, ellipsoid, smooth_union
from neuroferry.templates import load_template

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import ArrayLike, NDArray

    Contrast = Mapping[str, float]

TISSUES = (
    "gm", "wm", "csf", "dura", "bone", "marrow", "fat", "skin", "muscle",
    "vitreous", "lens", "mucosa", "blood", "gland", "air",
)  # fmt: skip
_LOW, _HIGH = (-106.0, -150.0, -210.0), (106.0, 126.0, 104.0)
_COARSE = 2.0
_FACE_ANCHOR = (0.0, 20.0, -20.0)
_SLAB = 64  # slices painted at a time
_TEXTURE = 0.06  # how much brightness varies within a tissue, as a fraction


@dataclass(frozen=True)
class HeadShape:
    """Individual shape of a head outside the brain; lengths in mm.

    Attributes
    ----------
    subarachnoid, skull, scalp : float
        Mean thickness of fluid over the brain, of the skull, and of the scalp.
    fat : float
        Share of the scalp that is fat.
    diploe : float
        Share of the skull that is marrow.
    face : float
        Size of the face relative to an adult's.
    neck : float
        Radius of the neck.
    """

    subarachnoid: float = 2.2
    skull: float = 6.0
    scalp: float = 6.5
    fat: float = 0.55
    diploe: float = 0.45
    face: float = 1.0
    neck: float = 54.0


@lru_cache(maxsize=1)
def _cranium() -> tuple[Grid, NDArray[np.float32]]:
    """Compute the signed distance (mm) to the closed brain mask with the spinal cord."""
    template = load_template(1)
    grid = Grid.covering(_LOW, _HIGH, _COARSE)
    mask = template.brain_mask.astype(np.float32)
    source = Grid(template.affine[:3, 3], 1.0, _shape3(mask))
    # There is no brain beyond the template's box, although the brainstem touches its border.
    inside = resample_grid(np.pad(mask, ((1, 1),) * 3), _padded(source), grid) > 0.5
    hull = hull_of(inside, 4.5)
    outside = ndimage.distance_transform_edt(~hull) - ndimage.distance_transform_edt(hull)
    distance = ndimage.gaussian_filter((_COARSE * outside).astype(np.float32), 1.2)
    distance.setflags(write=False)
    return grid, distance


def _padded(grid: Grid) -> Grid:
    n = grid.shape
    return Grid(grid.low - grid.spacing, grid.spacing, (n[0] + 2, n[1] + 2, n[2] + 2))


class HeadModel:
    """Head of one subject in template space.

    Parameters
    ----------
    shape : HeadShape
    rng : numpy.random.Generator
        Random generator of the variation of thickness over the head.
    """

    def __init__(self, shape: HeadShape, rng: np.random.Generator) -> None:
        self.shape = shape
        self.grid, self.cranium = _cranium()
        lattice = Grid.covering(_LOW, _HIGH, 8.0)

        def noise(sigma: float) -> NDArray[np.float32]:
            drawn = smooth_noise(rng, lattice.shape, sigma / lattice.spacing)
            return resample_grid(drawn.clip(-2, 2), lattice, self.grid)

        _, y, z = self.grid.axes()
        # Fluid is widest over the top and at the base; bone is thick at the back.
        vault = np.clip((z - 20) / 60, 0, 1)
        back = np.clip((-y - 40) / 50, 0, 1) * np.clip((z + 60) / 40, 0, 1)
        fluid = shape.subarachnoid * (1 + 0.35 * noise(20) + 0.5 * vault)
        self.fluid = np.maximum(fluid, np.float32(0.6)).astype(np.float32)
        bone = shape.skull * (1 + 0.15 * noise(25) + 0.35 * back)
        self.bone = (self.fluid + np.maximum(bone, 2.5)).astype(np.float32)
        scalp = shape.scalp * (1 + 0.15 * noise(25))
        self.scalp = (self.bone + np.maximum(scalp, 3.0)).astype(np.float32)
        self.weave = noise(10).astype(np.float32)
        self.texture = smooth_noise(rng, self.grid.shape, 1.2).clip(-3, 3)
        self.surface = self._surface()

    def _surface(self) -> NDArray[np.float32]:
        """Compute the signed distance to the skin, on the coarse grid."""
        axes = self.grid.axes()
        surface = self.cranium - self.scalp
        for solid, width in _outline(self.shape):
            surface = smooth_union(surface, solid.distance(axes), width)
        for side in (-1, 1):
            hollow = ellipsoid((33.0 * side, 95.0, -37.0), (15, 12, 11))
            hollow = hollow.scaled(self.shape.face, _FACE_ANCHOR)
            surface = -smooth_union(-surface, hollow.distance(axes), 6.0)
        rounded: NDArray[np.float32] = surface.astype(np.float32)
        return rounded

    def skin(self, *, defaced: bool) -> NDArray[np.float32]:
        """Compute the signed distance (mm, negative inside) to the outer surface, on `self.grid`.

        Defacing removes everything in front of a plane from the brow to the throat that is more
        than 8 mm from the inside of the skull.
        """
        if not defaced:
            return self.surface
        _, y, z = self.grid.axes()
        before_plane = (y - 46 - np.float32(0.5) * (z + 38)) * np.float32(0.894)
        removed = np.minimum(np.minimum(before_plane, -12 - z), self.cranium - 8)
        kept: NDArray[np.float32] = np.maximum(self.surface, removed)
        return kept

    def paint(
        self,
        contrast: Contrast,
        spacing: float,
        *,
        low: ArrayLike = _LOW,
        high: ArrayLike = _HIGH,
        defaced: bool = False,
    ) -> tuple[Grid, NDArray[np.float32]]:
        """Render the head without its brain (the cranial cavity is filled with CSF).

        Parameters
        ----------
        contrast : mapping of tissue name to brightness
            Every name of `TISSUES`.
        spacing : float
            Voxel size of the result, mm.
        low, high : array_like, shape (3,)
            Box to render, mm; cut to the head.
        defaced : bool
            Omit the face.

        Returns
        -------
        grid : Grid
        image : ndarray of float32, shape `grid.shape`
        """
        low = np.maximum(np.asarray(low, dtype=np.float64), _LOW)
        high = np.maximum(np.minimum(np.asarray(high, dtype=np.float64), _HIGH), low + spacing)
        grid = Grid.covering(low, high, spacing)
        image = np.empty(grid.shape, dtype=np.float32)
        skin = self.skin(defaced=defaced)
        for start in range(0, grid.shape[2], _SLAB):  # bounds the memory
            stop = min(start + _SLAB, grid.shape[2])
            slab = Grid(
                grid.low + np.array([0, 0, start * spacing]),
                spacing,
                (*grid.shape[:2], stop - start),
            )
            image[:, :, start:stop] = self._paint_slab(Canvas(slab, contrast), skin)
        return grid, image

    def _paint_slab(self, canvas: Canvas, skin: NDArray[np.float32]) -> NDArray[np.float32]:
        def raised(volume: NDArray[np.float32]) -> NDArray[np.float32]:
            return resample_grid(volume, self.grid, canvas.grid)

        surface, weave = raised(self.surface), raised(self.weave)
        canvas.fill("skin", surface)
        canvas.fill("fat", surface + 1.8)
        depth = self.shape.fat * self.shape.scalp
        canvas.fill("muscle", surface + (1.8 + depth) + weave)
        # Fat between the muscles: thin sheets along the zero set of the weave.
        canvas.fill("fat", np.maximum(np.abs(weave) * 9 - 1.2, surface + 4), opacity=0.7)
        for tissue, solid in _face_and_neck(self.shape):
            canvas.add(tissue, solid)
        cranium, fluid, bone = (raised(v) for v in (self.cranium, self.fluid, self.bone))
        canvas.fill("bone", cranium - bone)
        table = (bone - fluid) * np.float32(0.5 * (1 - self.shape.diploe))
        rim = np.maximum(cranium - bone + table, fluid + table - cranium)
        canvas.fill("marrow", rim, opacity=(0.75 + 0.25 * weave).clip(0.3, 1))
        for tissue, solid in _skull_openings(self.shape):
            canvas.add(tissue, solid)
        fluid = cranium - fluid
        canvas.fill("dura", fluid - np.float32(0.5))
        canvas.fill("csf", fluid + np.float32(0.5))
        x, _, z = canvas.grid.axes()
        sinus = np.maximum(np.abs(fluid + 2.5) - 2.5, np.maximum(np.abs(x) - 3.5, 10 - z))
        canvas.fill("dura", sinus)  # superior sagittal sinus: blood too fast to be bright
        for tissue, solid in _canal():
            canvas.add(tissue, solid)
        canvas.image *= 1 + np.float32(_TEXTURE) * raised(self.texture)
        canvas.fill("air", -raised(skin))
        return canvas.image


class Canvas:
    """Image under construction: each solid covers earlier ones."""

    def __init__(self, grid: Grid, contrast: Contrast) -> None:
        self.grid = grid
        self.contrast = contrast
        self.image = np.full(grid.shape, contrast["air"], dtype=np.float32)
        self._axes = grid.axes()

    def fill(
        self,
        tissue: str,
        distance: NDArray[np.float32],
        *,
        opacity: float | NDArray[np.float32] = 1.0,
    ) -> None:
        """Paint where a signed distance on the whole grid is negative."""
        self._blend(self.image, tissue, coverage(distance, self.grid.spacing) * opacity)

    def add(self, tissue: str, solid: Solid) -> None:
        """Paint a solid within its box."""
        first = np.floor((solid.low - self.grid.low) / self.grid.spacing).astype(int) - 1
        last = np.ceil((solid.high - self.grid.low) / self.grid.spacing).astype(int) + 2
        first = np.clip(first, 0, self.grid.shape)
        last = np.clip(last, 0, self.grid.shape)
        if np.any(last <= first):
            return
        box = tuple(slice(int(a), int(b)) for a, b in zip(first, last, strict=True))
        x, y, z = self._axes
        part = (x[box[0]], y[:, box[1]], z[:, :, box[2]])
        share = coverage(solid.distance(part), self.grid.spacing)
        self._blend(self.image[box], tissue, share)

    def _blend(self, image: NDArray[np.float32], tissue: str, share: NDArray[np.float32]) -> None:
        image += share * (np.float32(self.contrast[tissue]) - image)


def _outline(shape: HeadShape) -> list[tuple[Solid, float]]:
    """List the solids that form the outer surface with the cranium, each with its blend width."""
    face = [
        (ellipsoid((0, 36, -72), (66, 54, 72)), 14.0),
        (ellipsoid((0, 76, -118), (24, 18, 17)), 14.0),  # chin
        (ellipsoid((0, 82, -94), (22, 12, 12)), 8.0),  # lips
        (capsule((0, 86, -36), (0, 103, -64), 5, 9), 10.0),  # nose
        (capsule((-11, 94, -67), (11, 94, -67), 7), 6.0),  # wings of the nose
        (ellipsoid((44, 66, -64), (20, 18, 18)), 14.0),  # cheeks
        (ellipsoid((-44, 66, -64), (20, 18, 18)), 14.0),
    ]
    anchored = [(solid.scaled(shape.face, _FACE_ANCHOR), width) for solid, width in face]
    ears = [
        (ellipsoid((side * 84.0, -26, -38), (5, 16, 29), pitch=-12), 5.0) for side in (-1.0, 1.0)
    ]
    neck = capsule((0, -34, -60), (0, -58, -230), shape.neck, shape.neck * 1.12)
    return [*anchored, *ears, (neck, 30.0)]


def _face_and_neck(shape: HeadShape) -> list[tuple[str, Solid]]:
    """List the tissues of face and neck, in the order of painting."""
    solids: list[tuple[str, Solid]] = []
    for s in (-1.0, 1.0):
        solids += [
            ("gland", ellipsoid((s * 62, -8, -70), (10, 15, 22))),  # parotid
            ("fat", ellipsoid((s * 40, 62, -78), (13, 12, 18))),  # cheek
            ("bone", capsule((s * 52, 2, -52), (s * 46, 18, -104), 6.5)),  # jaw, branch
            ("bone", capsule((s * 46, 18, -104), (s * 12, 74, -114), 8)),  # jaw, body
            ("marrow", capsule((s * 51, 4, -58), (s * 46, 18, -104), 3.6)),
            ("marrow", capsule((s * 46, 18, -104), (s * 12, 74, -114), 5)),
            ("bone", capsule((s * 60, 10, -44), (s * 44, 58, -50), 4.5)),  # cheek bone
            ("marrow", capsule((s * 60, 10, -44), (s * 44, 58, -50), 2.4)),
            ("bone", capsule((s * 24, 38, -84), (s * 8, 72, -86), 6)),  # teeth
        ]
    solids += [
        ("muscle", ellipsoid((0, 42, -92), (22, 30, 18))),  # tongue
        ("fat", ellipsoid((0, 42, -108), (20, 22, 6))),
        ("air", capsule((0, 4, -66), (0, -6, -112), 7.5)),  # throat
        ("air", capsule((0, -6, -112), (0, -22, -230), 9)),  # windpipe
        ("mucosa", ellipsoid((0, 58, -60), (17, 34, 18))),  # nose, inside
        ("air", ellipsoid((5.5, 62, -60), (2.6, 32, 14))),
        ("air", ellipsoid((-5.5, 62, -60), (2.6, 32, 14))),
        ("air", ellipsoid((13, 54, -62), (2.2, 22, 10))),
        ("air", ellipsoid((-13, 54, -62), (2.2, 22, 10))),
    ]
    solids = [(tissue, s.scaled(shape.face, _FACE_ANCHOR)) for tissue, s in solids]
    for level in range(8):  # vertebrae, their discs, the spines behind
        z, y = -80.0 - 18 * level, -24.0 - 4.5 * level
        solids += [
            ("bone", ellipsoid((0, y, z), (17, 12, 8.6))),
            ("marrow", ellipsoid((0, y, z), (15, 10, 7.2))),
            ("bone", capsule((0, y - 30, z - 3), (0, y - 48, z - 10), 4.5)),
            ("marrow", capsule((0, y - 30, z - 3), (0, y - 48, z - 10), 2.8)),
        ]
    for s in (-1.0, 1.0):
        solids += [
            ("blood", capsule((s * 30, -14, -62), (s * 34, -30, -230), 3.2)),  # carotid
            ("muscle", capsule((s * 60, -40, -56), (s * 34, -20, -230), 11)),
            ("blood", capsule((s * 40, -22, -70), (s * 42, -32, -230), 4.5)),  # jugular
        ]
    return solids


def _skull_openings(shape: HeadShape) -> list[tuple[str, Solid]]:
    """List the structures in or at the skull: orbits, sinuses, mastoids, clivus."""
    solids: list[tuple[str, Solid]] = [
        ("bone", ellipsoid((0, 40, -40), (26, 34, 12))),
        ("marrow", ellipsoid((0, 4, -46), (13, 10, 12))),  # clivus
        ("air", ellipsoid((7, 18, -42), (7, 10, 8))),  # sphenoid sinus
        ("air", ellipsoid((-8, 17, -42), (7, 11, 9))),
    ]
    for s in (-1.0, 1.0):
        solids += [
            ("bone", ellipsoid((s * 33, 48, -38), (21, 31, 18))),
            ("fat", ellipsoid((s * 32, 50, -38), (18, 30, 16))),
            ("muscle", capsule((s * 15, 22, -36), (s * 21, 56, -38), 2.2)),
            ("muscle", capsule((s * 16, 22, -36), (s * 44, 54, -38), 2.2)),
            ("muscle", capsule((s * 16, 22, -34), (s * 32, 54, -26), 2.2)),
            ("muscle", capsule((s * 16, 22, -40), (s * 32, 54, -50), 2.2)),
            ("wm", capsule((s * 10, 14, -30), (s * 31, 50, -38), 2.0)),  # optic nerve
            ("skin", ellipsoid((s * 33, 63, -38), (13.2, 13.2, 13.2))),
            ("vitreous", ellipsoid((s * 33, 63, -38), (12, 12, 12))),
            ("lens", ellipsoid((s * 33, 71.5, -38), (4.6, 2.2, 4.6))),
            ("bone", ellipsoid((s * 29, 52, -68), (15.5, 17, 15))),
            ("mucosa", ellipsoid((s * 29, 52, -68), (14.5, 16, 14))),
            ("air", ellipsoid((s * 29, 52, -68), (13.2, 14.6, 12.6))),  # maxillary sinus
            ("air", ellipsoid((s * 6, 46, -40), (4, 18, 8))),  # ethmoid cells
            ("air", ellipsoid((s * 9, 80, -22), (9, 4.5, 11))),  # frontal sinus
        ]
    solids = [(tissue, solid.scaled(shape.face, _FACE_ANCHOR)) for tissue, solid in solids]
    for s in (-1.0, 1.0):
        solids += [
            ("bone", ellipsoid((s * 56, -30, -50), (15, 17, 20))),  # mastoid
            ("air", ellipsoid((s * 57, -34, -52), (7, 8, 11))),
            ("marrow", ellipsoid((s * 55, -22, -62), (5, 6, 7))),
            ("air", capsule((s * 50, -20, -42), (s * 90, -22, -42), 2.2)),  # ear canal
            ("blood", capsule((s * 23, 2, -50), (s * 10, 6, -30), 2.6)),  # carotid siphon
        ]
    return solids


def _canal() -> list[tuple[str, Solid]]:
    """List the spinal canal and cord, from the template's brainstem downwards."""
    top, bottom = (0.0, -44.0, -66.0), (0.0, -80.0, -230.0)
    return [
        ("csf", capsule(top, bottom, 9.0, 8.0)),
        ("wm", capsule((0.0, -43.0, -62.0), bottom, 6.5, 5.0)),
    ]


def _shape3(volume: NDArray[np.float32]) -> tuple[int, int, int]:
    return int(volume.shape[0]), int(volume.shape[1]), int(volume.shape[2])
