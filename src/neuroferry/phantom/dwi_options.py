"""What can be asked of a phantom's diffusion scans."""

from __future__ import annotations

from dataclasses import dataclass

from neuroferry.errors import UsageError
from neuroferry.phantom.bold_options import DIRECTIONS, FIELDMAPS


@dataclass(frozen=True)
class DwiOptions:
    """What a phantom's diffusion scans look like. Each effect has a switch: 0.

    Attributes
    ----------
    directions : int
        Gradient directions of each shell.
    bvals : tuple of float
        One a shell, s/mm2.
    n_b0 : int
        Volumes without diffusion weighting, spread over the series; the first is one.
    resolution : float
        Isotropic voxel size, mm.
    tr, echo_time : float
        Seconds.
    snr : float
        White matter without diffusion weighting over the standard deviation of the noise in
        each channel; 0 leaves the noise out.
    drift : float
        Multiplies slow drift of the head and the small motion of breathing.
    jerk : float
        Largest jerk, mm and degrees.
    eddy : float
        Largest shift in the brain by eddy currents at b = 1000 s/mm2, mm.
    distortion : float
        Largest shift in the brain (in 99.9 % of it) by the head's own field, mm.
    dropped : float
        Share of the diffusion-weighted slices that lose most of their signal.
    bias : float
        Spread of the logarithm of the coil's sensitivity in the brain.
    direction : str
        Phase encoding, from ... to: AP, PA, LR or RL.
    more_runs : tuple of str
        Phase encoding of the runs after the first, each the same way or the opposite one.
    fieldmaps : tuple of str
        Of `FIELDMAPS`.
    coverage : float
        Share of the brain's height that the slices cover, counted from the top.
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
        """Refuse numbers out of range."""
        kinds = ", ".join(FIELDMAPS)
        checks = (
            (
                1 <= self.directions <= 300,
                f"the number of directions must be 1 to 300, not {self.directions}",
            ),
            (
                bool(self.bvals) and all(50 < b <= 10000 for b in self.bvals),
                f"b-values are more than 50 and at most 10000 s/mm2: {self.bvals}",
            ),
            (self.n_b0 >= 1, f"a diffusion scan needs 1 b0 volume or more, not {self.n_b0}"),
            (
                1.5 <= self.resolution <= 6,
                f"the DWI resolution must be 1.5 to 6 mm: {self.resolution}",
            ),
            (self.tr > 0, f"the repetition time must be positive: {self.tr}"),
            (
                0 < self.echo_time < 0.2,
                f"the echo time is between 0 and 0.2 seconds: {self.echo_time}",
            ),
            (
                0 <= self.dropped <= 0.5,
                f"the share of dropped slices must be 0 to 0.5: {self.dropped}",
            ),
            (self.direction in DIRECTIONS, f"no phase-encoding direction: {self.direction}"),
            (
                set(self.more_runs) <= {self.direction, self.direction[::-1]},
                f"runs are encoded {self.direction} or {self.direction[::-1]}; not "
                f"{', '.join(self.more_runs)}",
            ),
            (0.2 <= self.coverage <= 1, f"the coverage must be 0.2 to 1: {self.coverage}"),
            (
                set(self.fieldmaps) <= set(FIELDMAPS),
                f"field maps are {kinds}; not {', '.join(self.fieldmaps)}",
            ),
            (
                not {"phasediff", "phases"} <= set(self.fieldmaps),
                "phasediff and phases are two ways to store the same scan: choose one",
            ),
            *(
                (getattr(self, name) >= 0, f"{name} must be 0 or more: {getattr(self, name)}")
                for name in ("snr", "drift", "jerk", "eddy", "distortion", "bias")
            ),
        )
        for passed, message in checks:
            if not passed:
                raise UsageError(message)

    @property
    def dropout(self) -> bool:
        """Gradient-echo field maps lose signal where the field changes across a slice."""
        return True

    @property
    def run_directions(self) -> tuple[str, ...]:
        """Phase encoding of each run."""
        return (self.direction, *self.more_runs)

    @property
    def n_volumes(self) -> int:
        """Length of the series."""
        return self.n_b0 + self.directions * len(self.bvals)
