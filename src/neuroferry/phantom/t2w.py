"""Simulation of a T2-weighted scan of a phantom participant, with its truth."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from neuroferry import __version__
from neuroferry.phantom import files
from neuroferry.phantom.relaxation import relative, spin_echo
from neuroferry.phantom.t1w import ScanParameters, scan_pose, simulate_t1w

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from neuroferry.phantom.place import Place
    from neuroferry.phantom.subject import SubjectAnatomy
    from neuroferry.phantom.t1w import T1wScan

ECHO_TIME, REPETITION_TIME = 0.09, 4.0
# Fat is bright in trains of spin echoes, and flowing blood is dark, relative to white matter.
_TRAIN = {"fat": 1.5, "marrow": 0.9, "blood": 0.1}


@dataclass(frozen=True)
class PhantomT2w:
    """One T2w image of a phantom dataset and the files of its truth.

    Attributes
    ----------
    session : str or None
        Label without ``ses-``.
    t2w : Path
    truth : mapping of str to Path
        ``gm``, ``wm``, ``csf``, ``dseg``, ``brain_mask``, ``noiseless`` on its grid; ``to_t1w``,
        the transform that resamples it onto the session's first T1w image: maps points of the
        T1w to points of the T2w.
    """

    session: str | None
    t2w: Path
    truth: Mapping[str, Path]


def t2w_contrast() -> dict[str, float]:
    """Compute the brightness of each tissue relative to white matter.

    Examples
    --------
    >>> contrast = t2w_contrast()
    >>> contrast["csf"] > 2 * contrast["gm"] > 2 * contrast["wm"]
    True
    """
    contrast = spin_echo(echo_time=ECHO_TIME, tr=REPETITION_TIME)
    return relative(contrast, contrast["wm"]) | _TRAIN


def draw_t2w(scan: ScanParameters, rng: np.random.Generator) -> ScanParameters:
    """Draw the parameters of a T2w scan of the session of a T1w scan.

    The head has moved a little, and the field of view is another one.
    """
    turn, way = rng.normal(0, 1.5, 3), rng.normal(0, 2.0, 3)
    rotation = np.asarray(scan.rotation) + np.clip(turn, -4, 4)
    position = np.asarray(scan.position) + np.clip(way, -6, 6)
    tilt = np.asarray(scan.tilt) + rng.normal(0, 2.0, 3)
    return replace(
        scan,
        rotation=_triple(rotation),
        position=_triple(position),
        tilt=_triple(tilt),
        offset=(float(rng.normal(0, 3)), float(rng.normal(0, 5))),
        bias=float(rng.uniform(0.1, 0.18)),
        snr=float(rng.uniform(14, 22)),
        scale=float(rng.choice([120, 250, 400])),
        contrast=t2w_contrast(),
    )


def write_t2w(
    place: Place, anatomy: SubjectAnatomy, scan: ScanParameters, rng: np.random.Generator
) -> PhantomT2w:
    """Simulate and write a T2w image with its truth.

    Parameters
    ----------
    place : Place
    anatomy : SubjectAnatomy
    scan : ScanParameters
        Of the session's first T1w image.
    rng : numpy.random.Generator
    """
    drawn = draw_t2w(scan, rng)
    result = simulate_t1w(anatomy, drawn, rng)
    files.write_json(place.raw("anat", "T2w.json"), _sidecar(anatomy.parameters.seed))
    t2w = files.write_image(
        place.raw("anat", "T2w.nii.gz"), result.t1w, result.affine, dtype=np.int16
    )
    # the head's own points are the same in both scans
    matrix = scan_pose(drawn) @ np.linalg.inv(scan_pose(scan))
    return PhantomT2w(place.session, t2w, _write_truth(place, drawn, result, matrix))


def _write_truth(
    place: Place, scan: ScanParameters, result: T1wScan, matrix: NDArray[np.float64]
) -> dict[str, Path]:
    brain = result.brain_mask
    dseg = np.where(brain, result.tissues.argmax(axis=0) + 1, 0)
    source = f"bids:raw:{place.raw('anat', 'T2w.nii.gz').relative_to(place.root).as_posix()}"

    def image(name: str, data: NDArray[Any], dtype: type, slope: float, **about: Any) -> Path:
        path = place.truth("anat", f"space-T2w_{name}.nii.gz")
        sidecar = place.truth("anat", f"space-T2w_{name}.json")
        files.write_json(sidecar, {**about, "Sources": [source], "SpatialReference": source})
        return files.write_image(path, data, result.affine, dtype=dtype, slope=slope)

    labels = {"1": "grey matter", "2": "white matter", "3": "cerebrospinal fluid"}
    shares = zip(("GM", "WM", "CSF"), result.tissues, strict=True)
    return {
        **{
            tissue.lower(): image(f"label-{tissue}_probseg", share, np.uint8, 1 / 255)
            for tissue, share in shares
        },
        "dseg": image("dseg", dseg, np.uint8, 1.0, Labels=labels, Manual=False),
        "brain_mask": image("desc-brain_mask", brain, np.uint8, 1.0, Type="Brain"),
        "noiseless": image(
            "desc-noiseless_T2w",
            result.noiseless,
            np.int16,
            scan.scale / 2000,
            SkullStripped=False,
            Description="Before bias field and noise",
        ),
        "to_t1w": files.write_affines(
            place.truth("anat", "from-T2w_to-T1w_mode-image_desc-truth_xfm.txt"), matrix[None]
        ),
    }


def _sidecar(seed: int) -> dict[str, Any]:
    return {
        "Manufacturer": "neuroferry",
        "ManufacturersModelName": "digital phantom",
        "SoftwareVersions": __version__,
        "MagneticFieldStrength": 3,
        "BodyPart": "HEAD",
        "PulseSequenceType": "3D turbo spin echo",
        "ScanningSequence": "SE",
        "SequenceVariant": "SK",
        "MRAcquisitionType": "3D",
        "RepetitionTime": REPETITION_TIME,
        "EchoTime": ECHO_TIME,
        "PhantomSeed": seed,
    }


def _triple(values: NDArray[np.float64]) -> tuple[float, float, float]:
    return float(values[0]), float(values[1]), float(values[2])
