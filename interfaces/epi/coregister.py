"""Rigid registration of an EPI reference to the T1w image of the same participant.

Mutual information over the head registers the images from several starts. Boundary-based
registration to the white-matter surface then follows the EPI's edges, from the result of mutual
information and from the position of the headers. The lowest boundary cost decides, however far it
is from either; if no start is convincing, more are tried. What the images show at the surface
says how far the result can be trusted.

References
----------
.. [1] Greve DN, Fischl B (2009). Accurate and robust brain image alignment using
   boundary-based registration. NeuroImage 48(1):63-72.
   doi:10.1016/j.neuroimage.2009.06.060
.. [2] Wells WM et al. (1996). Multi-modal volume registration by maximization of mutual
   information. Medical Image Analysis 1(1):35-51. doi:10.1016/S1361-8415(01)80004-9
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from nipype.interfaces.base import (
    BaseInterfaceInputSpec,
    File,
    SimpleInterface,
    TraitedSpec,
    isdefined,
    traits,
)
from numpy.typing import NDArray

from neuroferry.files import write_text
from neuroferry.interfaces.epi.boundary import (
    SLOPE,
    Boundary,
    find_boundary,
    follow_edges,
    polish,
)
from neuroferry.interfaces.epi.confidence import (
    Evidence,
    Level,
    gather_evidence,
    is_convincing,
    judge,
)
from neuroferry.interfaces.epi.heads import align_heads, even_out, mask_points, rms_distance
from neuroferry.interfaces.image.affine import compose
from neuroferry.interfaces.image.images import (
    Affine,
    Volume,
    inverse,
    load_mask,
    load_volume,
)
from neuroferry.interfaces.image.transforms import write_itk_affine

# More starts, where no other is convincing: moves in mm, turns in degrees.
FURTHER = tuple(
    sign * np.array([*move, *np.radians(turn)])
    for sign in (1, -1)
    for move, turn in (
        ((8, 0, 0), (0, 0, 0)),
        ((0, 8, 0), (0, 0, 0)),
        ((0, 0, 8), (0, 0, 0)),
        ((0, 0, 0), (8, 0, 0)),
        ((0, 0, 0), (0, 8, 0)),
        ((0, 0, 0), (0, 0, 8)),
    )
)

Method = Literal["boundary", "mutual information"]


@dataclass(frozen=True)
class Coregistration:
    """Registration of an EPI to the T1w image, and how far it can be trusted.

    Attributes
    ----------
    matrix : ndarray of float64, shape (4, 4)
        T1w points to EPI points, RAS+ mm: resamples the EPI onto the T1w image's grid.
    method : {"boundary", "mutual information"}
        Method of the final transform.
    mutual_information : float
        Value at the result of mutual information, nats.
    edges : float or None
        Fraction of the white-matter surface in the field of view with the expected EPI contrast
        across it; None without a surface.
    boundary_cost : float or None
        0 (best) to 2, of the surface in the field of view.
    boundary_rise : float or None
        Mean increase of the cost when the EPI is moved or turned by 4 mm.
    expected_error_mm : float or None
        Expected root mean square error over the brain, if the right edges were found; None
        without a surface, or without a minimum of the cost.
    starts_differ_mm : float or None
        Root mean square distance over the brain between what was found from the position of the
        headers and from the result of mutual information.
    from_header_mm : float
        Root mean square displacement of the result from the position of the headers, mm.
    coverage : float
        Fraction of the T1w brain inside the EPI's field of view.
    head_mm : list of list of float
        Where the brain's middle, and points 50 mm to its left, front and top, lie in the
        coordinates of the EPI, RAS+ mm: comparable between the runs of a session.
    verdict : {"good", "look", "bad"}
    reasons : list of str
        Reasons for a verdict other than good, as sentences.
    """

    matrix: Affine
    method: Method
    mutual_information: float
    edges: float | None
    boundary_cost: float | None
    boundary_rise: float | None
    expected_error_mm: float | None
    starts_differ_mm: float | None
    from_header_mm: float
    coverage: float
    head_mm: list[list[float]]
    verdict: Level
    reasons: list[str]


@dataclass(frozen=True)
class Followed:
    """Result of boundary-based registration."""

    matrix: Affine
    evidence: Evidence
    starts_differ_mm: float


def coregister(
    epi: Volume,
    t1w: Volume,
    t1w_mask: NDArray[np.bool_],
    wm_prob: Volume | None = None,
    *,
    slope: float = SLOPE,
    sloppy: bool = False,
    seed: int = 1,
) -> Coregistration:
    """Register an EPI reference rigidly to the T1w image.

    Parameters
    ----------
    epi : Volume
        EPI reference, distortion-corrected if possible.
    t1w : Volume
        Bias-corrected T1w image.
    t1w_mask : ndarray of bool, shape (I, J, K)
        Brain mask.
    wm_prob : Volume, optional
        Probability of white matter on the T1w grid; without it, only mutual information is
        used.
    slope : float
        Slope of the boundary cost, for the contrast of the image.
    sloppy : bool
        Fast and coarse.
    seed : int
        Seed of the sampling jitter.

    Returns
    -------
    Coregistration
    """
    even = even_out(epi)
    found, information = align_heads(even, t1w, t1w_mask, sloppy=sloppy, seed=seed)
    points = mask_points(t1w_mask, t1w.affine)
    matrix, method, followed = inverse(found), "mutual information", None
    if wm_prob is not None:
        count = 4000 if sloppy else 12_000
        boundary = find_boundary(t1w, t1w_mask, wm_prob, count=count, slope=slope)
        followed = follow_surface(boundary, even, matrix, points)
        if is_convincing(followed.evidence):
            matrix, method = followed.matrix, "boundary"
    coverage = _coverage(epi, matrix, points)
    far = rms_distance(matrix, np.eye(4), points)
    evidence = followed.evidence if followed is not None else None
    verdict, reasons = judge(evidence, from_header_mm=far, coverage=coverage)
    error = evidence.error_mm if evidence is not None else float("inf")
    return Coregistration(
        matrix=matrix,
        method="boundary" if method == "boundary" else "mutual information",
        mutual_information=information,
        edges=evidence.edges if evidence else None,
        boundary_cost=evidence.cost if evidence else None,
        boundary_rise=evidence.rise if evidence else None,
        expected_error_mm=error if np.isfinite(error) else None,
        starts_differ_mm=followed.starts_differ_mm if followed else None,
        from_header_mm=far,
        coverage=coverage,
        head_mm=_head_position(matrix, points.mean(axis=1)),
        verdict=verdict,
        reasons=reasons,
    )


def follow_surface(
    boundary: Boundary, epi: Volume, found: Affine, points: NDArray[np.float64]
) -> Followed:
    """Register the white-matter surface to the EPI's edges from several starts.

    Parameters
    ----------
    boundary : Boundary
        Pairs of points in T1w space.
    epi : Volume
        EPI of even brightness.
    found : ndarray of float64, shape (4, 4)
        Result of mutual information, T1w points to EPI points, RAS+ mm. The position of the
        headers is the other start.
    points : ndarray of float64, shape (3, N)
        Points of the brain in T1w space, RAS+ mm.

    Returns
    -------
    Followed
    """
    centre = points.mean(axis=1)
    first = [follow_edges(boundary, epi, start, centre) for start in (found, np.eye(4))]
    apart = rms_distance(first[0][0], first[1][0], points)

    def finish(tried: list[tuple[Affine, float]]) -> tuple[Affine, Evidence]:
        nearest, _ = min(tried, key=lambda one: one[1])
        matrix, _ = polish(boundary, epi, nearest, centre)
        return matrix, gather_evidence(boundary, epi, matrix, points)

    matrix, evidence = finish(first)
    if not is_convincing(evidence):
        starts = [found @ compose(way, centre) for way in FURTHER]
        more = [follow_edges(boundary, epi, start, centre) for start in starts]
        matrix, evidence = finish([*first, *more])
    return Followed(matrix, evidence, apart)


def _coverage(epi: Volume, matrix: Affine, points: NDArray[np.float64]) -> float:
    """Compute the fraction of points inside the field of view."""
    to_voxels = inverse(epi.affine) @ matrix
    index = to_voxels[:3, :3] @ points + to_voxels[:3, 3:]
    ends = np.array(epi.shape)[:, None] - 0.5
    return float(np.mean(np.all((index > -0.5) & (index < ends), axis=0)))


def _head_position(matrix: Affine, middle: NDArray[np.float64]) -> list[list[float]]:
    """Carry the middle of the brain, and points 50 mm from it, to the EPI."""
    around = middle + 50.0 * np.array([[0, 0, 0], [-1, 0, 0], [0, 1, 0], [0, 0, 1]])
    carried = around @ matrix[:3, :3].T + matrix[:3, 3]
    return [[round(float(value), 3) for value in point] for point in carried]


class _CoregisterInputSpec(BaseInterfaceInputSpec):
    bold_ref = File(exists=True, mandatory=True, desc="EPI reference, unwarped if possible")
    t1w_preproc = File(exists=True, mandatory=True, desc="bias-corrected T1w image")
    t1w_mask = File(exists=True, mandatory=True, desc="brain mask of the T1w image")
    wm_probseg = File(exists=True, desc="probability of white matter")
    slope = traits.Float(desc="slope of the boundary cost; by default that for BOLD and DWI")
    sloppy = traits.Bool(False, usedefault=True, desc="fast and coarse")
    seed = traits.Range(low=1, value=1, usedefault=True, desc="seed of the sampling")


class _CoregisterOutputSpec(TraitedSpec):
    boldref2anat_xfm = File(exists=True, desc="ITK affine: BOLD reference onto T1w grid")
    anat2boldref_xfm = File(exists=True, desc="ITK affine: T1w image onto BOLD grid")
    coreg_report = File(exists=True, desc="JSON: method, evidence, verdict")


class Coregister(SimpleInterface):
    """Registration of a BOLD reference to T1w: mutual information, then boundary-based."""

    input_spec = _CoregisterInputSpec
    output_spec = _CoregisterOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        t1w = load_volume(self.inputs.t1w_preproc)
        mask = load_mask(self.inputs.t1w_mask, t1w, "brain mask")
        given = self.inputs.wm_probseg
        result = coregister(
            load_volume(self.inputs.bold_ref),
            t1w,
            mask,
            load_volume(given) if isdefined(given) else None,
            slope=self.inputs.slope if isdefined(self.inputs.slope) else SLOPE,
            sloppy=self.inputs.sloppy,
            seed=self.inputs.seed,
        )
        out = Path(runtime.cwd)
        self._results["boldref2anat_xfm"] = str(
            write_itk_affine(result.matrix, out / "boldref2anat.txt")
        )
        self._results["anat2boldref_xfm"] = str(
            write_itk_affine(inverse(result.matrix), out / "anat2boldref.txt")
        )
        self._results["coreg_report"] = str(write_report(result, out / "coreg.json"))
        return runtime


def write_report(result: Coregistration, path: Path) -> Path:
    """Write the result of :func:`coregister` as JSON, numbers to four decimals."""
    report = asdict(result)
    del report["matrix"]
    rounded = {
        key: round(value, 4) if isinstance(value, float) else value
        for key, value in report.items()
    }
    write_text(path, json.dumps(rounded, indent=2) + "\n")
    return path
