"""Options of a phantom's diffusion scans."""

from __future__ import annotations

from dataclasses import dataclass

from neuroferry.errors import UsageError
from neuroferry.phantom.bold_options import DIRECTIONS, FIELDMAPS


@dataclass(frozen=True)
class DwiOptions:
    """Options of a phantom's diffusion scans. 0 switches an effect off.

    Attributes
    ----------
    directions : int
        Gradient directions of each shell.
    bvals : tuple of float
        One per shell, s/mm2.
    n_b0 : int
        Number of b0 volumes, spread over the series; the first volume is a b0.
    resolution : float
        Isotropic voxel size, mm.
    tr, echo_time : float
        Seconds.
    snr : float
        White matter signal at b = 0 over the noise standard deviation in each channel; 0 omits
        the noise.
    drift : float
        Scales slow head drift and the small motion of breathing.
    jerk : float
        Largest jerk, mm and degrees.
    eddy : float
        Largest eddy-current shift in the brain at b = 1000 s/mm2, mm.
    distortion : float
        Largest susceptibility shift in the brain (in 99.9 % of it), mm.
    dropped : float
        Share of the diffusion-weighted slices with signal dropout.
    bias : float
        Standard deviation of the logarithm of the coil sensitivity in the brain.
    direction : str
        Phase-encoding direction, from ... to: AP, PA, LR or RL.
    more_runs : tuple of str
        Phase-encoding direction of each further run, the same or the opposite one.
    fieldmaps : tuple of str
        Kinds of field maps, from `FIELDMAPS`.
    coverage : float
        Share of the brain's height covered by the slices, from the top.
    """

    directions: int = 30
    bvals: tuple[float, ...] = (1000.0,)
    n_b0: int = 4
    resolution: float = 2.0
    tr: float = 6.0
    echo_time: float = 0.080
    snr: float = 30.0
    drift: float = 2.0
    jerk: float = 3.0
    eddy: float = 2.0
    distortion: float = 6.0
    dropped: float = 0.01
    bias: float = 0.1
    direction: str = "AP"
    more_runs: tuple[str, ...] = ()
    fieldmaps: tuple[str, ...] = ("epi",)
    coverage: float = 1.0

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        kinds = ", ".join(FIELDMAPS)
        checks = (
            (
                1 <= self.directions <= 300,
                f"the number of directions must be 1 to 300, not {self.directions}",
            ),
            (
                bool(self.bvals) and all(50 < b <= 10000 for b in self.bvals),
                f"b-values must be more than 50 and at most 10000 s/mm2, not {self.bvals}",
            ),
            (self.n_b0 >= 1, f"a diffusion scan needs at least 1 b0 volume, not {self.n_b0}"),
            (
                1.5 <= self.resolution <= 6,
                f"the DWI resolution must be 1.5 to 6 mm, not {self.resolution}",
            ),
            (self.tr > 0, f"the repetition time must be positive, not {self.tr}"),
            (
                0 < self.echo_time < 0.2,
                f"the echo time must be between 0 and 0.2 s, not {self.echo_time}",
            ),
            (
                0 <= self.dropped <= 0.5,
                f"the share of dropped slices must be 0 to 0.5, not {self.dropped}",
            ),
            (
                self.direction in DIRECTIONS,
                f"the phase-encoding direction must be AP, PA, LR or RL, not {self.direction}",
            ),
            (
                set(self.more_runs) <= {self.direction, self.direction[::-1]},
                f"further runs must be encoded {self.direction} or {self.direction[::-1]}, not "
                f"{', '.join(self.more_runs)}",
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
            *(
                (getattr(self, name) >= 0, f"{name} must be 0 or more, not {getattr(self, name)}")
                for name in ("snr", "drift", "jerk", "eddy", "distortion", "bias")
            ),
        )
        for passed, message in checks:
            if not passed:
                raise UsageError(message)

    @property
    def dropout(self) -> bool:
        """Signal dropout in gradient-echo field maps where the field changes across a slice."""
        return True

    @property
    def run_directions(self) -> tuple[str, ...]:
        """Phase-encoding direction of each run."""
        return (self.direction, *self.more_runs)

    @property
    def n_volumes(self) -> int:
        """Number of volumes of the series."""
        return self.n_b0 + self.directions * len(self.bvals)
