"""Tissue brightness in echo-planar and gradient-echo images at 3 T."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from neuroferry.phantom.head import TISSUES

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True)
class Relaxation:
    """Magnetic properties of a tissue at 3 T.

    Attributes
    ----------
    density : float
        Visible proton density relative to water; fat is suppressed.
    t1, t2, t2star : float
        Seconds. T2* is that of the tissue; dephasing by field gradients adds to it.
    """

    density: float
    t1: float
    t2: float
    t2star: float


RELAXATION: Mapping[str, Relaxation] = {
    "gm": Relaxation(0.83, 1.33, 0.085, 0.050),
    "wm": Relaxation(0.70, 0.83, 0.070, 0.045),
    "csf": Relaxation(1.00, 4.00, 1.500, 0.250),
    "dura": Relaxation(0.50, 1.00, 0.040, 0.012),
    "bone": Relaxation(0.05, 0.30, 0.001, 0.001),
    "marrow": Relaxation(0.08, 0.30, 0.050, 0.015),
    "fat": Relaxation(0.08, 0.35, 0.060, 0.030),
    "skin": Relaxation(0.40, 0.80, 0.040, 0.012),
    "muscle": Relaxation(0.75, 1.40, 0.035, 0.028),
    "vitreous": Relaxation(1.00, 3.50, 1.200, 0.200),
    "lens": Relaxation(0.40, 1.00, 0.020, 0.010),
    "mucosa": Relaxation(0.80, 1.50, 0.060, 0.025),
    "blood": Relaxation(0.50, 1.65, 0.100, 0.035),
    "gland": Relaxation(0.70, 1.20, 0.050, 0.025),
    "air": Relaxation(0.00, 1.00, 1.000, 1.000),
}
if set(RELAXATION) != set(TISSUES):
    raise AssertionError("every tissue of the head needs its relaxation times")


def magnetisation(t1: float, *, tr: float, flip: float, pulses: int | None) -> float:
    """Compute the longitudinal magnetisation before an excitation, relative to equilibrium.

    Parameters
    ----------
    t1, tr : float
        Seconds.
    flip : float
        Degrees.
    pulses : int or None
        Number of previous excitations; None for the steady state.

    References
    ----------
    Hänicke W, Merboldt KD, Chien D, Gyngell ML, Bruhn H, Frahm J (1990). Signal strength
    in subsecond FLASH magnetic resonance imaging: the dynamic approach to steady state.
    Medical Physics 17, 1004-1010. doi:10.1118/1.596453

    Examples
    --------
    >>> magnetisation(1.33, tr=2.0, flip=70, pulses=0)
    1.0
    >>> round(magnetisation(1.33, tr=2.0, flip=70, pulses=None), 3)
    0.842
    """
    recovery = float(np.exp(-tr / t1))
    kept = recovery * float(np.cos(np.radians(flip)))
    steady = (1 - recovery) / (1 - kept)
    return steady if pulses is None else steady + (1 - steady) * kept**pulses


def gradient_echo(
    *, echo_time: float, tr: float, flip: float, pulses: int | None = None
) -> dict[str, float]:
    """Compute the brightness of each tissue in a gradient echo, relative to water at equilibrium.

    Parameters
    ----------
    echo_time, tr : float
        Seconds.
    flip : float
        Degrees.
    pulses : int or None
        As for :func:`magnetisation`.
    """
    return {
        name: tissue.density
        * magnetisation(tissue.t1, tr=tr, flip=flip, pulses=pulses)
        * float(np.sin(np.radians(flip)) * np.exp(-echo_time / tissue.t2star))
        for name, tissue in RELAXATION.items()
    }


def spin_echo(*, echo_time: float, tr: float) -> dict[str, float]:
    """Compute the brightness of each tissue in a spin echo (90 degrees), relative to water."""
    return {
        name: tissue.density
        * float((1 - np.exp(-tr / tissue.t1)) * np.exp(-echo_time / tissue.t2))
        for name, tissue in RELAXATION.items()
    }


def relative(contrast: Mapping[str, float], unit: float) -> dict[str, float]:
    """Divide by `unit`, as :func:`render_head` expects white matter near 1."""
    return {name: value / unit for name, value in contrast.items()}
