"""Registration of a brain to the template: affine by mutual information, then SyN.

References
----------
.. [1] Avants BB et al. (2008). Symmetric diffeomorphic image registration with
   cross-correlation. Medical Image Analysis 12(1):26-41. doi:10.1016/j.media.2007.06.004
.. [2] Garyfallidis E et al. (2014). DIPY, a library for the analysis of diffusion MRI
   data. Front Neuroinform 8:8. doi:10.3389/fninf.2014.00008
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

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

from neuroferry.interfaces.anat.template_fit import TemplateFit, judge_fit, write_fit
from neuroferry.interfaces.image.affine import (
    AFFINE,
    RIGID,
    moving_image,
    refine,
    sample_points,
)
from neuroferry.interfaces.image.images import (
    Affine,
    FloatArray,
    Volume,
    crop_to,
    inverse,
    load_mask,
    load_volume,
    resample_isotropic,
    resample_to,
    smooth_for,
    to_canonical,
    voxel_sizes,
)
from neuroferry.interfaces.image.transforms import (
    DisplacementField,
    Transform,
    apply_transforms,
    jacobian_determinant,
    read_itk_affine,
    read_transform,
    write_itk_composite,
)
from neuroferry.templates import TemplateBrain, load_template

AROUND_MM = 10.0  # margin for displacements around the brain of the fixed image


@dataclass(frozen=True)
class SynSettings:
    """Settings of SyN.

    Attributes
    ----------
    resolution : int
        Template resolution, mm.
    radius : int
        Radius of the cross-correlation window, voxels.
    iterations : tuple of int
        Iterations at each level, coarsest first; each level halves the voxel size.
    smoothing : float
        Standard deviation of the Gaussian that smooths each update, voxels.
    step : float
        Maximum displacement per update, voxels.
    """

    resolution: int = 1
    radius: int = 2
    iterations: tuple[int, ...] = (100, 60, 40, 6)
    smoothing: float = 1.5
    step: float = 0.4


SLOPPY_SYN = SynSettings(resolution=3, iterations=(15, 8), smoothing=2.0, step=0.25)


@dataclass(frozen=True)
class Normalisation:
    """Pair of transforms between a head and the template, and their quality.

    Attributes
    ----------
    anat2std, std2anat : tuple
        Chains for :func:`neuroferry.interfaces.image.transforms.apply_transforms`: the first
        resamples the head onto the template's grid, the second the template onto the
        head's.
    affine : ndarray of float64, shape (4, 4)
        Template points to head points, RAS+ mm.
    fit : TemplateFit
        How well the two fit each other.
    """

    anat2std: tuple[Transform, ...]
    std2anat: tuple[Transform, ...]
    affine: Affine
    fit: TemplateFit


def syn(
    static: FloatArray,
    static_affine: Affine,
    moving: Volume,
    prealign: Affine,
    settings: SynSettings,
) -> tuple[DisplacementField, DisplacementField]:
    """Register with DIPY's symmetric diffeomorphic registration and local cross-correlation.

    Runs in a box around the content of the fixed image, because air takes half the time of the
    whole grid; displacements are zero outside the box.

    Parameters
    ----------
    static : ndarray of float32, shape (I, J, K)
        Fixed image, zero outside the brain; both displacements live on its grid.
    static_affine : ndarray of float64, shape (4, 4)
        Its affine.
    moving : Volume
        Image to register to it.
    prealign : ndarray of float64, shape (4, 4)
        Static points to moving points, RAS+ mm.
    settings : SynSettings
        Window and iterations.

    Returns
    -------
    forward, backward : DisplacementField
        ``prealign(x + forward(x))`` maps static points to moving points;
        ``y + backward(y)`` with ``y = prealign⁻¹(moving point)`` maps them back.
    """
    from dipy.align.imwarp import SymmetricDiffeomorphicRegistration
    from dipy.align.metrics import CCMetric

    box, affine = crop_to(static > 0, static_affine, AROUND_MM)
    inside = np.ascontiguousarray(static[box], dtype=np.float32)
    pulled = _through(moving, prealign, inside.shape, affine)
    metric = CCMetric(3, sigma_diff=settings.smoothing, radius=settings.radius)
    engine = SymmetricDiffeomorphicRegistration(
        metric, level_iters=list(settings.iterations), step_length=settings.step
    )
    engine.verbosity = 0
    mapping = engine.optimize(inside, pulled, static_grid2world=affine, moving_grid2world=affine)
    # DIPY returns the inverse of a map from moving to static and names its fields accordingly.
    fields = (mapping.backward, mapping.forward)
    if not mapping.is_inverse:
        fields = fields[::-1]
    whole = np.zeros((2, *static.shape, 3), dtype=np.float32)
    for number, field in enumerate(fields):
        whole[number][box] = field
    return DisplacementField(whole[0], static_affine), DisplacementField(whole[1], static_affine)


def _through(
    moving: Volume, matrix: Affine, shape: tuple[int, int, int], affine: Affine
) -> FloatArray:
    """Resample through a linear transform, blurred to the target's resolution first."""
    target = float(voxel_sizes(affine).max())
    smooth = smooth_for(moving.data, moving.zooms, target)
    grid = resample_to(moving.with_data(smooth), shape, matrix @ affine)
    return np.ascontiguousarray(grid.data)


def _brain_box(volume: Volume, mask: NDArray[np.bool_], zoom: float) -> Volume:
    """Extract the brain alone, on an isotropic grid of `zoom` mm with air around it."""
    brain = volume.with_data(np.where(mask, volume.data, 0).astype(np.float32))
    box, affine = crop_to(mask, volume.affine, 8.0)
    return resample_isotropic(Volume(brain.data[box], affine), zoom)


def align_brain(
    brain: Volume,
    template: TemplateBrain,
    start: Affine | None,
    *,
    sloppy: bool = False,
    seed: int = 1,
) -> tuple[Affine, float]:
    """Register the template to a brain by a linear transform.

    Parameters
    ----------
    brain : Volume
        Brain-extracted image.
    template : TemplateBrain
        Template at any resolution.
    start : ndarray of float64, shape (4, 4), optional
        Template points to brain points; by default from the bounding boxes of both brains.
    sloppy : bool
        Use fewer points and one level.
    seed : int
        Seed of the sampling jitter.

    Returns
    -------
    matrix : ndarray of float64, shape (4, 4)
        Template points to brain points, RAS+ mm.
    score : float
        Mutual information, nats.
    """
    fixed = Volume(template.t1w, template.affine)
    coarse = sample_points(fixed, template.brain_mask, 6.0, seed=seed)
    image = moving_image(brain, 4.0)
    if start is None:
        start = _box_start(brain, coarse.centre)
        start, _ = refine(coarse, image, start, dof=RIGID, tolerance=1e-3)
    matrix, score = refine(coarse, image, start, dof=AFFINE, tolerance=1e-3, step=0.5)
    if sloppy:
        return matrix, score
    fine = sample_points(fixed, template.brain_mask, 3.0, seed=seed)
    image = moving_image(brain, 2.0)
    return refine(fine, image, matrix, dof=AFFINE, tolerance=1e-4, step=0.2, max_iterations=6)


def _box_start(brain: Volume, centre: NDArray[np.float64]) -> Affine:
    """Align the centre of the template with that of the brain's bounding box."""
    inside = np.argwhere(brain.data > 0)
    middle = (inside.min(axis=0) + inside.max(axis=0)) / 2
    start = np.eye(4)
    start[:3, 3] = brain.affine[:3, :3] @ middle + brain.affine[:3, 3] - centre
    return start


def normalise(
    volume: Volume,
    mask: NDArray[np.bool_],
    settings: SynSettings,
    *,
    template: TemplateBrain | None = None,
    start: Affine | None = None,
    sloppy: bool = False,
    seed: int = 1,
) -> Normalisation:
    """Register the brain of a head and a template to each other.

    Parameters
    ----------
    volume : Volume
        Bias-corrected T1w image.
    mask : ndarray of bool, shape (I, J, K)
        Its brain.
    settings : SynSettings
        Resolution, window and iterations of SyN.
    template : TemplateBrain, optional
        Another template than the built-in one; SyN runs on its own grid.
    start : ndarray of float64, shape (4, 4), optional
        Template points to head points, from brain extraction.
    sloppy : bool
        Fast and coarse.
    seed : int
        Seed of the sampling in affine registration.

    Returns
    -------
    Normalisation
    """
    if template is None:
        template = load_template(settings.resolution)
        zoom = float(settings.resolution)
    else:
        zoom = float(voxel_sizes(template.affine).max())
    brain = _brain_box(volume, mask, zoom)
    matrix, _ = align_brain(brain, template, start, sloppy=sloppy, seed=seed)
    static = np.where(template.brain_mask, template.t1w, 0).astype(np.float32)
    ceiling = float(np.percentile(brain.data[brain.data > 0], 99.8))
    scaled = brain.with_data(np.minimum(brain.data / ceiling, 1.0).astype(np.float32))
    forward, backward = syn(static, template.affine, scaled, matrix, settings)
    shape = (static.shape[0], static.shape[1], static.shape[2])
    warped = apply_transforms(scaled, [forward, matrix], shape, template.affine).data
    inside = template.brain_mask
    changes = [jacobian_determinant(field)[inside] for field in (forward, backward)]
    fit = judge_fit(
        warped,
        static,
        inside,
        changes[0],
        volume_ratio=abs(float(np.linalg.det(matrix[:3, :3]))),
        folded=sum(int(np.count_nonzero(change <= 0)) for change in changes),
    )
    return Normalisation((forward, matrix), (inverse(matrix), backward), matrix, fit)


def read_template(t1w: str | Path, mask: str | Path, zoom: float | None = None) -> TemplateBrain:
    """Read a template's brain from files, reoriented to the world axes.

    Parameters
    ----------
    t1w, mask : path
        T1-weighted image, with or without skull, and its brain mask.
    zoom : float, optional
        Isotropic voxel size (mm) to resample to; by default that of the files.

    Returns
    -------
    TemplateBrain
        Intensities of the brain, scaled to a maximum of one, zero outside.

    Raises
    ------
    InputError, GeometryError
        As `load_volume` and `load_mask`.
    """
    volume = load_volume(t1w)
    inside = load_mask(mask, volume, "brain mask of the template")
    brain = to_canonical(volume.with_data(np.where(inside, volume.data, 0).astype(np.float32)))
    full = to_canonical(volume.with_data(inside.astype(np.float32)))
    if zoom is not None:
        brain, full = (resample_isotropic(image, zoom) for image in (brain, full))
    within = full.data > 0.5
    ceiling = float(np.percentile(brain.data[within], 99.8))
    data = np.where(within, np.clip(brain.data / ceiling, 0, 1), 0).astype(np.float32)
    return TemplateBrain(
        Path(t1w).name.split("_")[0].removeprefix("tpl-"), data, within, full.affine
    )


def start_through_own(
    template: TemplateBrain, xfm: str | Path, *, sloppy: bool = False, seed: int = 1
) -> Affine:
    """Initialise a registration to another template from that to the built-in template.

    Templates are upright, so that two of them can be registered from the centres of their
    bounding boxes; heads need not be upright.

    Parameters
    ----------
    template : TemplateBrain
        The other template.
    xfm : path
        ITK transform between the head and the built-in template, of which the linear parts are
        used.
    sloppy, seed
        As for `align_brain`.

    Returns
    -------
    ndarray of float64, shape (4, 4)
        Points of the other template to head points, RAS+ mm.
    """
    own = load_template(2)
    data = np.where(own.brain_mask, own.t1w, 0).astype(np.float32)
    between, _ = align_brain(Volume(data, own.affine), template, None, sloppy=sloppy, seed=seed)
    matrix = np.eye(4)
    for transform in read_transform(xfm):
        if not isinstance(transform, DisplacementField):
            matrix = transform @ matrix
    started: Affine = matrix @ between
    return started


class _NormaliseInputSpec(BaseInterfaceInputSpec):
    in_file = File(exists=True, mandatory=True, desc="bias-corrected T1w image")
    in_mask = File(exists=True, mandatory=True, desc="brain mask")
    start = File(exists=True, desc="ITK affine, template points to head points")
    template = File(
        exists=True,
        requires=["template_mask", "own_xfm"],
        xor=["start"],
        desc="T1w image of another template than the built-in one",
    )
    template_mask = File(exists=True, desc="its brain mask")
    own_xfm = File(exists=True, desc="ITK .txt or .h5, head to the built-in template")
    sloppy = traits.Bool(False, usedefault=True, desc="fast and coarse")
    seed = traits.Range(low=1, value=1, usedefault=True, desc="seed of the sampling")


class _NormaliseOutputSpec(TraitedSpec):
    anat2std_xfm = File(exists=True, desc="ITK composite: head onto template grid")
    std2anat_xfm = File(exists=True, desc="ITK composite: template onto head grid")
    norm_report = File(exists=True, desc="JSON: fit of brain and template, verdict")


class Normalise(SimpleInterface):
    """Registration of a brain to a template, affine then SyN, with transforms both ways."""

    input_spec = _NormaliseInputSpec
    output_spec = _NormaliseOutputSpec

    def load_shared(self) -> None:
        """Load the template before steps are forked, so that they share it."""
        if not isdefined(self.inputs.template):
            load_template((SLOPPY_SYN if self.inputs.sloppy else SynSettings()).resolution)

    def _run_interface(self, runtime: Any) -> Any:
        volume = load_volume(self.inputs.in_file)
        mask = load_mask(self.inputs.in_mask, volume, "brain mask")
        start = read_itk_affine(self.inputs.start) if isdefined(self.inputs.start) else None
        sloppy = bool(self.inputs.sloppy)
        template = None
        settings = SLOPPY_SYN if sloppy else SynSettings()
        if isdefined(self.inputs.template):
            zoom = float(settings.resolution) if sloppy else None
            template = read_template(self.inputs.template, self.inputs.template_mask, zoom)
            start = start_through_own(
                template, self.inputs.own_xfm, sloppy=sloppy, seed=self.inputs.seed
            )
        result = normalise(
            volume,
            mask,
            settings,
            template=template,
            start=start,
            sloppy=sloppy,
            seed=self.inputs.seed,
        )
        out = Path(runtime.cwd)
        self._results["anat2std_xfm"] = str(
            write_itk_composite(result.anat2std, out / "anat2std.h5")
        )
        self._results["std2anat_xfm"] = str(
            write_itk_composite(result.std2anat, out / "std2anat.h5")
        )
        self._results["norm_report"] = str(write_fit(result.fit, out / "norm.json"))
        return runtime
