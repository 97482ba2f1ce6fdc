"""Probabilistic tractography with MRtrix's ``tckgen``.

With fibre orientation distributions, tracking uses second-order integration (iFOD2) [1]_; without
them (too few directions), tensors refitted at every step to a bootstrap of the diffusion images
[2]_.

Seeds are placed where bundles are expected: for each definition, in the smallest of the regions
that its streamlines pass, keeping only streamlines that also pass the other regions, until there
are enough or the seeds are used up. A small bundle thus gets as many seeds as a large one, and
nothing else is written. Without a transform to the template, seeds are placed throughout the
white matter.

Peak memory is, for each processor, 60 MB and 8 bytes for each voxel and each volume or
coefficient of the source, plus 24 bytes per point of the streamlines.

References
----------
.. [1] Tournier JD, Calamante F, Connelly A (2010). Improved probabilistic streamlines
   tractography by 2nd order integration over fibre orientation distributions. Proc. ISMRM
   18:1670.
.. [2] Jones DK (2008). Tractography gone wild: probabilistic fibre tracking using the wild
   bootstrap with diffusion tensor MRI. IEEE Transactions on Medical Imaging
   27(9):1268-1274. doi:10.1109/TMI.2008.922191
"""

from __future__ import annotations

from collections.abc import Sequence
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

from neuroferry.errors import InputError
from neuroferry.files import write_json
from neuroferry.interfaces.image.images import Volume, load_mask, load_volume, save_nifti
from neuroferry.interfaces.image.transforms import Transform
from neuroferry.interfaces.tracts.bundle_definitions import BundleDefinition, load_bundles
from neuroferry.interfaces.tracts.bundles import move_points, points_to_template
from neuroferry.interfaces.tracts.streamlines import (
    join,
    join_lines,
    write_tck,
)
from neuroferry.interfaces.tracts.tckgen import Part, Source, Tracking, track

# Number of parts among which the seeds of whole-white-matter tracking are divided.
PARTS = 16
# Where a streamline ends (amplitude of the FOD, or FA), and its largest change of direction in
# a step of 1 mm, degrees: sharper turns lead from one bundle into another.
FOD_CUTOFF, FA_CUTOFF = 0.1, 0.2
# Noise FODs in grey matter reach any usual cutoff: low anisotropy ends streamlines as well.
STOP_FA = 0.15
FOD_ANGLE, TENSOR_ANGLE = 30.0, 20.0
SEED_FA = 0.2
MIN_SEED_VOXELS = 5


def regions_on_grid(
    bundle: BundleDefinition, places: NDArray[np.float32], mask: NDArray[np.bool_]
) -> tuple[list[NDArray[np.bool_]], list[NDArray[np.bool_]]]:
    """Rasterise the regions of a bundle on the grid of the diffusion images.

    Parameters
    ----------
    bundle : BundleDefinition
        Definition in template space.
    places : ndarray of float32, shape (M, 3)
        Template coordinates of the voxels of `mask`, mm.
    mask : ndarray of bool, shape (I, J, K)
        Brain mask.

    Returns
    -------
    include, exclude : list of ndarray of bool, shape (I, J, K)
        One mask per region.
    """
    columns = np.ascontiguousarray(places.T)

    def draw(regions: Sequence[Any]) -> list[NDArray[np.bool_]]:
        drawn = []
        for region in regions:
            image = np.zeros(mask.shape, dtype=np.bool_)
            image[mask] = region.contains(columns)
            drawn.append(image)
        return drawn

    return draw(bundle.include), draw(bundle.exclude)


def bundle_parts(
    bundles: Sequence[BundleDefinition],
    brain: Volume,
    transforms: Sequence[Transform],
    white: NDArray[np.bool_],
    counts: tuple[int, int],
    folder: Path,
) -> list[Part | None]:
    """Prepare the tracking of each bundle from its regions.

    Parameters
    ----------
    bundles : sequence of BundleDefinition
        Bundles to track.
    brain : Volume
        Brain mask on the grid of the diffusion images.
    transforms : sequence
        Map its points to the template, in the order of application.
    white : ndarray of bool, shape (I, J, K)
        Allowed seeds.
    counts : tuple of int
        Maximum numbers of streamlines and of seeds for each bundle.
    folder : pathlib.Path
        Folder for the masks.

    Returns
    -------
    list of Part or None
        None for a bundle with a region that contains no white matter.
    """
    from scipy import ndimage

    mask = brain.data > 0.5
    index = np.argwhere(mask).astype(np.float64)
    world = (index @ brain.affine[:3, :3].T + brain.affine[:3, 3]).astype(np.float32)
    places = move_points(world, transforms)
    parts: list[Part | None] = []
    for bundle in bundles:
        include, exclude = regions_on_grid(bundle, places, mask)
        sizes = [int(np.count_nonzero(region & white)) for region in include]
        if min(sizes) < MIN_SEED_VOXELS:
            parts.append(None)
            continue
        smallest = int(np.argmin(sizes))
        # Voxels are coarser than the regions: keep streamlines that just touch one.
        wide = [ndimage.binary_dilation(region) for region in include]
        named = {"seeds": include[smallest] & white}
        named |= {f"include-{n}": region for n, region in enumerate(wide)}
        named |= {"exclude": np.any(exclude, axis=0)} if exclude else {}
        paths = {
            name: save_nifti(
                data, brain.affine, folder / f"{bundle.label}_{name}.nii", dtype=np.uint8
            )
            for name, data in named.items()
        }
        parts.append(
            Part(
                bundle.label,
                paths["seeds"],
                tuple(path for name, path in paths.items() if name.startswith("include")),
                tuple(path for name, path in paths.items() if name == "exclude"),
                counts[1],
                counts[0],
                bundle.min_length,
                bundle.max_length,
            )
        )
    return parts


def whole_parts(seeds: Path, n_seeds: int, tracking: Tracking) -> list[Part]:
    """Prepare tracking with seeds throughout a mask.

    >>> tracking = Tracking(1.0, 45.0, 0.1, 40.0, 250.0, 1)
    >>> sum(part.n_seeds for part in whole_parts(Path("white.nii"), 1001, tracking))
    1001
    """
    edges = np.linspace(0, n_seeds, PARTS + 1).astype(int)
    return [
        Part(
            f"part-{n:02d}", seeds, (), (), int(size), 0, tracking.min_length, tracking.max_length
        )
        for n, size in enumerate(np.diff(edges))
        if size
    ]


class _TrackStreamlinesInputSpec(BaseInterfaceInputSpec):
    fod = File(exists=True, xor=["dwi"], desc="fibre orientation distributions")
    dwi = File(exists=True, xor=["fod"], requires=["bval", "bvec"], desc="diffusion images")
    bval = File(exists=True, desc="b-values of the diffusion images")
    bvec = File(exists=True, desc="directions of the diffusion images")
    mask = File(exists=True, mandatory=True, desc="brain; streamlines end at its border")
    fa = File(exists=True, mandatory=True, desc="fractional anisotropy")
    seed_fa = traits.Range(
        0.0, 1.0, SEED_FA, usedefault=True, desc="FA above which seeds are placed"
    )
    stop_fa = traits.Range(
        0.0, 1.0, STOP_FA, usedefault=True, desc="with FODs, FA below which streamlines end"
    )
    dwi2anat_xfm = File(
        exists=True, requires=["std2anat_xfm"], desc="diffusion images onto the T1w image"
    )
    std2anat_xfm = File(exists=True, requires=["dwi2anat_xfm"], desc="template onto the T1w image")
    definitions = File(exists=True, desc="TOML bundle definitions; built-in ones by default")
    n_streamlines = traits.Range(
        low=1, value=1000, usedefault=True, desc="of each bundle, at most"
    )
    n_seeds = traits.Range(low=1, value=5_000, usedefault=True, desc="of each bundle, at most")
    n_whole = traits.Range(
        low=1, value=200_000, usedefault=True, desc="seeds of whole-white-matter tracking"
    )
    step = traits.Range(
        low=0.0, value=1.0, exclude_low=True, usedefault=True, desc="of a streamline, mm"
    )
    angle = traits.Range(
        0.0,
        90.0,
        exclude_low=True,
        desc="largest change of direction per step, degrees; by default that of the algorithm",
    )
    cutoff = traits.Float(desc="FOD amplitude or FA below which a streamline ends")
    min_length = traits.Range(low=0.0, value=40.0, usedefault=True, desc="mm")
    max_length = traits.Range(low=1.0, value=250.0, usedefault=True, desc="mm")
    seed = traits.Range(low=0, value=1, usedefault=True, desc="random seed")
    n_procs = traits.Range(low=1, value=1, usedefault=True, nohash=True, desc="processors")


class _TrackStreamlinesOutputSpec(TraitedSpec):
    tractogram = File(exists=True, desc="streamlines, .tck, RAS+ mm")
    report = File(exists=True, desc="JSON: settings, and number of streamlines per part")


class TrackStreamlines(SimpleInterface):
    """Track streamlines through the white matter, seeded where bundles are expected.

    Without transforms to the template, seeds are placed throughout the white matter.
    """

    input_spec = _TrackStreamlinesInputSpec
    output_spec = _TrackStreamlinesOutputSpec

    def _source(self) -> Source:
        if isdefined(self.inputs.fod):
            return Source(Path(self.inputs.fod))
        if not isdefined(self.inputs.dwi):
            raise InputError("Tracking needs fibre orientation distributions or diffusion images.")
        gradients = (Path(self.inputs.bvec), Path(self.inputs.bval))
        return Source(Path(self.inputs.dwi), gradients)

    def _anisotropic(self, folder: Path) -> Path:
        """Mask where streamlines may follow FODs; crossings of low anisotropy are filled."""
        from scipy import ndimage

        fa = load_volume(self.inputs.fa)
        mask = load_mask(self.inputs.mask, fa, "brain mask")
        inside = ndimage.binary_closing(mask & (fa.data >= self.inputs.stop_fa)) & mask
        return save_nifti(inside, fa.affine, folder / "within.nii", dtype=np.uint8)

    def _parts(self, folder: Path, tracking: Tracking) -> dict[str, Part | None]:
        """Prepare the parts, keyed by name."""
        brain = load_volume(self.inputs.mask)
        fa = load_volume(self.inputs.fa)
        mask = load_mask(self.inputs.mask, fa, "brain mask")
        white = mask & (fa.data >= self.inputs.seed_fa)
        if not isdefined(self.inputs.std2anat_xfm):
            path = save_nifti(white, brain.affine, folder / "seeds.nii", dtype=np.uint8)
            return {part.name: part for part in whole_parts(path, self.inputs.n_whole, tracking)}
        path = self.inputs.definitions
        bundles = load_bundles(Path(path) if isdefined(path) else None)
        transforms = points_to_template(self.inputs.dwi2anat_xfm, self.inputs.std2anat_xfm)
        counts = (self.inputs.n_streamlines, self.inputs.n_seeds)
        parts = bundle_parts(bundles, brain, transforms, white, counts, folder)
        return {bundle.name: part for bundle, part in zip(bundles, parts, strict=True)}

    def _run_interface(self, runtime: Any) -> Any:
        source, out = self._source(), Path(runtime.cwd)
        with_fod = source.gradients is None
        angle = self.inputs.angle
        cutoff = self.inputs.cutoff
        tracking = Tracking(
            self.inputs.step,
            angle if isdefined(angle) else FOD_ANGLE if with_fod else TENSOR_ANGLE,
            cutoff if isdefined(cutoff) else FOD_CUTOFF if with_fod else FA_CUTOFF,
            self.inputs.min_length,
            self.inputs.max_length,
            self.inputs.seed,
        )
        parts = self._parts(out, tracking)
        there = [part for part in parts.values() if part is not None]
        within = Path(self.inputs.mask)
        if with_fod:
            within = self._anisotropic(out)
        tracked = track(source, within, there, tracking, out, self.inputs.n_procs)
        if with_fod:
            within.unlink()
        for part in there:
            for path in (part.seeds, *part.include, *part.exclude):
                path.unlink(missing_ok=True)
        streamlines = join(tracked) if tracked else join_lines([])
        found = iter(tracked)
        report = {
            "Algorithm": source.algorithm,
            "StepSize": tracking.step,
            "MaximumAngle": tracking.angle,
            "Cutoff": tracking.cutoff,
            "Seed": tracking.seed,
            "Streamlines": len(streamlines),
            "Parts": {
                name: len(next(found)) if part is not None else 0 for name, part in parts.items()
            },
        }
        write_json(out / "tracking.json", report)
        self._results["tractogram"] = str(write_tck(streamlines, out / "tracts.tck"))
        self._results["report"] = str(out / "tracking.json")
        return runtime
