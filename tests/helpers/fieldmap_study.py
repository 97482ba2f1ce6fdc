"""Small images of one participant: runs and field maps of every kind, with their sidecars."""

from pathlib import Path

import nibabel as nb
import numpy as np

from neuroferry.bids.entities import parse_name
from neuroferry.bids.model import Image, Subject
from neuroferry.selection.fieldmaps import choose_fieldmap

SHAPE = (16, 16, 12)
AFFINE = np.array([[-3.0, 0, 0, 22], [0, 3, 0, -22], [0, 0, 3, -16], [0, 0, 0, 1]])
ENCODED = {"PhaseEncodingDirection": "j-", "TotalReadoutTime": 0.03}
BOLD = "func/sub-01_task-rest_bold.nii.gz"
FOR_BOLD = {"IntendedFor": BOLD}
TIMES = {"EchoTime1": 0.00492, "EchoTime2": 0.00738}


def head():
    """Return the magnitude of a ball, with noise around it."""
    points = np.indices(SHAPE).reshape(3, -1).T - (np.array(SHAPE) - 1) / 2
    ball = (np.linalg.norm(points / np.array(SHAPE), axis=1) < 0.4).reshape(SHAPE)
    noise = np.random.default_rng(1).normal(30, 8, SHAPE)
    return np.where(ball, 900 + noise, noise).clip(0).astype(np.int16)


def phase():
    """Return the phase of a narrow field in Siemens' units, with noise in air."""
    rng = np.random.default_rng(2)
    narrow = rng.normal(300, 100, SHAPE)
    wide = rng.uniform(-4096, 4095, SHAPE)
    return (np.where(head() > 400, narrow, wide) // 2 * 2).astype(np.int16)


class FieldmapStudy:
    """Images of participant 01 below a folder; those added are the participant's."""

    def __init__(self, root):
        self.root = Path(root)
        self.images = []

    def add(self, name, folder="fmap", data=None, affine=AFFINE, session="", **metadata):
        """Write an image, of what its suffix says, and add it."""
        parts = [f"sub-01_{f'ses-{session}_' if session else ''}{name}.nii.gz"]
        path = self.root.joinpath("sub-01", *([f"ses-{session}"] if session else []), folder)
        path.mkdir(parents=True, exist_ok=True)
        path = path / parts[0]
        parsed = parse_name(path)
        if data is None:
            data = phase() if parsed.suffix.startswith("phase") else head()
            if parsed.suffix == "bold":
                data = np.stack([data] * 14, axis=-1)
        nb.Nifti1Image(data, affine).to_filename(path)
        image = Image(path, parsed.entities, parsed.suffix, folder, metadata)
        self.images.append(image)
        return image

    def bold(self, name="task-rest_bold", session="", **metadata):
        """Add a BOLD run encoded j-."""
        return self.add(name, "func", session=session, **(ENCODED | metadata))

    def phasediff(self, acq="", **more):
        """Add a phase difference with two magnitudes."""
        self.add(f"{acq}phasediff", **(TIMES | more))
        self.add(f"{acq}magnitude1", **more)
        self.add(f"{acq}magnitude2", **more)

    def pair(self, run="", **more):
        """Add two EPIs of opposite directions."""
        self.add(f"dir-AP_{run}epi", PhaseEncodingDirection="j-", TotalReadoutTime=0.05, **more)
        self.add(f"dir-PA_{run}epi", PhaseEncodingDirection="j", TotalReadoutTime=0.06, **more)

    @property
    def subject(self):
        """The participant."""
        return Subject("01", tuple(sorted(self.images, key=lambda image: str(image.path))))

    def plan(self, *echoes, **options):
        """Choose the field map of a run, by default of a BOLD run that is added."""
        echoes = echoes or (self.bold(),)
        return choose_fieldmap(self.subject, echoes, **options)


def names(paths):
    """List file names without participant and extension."""
    return [Path(p).name.removeprefix("sub-01_").removesuffix(".nii.gz") for p in paths]
