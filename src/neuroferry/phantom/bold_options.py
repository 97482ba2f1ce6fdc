"""Options of a phantom's functional scans."""

from __future__ import annotations

from dataclasses import dataclass

from neuroferry.errors import UsageError

FIELDMAPS = ("phasediff", "phases", "direct", "epi")
DIRECTIONS = ("AP", "PA", "LR", "RL")


@dataclass(frozen=True)
class BoldOptions:
    """Options of a phantom's functional scans. 0 or False switches an effect off.

    Attributes
    ----------
    n_volumes : int
    resolution : float
        Isotropic voxel size, mm.
    tr : float
        Seconds.
    runs : int
        Runs per session; several runs get run labels.
    echo_times : tuple of float
        Seconds; more than one makes the scan multi-echo.
    flip : float
        Degrees.
    snr : float
        Grey matter signal over the noise standard deviation in each channel, at the echo nearest
        to 30 ms; 0 omits the noise.
    drift : float
        Scales slow head drift and the small motion of breathing.
    jerk : float
        Largest jerk, mm and degrees.
    spin_history : float
        Fractional signal change of a slice when the head moves by one slice thickness; its sign
        alternates between neighbouring slices.
    activation : float
        Percent signal change of the task at 30 ms.
    physiology : float
        Scales cardiac and respiratory effects, signal drift and slow fluctuations.
    slice_timing : bool
        Slices are acquired one after the other (odd ones first); if off, all at once.
    transient : bool
        The first volumes are brighter, before the magnetisation reaches its steady state.
    distortion : float
        Largest shift in the brain (in 99.9 % of it), mm.
    dropout : bool
        Signal dropout where the field changes across a slice.
    bias : float
        Standard deviation of the logarithm of the coil sensitivity in the brain.
    direction : str
        Phase-encoding direction, from ... to: AP, PA, LR or RL.
    fieldmaps : tuple of str
        Kinds of field maps, from `FIELDMAPS`.
    coverage : float
        Share of the brain's height covered by the slices, from the top.
    """

    n_volumes: int
    resolution: float = 3.0
    tr: float = 2.0
    runs: int = 1
    echo_times: tuple[float, ...] = (0.030,)
    flip: float = 70.0
    snr: float = 50.0
    drift: float = 1.0
    jerk: float = 3.0
    spin_history: float = 0.05
    activation: float = 2.0
    physiology: float = 1.0
    slice_timing: bool = True
    transient: bool = True
    distortion: float = 6.0
    dropout: bool = True
    bias: float = 0.1
    direction: str = "AP"
    fieldmaps: tuple[str, ...] = ("phasediff", "epi")
    coverage: float = 1.0

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        kinds = ", ".join(FIELDMAPS)
        checks = (
            (self.n_volumes >= 1, f"a BOLD run needs at least 1 volume, not {self.n_volumes}"),
            (
                1.5 <= self.resolution <= 6,
                f"the BOLD resolution must be 1.5 to 6 mm, not {self.resolution}",
            ),
            (self.tr > 0, f"the repetition time must be positive, not {self.tr}"),
            (self.runs >= 1, f"the number of BOLD runs must be at least 1, not {self.runs}"),
            (
                bool(self.echo_times) and all(0 < t < 0.2 for t in self.echo_times),
                f"echo times must be between 0 and 0.2 s, not {self.echo_times}",
            ),
            (
                list(self.echo_times) == sorted(set(self.echo_times)),
                f"echo times must be ascending, not {self.echo_times}",
            ),
            (
                self.direction in DIRECTIONS,
                f"the phase-encoding direction must be AP, PA, LR or RL, not {self.direction}",
            ),
            (0.2 <= self.coverage <= 1, f"the coverage must be 0.2 to 1, not {self.coverage}"),
            (
                set(self.fieldmaps) <= set(FIELDMAPS),
                f"field maps must be among {kinds}, not {', '.join(self.fieldmaps)}",
            ),
            (
                not {"phasediff", "phases"} <= set(self.fieldmaps),
                "phasediff and phases are two formats of the same scan: choose one",
            ),
        )
        strengths = (
            "snr",
            "drift",
            "jerk",
            "spin_history",
            "activation",
            "physiology",
            "distortion",
            "bias",
        )
        for passed, message in (
            *checks,
            *(
                (getattr(self, name) >= 0, f"{name} must be 0 or more, not {getattr(self, name)}")
                for name in strengths
            ),
        ):
            if not passed:
                raise UsageError(message)
