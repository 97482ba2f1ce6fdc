"""A head of known shape that moves by known motions, for tests of motion correction."""

from __future__ import annotations

from pathlib import Path

import nibabel as nb
import numpy as np
from scipy.spatial.transform import Rotation

SHAPE = (44, 52, 26)
TILT = np.eye(4)
TILT[:3, :3] = Rotation.from_euler("x", 12, degrees=True).as_matrix()
AFFINE = TILT @ np.array([[-4.0, 0, 0, 86], [0, 4, 0, -102], [0, 0, 4.5, -50], [0, 0, 0, 1]])


def brightness(points: np.ndarray) -> np.ndarray:
    """Signal at points in RAS+ mm, shape (3, ...): scalp, fluid, folded grey, white."""
    x, y, z = points
    radius = np.sqrt((x / 66) ** 2 + (y / 82) ** 2 + (z / 60) ** 2)
    folds = 0.05 * np.sin(x / 5.0) * np.cos(y / 6.0) + 0.05 * np.sin(z / 5.5 + y / 9)
    edge = lambda r, width=0.025: 0.5 * (1 - np.tanh((radius + folds - r) / width))  # noqa: E731
    signal = 250 * edge(1.12) - 150 * edge(1.04) + 800 * edge(0.98) - 250 * edge(0.82)
    hole = np.exp(-(((np.abs(x) - 12) / 7) ** 2) - ((y + 5) / 22) ** 2 - ((z - 8) / 9) ** 2)
    return signal + 500 * hole * edge(0.9)


def head(matrix: np.ndarray, oversample: int = 1) -> np.ndarray:
    """Image of the head after a motion (points of the reference to points of the volume)."""
    back = np.linalg.inv(matrix)
    total = np.zeros(SHAPE)
    offsets = (np.arange(oversample) + 0.5) / oversample - 0.5
    for shift in np.array(np.meshgrid(offsets, offsets, offsets)).reshape(3, -1).T:
        index = np.indices(SHAPE).reshape(3, -1) + shift[:, None]
        full = back @ AFFINE
        total += brightness(full[:3, :3] @ index + full[:3, 3:]).reshape(SHAPE)
    return total / oversample**3


def motion(parameters: np.ndarray) -> np.ndarray:
    """Matrix of a translation (mm) and rotation vector (degrees) about the head's middle."""
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_rotvec(np.deg2rad(parameters[3:])).as_matrix()
    matrix[:3, 3] = parameters[:3]
    return matrix


def motions(n: int, seed: int, *, drift: float = 0.5, jerk: float = 3.0) -> np.ndarray:
    """Slow drift and, every fifth volume, a jerk of up to `jerk` mm and degrees."""
    rng = np.random.default_rng(seed)
    path = np.cumsum(rng.normal(0, drift / np.sqrt(n), (n, 6)), axis=0)
    path[4::5] += rng.uniform(-jerk, jerk, (len(path[4::5]), 6))
    path[0] = 0
    return np.stack([motion(p) for p in path])


def noisy(volume: np.ndarray, snr: float, rng: np.random.Generator) -> np.ndarray:
    """Add Rician noise; the SNR is that of grey matter."""
    sigma = 800 / snr
    noise = rng.normal(0, sigma, (2, *SHAPE))
    return np.hypot(volume + noise[0], noise[1]).astype(np.float32)


def brain_points() -> np.ndarray:
    """Points inside the brain, RAS+ mm, shape (3, N)."""
    index = np.indices(SHAPE).reshape(3, -1)
    points = AFFINE[:3, :3] @ index + AFFINE[:3, 3:]
    inside = (points / np.array([[62.0], [78], [56]])) ** 2
    return points[:, inside.sum(axis=0) < 1][:, ::7]


def displacement_error(found: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """Mean over volumes, and largest, distance in mm between where points are sent."""
    points = brain_points()
    difference = found - truth
    moved = difference[:, :3, :3] @ points + difference[:, :3, 3:]
    distance = np.linalg.norm(moved, axis=1)
    return float(distance.mean()), float(distance.max())


def save(volumes: list[np.ndarray], path: Path, tr: float = 2.0) -> Path:
    """Write a series."""
    image = nb.Nifti1Image(np.stack(volumes, axis=-1).astype(np.float32), AFFINE)
    image.header.set_xyzt_units("mm", "sec")
    image.header["pixdim"][4] = tr
    nb.save(image, path)
    return path
