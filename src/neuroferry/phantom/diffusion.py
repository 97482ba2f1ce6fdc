"""Water diffusion in a phantom head: compartments of each fine voxel, and their signal.

A voxel holds fluid, grey matter, white matter and tissue around the brain, in their volume
fractions. White matter is divided among the bundles that pass; the rest runs towards the brain's
hull. Each compartment is an axially symmetric tensor::

    S(b, g) = sum of a exp(-b (d_r + (d_a - d_r) (g . u)^2))

with a the compartment's T2-weighted signal, u its direction, d_a and d_r its diffusivities
along and across it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

from neuroferry.phantom.anatomy import brain_template
from neuroferry.phantom.bundles import BUNDLES, draw_course
from neuroferry.phantom.deform import upsample_field
from neuroferry.phantom.subject import STREAM_BUNDLES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import ArrayLike, NDArray

    from neuroferry.phantom.bundles import Bundle, BundleField, Course
    from neuroferry.phantom.deform import HeadWarp
    from neuroferry.phantom.epi import EpiHead
    from neuroferry.phantom.subject import SubjectParameters

#: Diffusivity of what is isotropic, mm2/s. Blood flows: its signal is gone.
DIFFUSIVITY: Mapping[str, float] = {
    "csf": 3.0e-3, "dura": 0.6e-3, "bone": 0.3e-3, "marrow": 0.3e-3, "fat": 0.1e-3,
    "skin": 1.0e-3, "muscle": 1.5e-3, "vitreous": 2.8e-3, "lens": 0.8e-3, "mucosa": 1.6e-3,
    "blood": 8.0e-3, "gland": 1.1e-3, "air": 1.0e-3, "gm": 0.85e-3, "wm": 0.80e-3,
}  # fmt: skip
GREY = (0.12, 8.5e-4)  # anisotropy and mean diffusivity (mm2/s) of grey matter
BACKGROUND = (0.42, 7.9e-4)  # of white matter outside the bundles
_LEAST = 1e-3  # share of brain below which a fine voxel is not brain
_STEP = 1.0  # mm: how far apart two points are whose images give a direction
_DEEP, _FADE = 14.0, 4.0  # mm below the hull: where bundles may run through grey matter
_SMOOTH = 3.0  # voxels of 2 mm: smoothing of the vectors to the hull


@dataclass(frozen=True)
class Compartment:
    """One fibre population, or tissue, in some of the brain's fine voxels.

    Attributes
    ----------
    voxels : ndarray of intp, shape (N,)
        Positions in :attr:`DiffusionHead.voxels`.
    signal : ndarray of float32, shape (N,)
        Signal at b = 0, relative to white matter.
    direction : ndarray of float32, shape (3, N)
        Unit vectors, scanner axes, head in its own position.
    axial, radial : ndarray of float32, shape (N,)
        Diffusivities, mm2/s.
    """

    voxels: NDArray[np.intp]
    signal: NDArray[np.float32]
    direction: NDArray[np.float32]
    axial: NDArray[np.float32]
    radial: NDArray[np.float32]

    def weighted(self, bval: float, bvec: NDArray[np.float64]) -> NDArray[np.float32]:
        """Compute the signal with diffusion weighting along a unit vector (3,), head axes."""
        x, y, z = (np.float32(component) for component in bvec)
        along = x * self.direction[0] + y * self.direction[1] + z * self.direction[2]
        rate = self.radial + (self.axial - self.radial) * along**2
        attenuated: NDArray[np.float32] = self.signal * np.exp(np.float32(-bval) * rate)
        return attenuated


def eigenvalues(fa: ArrayLike, md: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Compute axial and radial diffusivity of an axially symmetric tensor from FA and MD.

    Examples
    --------
    >>> axial, radial = eigenvalues(0.8, 7e-4)
    >>> f"{axial:.3e} {radial:.3e}"
    '1.554e-03 2.730e-04'
    """
    anisotropy = np.asarray(fa, dtype=np.float64)
    mean = np.asarray(md, dtype=np.float64)
    spread = anisotropy / np.sqrt(3 - 2 * anisotropy**2)
    return mean * (1 + 2 * spread), mean * (1 - spread)


class DiffusionHead:
    """Diffusion properties of a head in one position.

    Parameters
    ----------
    head : EpiHead
    contrast : mapping of tissue name to brightness
        Contrast at b = 0, white matter 1.
    """

    def __init__(self, head: EpiHead, contrast: Mapping[str, float]) -> None:
        self.head, self._contrast = head, contrast
        self.courses = draw_courses(head.anatomy.parameters)
        inside = head.fine_tissues.sum(axis=0) > _LEAST
        #: Flat indices of the brain in the fine grid.
        self.voxels = np.flatnonzero(inside)
        self._shares = head.fine_tissues[:, inside]
        self._places = _places(head, inside)
        self._texture = self._brightness()
        self._surroundings: dict[float, NDArray[np.float32]] = {}
        #: What part of the voxel each bundle fills, in the order of `BUNDLES`: positions in
        #: `voxels`, and shares.
        self.bundles: list[tuple[BundleField, NDArray[np.float32]]] = []
        self.compartments = self._fill()

    def _brightness(self) -> NDArray[np.float32]:
        """Compute the texture of the brain as a factor of its tissue signal."""
        brain = self.head.anatomy.brain
        smooth = self._contrast_of("gm", "wm", "csf") @ self._shares
        detail = brain.grid.sample(brain.detail, self._places)
        factor: NDArray[np.float32] = 1 + self._shares.sum(axis=0) * detail / smooth
        return np.maximum(factor, np.float32(0.1))

    def _contrast_of(self, *names: str) -> NDArray[np.float32]:
        return np.array([self._contrast[name] for name in names], dtype=np.float32)

    def _fill(self) -> list[Compartment]:
        """Divide the tissues among compartments."""
        grey, white, fluid = self._shares.copy()
        grey_signal, white_signal, fluid_signal = self._contrast_of("gm", "wm", "csf")
        fields = [bundle.field(self._places.T) for bundle in BUNDLES]
        crowd = np.zeros_like(white)
        for field in fields:
            crowd[field.index] += field.weight
        crowd = np.maximum(crowd, np.float32(1))
        open_grey = grey * _passable(self._places)
        compartments = []
        for bundle, field in zip(BUNDLES, fields, strict=True):
            share = field.weight / crowd[field.index]
            of_white = share * self._shares[1, field.index]
            of_grey = share * open_grey[field.index] * np.float32(bundle.through_grey)
            white[field.index] -= of_white
            grey[field.index] -= of_grey
            signal = of_white * white_signal + of_grey * grey_signal
            self.bundles.append((field, of_white + of_grey))
            compartments.append(self._fibres(bundle, field, signal))
        every = np.arange(self.voxels.size)
        radial = carry(self.head.warp, self._places.T, towards_hull(self._places).T)
        for left, unit, kind in ((white, white_signal, BACKGROUND), (grey, grey_signal, GREY)):
            axial_value, radial_value = eigenvalues(*kind)
            some = left > _LEAST
            compartments.append(
                Compartment(
                    every[some],
                    (left * unit * self._texture)[some],
                    np.ascontiguousarray(radial.T[:, some], dtype=np.float32),
                    np.full(int(some.sum()), axial_value, dtype=np.float32),
                    np.full(int(some.sum()), radial_value, dtype=np.float32),
                )
            )
        some = fluid > 0
        still = np.full(int(some.sum()), DIFFUSIVITY["csf"], dtype=np.float32)
        nowhere = np.zeros((3, still.size), dtype=np.float32)
        signal = (fluid * fluid_signal * self._texture)[some]
        compartments.append(Compartment(every[some], signal, nowhere, still, still))
        return compartments

    def _fibres(
        self, bundle: Bundle, field: BundleField, signal: NDArray[np.float32]
    ) -> Compartment:
        axial, radial = eigenvalues(*self.courses[bundle.name].at(field.position))
        direction = carry(self.head.warp, self._places.T[field.index], field.direction)
        return Compartment(
            field.index,
            signal * self._texture[field.index],
            np.ascontiguousarray(direction.T, dtype=np.float32),
            axial.astype(np.float32),
            radial.astype(np.float32),
        )

    def surroundings(self, bval: float) -> NDArray[np.float32]:
        """Paint the fine image of everything except the brain; cached for each b-value."""
        if bval not in self._surroundings:
            contrast = {
                name: value * float(np.exp(-bval * DIFFUSIVITY[name]))
                for name, value in self._contrast.items()
            }
            # Optic nerve and cord are painted too: only the brain's own tissues are omitted.
            full = self.head.paint(contrast, texture=False)
            brain = np.array([contrast[name] for name in ("gm", "wm", "csf")], dtype=np.float32)
            full.reshape(-1)[self.voxels] -= brain @ self._shares
            self._surroundings[bval] = np.maximum(full, 0)
        return self._surroundings[bval]

    def image(self, bval: float, bvec: NDArray[np.float64]) -> NDArray[np.float32]:
        """Compute the fine image, not yet blurred, white matter near 1.

        Parameters
        ----------
        bval : float
            s/mm2.
        bvec : ndarray of float64, shape (3,)
            Unit vector as the head sees it, see :func:`in_head`.
        """
        total = np.zeros(self.voxels.size, dtype=np.float32)
        for part in self.compartments:
            total[part.voxels] += part.weighted(bval, bvec)
        whole = self.surroundings(bval).copy()
        whole.reshape(-1)[self.voxels] += total
        return whole

    def shares(self) -> NDArray[np.float32]:
        """Compute the share of each bundle in each voxel, shape (len(BUNDLES), I, J, K)."""
        parts = []
        for field, share in self.bundles:
            fine = np.zeros(self.head.fine_shape, dtype=np.float32)
            fine.reshape(-1)[self.voxels[field.index]] = share
            parts.append(self.head.coarse(fine))
        return np.stack(parts)


def draw_courses(person: SubjectParameters) -> dict[str, Course]:
    """Draw a participant's course along each bundle, keyed by name: the same in all scans."""
    return {
        bundle.name: draw_course(bundle, person.stream(STREAM_BUNDLES, number))
        for number, bundle in enumerate(BUNDLES)
    }


def carry(
    warp: HeadWarp, places: NDArray[np.floating], directions: NDArray[np.floating]
) -> NDArray[np.float64]:
    """Reorient directions from the template to the subject, by the Jacobian of the warp.

    Parameters
    ----------
    warp : HeadWarp
    places, directions : ndarray of float, shape (N, 3)
        Template RAS+ mm, and unit vectors there.

    Returns
    -------
    ndarray of float64, shape (N, 3)
        Unit vectors, scanner axes.
    """
    half = directions * (_STEP / 2)
    moved = warp.to_subject(places + half) - warp.to_subject(places - half)
    length = np.linalg.norm(moved, axis=1, keepdims=True)
    unit: NDArray[np.float64] = moved / np.maximum(length, 1e-12)
    return unit


def towards_hull(places: NDArray[np.float32]) -> NDArray[np.float32]:
    """Compute unit vectors (3, N) from points (3, N) in the template towards the brain's hull."""
    grid = brain_template().coarse
    ways = np.stack([grid.sample(part, places, outside=None) for part in _hull_ways()])
    length = np.sqrt((ways**2).sum(axis=0))
    unit: NDArray[np.float32] = ways / np.maximum(length, np.float32(1e-6))
    unit[2, length < 1e-6] = 1
    return unit


@lru_cache(maxsize=1)
def _hull_ways() -> NDArray[np.float32]:
    """Compute the smoothed vectors to the nearest hull point, shape (3, I, J, K), mm."""
    base = brain_template()
    here = np.stack(np.broadcast_arrays(*base.coarse.axes()))
    ways = np.where(base.depth > 0, base.hull_points - here, 0).astype(np.float32)
    smooth = np.stack([ndimage.gaussian_filter(part, _SMOOTH) for part in ways])
    smooth.setflags(write=False)
    return smooth


def _passable(places: NDArray[np.float32]) -> NDArray[np.float32]:
    """Compute how far grey matter lets bundles pass: 1 in the brainstem and deep regions."""
    base = brain_template()
    depth = base.coarse.sample(base.depth, places)
    stem = 1 - base.grid.sample(base.cortex, places, outside=1.0)
    passable: NDArray[np.float32] = np.maximum(np.clip((depth - _DEEP) / _FADE, 0, 1), stem)
    return passable


def _places(head: EpiHead, inside: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Map the fine voxels of a mask to the template, shape (3, N)."""
    box = [
        np.flatnonzero(inside.any(axis=tuple(other for other in range(3) if other != axis)))
        for axis in range(3)
    ]
    spans = [slice(int(line[0]), int(line[-1]) + 1) for line in box]
    index = [np.arange(span.start, span.stop, dtype=np.float64) for span in spans]
    block = upsample_field(head.to_template, head.fine_affine, index)
    return np.ascontiguousarray(block[:, inside[tuple(spans)]])


def fit_tensor(
    signals: NDArray[np.floating], bvals: NDArray[np.float64], bvecs: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Fit one tensor per voxel by weighted least squares to noiseless signals.

    Parameters
    ----------
    signals : ndarray of float, shape (T, N)
        Positive.
    bvals : ndarray of float64, shape (T,)
        s/mm2.
    bvecs : ndarray of float64, shape (T, 3)

    Returns
    -------
    ndarray of float64, shape (N, 3, 3)
        mm2/s, axes of `bvecs`.

    References
    ----------
    Chung S, Lu Y, Henry RG (2006). Comparison of bootstrap approaches for estimation of
    uncertainties of DTI parameters. NeuroImage 33, 531-541 (equation 10).
    doi:10.1016/j.neuroimage.2006.07.001
    """
    x, y, z = bvecs.T
    terms = (x * x, y * y, z * z, 2 * x * y, 2 * x * z, 2 * y * z)
    design = np.stack([np.ones_like(bvals), *(-bvals * term for term in terms)], axis=1)
    logs = np.log(np.maximum(signals, 1e-6)).astype(np.float64)
    first = np.einsum("ij,jn->in", np.linalg.pinv(design), logs)
    weights = np.exp(2 * np.einsum("ti,in->tn", design, first))
    normal = np.einsum("tn,tij->nij", weights, design[:, :, None] * design[:, None, :])
    right = np.einsum("ti,tn->ni", design, weights * logs)
    xx, yy, zz, xy, xz, yz = np.linalg.solve(normal, right[..., None])[:, 1:, 0].T
    rows = [[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]]
    tensor: NDArray[np.float64] = np.moveaxis(np.array(rows), -1, 0)
    return tensor


def tensor_maps(tensor: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    """Compute FA, MD, AD, RD (mm2/s) and the principal eigenvector.

    Parameters
    ----------
    tensor : ndarray of float64, shape (N, 3, 3)

    Returns
    -------
    dict of str to ndarray
        ``fa``, ``md``, ``ad``, ``rd``, shape (N,); ``direction``, shape (N, 3).

    Examples
    --------
    >>> maps = tensor_maps(np.diag([1.7e-3, 3e-4, 3e-4])[None])
    >>> round(float(maps["fa"][0]), 3), np.abs(maps["direction"][0]).tolist()
    (0.799, [1.0, 0.0, 0.0])
    """
    values, vectors = np.linalg.eigh(tensor)
    mean = values.mean(axis=1)
    spread = ((values - mean[:, None]) ** 2).sum(axis=1)
    square = np.maximum((values**2).sum(axis=1), 1e-30)
    return {
        "fa": np.minimum(np.sqrt(1.5 * spread / square), 1.0),
        "md": mean,
        "ad": values[:, 2],
        "rd": values[:, :2].mean(axis=1),
        "direction": vectors[:, :, 2],
    }


def signals_at_rest(
    head: DiffusionHead,
    bvals: Sequence[float] | NDArray[np.float64],
    bvecs: NDArray[np.float64],
    brain: NDArray[np.bool_],
) -> NDArray[np.float32]:
    """Compute the noiseless signal of the brain voxels, head at rest, undistorted.

    Parameters
    ----------
    head : DiffusionHead
    bvals : sequence of float
        s/mm2.
    bvecs : ndarray of float64, shape (T, 3)
    brain : ndarray of bool, shape (I, J, K)

    Returns
    -------
    ndarray of float32, shape (T, N)
        N voxels of the brain, white matter near 1.
    """
    index = np.nonzero(brain)
    low = [int(line.min()) for line in index]
    high = [int(line.max()) + 1 for line in index]
    inner = brain[tuple(slice(a, b) for a, b in zip(low, high, strict=True))]
    return np.stack(
        [
            head.head.at_rest(head.image(bval, bvec), low, high)[inner]
            for bval, bvec in zip(bvals, bvecs, strict=True)
        ]
    )
