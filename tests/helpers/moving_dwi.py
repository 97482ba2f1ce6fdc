"""A head of known diffusion that moves and is stretched by eddy currents, for tests."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import nibabel as nb
import numpy as np
from scipy.spatial.transform import Rotation

SHAPE = (44, 52, 30)
AFFINE = np.array([[-4.0, 0, 0, 86], [0, 4, 0, -102], [0, 0, 4.0, -60], [0, 0, 0, 1]])
ALONG = np.array([0.0, 1.0, 0.0])


@dataclass(frozen=True)
class Truth:
    """What was done to each volume, shape (T, 4, 4): points of the head to the volume's."""

    rigid: np.ndarray
    stretch: np.ndarray

    @property
    def matrices(self) -> np.ndarray:
        return self.stretch @ self.rigid


def tissues(points: np.ndarray) -> tuple[np.ndarray, ...]:
    """Shares of scalp, fluid, grey and white matter at points in RAS+ mm, shape (3, N)."""
    x, y, z = points
    radius = np.sqrt((x / 64) ** 2 + (y / 80) ** 2 + (z / 56) ** 2)
    folds = 0.06 * np.sin(x / 5.0) * np.cos(y / 6.0) + 0.06 * np.sin(z / 5.5 + y / 9)
    folds = folds * np.clip((radius - 0.3) * 3, 0, 1)

    def inside(r: float, width: float = 0.025) -> np.ndarray:
        return 0.5 * (1 - np.tanh((radius + folds - r) / width))

    head = 0.5 * (1 - np.tanh((radius - 1.15) / 0.02))
    skull = 0.5 * (1 - np.tanh((radius - 1.08) / 0.02))
    hole = np.exp(
        -((((np.abs(x) - 12) / 8) ** 2 + ((y + 5) / 24) ** 2 + ((z - 8) / 10) ** 2) ** 2)
    )
    brain, core = inside(0.97), inside(0.8)
    cavity = 0.5 * (1 - np.tanh((radius - 1.03) / 0.02))
    fluid = np.clip(cavity - brain, 0, 1) + brain * hole
    white = core * (1 - hole)
    grey = np.clip(brain - core, 0, 1) * (1 - hole)
    return np.clip(head - skull, 0, 1), fluid, grey, white


def fibres(points: np.ndarray) -> np.ndarray:
    """Direction of white matter at points: bundles across, along and upwards, shape (3, N)."""
    x, y, z = points
    lateral = 0.5 * (1 + np.tanh((np.abs(x) - 24) / 5))
    upward = np.exp(-(((np.abs(x) - 26) / 7) ** 2) - ((y + 8) / 18) ** 2)
    way = np.stack(
        [
            (1 - lateral) + 0.1,
            lateral * (1 - upward) * np.cos(z / 30) + 0.2 * y / 80,
            upward + lateral * np.sin(z / 30) * np.sign(y),
        ]
    )
    return way / np.linalg.norm(way, axis=0)


def signal(points: np.ndarray, b: float, g: np.ndarray) -> np.ndarray:
    """Signal of the head at points in its own frame, for a gradient in that frame."""
    scalp, fluid, grey, white = tissues(points)
    aligned = (g @ fibres(points)) ** 2 if b > 0 else 0.0
    return (
        250 * scalp * np.exp(-b * 0.6e-3)
        + 2200 * fluid * np.exp(-b * 3.0e-3)
        + 900 * grey * np.exp(-b * 0.8e-3)
        + 750 * white * np.exp(-b * (0.35e-3 + 1.35e-3 * aligned))
    )


def image(
    b: float, g: np.ndarray, rigid: np.ndarray, stretch: np.ndarray, oversample: int = 2
) -> np.ndarray:
    """Image of the head: signal moves, so its brightness changes with the volume it fills."""
    back = np.linalg.inv(stretch @ rigid)
    turned = rigid[:3, :3].T @ g
    total = np.zeros(SHAPE)
    offsets = (np.arange(oversample) + 0.5) / oversample - 0.5
    for shift in np.array(np.meshgrid(offsets, offsets, offsets)).reshape(3, -1).T:
        index = np.indices(SHAPE).reshape(3, -1) + shift[:, None]
        full = back @ AFFINE
        points = full[:3, :3] @ index + full[:3, 3:]
        total += signal(points, b, turned).reshape(SHAPE)
    return total / oversample**3 / np.linalg.det(stretch[:3, :3])


def directions(n: int, seed: int = 0, *, half: bool = False) -> np.ndarray:
    """Directions spread evenly over the sphere by repulsion of their axes, shape (N, 3)."""
    rng = np.random.default_rng(seed)
    g = rng.normal(size=(n, 3))
    g /= np.linalg.norm(g, axis=1, keepdims=True)
    for _ in range(200):
        both = np.concatenate([g, -g])
        apart = g[:, None] - both
        distance = np.linalg.norm(apart, axis=2) + 1e-9
        distance[distance < 1e-6] = np.inf
        g = g + 0.1 / n * (apart / distance[..., None] ** 3).sum(axis=1)
        g /= np.linalg.norm(g, axis=1, keepdims=True)
    return np.where(g[:, 2:] < 0, -g, g) if half else g


def movements(n: int, seed: int, *, drift: float = 1.0, jerk: float = 3.0) -> np.ndarray:
    """Slow drift, and a jerk that stays in every seventh volume, shape (T, 4, 4)."""
    rng = np.random.default_rng(seed)
    path = np.cumsum(rng.normal(0, drift / np.sqrt(n), (n, 6)), axis=0)
    path[6::7] += rng.uniform(-jerk, jerk, (len(path[6::7]), 6))
    path[0] = 0
    matrices = np.tile(np.eye(4), (n, 1, 1))
    matrices[:, :3, :3] = Rotation.from_rotvec(np.deg2rad(path[:, 3:])).as_matrix()
    matrices[:, :3, 3] = path[:, :3]
    return matrices


def eddies(bvals: np.ndarray, g: np.ndarray, seed: int, size: float = 2.5) -> np.ndarray:
    """Stretch along y, linear in b and the gradient, up to about `size` mm at 70 mm."""
    rng = np.random.default_rng(seed)
    response = rng.normal(size=(3, 3))
    response *= size / 70 / np.linalg.norm(response, 2)
    shift = rng.normal(size=3) * size / 6
    result = np.tile(np.eye(4), (len(g), 1, 1))
    for number, (b, direction) in enumerate(zip(bvals, g, strict=True)):
        result[number, 1, :3] += b / 1000 * response @ direction
        result[number, 1, 3] = b / 1000 * shift @ direction
    return result


def noisy(volume: np.ndarray, sigma: float, rng: np.random.Generator) -> np.ndarray:
    """Add Rician noise."""
    noise = rng.normal(0, sigma, (2, *volume.shape))
    return np.hypot(volume + noise[0], noise[1]).astype(np.float32)


def scan(
    bvals: np.ndarray,
    bvecs: np.ndarray,
    seed: int,
    *,
    sigma: float = 20.0,
    size: float = 2.5,
    jerk: float = 3.0,
    drift: float = 1.0,
) -> tuple[list[np.ndarray], Truth]:
    """Measure a moving head."""
    rng = np.random.default_rng(seed)
    truth = Truth(
        movements(len(bvals), seed, drift=drift, jerk=jerk), eddies(bvals, bvecs, seed + 1, size)
    )
    volumes = [
        noisy(image(b, g, r, e), sigma, rng)
        for b, g, r, e in zip(bvals, bvecs, truth.rigid, truth.stretch, strict=True)
    ]
    return volumes, truth


def brain_points() -> np.ndarray:
    """Points inside the brain, RAS+ mm, shape (3, N)."""
    index = np.indices(SHAPE).reshape(3, -1)
    points = AFFINE[:3, :3] @ index + AFFINE[:3, 3:]
    inside = (points / np.array([[62.0], [78], [54]])) ** 2
    return points[:, inside.sum(axis=0) < 1][:, ::7]


def errors(found: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Distance in mm between where brain points are sent: mean of each volume, shape (T,)."""
    points = brain_points()
    difference = found - truth
    moved = difference[:, :3, :3] @ points + difference[:, :3, 3:]
    return np.linalg.norm(moved, axis=1).mean(axis=1)


def worst(found: np.ndarray, truth: np.ndarray) -> float:
    """Largest such distance in any point of any volume."""
    points = brain_points()
    difference = found - truth
    moved = difference[:, :3, :3] @ points + difference[:, :3, 3:]
    return float(np.linalg.norm(moved, axis=1).max())


def save(volumes: list[np.ndarray], path: Path) -> Path:
    """Write a series."""
    made = nb.Nifti1Image(np.stack(volumes, axis=-1).astype(np.float32), AFFINE)
    made.header.set_xyzt_units("mm", "sec")
    made.header["pixdim"][4] = 3.0
    nb.save(made, path)
    return path
