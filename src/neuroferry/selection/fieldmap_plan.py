"""Plan of the distortion correction of a run: a value that everything else reads."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, NamedTuple

from neuroferry.bids.model import Image
from neuroferry.selection.fieldmap_sets import Origin

Method = Literal["phasediff", "phases", "direct", "pepolar"]
# In order of preference: an EPI pair has the same distortion as the run itself.
PREFERENCE: tuple[Method, ...] = ("pepolar", "phasediff", "phases", "direct")


@dataclass(frozen=True)
class FieldmapPlan:
    """Plan of the distortion correction of a run.

    Attributes
    ----------
    method : {"phasediff", "phases", "direct", "pepolar"} or None
        None: no correction.
    fmap_id : str
        Label of the field map in file names, letters and digits only.
    magnitude, phase, fieldmap, epi : tuple of str
        Files. A single EPI is used together with the run's own reference.
    echo_times : tuple of float
        Of the phase images, s.
    phase_ranges : tuple of tuple of float
        Values of -pi and pi in each phase image.
    units : str
        Of a field computed by the scanner.
    epi_phase_encoding : tuple of str
        PhaseEncodingDirection of each EPI, along its own stored axes.
    epi_readout_times : tuple of float
        TotalReadoutTime of each EPI, s.
    epi_volumes : tuple of tuple of int
        Volumes of each EPI that are aligned and averaged: the b0 volumes, or those in the middle
        of a BOLD run; if empty, the mean over all volumes is used without alignment.
    epi_n_voxels : tuple of int
        Voxels of one volume of each EPI whose volumes are aligned; 0 for the others.
    phase_encoding : str
        PhaseEncodingDirection of the run; empty without a method.
    readout_time : float
        TotalReadoutTime of the run, s; zero without a method.
    origin : Origin or "option" or None
        Basis of the decision: ``B0FieldIdentifier``, ``IntendedFor``, ``inferred``, or ``option``
        if field maps are ignored on request; None if there was nothing to decide.
    warnings : tuple of str
        Plain sentences for the user.
    why_not : str
        Without a method: the reason, as a clause; empty if field maps are ignored on request.
    """

    method: Method | None = None
    fmap_id: str = ""
    magnitude: tuple[str, ...] = ()
    phase: tuple[str, ...] = ()
    fieldmap: tuple[str, ...] = ()
    epi: tuple[str, ...] = ()
    echo_times: tuple[float, ...] = ()
    phase_ranges: tuple[tuple[float, float], ...] = ()
    units: str = "Hz"
    epi_phase_encoding: tuple[str, ...] = ()
    epi_readout_times: tuple[float, ...] = ()
    epi_volumes: tuple[tuple[int, ...], ...] = ()
    epi_n_voxels: tuple[int, ...] = ()
    phase_encoding: str = ""
    readout_time: float = 0.0
    origin: Origin | Literal["option"] | None = None
    warnings: tuple[str, ...] = ()
    why_not: str = ""

    @property
    def sources(self) -> tuple[str, ...]:
        """Every file that the field is estimated from, other than the run itself."""
        return (*self.fieldmap, *self.phase, *self.magnitude, *self.epi)


def averaged(plan: FieldmapPlan) -> str:
    """Name the volumes of EPIs that are aligned and averaged."""
    series = any("_bold." in path for path in plan.epi)
    return "volumes" if series else "the b0 volumes"


class NoFieldmap(NamedTuple):
    """Reasons why a run has no field map.

    Attributes
    ----------
    reasons : list of str
        Clauses.
    meant : bool
        Whether some are assigned to it but cannot be used, or more than one can be meant.
    """

    reasons: list[str]
    meant: bool


def without_fieldmap(run: Image, reasons: Iterable[str]) -> FieldmapPlan:
    """Make the plan of an uncorrected run, with a sentence for each reason."""
    clauses = list(dict.fromkeys(reasons))
    texts = (
        f"{run.path.name} is not corrected for susceptibility distortion: {reason}."
        for reason in clauses
    )
    return FieldmapPlan(warnings=tuple(texts), why_not="; ".join(clauses))
