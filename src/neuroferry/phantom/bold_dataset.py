"""BOLD runs of a session written as BIDS, with their truth."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import ndimage

from neuroferry import __version__
from neuroferry.phantom import files
from neuroferry.phantom.bold import (
    draw_run,
    draw_session,
    noise_level,
    noiseless_reference,
    volumes,
)
from neuroferry.phantom.effects import CONDITIONS
from neuroferry.phantom.epi import trace
from neuroferry.phantom.fmap_dataset import (
    PhantomFieldmaps,
    field_sources,
    readout_metadata,
    write_fieldmaps,
)
from neuroferry.phantom.motion import (
    MOTION_COLUMNS,
    framewise_displacement,
    motion_parameters,
)
from neuroferry.phantom.subject import STREAM_BOLD

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import ArrayLike, NDArray

    from neuroferry.phantom.bold import BoldRun, BoldSession
    from neuroferry.phantom.bold_options import BoldOptions
    from neuroferry.phantom.place import Place
    from neuroferry.phantom.subject import SubjectAnatomy

TASK = "blocks"


@dataclass(frozen=True)
class PhantomBold:
    """Files of one functional run of a phantom dataset and of its truth.

    Attributes
    ----------
    session : str or None
        Label without ``ses-``.
    run : int or None
    echoes : tuple of Path
        One 4-D file per echo.
    events : Path
    truth : mapping of str to Path
        On the run's grid, head as in the reference volume, undistorted: ``fieldmap`` (Hz),
        ``brain_mask``, ``dseg``, ``gm``, ``wm``, ``csf``, ``noiseless``, ``effect-face``
        and ``effect-house`` (percent), and ``t2star`` (s) of several echoes. Distorted:
        ``boldref``, ``distorted_mask``. Tables and transforms: ``motion``,
        ``motion_xfms``, ``boldref_to_t1w``, ``courses``, ``parameters``.
    """

    session: str | None
    run: int | None
    echoes: tuple[Path, ...]
    events: Path
    truth: Mapping[str, Path]

    @property
    def bold(self) -> Path:
        """The first echo."""
        return self.echoes[0]


def write_bold_session(
    place: Place,
    anatomy: SubjectAnatomy,
    anatomical: NDArray[np.float64],
    options: BoldOptions,
) -> tuple[tuple[PhantomBold, ...], PhantomFieldmaps | None]:
    """Simulate and write all functional runs of a session, and its field maps.

    Parameters
    ----------
    place : Place
    anatomy : SubjectAnatomy
    anatomical : ndarray of float64, shape (4, 4)
        Pose of the head in the session's first T1w scan.
    options : BoldOptions
    """
    number = int(place.session or 0)
    person = anatomy.parameters
    session = draw_session(anatomy, anatomical, options, person.stream(STREAM_BOLD, number))
    written = []
    for index in range(1, options.runs + 1):
        rng = person.stream(STREAM_BOLD, number, index)
        run = draw_run(anatomy, session, options, rng, first=index == 1)
        entities = f"task-{TASK}" + (f"_run-{index}" if options.runs > 1 else "")
        echoes = _write_series(place, entities, run, session, options, rng)
        events = files.write_table(
            place.raw("func", f"{entities}_events.tsv"),
            ("onset", "duration", "trial_type"),
            [(f"{a:g}", f"{b:g}", kind) for a, b, kind in run.events],
        )
        truth = _write_truth(place, entities, run, options, anatomical)
        label = index if options.runs > 1 else None
        written.append(PhantomBold(place.session, label, echoes, events, truth))
    if not options.fieldmaps:
        return tuple(written), None
    targets = [path for run in written for path in run.echoes]
    return tuple(written), write_fieldmaps(place, anatomy, session, options, targets)


def _write_series(
    place: Place,
    entities: str,
    run: BoldRun,
    session: BoldSession,
    options: BoldOptions,
    rng: np.random.Generator,
) -> tuple[Path, ...]:
    grid = session.grid
    paths = []
    with ExitStack() as stack:
        series = []
        for number, te in enumerate(options.echo_times, 1):
            echo = f"_echo-{number}" if len(options.echo_times) > 1 else ""
            path = place.raw("func", f"{entities}{echo}_bold.nii.gz")
            sidecar = _sidecar(run, session, options, te)
            files.write_json(path.with_name(path.name.replace(".nii.gz", ".json")), sidecar)
            shape = (*grid.shape, options.n_volumes)
            file = files.SeriesFile(path, grid.affine, shape, options.tr)
            series.append(stack.enter_context(file))
            paths.append(path)
        for scanned in volumes(run, options, rng):
            for file, volume in zip(series, scanned, strict=True):
                file.add(volume)
    return tuple(paths)


def _sidecar(
    run: BoldRun, session: BoldSession, options: BoldOptions, te: float
) -> dict[str, Any]:
    timing = {"SliceTiming": [round(float(t), 5) for t in run.slice_times]}
    return {
        "Manufacturer": "neuroferry",
        "ManufacturersModelName": "digital phantom",
        "SoftwareVersions": __version__,
        "MagneticFieldStrength": 3,
        "TaskName": TASK,
        "PulseSequenceType": "Gradient echo EPI",
        "MRAcquisitionType": "2D",
        "RepetitionTime": options.tr,
        "EchoTime": te,
        "FlipAngle": options.flip,
        **(timing if options.slice_timing else {}),
        **readout_metadata(session.grid.direction, session.grid.readout),
        **field_sources(options),
    }


def _write_truth(
    place: Place,
    entities: str,
    run: BoldRun,
    options: BoldOptions,
    anatomical: NDArray[np.float64],
) -> dict[str, Path]:
    head, affine = run.head, run.head.grid.affine

    def image(name: str, data: NDArray[Any], dtype: type, slope: float = 1.0) -> Path:
        path = place.truth("func", f"{entities}_{name}.nii.gz")
        source = f"bids:raw:{place.within}/func/{place.prefix}_{entities}_bold.nii.gz"
        sidecar = {"Sources": [source], **_IMAGE_SIDECARS.get(name, {})}
        files.write_json(path.with_name(path.name.replace(".nii.gz", ".json")), sidecar)
        return files.write_image(path, data, affine, dtype=dtype, slope=slope)

    brain = head.tissues.sum(axis=0) >= 0.5
    flat = noiseless_reference(run, options, distorted=False)
    bent = noiseless_reference(run, options, distorted=True)
    truth = {
        **{
            tissue.lower(): image(f"label-{tissue}_probseg", share, np.uint8, 1 / 255)
            for tissue, share in zip(("GM", "WM", "CSF"), head.tissues, strict=True)
        },
        "dseg": image("dseg", np.where(brain, head.tissues.argmax(axis=0) + 1, 0), np.uint8),
        "brain_mask": image("desc-brain_mask", brain, np.uint8),
        "distorted_mask": image("desc-brainDistorted_mask", _bent_mask(run, brain), np.uint8),
        "fieldmap": image("desc-truth_fieldmap", head.field_on_grid(), np.float32),
        "noiseless": image("desc-undistorted_boldref", flat[0], np.float32),
        "boldref": image("desc-distorted_boldref", bent[0], np.float32),
    }
    if len(flat) > 1:
        decay = _decay_time(flat, options.echo_times)
        truth["t2star"] = image("desc-truth_T2starmap", decay, np.float32)
    for effect in run.effects:
        if effect.name in CONDITIONS:
            percent = effect.weights * 100
            truth[f"effect-{effect.name}"] = image(
                f"desc-{effect.name}_effect", percent, np.int16, 1e-3
            )
    mass = ndimage.center_of_mass(bent[0])
    return truth | _write_tables(place, entities, run, options, anatomical, mass)


def _decay_time(
    echoes: list[NDArray[np.float32]], echo_times: tuple[float, ...]
) -> NDArray[np.float32]:
    """Estimate T2* in seconds by a log-linear fit to the noiseless echoes; 0 in air."""
    times = np.array(echo_times) - np.mean(echo_times)
    bright = np.min(echoes, axis=0) > 1
    logs = [np.log(np.where(bright, echo, 1)) for echo in echoes]
    slope = sum(t * log for t, log in zip(times, logs, strict=True)) / np.sum(times**2)
    return np.where(slope < -0.5, -1 / np.minimum(slope, -0.5), 0).astype(np.float32)


def _bent_mask(run: BoldRun, brain: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Compute the brain mask of the distorted reference."""
    head = run.head
    origin = trace(head, head.grid, np.eye(4), head.signal_voxels())
    share = ndimage.map_coordinates(
        head.tissues.sum(axis=0), origin.points, order=1, mode="nearest", output=np.float32
    )
    mask = np.zeros_like(brain)
    mask[tuple(origin.voxels)] = share >= 0.5
    return mask


def _write_tables(
    place: Place,
    entities: str,
    run: BoldRun,
    options: BoldOptions,
    anatomical: NDArray[np.float64],
    mass: ArrayLike,
) -> dict[str, Path]:
    grid = run.head.grid
    parameters = motion_parameters(run.motion, grid.affine, grid.shape, mass)
    fd = framewise_displacement(parameters)
    rows = [
        [*(f"{v:.6f}" for v in row), "n/a" if np.isnan(step) else f"{step:.6f}"]
        for row, step in zip(parameters, fd, strict=True)
    ]
    starts = np.arange(options.n_volumes, dtype=np.float64) * options.tr
    middle = starts + float(run.slice_times.max()) / 2
    courses = [effect.course(middle) for effect in run.effects]
    to_t1w = run.head.pose @ np.linalg.inv(anatomical)  # T1w points to boldref points
    return {
        "motion": files.write_table(
            place.truth("func", f"{entities}_desc-truth_motion.tsv"),
            (*MOTION_COLUMNS, "framewise_displacement"),
            rows,
        ),
        "motion_xfms": files.write_affines(
            place.truth("func", f"{entities}_from-orig_to-boldref_mode-image_desc-truth_xfm.txt"),
            run.motion,
        ),
        "boldref_to_t1w": files.write_affines(
            place.truth("func", f"{entities}_from-boldref_to-T1w_mode-image_desc-truth_xfm.txt"),
            to_t1w[None],
        ),
        "courses": files.write_table(
            place.truth("func", f"{entities}_desc-truth_timeseries.tsv"),
            [effect.name for effect in run.effects],
            [[f"{v:.6f}" for v in row] for row in np.stack(courses, axis=1)] if courses else [],
        ),
        "parameters": files.write_json(
            place.truth("func", f"{entities}_parameters.json"),
            {
                "options": asdict(options),
                "reference_volume": run.reference,
                "noise": noise_level(run, options),
                "direction": grid.direction,
                "readout": grid.readout,
            },
        ),
    }


_IMAGE_SIDECARS: dict[str, dict[str, Any]] = {
    "desc-brain_mask": {"Type": "Brain"},
    "desc-brainDistorted_mask": {"Type": "Brain"},
    "desc-truth_fieldmap": {"Units": "Hz"},
    "desc-truth_T2starmap": {"Units": "s"},
    "desc-face_effect": {"Units": "percent"},
    "desc-house_effect": {"Units": "percent"},
}
