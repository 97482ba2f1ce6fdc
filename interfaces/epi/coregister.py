"""Rigid registration of an EPI reference to the T1w image of the same participant.

Mutual information over the head registers the images from several starts; boundary-based
registration to the white-matter surface then refines the result to a fraction of a voxel.
Where the boundary cannot be detected, the result of mutual information is kept, and the
report says so.

References
----------
.. [1] Greve DN, Fischl B (2009). Accurate and robust brain image alignment using
   boundary-based registration. NeuroImage 48(1):63-72.
   doi:10.1016/j.neuroimage.2009.06.060
.. [2] Wells WM et al. (1996). Multi-modal volume registration by maximization of mutual
   information. Medical Image Analysis 1(1):35-51. doi:10.1016/S1361-8415(01)80004-9
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
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

from neuroferry.errors import InputError
from neuroferry.files import write_text
from neuroferry.interfaces.epi.boundary import (
    Boundary,
    boundary_contrast,
    boundary_cost,
    find_boundary,
)
from neuroferry.interfaces.image.affine import (
    RIGID,
    STEPS,
    MovingImage,
    SamplePoints,
    compose,
    moving_image,
    mutual_information,
    refine,
    sample_points,
)
from neuroferry.interfaces.image.bias import foreground
from neuroferry.interfaces.image.images import (
    Affine,
    Volume,
    inverse,
    load_mask,
    load_volume,
    resample_isotropic,
    resample_to,
)
from neuroferry.interfaces.image.transforms import write_itk_affine

# Spacing of the sample points, and resolution to which the T1w image is blurred.
COARSE_MM, FINE_MM = 8.0, 3.0
COARSE_BLUR_MM = 6.0
ANATOMY_ZOOM_MM = 2.0
# Starts: pitch, roll and yaw in degrees, and shifts along the body in mm.
TURNS = ((0, 0, 0), (15, 0, 0), (-15, 0, 0), (0, 10, 0), (0, -10, 0), (0, 0, 12), (0, 0, -12))
LIFTS_MM = (0.0, -40.0, -20.0, 20.0, 40.0)
STARTS_REFINED = 4
# Pairs of boundary points of the first pass.
COARSE_PAIRS = 3000
# Another start must beat the position of the header by this factor.
HEADER_BONUS = 1.05
# Boundary-based registration only refines; moving farther than this is a failure.
LARGEST_POLISH_MM = 6.0
GOOD_EDGES = 0.6
FAR_FROM_HEADER_MM = 25.0

Method = Literal["boundary", "mutual information"]


@dataclass(frozen=True)
class Coregistration:
    """Registration of an EPI to the T1w image, and its quality.

    Attributes
    ----------
    matrix : ndarray of float64, shape (4, 4)
        T1w points to EPI points, RAS+ mm: resamples the EPI onto the T1w image's grid.
    method : {"boundary", "mutual information"}
        Method of the final transform.
    mutual_information : float
        Final value, nats.
    edges : float or None
        Fraction of the white-matter surface with the expected EPI contrast across it; None
        without a surface.
    boundary_cost : float or None
        0 (best) to 2.
    polish_mm : float or None
        Root mean square displacement over the brain from the result of mutual information to
        that of boundary-based registration, mm.
    from_header_mm : float
        Root mean square displacement of the result from the position of the headers, mm.
    coverage : float
        Fraction of the T1w brain inside the EPI's field of view.
    verdict : {"good", "look"}
    reasons : list of str
        Reasons to check the registration, as sentences.
    """

    matrix: Affine
    method: Method
    mutual_information: float
    edges: float | None
    boundary_cost: float | None
    polish_mm: float | None
    from_header_mm: float
    coverage: float
    verdict: Literal["good", "look"]
    reasons: list[str]


def rms_distance(one: Affine, other: Affine, points: NDArray[np.float64]) -> float:
    """Compute the root mean square distance between points under two transforms, mm.

    Parameters
    ----------
    one, other : ndarray of float64, shape (4, 4)
        Points to points, RAS+ mm.
    points : ndarray of float64, shape (3, N)
        RAS+ mm.

    Returns
    -------
    float
    """
    difference = one - other
    moved = difference[:3, :3] @ points + difference[:3, 3:]
    return float(np.sqrt(np.mean(np.sum(moved**2, axis=0))))


def mask_points(mask: NDArray[np.bool_], affine: Affine, count: int = 4000) -> NDArray[np.float64]:
    """Sample about `count` voxels of a mask: world coordinates, shape (3, N), RAS+ mm."""
    index = np.argwhere(mask).T.astype(np.float64)
    index = index[:, :: max(1, index.shape[1] // count)]
    points: NDArray[np.float64] = affine[:3, :3] @ index + affine[:3, 3:]
    return points


def align_heads(
    epi: Volume, t1w: Volume, t1w_mask: NDArray[np.bool_], *, sloppy: bool = False, seed: int = 1
) -> tuple[Affine, float]:
    """Register an EPI rigidly to the T1w image by mutual information.

    The sample points of the metric belong to the EPI, whose field of view may cover only part
    of the head; the T1w image is sampled there. The search starts from the position of the
    headers and from the centres of mass, each rotated and shifted along the body.

    Parameters
    ----------
    epi, t1w : Volume
        Images of one participant.
    t1w_mask : ndarray of bool, shape (I, J, K)
        Brain of the T1w image.
    sloppy : bool
        Skip the finest level.
    seed : int
        Seed of the sampling jitter.

    Returns
    -------
    matrix : ndarray of float64, shape (4, 4)
        EPI points to T1w points, RAS+ mm.
    score : float
        Mutual information, nats.
    """
    anatomy = resample_isotropic(t1w, ANATOMY_ZOOM_MM)
    # Against the extracted brain there is one broad optimum; against the head there are many.
    brain = t1w.with_data(np.where(t1w_mask, t1w.data, 0).astype(np.float32))
    head, around = _head_of(epi)
    points = sample_points(epi, around, COARSE_MM, seed=seed, blur=COARSE_BLUR_MM)
    image = moving_image(resample_isotropic(brain, ANATOMY_ZOOM_MM), COARSE_BLUR_MM)
    matrix, _ = _best_start(points, image, _starts(points, epi, head, t1w, t1w_mask))
    return _refine(epi, anatomy, _as_volume(t1w, t1w_mask), matrix, sloppy=sloppy, seed=seed)


def refine_heads(
    epi: Volume,
    t1w: Volume,
    t1w_mask: NDArray[np.bool_],
    matrix: Affine,
    *,
    sloppy: bool = False,
    seed: int = 1,
) -> tuple[Affine, float]:
    """Refine the registration of an EPI from a nearby start.

    Parameters
    ----------
    epi, t1w : Volume
        Images of one participant.
    t1w_mask : ndarray of bool, shape (I, J, K)
        Brain of the T1w image.
    matrix : ndarray of float64, shape (4, 4)
        EPI points to T1w points, RAS+ mm.
    sloppy : bool
        Skip the finest level.
    seed : int
        Seed of the sampling jitter.

    Returns
    -------
    matrix : ndarray of float64, shape (4, 4)
        EPI points to T1w points, RAS+ mm.
    score : float
        Mutual information, nats.
    """
    anatomy = resample_isotropic(t1w, ANATOMY_ZOOM_MM)
    return _refine(epi, anatomy, _as_volume(t1w, t1w_mask), matrix, sloppy=sloppy, seed=seed)


def _as_volume(t1w: Volume, mask: NDArray[np.bool_]) -> Volume:
    return Volume(mask.astype(np.float32), t1w.affine)


def _head_of(epi: Volume) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Find the head of an EPI, and the head with some air around it."""
    from scipy import ndimage

    head = foreground(epi.data)
    steps = max(1, round(8.0 / float(epi.zooms.mean())))
    return head, ndimage.binary_dilation(head, iterations=steps)


def _refine(
    epi: Volume, anatomy: Volume, mask: Volume, matrix: Affine, *, sloppy: bool, seed: int
) -> tuple[Affine, float]:
    """Refine by mutual information near the brain, at 4 and then 2 mm."""
    _, around = _head_of(epi)
    score = 0.0
    for zoom in (4.0,) if sloppy else (4.0, 2.0):
        near = near_brain(epi, mask, matrix, 6.0)
        points = sample_points(epi, near & around, max(FINE_MM, zoom), seed=seed, blur=zoom)
        image = moving_image(anatomy, zoom)
        matrix, score = refine(
            points, image, matrix, dof=RIGID, step=zoom / 20, tolerance=1e-6, max_iterations=10
        )
    return matrix, score


def _starts(
    points: SamplePoints,
    epi: Volume,
    head: NDArray[np.bool_],
    t1w: Volume,
    t1w_mask: NDArray[np.bool_],
) -> list[Affine]:
    """List the starting transforms, EPI points to T1w points; that of the headers first."""
    middle = mask_points(head, epi.affine).mean(axis=1)
    brain = mask_points(t1w_mask, t1w.affine).mean(axis=1)
    shifts = (np.zeros(3), brain - middle)
    starts = []
    for shift, lift, turn in itertools.product(shifts, LIFTS_MM, TURNS):
        parameters = np.array([shift[0], shift[1], shift[2] + lift, *np.radians(turn)])
        starts.append(compose(parameters, points.centre))
    return starts


def _best_start(
    points: SamplePoints, image: MovingImage, starts: Sequence[Affine]
) -> tuple[Affine, float]:
    """Refine the most likely starts coarsely, always including the first (the headers)."""
    few = points.thin(3000)
    scores = [mutual_information(few, image, start) for start in starts]
    order = [0, *(int(n) for n in np.argsort(scores)[::-1] if n)][:STARTS_REFINED]
    found = [
        refine(few, image, starts[n], dof=RIGID, tolerance=1e-4, max_iterations=6) for n in order
    ]
    best = max(range(len(found)), key=lambda n: found[n][1])
    if found[best][1] < HEADER_BONUS * found[0][1]:
        best = 0
    return found[best]


def near_brain(epi: Volume, mask: Volume, matrix: Affine, margin_mm: float) -> NDArray[np.bool_]:
    """Find the voxels of an EPI within a margin of the T1w brain.

    Parameters
    ----------
    epi : Volume
        EPI of the head.
    mask : Volume
        Brain of the T1w image, 0 to 1.
    matrix : ndarray of float64, shape (4, 4)
        EPI points to T1w points, RAS+ mm.
    margin_mm : float
        Margin in mm.

    Returns
    -------
    ndarray of bool
        On the EPI's grid.

    Raises
    ------
    InputError
        If there is none.
    """
    from scipy import ndimage

    placed = Volume(mask.data, inverse(matrix) @ mask.affine)
    carried = resample_to(placed, epi.shape, epi.affine).data > 0.5
    if not carried.any():
        raise InputError(
            "The BOLD and T1w images do not overlap in space; check that they belong to the"
            " same participant."
        )
    distance = ndimage.distance_transform_edt(~carried, sampling=epi.zooms)
    near: NDArray[np.bool_] = distance <= margin_mm
    return near


def polish(
    boundary: Boundary, epi: Volume, start: Affine, centre: NDArray[np.float64]
) -> tuple[Affine, float]:
    """Refine a registration so that the EPI's edges lie on the white-matter surface.

    Parameters
    ----------
    boundary : Boundary
        Pairs of points in T1w space.
    epi : Volume
        Image with grey matter brighter than white matter.
    start : ndarray of float64, shape (4, 4)
        T1w points to EPI points, RAS+ mm.
    centre : ndarray of float64, shape (3,)
        Centre of rotation in T1w space, RAS+ mm.

    Returns
    -------
    matrix : ndarray of float64, shape (4, 4)
        T1w points to EPI points.
    cost : float
        :func:`~neuroferry.interfaces.epi.boundary.boundary_cost` there.
    """
    from scipy.optimize import minimize

    matrix = start
    for part, scale, sweeps in ((boundary.thin(COARSE_PAIRS), 0.5, 8), (boundary, 0.1, 4)):
        steps = STEPS[:RIGID] * scale

        def cost_at(x: NDArray[np.float64], part: Any = part, steps: Any = steps) -> float:
            here = matrix @ compose(x * steps, centre)  # noqa: B023  (used before it changes)
            return boundary_cost(boundary_contrast(part, epi, here))

        found = minimize(
            cost_at,
            np.zeros(RIGID),
            method="Powell",
            options={"xtol": 1e-2, "ftol": 1e-5, "maxiter": sweeps},
        )
        matrix = matrix @ compose(found.x * steps, centre)
    return matrix, boundary_cost(boundary_contrast(boundary, epi, matrix))


def coregister(
    epi: Volume,
    t1w: Volume,
    t1w_mask: NDArray[np.bool_],
    wm_prob: Volume | None = None,
    *,
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
    sloppy : bool
        Fast and coarse.
    seed : int
        Seed of the sampling jitter.

    Returns
    -------
    Coregistration
    """
    found, information = align_heads(epi, t1w, t1w_mask, sloppy=sloppy, seed=seed)
    rough = inverse(found)
    points = mask_points(t1w_mask, t1w.affine)
    matrix, method = rough, "mutual information"
    reasons: list[str] = []
    edges = cost = moved = None
    if wm_prob is None:
        reasons.append("There was no white-matter map, so only mutual information was used.")
    else:
        boundary = find_boundary(t1w, t1w_mask, wm_prob, count=4000 if sloppy else 12_000)
        polished, cost = polish(boundary, epi, rough, points.mean(axis=1))
        contrast = boundary_contrast(boundary, epi, polished)
        known = contrast[np.isfinite(contrast)]
        edges = float(np.mean(known > 0)) if known.size else 0.0
        moved = rms_distance(polished, rough, points)
        if moved <= LARGEST_POLISH_MM and edges > 0.5 and cost < 1.0:
            matrix, method = polished, "boundary"
        else:
            reasons.append(
                "The white-matter surface was not found in the BOLD reference, so only mutual"
                " information was used."
            )
    to_voxels = inverse(epi.affine) @ matrix
    index = to_voxels[:3, :3] @ points + to_voxels[:3, 3:]
    ends = np.array(epi.shape)[:, None] - 0.5
    coverage = float(np.mean(np.all((index > -0.5) & (index < ends), axis=0)))
    far = rms_distance(matrix, np.eye(4), points)
    reasons += _doubts(edges, far, coverage)
    return Coregistration(
        matrix=matrix,
        method="boundary" if method == "boundary" else "mutual information",
        mutual_information=information,
        edges=edges,
        boundary_cost=cost,
        polish_mm=moved,
        from_header_mm=far,
        coverage=coverage,
        verdict="look" if reasons else "good",
        reasons=reasons,
    )


def _doubts(edges: float | None, far: float, coverage: float) -> list[str]:
    """List reasons to check a registration."""
    reasons = []
    if edges is not None and edges < GOOD_EDGES:
        reasons.append(
            f"Only {100 * edges:.0f} % of the white-matter surface is visible as an edge in the"
            " BOLD reference."
        )
    if far > FAR_FROM_HEADER_MM:
        reasons.append(f"The result is {far:.0f} mm away from the position in the headers.")
    if coverage < 0.5:
        reasons.append(f"The BOLD field of view covers only {100 * coverage:.0f} % of the brain.")
    return reasons


class _CoregisterInputSpec(BaseInterfaceInputSpec):
    bold_ref = File(exists=True, mandatory=True, desc="EPI reference, unwarped if possible")
    t1w_preproc = File(exists=True, mandatory=True, desc="bias-corrected T1w image")
    t1w_mask = File(exists=True, mandatory=True, desc="brain mask of the T1w image")
    wm_probseg = File(exists=True, desc="probability of white matter")
    sloppy = traits.Bool(False, usedefault=True, desc="fast and coarse")
    seed = traits.Range(low=1, value=1, usedefault=True, desc="seed of the sampling")


class _CoregisterOutputSpec(TraitedSpec):
    boldref2anat_xfm = File(exists=True, desc="ITK affine: BOLD reference onto T1w grid")
    anat2boldref_xfm = File(exists=True, desc="ITK affine: T1w image onto BOLD grid")
    coreg_report = File(exists=True, desc="JSON: method, score, verdict")


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
