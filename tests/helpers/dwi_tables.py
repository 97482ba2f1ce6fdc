"""A small grid, and gradient directions for DWI runs of it."""

import numpy as np

SHAPE = (20, 22, 12)


def directions(count):
    """Points on the sphere that differ, antipodes counted as one."""
    turns = np.arange(count) * np.pi * (3 - np.sqrt(5))
    z = (np.arange(count) + 0.5) / count
    r = np.sqrt(1 - z**2)
    return np.stack([r * np.cos(turns), r * np.sin(turns), z], axis=1)
