"""Diffusion models that the gradients of a run allow, and why not the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from neuroferry.bids.gradients import MIN_DIRECTIONS, Shell

KURTOSIS_DIRECTIONS = 15
"""A kurtosis tensor has fifteen elements."""
KURTOSIS_B_MAX = 3150.0
"""Highest b-value for which the kurtosis expansion holds, s/mm²: 3000 plus scanner deviations."""
LMAX_DIRECTIONS = {8: 45, 6: 28}
"""Directions needed for FODs of each order, as many as coefficients. With fewer the order is 4."""
LOWEST_LMAX = 4


@dataclass(frozen=True)
class Models:
    """Models that can be fitted: each attribute is empty, or a sentence that says why not.

    Attributes
    ----------
    tensor : str
        Diffusion tensor.
    kurtosis : str
        Diffusion kurtosis.
    csd : str
        Fibre orientations by constrained spherical deconvolution.
    multi_tissue : str
        The same with grey matter and CSF as separate tissues.
    """

    tensor: str = ""
    kurtosis: str = ""
    csd: str = ""
    multi_tissue: str = ""


def models_for(shells: Sequence[Shell], n_directions: int, fits_tensor: bool = True) -> Models:
    """Determine the models that the shells of a run allow.

    Parameters
    ----------
    shells : sequence of Shell
        Volumes of about one b-value, from `find_shells`.
    n_directions : int
        Distinct directions over all shells.
    fits_tensor : bool
        Whether the directions also determine a tensor.

    Returns
    -------
    Models

    Examples
    --------
    >>> from neuroferry.bids.gradients import find_shells
    >>> found = models_for(find_shells([0] + 16 * [1000]), 16)
    >>> found.tensor, found.kurtosis
    ('', 'diffusion kurtosis needs two shells above b = 0; the run has 1')
    """
    weighted = [shell for shell in shells if not shell.is_b0]
    if n_directions < MIN_DIRECTIONS:
        few = f"needs {MIN_DIRECTIONS} gradient directions; the run has {n_directions}"
        return Models(
            *(
                f"{what} {few}"
                for what in (
                    "a diffusion tensor",
                    "diffusion kurtosis",
                    "spherical deconvolution",
                    "multi-tissue deconvolution",
                )
            )
        )
    if not fits_tensor:
        why = "the gradient directions lie in a plane or on a cone"
        return Models(why, why, why, why)
    has_b0 = len(weighted) < len(shells)
    tensor = ""
    if not has_b0 and len(weighted) < 2:
        tensor = "a diffusion tensor needs two b-values; the run has 1"
    low = [shell for shell in weighted if shell.b <= KURTOSIS_B_MAX]
    return Models(
        tensor=tensor,
        kurtosis=_why_not("diffusion kurtosis", low, has_b0, n_directions),
        csd=tensor.replace("a diffusion tensor", "spherical deconvolution"),
        multi_tissue=_why_not("multi-tissue deconvolution", weighted, has_b0, n_directions),
    )


def _why_not(what: str, shells: Sequence[Shell], has_b0: bool, n_directions: int) -> str:
    """Explain why shells do not suffice for a multi-shell model; empty if they do."""
    if len(shells) < 2:
        return f"{what} needs two shells above b = 0; the run has {len(shells)}"
    if not has_b0:
        return f"{what} needs volumes without diffusion weighting; the run has none"
    if sum(len(shell.volumes) >= KURTOSIS_DIRECTIONS for shell in shells) < 2:
        counts = ", ".join(str(len(shell.volumes)) for shell in shells)
        least = f"two shells of at least {KURTOSIS_DIRECTIONS} volumes"
        return f"{what} needs {least}; the run's shells have {counts}"
    if n_directions < KURTOSIS_DIRECTIONS:
        return f"{what} needs {KURTOSIS_DIRECTIONS} directions; the run has {n_directions}"
    return ""


def order_for(n_directions: int) -> int:
    """Choose the order of spherical harmonics (lmax) for a number of directions.

    >>> [order_for(n) for n in (6, 16, 30, 64)]
    [4, 4, 6, 8]
    """
    for order, least in LMAX_DIRECTIONS.items():
        if n_directions >= least:
            return order
    return LOWEST_LMAX
