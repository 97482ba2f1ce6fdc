"""Bundle segmentation: streamlines selected by template waypoints, oriented and cleaned.

The points of the streamlines are mapped to the template, where the regions are exact shapes; the
streamlines themselves stay in native space. A streamline belongs to the first bundle whose
definition it meets, so that no streamline counts twice. The bundles are then cleaned: streamlines
far from the bundle's core, or much longer than the others, are outliers.

Peak memory is 80 bytes per point of the tractogram and 150 MB for the template transform.

References
----------
.. [1] Wakana S et al. (2007). Reproducibility of quantitative tractography methods applied
   to cerebral white matter. NeuroImage 36(3):630-644. doi:10.1016/j.neuroimage.2007.02.049
.. [2] Yeatman JD et al. (2012). Tract profiles of white matter properties: automating
   fiber-tract quantification. PLoS ONE 7(11):e49790. doi:10.1371/journal.pone.0049790
"""

from __future__ import annotations

from collections.abc import Sequence
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

from neuroferry.errors import InputError
from neuroferry.files import write_json
from neuroferry.interfaces.image.images import Volume, inverse, load_volume
from neuroferry.interfaces.image.transforms import (
    Transform,
    map_points,
    read_itk_affine,
    read_itk_composite,
)
from neuroferry.interfaces.tracts.bundle_definitions import (
    BundleDefinition,
    digest_definitions,
    load_bundles,
)
from neuroferry.interfaces.tracts.passages import Spans, fits, spans
from neuroferry.interfaces.tracts.streamlines import (
    Points,
    Streamlines,
    read_properties,
    read_streamlines,
    write_trk,
)

N_NODES = 100
PORTION_POINTS = 500_000


# Properties of each streamline in a bundle file: where its profile begins and ends, mm.
SPAN = ("profile_start", "profile_end")


@dataclass(frozen=True)
class FoundBundle:
    """Streamlines of a bundle, all oriented in the same direction.

    Attributes
    ----------
    lines : Streamlines
        Whole streamlines, RAS+ mm.
    spans : ndarray of float64, shape (N, 2)
        Part between the first and the last waypoint, mm from the beginning.
    """

    lines: Streamlines
    spans: Spans

    def __len__(self) -> int:
        """Return the number of streamlines."""
        return len(self.lines)

    def core(self) -> Streamlines:
        """Cut the part between the first and the last waypoint."""
        return self.lines.between(self.spans)

    def take(self, which: NDArray[np.bool_]) -> FoundBundle:
        """Select some streamlines."""
        return FoundBundle(self.lines.take(which), self.spans[which])


@dataclass(frozen=True)
class Cleaning:
    """Settings of the removal of outlier streamlines [2]_.

    Attributes
    ----------
    distance : float
        A streamline is removed if one of its nodes between the first and the last waypoint is
        further from the core than this, in standard deviations (Mahalanobis distance).
    length : float
        It is also removed if it is longer than the mean by more than this, in standard
        deviations.
    rounds : int
        Maximum number of rounds, each with the core of the remaining streamlines.
    fewest : int
        Bundles of fewer streamlines are not cleaned, and none is cleaned to fewer.
    nodes : int
        Number of nodes at which distances are measured.
    """

    distance: float = 4.0
    length: float = 4.0
    rounds: int = 5
    fewest: int = 20
    nodes: int = N_NODES


def points_to_template(dwi2anat_xfm: str | Path, std2anat_xfm: str | Path) -> list[Transform]:
    """List the transforms that map points of the diffusion images to the template.

    A transform that resamples an image onto a grid maps points of that grid to points of the
    image. Points therefore map in the opposite direction: from the diffusion images to the T1w
    image with the inverse of the transform that resamples the b0 image onto it, and from the T1w
    image to the template with the transform that resamples the template onto the T1w image.

    Parameters
    ----------
    dwi2anat_xfm : str or pathlib.Path
        ITK affine that resamples the diffusion images onto the T1w image.
    std2anat_xfm : str or pathlib.Path
        ITK composite that resamples the template onto the T1w image.

    Returns
    -------
    list of Transform
        In the order of application.
    """
    return [inverse(read_itk_affine(dwi2anat_xfm)), *read_itk_composite(std2anat_xfm)]


def move_points(points: Points, transforms: Sequence[Transform]) -> Points:
    """Apply a chain of transforms to many points, in chunks.

    Parameters
    ----------
    points : ndarray of float32, shape (M, 3)
        RAS+ mm.
    transforms : sequence
        In the order of application.

    Returns
    -------
    ndarray of float32, shape (M, 3)
        RAS+ mm.
    """
    moved = np.empty_like(points)
    for start in range(0, len(points), PORTION_POINTS):
        part = slice(start, start + PORTION_POINTS)
        moved[part] = map_points(points[part].T.astype(np.float64), transforms).T
    return moved


def segment(
    streamlines: Streamlines,
    transforms: Sequence[Transform],
    bundles: Sequence[BundleDefinition],
) -> list[FoundBundle]:
    """Sort streamlines into bundles.

    Parameters
    ----------
    streamlines : Streamlines
        In native space.
    transforms : sequence
        Map its points to the template, in the order of application.
    bundles : sequence of BundleDefinition
        A streamline that meets several definitions belongs to the first of them.

    Returns
    -------
    list of FoundBundle
        For each bundle, all oriented from its first region to its last; in native space.
    """
    points = move_points(streamlines.points, transforms)
    free = np.ones(len(streamlines), dtype=np.bool_)
    found = []
    for bundle in bundles:
        belongs, backwards = fits(bundle, points, streamlines)
        belongs &= free
        free &= ~belongs
        turn = backwards[belongs]
        lines = streamlines.take(belongs).turned(turn)
        places = Streamlines(points, streamlines.offsets).take(belongs).turned(turn)
        found.append(FoundBundle(lines, spans(bundle, places.points, lines)))
    return found


def core_distances(nodes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Measure the distance of streamline nodes from the core of their bundle.

    Parameters
    ----------
    nodes : ndarray of float64, shape (N, P, 3)
        Streamlines with corresponding nodes, mm.

    Returns
    -------
    ndarray of float64, shape (N, P)
        Mahalanobis distance of each node to the mean of corresponding nodes, in standard
        deviations; zero for bundles too small to have a covariance.
    """
    if len(nodes) < 5:
        return np.zeros(nodes.shape[:2])
    apart = nodes - nodes.mean(axis=0)
    covariance = np.einsum("npi,npj->pij", apart, apart) / (len(nodes) - 1)
    # No bundle is thinner than a tenth of a millimetre: keeps the inverse finite.
    covariance += 0.01 * np.eye(3)
    squared = np.einsum("npi,pij,npj->np", apart, np.linalg.inv(covariance), apart)
    return np.asarray(np.sqrt(np.maximum(squared, 0.0)))


def clean(bundle: FoundBundle, settings: Cleaning) -> NDArray[np.bool_]:
    """Find the streamlines of a bundle that are not outliers.

    Parameters
    ----------
    bundle : FoundBundle
        Streamlines found.
    settings : Cleaning
        Criteria for outliers.

    Returns
    -------
    ndarray of bool, shape (N,)
    """
    kept = np.ones(len(bundle), dtype=np.bool_)
    if len(bundle) < settings.fewest:
        return kept
    nodes, lengths = bundle.core().resampled(settings.nodes), bundle.lines.lengths()
    for _ in range(settings.rounds):
        far = core_distances(nodes[kept]).max(axis=1) > settings.distance
        long = lengths[kept] - lengths[kept].mean() > settings.length * lengths[kept].std()
        drop = far | long
        if not drop.any() or np.count_nonzero(~drop) < settings.fewest:
            break
        kept[np.flatnonzero(kept)[drop]] = False
    return kept


class _SegmentBundlesInputSpec(BaseInterfaceInputSpec):
    tractogram = File(exists=True, mandatory=True, desc="streamlines, RAS+ mm")
    reference = File(
        exists=True, mandatory=True, desc="image that defines the grid of the tractogram"
    )
    dwi2anat_xfm = File(
        exists=True, mandatory=True, desc="ITK affine: diffusion images onto the T1w image"
    )
    std2anat_xfm = File(
        exists=True, mandatory=True, desc="ITK composite: template onto the T1w image"
    )
    definitions = File(exists=True, desc="TOML bundle definitions; built-in ones by default")
    distance = traits.Range(
        low=0.0,
        value=4.0,
        exclude_low=True,
        usedefault=True,
        desc="distance of outliers from the core, SD",
    )
    rounds = traits.Range(low=0, value=5, usedefault=True, desc="rounds of outlier removal")
    fewest = traits.Range(low=1, value=20, usedefault=True, desc="fewest streamlines to keep")


class _SegmentBundlesOutputSpec(TraitedSpec):
    bundles = traits.List(File(exists=True), desc="a .trk for each bundle found")
    labels = traits.List(traits.Str, desc="file name label of each")
    report = File(exists=True, desc="JSON: number of streamlines of each defined bundle")


class SegmentBundles(SimpleInterface):
    """Sort streamlines into bundles by template waypoints, and remove outliers."""

    input_spec = _SegmentBundlesInputSpec
    output_spec = _SegmentBundlesOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        given = Path(self.inputs.definitions) if isdefined(self.inputs.definitions) else None
        bundles = load_bundles(given)
        like: Volume = load_volume(self.inputs.reference)
        streamlines = read_streamlines(self.inputs.tractogram)
        transforms = points_to_template(self.inputs.dwi2anat_xfm, self.inputs.std2anat_xfm)
        settings = Cleaning(
            self.inputs.distance, rounds=self.inputs.rounds, fewest=self.inputs.fewest
        )
        out = Path(runtime.cwd)
        written, labels, about = [], [], []
        for bundle, lines in zip(bundles, segment(streamlines, transforms, bundles), strict=True):
            kept = lines.take(clean(lines, settings))
            properties = dict(zip(SPAN, kept.spans.T, strict=True))
            entry = describe(bundle, lines, kept)
            if len(kept):
                entry["File"] = f"{bundle.label}.trk"
                path = write_trk(kept.lines, like, out / f"{bundle.label}.trk", properties)
                written.append(str(path))
                labels.append(bundle.label)
            about.append(entry)
        report = {
            "Streamlines": len(streamlines),
            "Definitions": {
                "Source": "neuroferry" if given is None else "user",
                "SHA256": digest_definitions(given),
            },
            "Cleaning": {"Distance": settings.distance, "Length": settings.length},
            "Bundles": about,
        }
        write_json(out / "bundles.json", report)
        self._results["bundles"] = written
        self._results["labels"] = labels
        self._results["report"] = str(out / "bundles.json")
        return runtime


def read_bundle(path: str | Path) -> FoundBundle:
    """Read a bundle file.

    Parameters
    ----------
    path : str or pathlib.Path
        Written by :class:`SegmentBundles`.

    Returns
    -------
    FoundBundle

    Raises
    ------
    InputError
        If it lacks the part of each streamline that is measured.
    """
    lines, properties = read_streamlines(path), read_properties(path)
    if not set(SPAN) <= set(properties):
        raise InputError(
            f"{Path(path).name} does not say where profiles begin and end; it needs the "
            f"properties {' and '.join(SPAN)} (mm) of each streamline."
        )
    return FoundBundle(lines, np.stack([properties[name] for name in SPAN], axis=-1))


def describe(bundle: BundleDefinition, found: FoundBundle, kept: FoundBundle) -> dict[str, Any]:
    """Describe a bundle that was found in plain values."""
    lengths = kept.lines.lengths()
    return {
        "Name": bundle.name,
        "Label": bundle.label,
        "Colour": "#{:02X}{:02X}{:02X}".format(*bundle.colour),
        "Sources": list(bundle.sources),
        "From": bundle.include[0].name,
        "To": bundle.include[-1].name,
        "Found": len(found),
        "Kept": len(kept),
        "MeanLength": round(float(lengths.mean()), 3) if len(kept) else None,
        "MeanProfileLength": (
            round(float(np.diff(kept.spans, axis=1).mean()), 3) if len(kept) else None
        ),
    }
