"""Simulation of a T1-weighted scan of a phantom participant, with its truth."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from neuroferry.phantom.deform import (
    DisplacementField,
    compose_affine,
    inverse_field,
)
from neuroferry.phantom.grids import Grid, lerp_grid
from neuroferry.phantom.render import render_head, tissue_shares

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from neuroferry.phantom.subject import SubjectAnatomy

# Brightness relative to white matter in an MPRAGE at 3 T.
T1W_CONTRAST: Mapping[str, float] = {
    "gm": 0.68, "wm": 1.0, "csf": 0.22, "dura": 0.42, "bone": 0.07, "marrow": 0.75,
    "fat": 1.25, "skin": 0.7, "muscle": 0.48, "vitreous": 0.2, "lens": 0.5,
    "mucosa": 0.55, "blood": 1.5, "gland": 0.75, "air": 0.0,
}  # fmt: skip
ORIENTATIONS = ("RAS", "LAS", "PSR")
_FIELD_SPACING = 4.0  # mm between the nodes of the stored deformation
# Left, right, back, front and top of the template's head, RAS+ mm.
LANDMARKS = np.array(
    [[-80, -15, 5], [80, -15, 5], [0, -122, 0], [0, 96, -20], [0, -20, 100]], dtype=float
)


@dataclass(frozen=True)
class ScanParameters:
    """Position of the participant in the scanner, and quality of the scan.

    Attributes
    ----------
    rotation : tuple of 3 floats
        Rotation of the head in the scanner: pitch, roll, yaw in degrees.
    position : tuple of 3 floats
        Position of the head's origin in the scanner, mm.
    tilt : tuple of 3 floats
        Rotation of the field of view relative to the scanner, degrees.
    orientation : str
        Orientation of the three voxel axes, such as ``RAS``.
    resolution : float
        Voxel size, mm.
    fov : tuple of 3 floats
        Field of view left-right, posterior-anterior, inferior-superior, mm.
    margin : float
        Air above the head, mm; the rest of the field of view reaches down the neck.
    offset : tuple of 2 floats
        Offset of the field of view from the centre of the head, left-right and
        posterior-anterior, mm.
    defaced : bool
    bias : float
        Standard deviation of the logarithm of the bias field within the brain.
    snr : float
        White matter signal over the noise standard deviation in each channel.
    scale : float
        Stored value of white matter.
    contrast : mapping of str to float
        Brightness of each tissue relative to white matter.
    """

    rotation: tuple[float, float, float]
    position: tuple[float, float, float]
    tilt: tuple[float, float, float]
    orientation: str
    resolution: float
    fov: tuple[float, float, float]
    margin: float
    offset: tuple[float, float]
    defaced: bool
    bias: float
    snr: float
    scale: float
    contrast: Mapping[str, float] = field(default_factory=lambda: dict(T1W_CONTRAST))


@dataclass(frozen=True)
class T1wScan:
    """Simulated scan and its truth, all on the scan's grid.

    Attributes
    ----------
    affine : ndarray of float64, shape (4, 4)
        Voxel indices to RAS+ mm.
    t1w : ndarray of int16, shape (I, J, K)
    noiseless : ndarray of float32
        Before bias field and noise, in the units of `t1w`.
    bias : ndarray of float32
        Multiplicative; its mean within the brain is 1.
    tissues : ndarray of float32, shape (3, I, J, K)
        Fractions of GM, WM, CSF in each voxel. Their sum is the fraction of the voxel inside the
        brain.
    head_mask : ndarray of bool
        Inside the skin (including air-filled cavities), without what defacing removed.
    to_template : DisplacementField
        Scan to template.
    to_scan : DisplacementField
        Template to scan.
    """

    affine: NDArray[np.float64]
    t1w: NDArray[np.int16]
    noiseless: NDArray[np.float32]
    bias: NDArray[np.float32]
    tissues: NDArray[np.float32]
    head_mask: NDArray[np.bool_]
    to_template: DisplacementField
    to_scan: DisplacementField

    @property
    def brain_mask(self) -> NDArray[np.bool_]:
        """Voxels with at least half their volume inside the (deformed) template brain mask."""
        mask: NDArray[np.bool_] = self.tissues.sum(axis=0) >= 0.5
        return mask


def template_grid() -> Grid:
    """Make the nodes of the stored template-to-scan deformation, every 4 mm."""
    return Grid.covering((-98, -134, -72), (98, 98, 116), _FIELD_SPACING)


def draw_scan(
    anatomy: SubjectAnatomy, rng: np.random.Generator, *, resolution: float
) -> ScanParameters:
    """Draw the parameters of one scan of a subject."""
    index = anatomy.parameters.index
    contrast = {
        tissue: float(value * np.exp(rng.normal(0, 0.03 if tissue in ("gm", "wm") else 0.08)))
        for tissue, value in T1W_CONTRAST.items()
    }
    contrast = {tissue: value / contrast["wm"] for tissue, value in contrast.items()}
    if anatomy.parameters.child:  # incomplete myelination: less contrast
        contrast["gm"] *= 1.04
    tilted = rng.random() < 0.5
    return ScanParameters(
        rotation=_triple(np.clip(rng.normal(0, (8, 4, 5)), -18, 18)),
        position=_triple(rng.normal(0, (4, 10, 12))),
        tilt=_triple(rng.normal(0, (6, 2, 3)) * tilted),
        orientation=ORIENTATIONS[index % len(ORIENTATIONS)],
        resolution=resolution,
        fov=(float(rng.choice([176, 184, 192])), 240.0, float(rng.choice([192, 224, 240, 256]))),
        margin=float(rng.uniform(4, 20)),
        offset=(float(rng.normal(0, 3)), float(rng.normal(0, 5))),
        defaced=index % 4 >= 2,
        bias=float(rng.uniform(0.12, 0.2)),
        snr=float(rng.uniform(18, 30)),
        scale=float(rng.choice([180, 600, 1000])),
        contrast=contrast,
    )


def scan_pose(scan: ScanParameters) -> NDArray[np.float64]:
    """Compute the transform from the upright, centred head to its scan position, shape (4, 4)."""
    pose = np.eye(4)
    pose[:3, :3] = compose_affine((1, 1, 1), (0, 0, 0), scan.rotation)
    pose[:3, 3] = scan.position
    return pose


def simulate_t1w(
    anatomy: SubjectAnatomy, scan: ScanParameters, rng: np.random.Generator
) -> T1wScan:
    """Simulate a T1-weighted scan of a subject.

    Parameters
    ----------
    anatomy : SubjectAnatomy
    scan : ScanParameters
    rng : numpy.random.Generator
        For bias field and noise.

    References
    ----------
    Gudbjartsson H, Patz S (1995). The Rician distribution of noisy MRI data. Magnetic
    Resonance in Medicine 34, 910-914. doi:10.1002/mrm.1910340618
    """
    pose = scan_pose(scan)
    warp = anatomy.warp.placed(pose @ anatomy.warp.affine)
    affine, shape = field_of_view(scan, warp.to_subject(LANDMARKS))
    to_template = warp.field_on(affine, shape, spacing=_FIELD_SPACING)
    tissues = tissue_shares(anatomy, affine, shape, to_template)
    image, head_mask = render_head(
        anatomy, scan.contrast, affine, to_template, tissues, defaced=scan.defaced
    )
    brain = tissues.sum(axis=0) >= 0.5
    bias = bias_field(rng, affine, brain, scan.bias)
    noiseless = image * np.float32(scan.scale)
    sigma = np.float32(scan.scale / scan.snr)
    real = noiseless * bias + sigma * rng.standard_normal(shape, dtype=np.float32)
    imaginary = sigma * rng.standard_normal(shape, dtype=np.float32)
    t1w = np.clip(np.rint(np.hypot(real, imaginary)), 0, 32767).astype(np.int16)
    to_scan = inverse_field(warp, to_template, template_grid())
    return T1wScan(affine, t1w, noiseless, bias, tissues, head_mask, to_template, to_scan)


def field_of_view(
    scan: ScanParameters, landmarks: NDArray[np.float64]
) -> tuple[NDArray[np.float64], tuple[int, int, int]]:
    """Place the voxel grid over the head.

    Parameters
    ----------
    scan : ScanParameters
    landmarks : ndarray of float64, shape (5, 3)
        Left, right, back, front and top of the head, RAS+ mm.

    Returns
    -------
    affine : ndarray of float64, shape (4, 4)
        Voxel indices to RAS+ mm, axes oriented as in `scan.orientation`.
    shape : tuple of int
    """
    axes = compose_affine((1, 1, 1), (0, 0, 0), scan.tilt)
    left, right, back, front, top = landmarks @ axes
    size = np.asarray(scan.fov)
    counts = np.ceil(size / scan.resolution).astype(int)
    size = counts * scan.resolution
    centre = np.array(
        [
            (left[0] + right[0]) / 2 + scan.offset[0],
            (back[1] + front[1]) / 2 + scan.offset[1],
            top[2] + scan.margin - size[2] / 2,
        ]
    )
    columns, order, origin = [], [], np.array(centre)
    for letter in scan.orientation:
        axis = next(i for i, pair in enumerate(("LR", "PA", "IS")) if letter in pair)
        sign = 1.0 if letter in "RAS" else -1.0
        order.append(int(counts[axis]))
        columns.append(axes[:, axis] * sign * scan.resolution)
        origin[axis] -= sign * (counts[axis] - 1) / 2 * scan.resolution
    affine = np.eye(4)
    affine[:3, :3] = np.column_stack(columns)
    affine[:3, 3] = axes @ origin
    return affine, (order[0], order[1], order[2])


def bias_field(
    rng: np.random.Generator,
    affine: NDArray[np.float64],
    brain: NDArray[np.bool_],
    spread: float,
) -> NDArray[np.float32]:
    """Draw a smooth multiplicative field: sensitivities of a few coils around the head.

    Parameters
    ----------
    rng : numpy.random.Generator
    affine : ndarray of float64, shape (4, 4)
    brain : ndarray of bool, shape (I, J, K)
        Mask where `spread` and the mean of 1 apply.
    spread : float
        Standard deviation of the field's logarithm within the brain.

    Returns
    -------
    ndarray of float32, shape (I, J, K)
    """
    spacing = 8.0
    zooms = np.linalg.norm(affine[:3, :3], axis=0)
    counts = [int(np.ceil(n * z / spacing)) + 2 for n, z in zip(brain.shape, zooms, strict=True)]
    middle = affine[:3, :3] @ ((np.asarray(brain.shape) - 1) / 2) + affine[:3, 3]
    nodes = np.moveaxis(np.indices(counts, dtype=np.float64), 0, -1) * spacing
    world = nodes @ (affine[:3, :3] / zooms).T + affine[:3, 3] - middle
    logarithm = np.zeros(counts)
    for _ in range(8):  # reception: coils on a sphere, each bright nearby
        coil = rng.normal(size=3)
        coil *= rng.uniform(130, 170) / np.linalg.norm(coil)
        distance = np.linalg.norm(world - coil, axis=-1)
        logarithm += rng.normal(0, 1) * np.exp(-((distance / 110) ** 2))
    dome = np.exp(-((np.linalg.norm(world, axis=-1) / 90) ** 2))  # transmission at 3 T
    logarithm += rng.uniform(0.2, 0.6) * dome
    indices = [np.arange(n) * z / spacing for n, z in zip(brain.shape, zooms, strict=True)]
    full = lerp_grid(logarithm.astype(np.float32), indices)
    full -= full[brain].mean()
    full *= np.float32(spread / full[brain].std())
    result: NDArray[np.float32] = np.exp(np.clip(full, -1.2, 1.2))
    result /= result[brain].mean()
    return result


def _triple(values: NDArray[np.float64]) -> tuple[float, float, float]:
    return float(values[0]), float(values[1]), float(values[2])
