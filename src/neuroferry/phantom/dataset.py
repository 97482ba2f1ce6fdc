"""BIDS dataset of phantom participants, with the truth as derivatives."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from neuroferry import __version__
from neuroferry.errors import ExitCode, InputError, UsageError
from neuroferry.phantom import files
from neuroferry.phantom.bold_dataset import PhantomBold, write_bold_session
from neuroferry.phantom.descriptions import GENERATOR, write_descriptions
from neuroferry.phantom.dwi_dataset import PhantomDwi, write_dwi_session
from neuroferry.phantom.fmap_dataset import PhantomFieldmaps
from neuroferry.phantom.place import Place
from neuroferry.phantom.subject import (
    STREAM_SCAN,
    STREAM_T2W,
    SubjectAnatomy,
    SubjectParameters,
    draw_subject,
    grow_subject,
)
from neuroferry.phantom.t1w import (
    ScanParameters,
    T1wScan,
    draw_scan,
    scan_pose,
    simulate_t1w,
)
from neuroferry.phantom.t2w import PhantomT2w, write_t2w
from neuroferry.templates import TEMPLATE_SPACE

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from neuroferry.phantom.bold_options import BoldOptions
    from neuroferry.phantom.dwi_options import DwiOptions

_RESOLUTIONS = (0.5, 6.0)


@dataclass(frozen=True)
class PhantomScan:
    """One T1w image of a phantom dataset and the files of its truth.

    Attributes
    ----------
    session : str or None
        Label without ``ses-``.
    run : int or None
    t1w : Path
    truth : mapping of str to Path
        ``gm``, ``wm``, ``csf``, ``dseg``, ``brain_mask``, ``head_mask``, ``bias``, ``noiseless``,
        ``to_template`` (the transform that resamples template images onto the scan: maps scan
        points to the template), ``to_scan`` (the reverse), ``parameters``.
    """

    session: str | None
    run: int | None
    t1w: Path
    truth: Mapping[str, Path]


@dataclass(frozen=True)
class PhantomSubject:
    """Files of a phantom participant.

    Attributes
    ----------
    label : str
        Without ``sub-``.
    parameters : SubjectParameters
    scans : tuple of PhantomScan
        In order of session, then run.
    bold : tuple of PhantomBold
        Functional runs, in the same order.
    fieldmaps : tuple of PhantomFieldmaps
        One per session, where functional scans have any.
    dwi : tuple of PhantomDwi
        Diffusion scans, in the order of sessions and runs.
    dwi_fieldmaps : tuple of PhantomFieldmaps
        One per session, where diffusion scans have any.
    t2w : tuple of PhantomT2w
        One per session, where asked for.
    """

    label: str
    parameters: SubjectParameters
    scans: tuple[PhantomScan, ...]
    bold: tuple[PhantomBold, ...] = ()
    fieldmaps: tuple[PhantomFieldmaps, ...] = ()
    dwi: tuple[PhantomDwi, ...] = ()
    dwi_fieldmaps: tuple[PhantomFieldmaps, ...] = ()
    t2w: tuple[PhantomT2w, ...] = ()

    @property
    def t1w(self) -> Path:
        """The first T1w image."""
        return self.scans[0].t1w

    @property
    def truth(self) -> Mapping[str, Path]:
        """The truth of the first T1w image."""
        return self.scans[0].truth


def write_phantom_dataset(
    out_dir: Path,
    *,
    subjects: int,
    resolution: float,
    seed: int,
    sessions: int = 0,
    runs: int = 1,
    t2w: bool = False,
    bold: BoldOptions | None = None,
    dwi: DwiOptions | None = None,
    overwrite: bool = False,
    progress: Callable[[PhantomSubject], None] | None = None,
) -> list[PhantomSubject]:
    """Write a BIDS dataset of digital heads with known truth.

    The same arguments give the same bytes. A participant does not depend on the number of others,
    nor its anatomy on the resolution.

    Parameters
    ----------
    out_dir : Path
        Becomes the BIDS dataset; the truth goes to ``out_dir/derivatives/truth``.
    subjects : int
        Number of participants; the second, fifth, eighth … are children.
    resolution : float
        Isotropic voxel size in mm, 0.5 to 6.
    seed : int
        Random seed, 0 or more.
    sessions : int
        Sessions per participant; 0 omits the session level.
    runs : int
        T1w scans per session; several scans get run labels.
    t2w : bool
        Add a T2w scan to each session.
    bold : BoldOptions, optional
        Options of each session's functional scans and field maps; None writes none.
    dwi : DwiOptions, optional
        Options of each session's diffusion scans and field maps; None writes none.
    overwrite : bool
        Replace an existing phantom in `out_dir`. All other files are kept.
    progress : callable, optional
        Called with each participant once its files are written.

    Returns
    -------
    list of PhantomSubject

    Raises
    ------
    UsageError
        A value out of range.
    InputError
        `out_dir` holds something else, or a phantom and `overwrite` is false.
    """
    _check_numbers(subjects, resolution, seed, sessions, runs)
    _make_room(out_dir, overwrite=overwrite)
    width = max(2, len(str(subjects)))
    drawn = [
        draw_subject(index, seed=seed, label=f"{index + 1:0{width}d}") for index in range(subjects)
    ]
    write_descriptions(
        out_dir,
        drawn,
        resolution=resolution,
        seed=seed,
        functional=bold is not None,
        diffusion=dwi is not None,
    )
    written = []
    for parameters in drawn:
        subject = _write_subject(
            out_dir,
            parameters,
            resolution=resolution,
            sessions=sessions,
            runs=runs,
            t2w=t2w,
            bold=bold,
            dwi=dwi,
        )
        written.append(subject)
        if progress is not None:
            progress(subject)
    return written


def _check_numbers(subjects: int, resolution: float, seed: int, sessions: int, runs: int) -> None:
    low, high = _RESOLUTIONS
    checks = (
        (subjects >= 1, f"the number of subjects must be at least 1, not {subjects}"),
        (
            low <= resolution <= high,
            f"the resolution must be {low} to {high} mm, not {resolution}",
        ),
        (seed >= 0, f"the seed must be 0 or more, not {seed}"),
        (sessions >= 0, f"the number of sessions must be 0 or more, not {sessions}"),
        (runs >= 1, f"the number of runs must be at least 1, not {runs}"),
    )
    for passed, message in checks:
        if not passed:
            raise UsageError(message)


def _make_room(out_dir: Path, *, overwrite: bool) -> None:
    if not out_dir.exists():
        return
    if not out_dir.is_dir():
        raise InputError(f"{out_dir} is a file; choose a folder", exit_code=ExitCode.CANNOT_CREATE)
    if not any(out_dir.iterdir()):
        return
    if not _is_phantom(out_dir):
        raise InputError(
            f"{out_dir} is not empty and does not hold a phantom; choose a new or empty folder",
            exit_code=ExitCode.CANNOT_CREATE,
        )
    if not overwrite:
        raise InputError(
            f"{out_dir} already holds a phantom; replace it with --overwrite, or choose "
            "another folder",
            exit_code=ExitCode.CANNOT_CREATE,
        )
    for folder in (*out_dir.glob("sub-*"), out_dir / "derivatives" / "truth"):
        if folder.is_dir():
            shutil.rmtree(folder)


def _is_phantom(out_dir: Path) -> bool:
    try:
        description = json.loads((out_dir / "dataset_description.json").read_text())
        makers = [entry["Name"] for entry in description["GeneratedBy"]]
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return GENERATOR in makers


def _write_subject(
    out_dir: Path,
    parameters: SubjectParameters,
    *,
    resolution: float,
    sessions: int,
    runs: int,
    t2w: bool,
    bold: BoldOptions | None,
    dwi: DwiOptions | None,
) -> PhantomSubject:
    anatomy = grow_subject(parameters)
    scans = []
    functional: list[PhantomBold] = []
    fieldmaps: list[PhantomFieldmaps] = []
    diffusion: list[PhantomDwi] = []
    dwi_fieldmaps: list[PhantomFieldmaps] = []
    t2w_scans: list[PhantomT2w] = []
    for session in range(1, sessions + 1) if sessions else (0,):
        label = f"{session:02d}" if sessions else None
        for run in range(1, runs + 1):
            rng = parameters.stream(STREAM_SCAN, session, run)
            scan = draw_scan(anatomy, rng, resolution=resolution)
            result = simulate_t1w(anatomy, scan, rng)
            scans.append(
                _write_scan(
                    out_dir,
                    anatomy,
                    scan,
                    result,
                    session=label,
                    run=run if runs > 1 else None,
                )
            )
            if run > 1:
                continue
            place, pose = Place(out_dir, parameters.label, label), scan_pose(scan)
            if t2w:
                rng = parameters.stream(STREAM_T2W, session)
                t2w_scans.append(write_t2w(place, anatomy, scan, rng))
            if bold is not None:
                written, maps = write_bold_session(place, anatomy, pose, bold)
                functional += written
                fieldmaps += [maps] if maps is not None else []
            if dwi is not None:
                series, maps = write_dwi_session(place, anatomy, pose, dwi)
                diffusion += series
                dwi_fieldmaps += [maps] if maps is not None else []
    return PhantomSubject(
        parameters.label,
        parameters,
        tuple(scans),
        tuple(functional),
        tuple(fieldmaps),
        tuple(diffusion),
        tuple(dwi_fieldmaps),
        tuple(t2w_scans),
    )


def _write_scan(
    out_dir: Path,
    anatomy: SubjectAnatomy,
    scan: ScanParameters,
    result: T1wScan,
    *,
    session: str | None,
    run: int | None,
) -> PhantomScan:
    label = f"sub-{anatomy.parameters.label}"
    within = f"{label}/ses-{session}/anat" if session else f"{label}/anat"
    stem = "_".join(
        part
        for part in (label, f"ses-{session}" if session else "", f"run-{run}" if run else "")
        if part
    )
    folder = out_dir / within
    truth = _write_truth(out_dir / "derivatives" / "truth", within, stem, anatomy, scan, result)
    files.write_json(folder / f"{stem}_T1w.json", _sidecar(anatomy.parameters))
    t1w = files.write_image(
        folder / f"{stem}_T1w.nii.gz", result.t1w, result.affine, dtype=np.int16
    )
    return PhantomScan(session, run, t1w, truth)


def _write_truth(
    truth_dir: Path,
    within: str,
    stem: str,
    anatomy: SubjectAnatomy,
    scan: ScanParameters,
    result: T1wScan,
) -> dict[str, Path]:
    folder = truth_dir / within
    affine = result.affine
    brain = result.brain_mask
    dseg = np.where(brain, result.tissues.argmax(axis=0) + 1, 0)

    def image(name: str, data: np.ndarray, dtype: type, slope: float = 1.0) -> Path:
        path = folder / f"{stem}_{name}.nii.gz"
        return files.write_image(path, data, affine, dtype=dtype, slope=slope)

    truth = {
        **{
            tissue.lower(): image(f"label-{tissue}_probseg", share, np.uint8, 1 / 255)
            for tissue, share in zip(("GM", "WM", "CSF"), result.tissues, strict=True)
        },
        "dseg": image("dseg", dseg, np.uint8),
        "brain_mask": image("desc-brain_mask", brain, np.uint8),
        "head_mask": image("desc-head_mask", result.head_mask, np.uint8),
        "bias": image("desc-biasfield_T1w", result.bias, np.int16, 1e-3),
        "noiseless": image("desc-noiseless_T1w", result.noiseless, np.int16, scan.scale / 4000),
        "to_template": files.write_displacement(
            folder / f"{stem}_from-{TEMPLATE_SPACE}_to-T1w_mode-image_desc-truth_xfm.nii.gz",
            result.to_template,
        ),
        "to_scan": files.write_displacement(
            folder / f"{stem}_from-T1w_to-{TEMPLATE_SPACE}_mode-image_desc-truth_xfm.nii.gz",
            result.to_scan,
        ),
        "parameters": files.write_json(
            folder / f"{stem}_parameters.json", _parameters(anatomy, scan, result)
        ),
    }
    source = f"bids:raw:{within}/{stem}_T1w.nii.gz"
    for name, path in truth.items():
        if name != "parameters":
            sidecar = {**_TRUTH_SIDECARS.get(name, {}), "Sources": [source]}
            files.write_json(path.with_name(path.name.replace(".nii.gz", ".json")), sidecar)
    return truth


def _parameters(anatomy: SubjectAnatomy, scan: ScanParameters, result: T1wScan) -> dict[str, Any]:
    voxel_ml = abs(float(np.linalg.det(result.affine[:3, :3]))) / 1000
    volumes = result.tissues.sum(axis=(1, 2, 3), dtype=np.float64) * voxel_ml
    pose = {"subject": asdict(anatomy.parameters), "scan": asdict(scan)}
    return {
        **pose,
        "template": TEMPLATE_SPACE,
        "volumes_ml": dict(zip(("gm", "wm", "csf"), volumes.round(2).tolist(), strict=True)),
        "brain_mask_ml": round(float(result.brain_mask.sum() * voxel_ml), 2),
    }


def _sidecar(parameters: SubjectParameters) -> dict[str, Any]:
    return {
        "Manufacturer": "neuroferry",
        "ManufacturersModelName": "digital phantom",
        "SoftwareVersions": __version__,
        "MagneticFieldStrength": 3,
        "BodyPart": "HEAD",
        "PulseSequenceType": "MPRAGE",
        "ScanningSequence": "GR",
        "SequenceVariant": "MP",
        "MRAcquisitionType": "3D",
        "NonlinearGradientCorrection": True,
        "RepetitionTimePreparation": 2.3,
        "RepetitionTimeExcitation": 0.0071,
        "EchoTime": 0.00298,
        "InversionTime": 0.9,
        "FlipAngle": 9,
        "PhantomSeed": parameters.seed,
    }


_LABEL_TABLE = {"1": "grey matter", "2": "white matter", "3": "cerebrospinal fluid"}
_TRUTH_SIDECARS: dict[str, dict[str, Any]] = {
    "dseg": {"Labels": _LABEL_TABLE, "Manual": False},
    "brain_mask": {"Type": "Brain"},
    "head_mask": {"Description": "Inside the skin, including cavities"},
    "bias": {"SkullStripped": False, "Description": "Multiplicative field, mean 1 in the brain"},
    "noiseless": {"SkullStripped": False, "Description": "Before bias field and noise"},
}
