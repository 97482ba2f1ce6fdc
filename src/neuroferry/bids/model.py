"""The contents of a dataset as plain values: frozen, picklable, nothing lazy."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

from neuroferry.bids.volumes import VolumeFacts

Severity = Literal["error", "warning"]


@dataclass(frozen=True)
class Image:
    """One image of a dataset.

    Attributes
    ----------
    path : Path
        The NIfTI file.
    entities : mapping of str to str
        The entities in the file name by their long BIDS names, with values as written there
        (``{"subject": "01", "run": "02"}``).
    suffix, datatype : str
        ``"T1w"``, ``"anat"``.
    metadata : mapping
        The sidecar JSON files that apply, merged by the inheritance principle.
    sidecars : tuple of Path
        Those files, the farthest first, as far as they can be read.
    volumes : VolumeFacts or None
        What reading a series told about its volumes; None before it was read.
    """

    path: Path
    entities: Mapping[str, str] = field(hash=False)
    suffix: str
    datatype: str
    metadata: Mapping[str, Any] = field(default_factory=dict, hash=False)
    volumes: VolumeFacts | None = None
    sidecars: tuple[Path, ...] = ()

    @property
    def session(self) -> str | None:
        """The session's label, without ``ses-``; None in a dataset without sessions."""
        return self.entities.get("session")

    @property
    def place(self) -> str:
        """Its path below the root of the dataset; folders above the root may have any name.

        >>> path = Path("/job/sub-01/data/sub-01/anat/sub-01_T1w.nii.gz")
        >>> Image(path, {"subject": "01"}, "T1w", "anat").place
        'sub-01/anat/sub-01_T1w.nii.gz'
        """
        return "/".join(self.path.parts[-self._depth :])

    @property
    def root(self) -> Path:
        """Root of its dataset."""
        return self.path.parents[self._depth - 1]

    @property
    def _depth(self) -> int:
        """Number of folders below the root, plus one for the file."""
        return 3 if self.session is None else 4


@dataclass(frozen=True)
class Problem:
    """A problem of the input, in one plain sentence.

    Attributes
    ----------
    message : str
        The problem, the file and what to do.
    severity : {"error", "warning"}
        After an error, the image, session or participant concerned is skipped, which the exit
        code reports; a warning changes nothing.
    path : Path or None
        The file, if it is one file.
    subject : str or None
        Label without ``sub-``; None for the dataset as a whole.
    """

    message: str
    severity: Severity
    path: Path | None = None
    subject: str | None = None


@dataclass(frozen=True)
class Subject:
    """One participant: images in the order of their names, and their problems.

    Examples
    --------
    >>> t1w = Image(Path("sub-01_ses-a_T1w.nii.gz"), {"session": "a"}, "T1w", "anat")
    >>> subject = Subject("01", (t1w,))
    >>> subject.sessions
    ('a',)
    >>> subject.select(suffix="T1w", session="b")
    ()
    """

    label: str
    images: tuple[Image, ...] = ()
    problems: tuple[Problem, ...] = ()

    @property
    def sessions(self) -> tuple[str | None, ...]:
        """The sessions with images, sorted; ``(None,)`` in a dataset without sessions."""
        labels = {run.session for run in self.images}
        return tuple(sorted(labels, key=lambda label: (label is not None, label or "")))

    def without(self, paths: Collection[Path]) -> Subject:
        """Remove some images."""
        return replace(self, images=tuple(run for run in self.images if run.path not in paths))

    def select(
        self,
        datatype: str | None = None,
        suffix: str | None = None,
        session: str | None = None,
    ) -> tuple[Image, ...]:
        """Select the images that match every argument that is not None."""
        return tuple(
            run
            for run in self.images
            if (datatype is None or run.datatype == datatype)
            and (suffix is None or run.suffix == suffix)
            and (session is None or run.session == session)
        )


#: Images with these are not magnitude images.
OTHER_PARTS = ("phase", "real", "imag")


class Finding(NamedTuple):
    """A problem of a run, and whether it prevents processing."""

    message: str
    fatal: bool


def as_problem(run: Image, finding: Finding) -> Problem:
    """Turn a finding about an image into a problem."""
    severity = "error" if finding.fatal else "warning"
    text = f"{run.path}: {finding.message}"
    return Problem(text, severity, run.path, run.entities.get("subject"))  # type: ignore[arg-type]
