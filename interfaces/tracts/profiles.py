r"""Tract profiles: diffusion maps sampled along each bundle.

The measured part of a bundle runs from its first waypoint to its last [1]_: beyond them its
streamlines fan out, end anywhere, and mix with others. That part of every streamline is resampled
to 100 equidistant nodes; at each node the maps are interpolated linearly and averaged over
streamlines with weights that decrease with the distance to the core of the bundle [1]_:

.. math:: w_{ij} \propto \exp(-d_{ij}^2 / 2), \quad
          d_{ij}^2 = (x_{ij} - \mu_j)^T \Sigma_j^{-1} (x_{ij} - \mu_j)

with :math:`x_{ij}` node `j` of streamline `i`, :math:`\mu_j` and :math:`\Sigma_j` the mean and
the covariance of node `j`. The table has the format that AFQ-Browser and pyAFQ read: one row per
participant, bundle and node.

Peak memory is 5 kB per streamline, plus the maps.

References
----------
.. [1] Yeatman JD et al. (2012). Tract profiles of white matter properties: automating
   fiber-tract quantification. PLoS ONE 7(11):e49790. doi:10.1371/journal.pone.0049790
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from nipype.interfaces.base import (
    BaseInterfaceInputSpec,
    File,
    InputMultiObject,
    SimpleInterface,
    TraitedSpec,
    traits,
)
from numpy.typing import NDArray

from neuroferry.bids.metadata import read_json
from neuroferry.errors import InputError
from neuroferry.files import write_json, write_text
from neuroferry.interfaces.image.images import Volume, inverse, load_volume
from neuroferry.interfaces.tracts.bundles import N_NODES, core_distances, read_bundle
from neuroferry.interfaces.tracts.streamlines import Streamlines, join_lines

METRICS = {
    "fa": ("Fractional anisotropy", "1"),
    "md": ("Mean diffusivity", "mm^2/s"),
    "rd": ("Radial diffusivity", "mm^2/s"),
    "ad": ("Axial diffusivity", "mm^2/s"),
}
# Extents of profiles, and their wording in sidecars.
EXTENTS = {
    "waypoints": "between the first and the last waypoint region",
    "whole": "from end to end of each streamline",
}


def core_weights(nodes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Weight the nodes of streamlines by their distance to the core.

    Parameters
    ----------
    nodes : ndarray of float64, shape (N, P, 3)
        Streamlines with corresponding nodes, mm.

    Returns
    -------
    ndarray of float64, shape (N, P)
        Sums to one over the streamlines at each node.
    """
    weights = np.exp(-0.5 * core_distances(nodes) ** 2)
    return np.asarray(weights / weights.sum(axis=0))


def sample(volume: Volume, nodes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sample a map at points by linear interpolation.

    Parameters
    ----------
    volume : Volume
        Map; edge values are extended outside.
    nodes : ndarray of float64, shape (..., 3)
        RAS+ mm.

    Returns
    -------
    ndarray of float64, shape (...)
    """
    from scipy import ndimage

    to_voxels = inverse(volume.affine)
    index = nodes.reshape(-1, 3) @ to_voxels[:3, :3].T + to_voxels[:3, 3]
    values = ndimage.map_coordinates(
        volume.data, index.T, order=1, mode="nearest", output=np.float64
    )
    return np.asarray(values.reshape(nodes.shape[:-1]))


def measure_profile(
    bundle: Streamlines, maps: Mapping[str, Volume], count: int = N_NODES
) -> dict[str, NDArray[np.float64]]:
    """Measure maps along a bundle.

    Parameters
    ----------
    bundle : Streamlines
        All oriented in the same direction.
    maps : mapping of str to Volume
        Maps keyed by name.
    count : int
        Number of nodes.

    Returns
    -------
    dict of str to ndarray of float64, shape (count,)
        Profiles keyed by the names of the maps; NaN for a bundle without streamlines.
    """
    if not len(bundle):
        return {name: np.full(count, np.nan) for name in maps}
    nodes = bundle.resampled(count)
    weights = core_weights(nodes)
    return {
        name: np.asarray(np.sum(weights * sample(volume, nodes), axis=0))
        for name, volume in maps.items()
    }


def profiles_table(subject: str, profiles: Mapping[str, Mapping[str, NDArray[np.float64]]]) -> str:
    """Format profiles as tab-separated text.

    Parameters
    ----------
    subject : str
        Label of the participant, with ``sub-``.
    profiles : mapping
        Values of shape (P,), keyed by the name of the bundle, then of the map.

    Returns
    -------
    str
        Columns ``subjectID tractID nodeID`` and one for each map; ``n/a`` for missing values.

    Examples
    --------
    >>> one = {"fa": np.array([0.25, np.nan])}
    >>> print(profiles_table("sub-01", {"Left Arcuate": one}).expandtabs(14))
    subjectID     tractID       nodeID        fa
    sub-01        Left Arcuate  0             0.25
    sub-01        Left Arcuate  1             n/a
    <BLANKLINE>
    """
    names = list(next(iter(profiles.values()), METRICS))
    lines = ["\t".join(["subjectID", "tractID", "nodeID", *names])]
    for bundle, columns in profiles.items():
        for node, values in enumerate(zip(*columns.values(), strict=True)):
            cells = [f"{value:.6g}" if np.isfinite(value) else "n/a" for value in values]
            lines.append("\t".join([subject, bundle, str(node), *cells]))
    return "\n".join(lines) + "\n"


def read_profiles(path: str | Path) -> dict[str, dict[str, NDArray[np.float64]]]:
    """Read one participant's table of tract profiles.

    Parameters
    ----------
    path : str or pathlib.Path
        Written from :func:`profiles_table`.

    Returns
    -------
    dict
        Arrays of float64, shape (P,), keyed by the name of the bundle, then of the map; NaN for
        ``n/a``.

    Raises
    ------
    InputError
        If the columns differ.
    """
    path = Path(path)
    head, *rows = [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines()]
    if head[:3] != ["subjectID", "tractID", "nodeID"]:
        raise InputError(
            f"{path.name} begins with the columns {', '.join(head[:3])}, but a table of tract "
            "profiles begins with subjectID, tractID and nodeID."
        )
    gathered: dict[str, list[list[float]]] = {}
    for row in rows:
        values = [np.nan if cell == "n/a" else float(cell) for cell in row[3:]]
        gathered.setdefault(row[1], []).append(values)
    return {
        bundle: dict(zip(head[3:], np.array(values).T, strict=True))
        for bundle, values in gathered.items()
    }


def describe_columns(
    report: Mapping[str, Any], metrics: Sequence[str], extent: str = "waypoints"
) -> dict[str, Any]:
    """Describe the columns of a table of tract profiles, for its sidecar.

    Parameters
    ----------
    report : mapping
        Report of :class:`~neuroferry.interfaces.tracts.bundles.SegmentBundles`.
    metrics : sequence of str
        Maps in the table.
    extent : {"waypoints", "whole"}
        Extent of the profiles.

    Returns
    -------
    dict
        Content of the JSON sidecar.
    """
    found = report["Bundles"]
    columns: dict[str, Any] = {
        "subjectID": {"Description": "Participant"},
        "tractID": {
            "Description": "Bundle",
            "Levels": {b["Name"]: f"from: {b['From']}; to: {b['To']}" for b in found},
        },
        "nodeID": {
            "Description": f"Index (from 0) of the node along the bundle; nodes are "
            f"equidistant {EXTENTS[extent]}"
        },
    }
    for name in metrics:
        description, unit = METRICS[name]
        columns[name] = {
            "Description": f"{description}, mean over streamlines, weighted by the distance to "
            "the core of the bundle",
            "Units": unit,
        }
    columns["NumberOfStreamlines"] = {b["Name"]: b["Kept"] for b in found}
    columns["ProfileExtent"] = extent
    columns["BundleDefinitions"] = report["Definitions"]
    return columns


class _MeasureProfilesInputSpec(BaseInterfaceInputSpec):
    bundles = InputMultiObject(File(exists=True), desc="a .trk for each bundle found")
    report = File(exists=True, mandatory=True, desc="report of the segmentation")
    subject = traits.Str(mandatory=True, desc="label of the participant, with sub-")
    fa = File(exists=True, mandatory=True, desc="fractional anisotropy")
    md = File(exists=True, mandatory=True, desc="mean diffusivity, mm2/s")
    rd = File(exists=True, mandatory=True, desc="radial diffusivity, mm2/s")
    ad = File(exists=True, mandatory=True, desc="axial diffusivity, mm2/s")
    extent = traits.Enum(*EXTENTS, usedefault=True, desc="extent of the profiles")
    n_nodes = traits.Range(low=2, value=N_NODES, usedefault=True, desc="number of nodes")


class _MeasureProfilesOutputSpec(TraitedSpec):
    profiles_tsv = File(exists=True, desc="subjectID tractID nodeID fa md rd ad")
    profiles_json = File(exists=True, desc="sidecar of the table")


class MeasureProfiles(SimpleInterface):
    """Measure diffusion maps along each bundle."""

    input_spec = _MeasureProfilesInputSpec
    output_spec = _MeasureProfilesOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        report, extent = read_json(Path(self.inputs.report)), self.inputs.extent
        files = {Path(path).name: path for path in self.inputs.bundles or []}
        maps = {name: load_volume(getattr(self.inputs, name)) for name in METRICS}
        profiles = {}
        for bundle in report["Bundles"]:
            path = files.get(bundle.get("File", ""))
            lines = join_lines([])
            if path:
                found = read_bundle(path)
                lines = found.core() if extent == "waypoints" else found.lines
            profiles[bundle["Name"]] = measure_profile(lines, maps, self.inputs.n_nodes)
        out = Path(runtime.cwd)
        write_text(out / "profiles.tsv", profiles_table(self.inputs.subject, profiles))
        write_json(out / "profiles.json", describe_columns(report, list(maps), extent))
        self._results["profiles_tsv"] = str(out / "profiles.tsv")
        self._results["profiles_json"] = str(out / "profiles.json")
        return runtime
