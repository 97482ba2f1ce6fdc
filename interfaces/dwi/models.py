"""Diffusion models that the gradients of a run allow, and why not the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from neuroferry.bids.gradients import MIN_DIRECTIONS, Shell

KURTOSIS_DIRECTIONS = 15
"""A kurtosis tensor has fifteen elements."""
KURTOSIS_B_MAX = 3150.0
"""Highest b-value for which the kurtosis expansion holds, s/mm²: 3000 plus scanner deviations."""
CSD_DIRECTIONS = 15
"""Fewest directions of one shell for FODs: the coefficients of the lowest order, 4."""
CSD_B_MIN = 500.0
"""b-value below which the signal hardly depends on the direction, s/mm²."""
RESOLVING_DIRECTIONS = 28
"""Directions of one shell from which FODs resolve crossing fibres: the coefficients of order 6."""
RESOLVING_B = 2000.0
"""b-value from which crossing fibres are resolved well, s/mm²."""
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


def models_for(
    shells: Sequence[Shell], n_directions: int, fits_tensor: bool = True, no_shells: str = ""
) -> Models:
    """Determine the models that the shells of a run allow.

    Parameters
    ----------
    shells : sequence of Shell
        Volumes of about one b-value, from `find_shells`.
    n_directions : int
        Distinct directions over all shells.
    fits_tensor : bool
        Whether the directions also determine a tensor.
    no_shells : str
        Why the b-values form no shells; empty if they do.

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
            tensor=f"a diffusion tensor {few}",
            kurtosis=f"diffusion kurtosis {few}",
            csd=_why_no_csd(weighted, n_directions),
            multi_tissue=f"multi-tissue deconvolution {few}",
        )
    if not fits_tensor:
        why = "the gradient directions lie in a plane or on a cone"
        return Models(why, why, why, why)
    has_b0 = len(weighted) < len(shells)
    tensor = ""
    if not has_b0 and len(weighted) < 2:
        tensor = "a diffusion tensor needs two b-values; the run has 1"
    if no_shells:
        return Models(tensor, no_shells, no_shells, no_shells)
    low = [shell for shell in weighted if shell.b <= KURTOSIS_B_MAX]
    return Models(
        tensor=tensor,
        kurtosis=_why_not("diffusion kurtosis", low, has_b0, n_directions),
        csd=tensor.replace("a diffusion tensor", "spherical deconvolution")
        or _why_no_csd(weighted, n_directions),
        multi_tissue=_why_not("multi-tissue deconvolution", weighted, has_b0, n_directions),
    )


def shell_directions(shells: Sequence[Shell], n_directions: int) -> int:
    """Count the directions of the largest shell, at most those of the run."""
    sizes = [len(shell.volumes) for shell in shells if not shell.is_b0]
    return min(n_directions, max(sizes, default=0))


def _why_no_csd(weighted: Sequence[Shell], n_directions: int) -> str:
    """Explain why spherical deconvolution would be arbitrary; empty if it is not."""
    what = "spherical deconvolution needs"
    found = shell_directions(weighted, n_directions)
    if found < CSD_DIRECTIONS:
        return f"{what} {CSD_DIRECTIONS} directions of one b-value; the run has {found}"
    if max(shell.b for shell in weighted) < CSD_B_MIN:
        top = max(shell.b for shell in weighted)
        return f"{what} b = {CSD_B_MIN:g} s/mm2 or more; the largest is {top:g} s/mm2"
    return ""


def csd_caveats(n_directions: int, b: float) -> list[str]:
    """Describe what limits the FODs of a shell, in full sentences.

    Parameters
    ----------
    n_directions : int
        Distinct directions of the shell.
    b : float
        Its b-value, s/mm².

    Examples
    --------
    >>> csd_caveats(64, 3000)
    []
    >>> len(csd_caveats(16, 1000))
    2
    """
    found = []
    if n_directions < RESOLVING_DIRECTIONS:
        found.append(
            f"{n_directions} directions determine orders up to {LOWEST_LMAX} only: crossing fibres"
            f" are not resolved reliably ({RESOLVING_DIRECTIONS} are needed for order 6)."
        )
    if b < RESOLVING_B:
        found.append(
            f"At b = {b:.0f} s/mm2 fibres that cross at small angles merge; {RESOLVING_B:.0f} to"
            " 3000 s/mm2 separate them better."
        )
    return found


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
