"""Single entry point to antspyx: one ITK thread and a fixed seed for reproducible results.

ANTs adds up its metrics in the order in which threads finish, and seeds its point
sampling from the clock; antspyx's ``random_seed`` argument is never used. With one ITK
thread and ``ANTS_RANDOM_SEED`` in the environment two runs agree to the byte.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

ITK_THREADS = "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"
ANTS_SEED = "ANTS_RANDOM_SEED"
DEFAULT_SEED = 1


def load_ants(seed: int = DEFAULT_SEED) -> ModuleType:
    """Import antspyx with reproducible settings; call it before each use.

    Parameters
    ----------
    seed : int
        Seed of ANTs' random sampling; must be positive (0 makes ANTs use the clock).

    Returns
    -------
    module
        The ``ants`` module.

    Raises
    ------
    ValueError
        If `seed` is not positive.
    """
    if seed < 1:
        raise ValueError(f"The seed of ANTs must be positive, got {seed}.")
    os.environ[ITK_THREADS] = "1"
    os.environ[ANTS_SEED] = str(seed)
    import ants

    return ants


@contextmanager
def ants_session(seed: int = DEFAULT_SEED) -> Iterator[ModuleType]:
    """Provide the ``ants`` module within a block, and restore the environment afterwards."""
    before = {name: os.environ.get(name) for name in (ITK_THREADS, ANTS_SEED)}
    try:
        yield load_ants(seed)
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def to_ants(ants: ModuleType, data: NDArray[Any], affine: NDArray[np.float64]) -> Any:
    """Make an ANTs image from an array and its affine.

    Parameters
    ----------
    ants : module
        Module from :func:`load_ants`.
    data : ndarray, shape (I, J, K)
        Voxel values; converted to float32.
    affine : ndarray of float64, shape (4, 4)
        Voxel indices to RAS+ mm, without shear.

    Returns
    -------
    ants.ANTsImage
        The same image in ITK's LPS+ world.
    """
    from neuroferry.interfaces.image.transforms import grid_to_itk

    origin, spacing, direction = grid_to_itk(affine)
    return ants.from_numpy(
        np.ascontiguousarray(data, dtype=np.float32),
        origin=origin.tolist(),
        spacing=spacing.tolist(),
        direction=direction,
    )
