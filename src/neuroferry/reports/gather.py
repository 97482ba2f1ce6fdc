"""Contents of a participant's report, from the derivatives and their input images."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

from neuroferry.bids.entities import parse_name
from neuroferry.bids.headers import read_header
from neuroferry.bids.metadata import SidecarReader, read_json
from neuroferry.errors import InputError
from neuroferry.reports.svg import looks_whole

BRAIN_KEY = "BrainExtraction"
"""Key of the confidence in the sidecar of the brain mask."""
TEMPLATE_KEY = "TemplateRegistration"
"""Key of the fit in the sidecar of a transform to a template."""
T2W_KEY = "Coregistration"
"""Key of the alignment in the sidecar of a transform from a T2w image to the T1w image."""

DOUBTS = {"T1w": "Average", "dseg": "TissueSegmentation"}
"""Suffixes of anatomical images, and keys of their sidecars that hold reasons for doubt."""

OTHERS = ("bold", "dwi")
"""Suffixes of the series that have figures of their own."""

ACQUISITION = (
    ("Scanner", ("Manufacturer", "ManufacturersModelName"), ""),
    ("Field", ("MagneticFieldStrength",), "T"),
    ("Sequence", ("PulseSequenceType", "PulseSequenceName", "ScanningSequence"), ""),
    ("TR", ("RepetitionTime",), "s"),
    ("TE", ("EchoTime",), "s"),
    ("TI", ("InversionTime",), "s"),
    ("Flip angle", ("FlipAngle",), "°"),
    ("Coil", ("ReceiveCoilName",), ""),
    ("Task", ("TaskName",), ""),
    ("Phase encoding", ("PhaseEncodingDirection",), ""),
    ("Total readout time", ("TotalReadoutTime",), "s"),
    ("Acceleration", ("ParallelReductionFactorInPlane",), ""),
)
"""Fields of an image's sidecar that are shown: name, keys, unit."""


@dataclass(frozen=True)
class Reportlet:
    """One figure that the report should have."""

    desc: str
    title: str
    look_for: str
    path: Path | None


@dataclass(frozen=True)
class InputImage:
    """One input image: its name, geometry and acquisition as label and text."""

    name: str
    facts: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Output:
    """One derivative: its path below the output folder, description, and size in bytes."""

    path: str
    description: str
    size: int


@dataclass(frozen=True)
class Session:
    """The results of one session.

    Attributes
    ----------
    label : str or None
        Without ``ses-``; ``None`` in a dataset without sessions.
    brain : mapping
        Confidence, verdict and reasons of the brain mask; empty if there is no mask.
    doubts : tuple of str
        What the steps doubt about the T1w images and their tissues, as sentences.
    templates : mapping of str to mapping
        Fit, verdict and reasons of the registration to each template.
    t2w : mapping of str to mapping
        Evidence, verdict and reasons of the alignment of each T2w image, by its name.
    """

    label: str | None
    reportlets: tuple[Reportlet, ...]
    brain: Mapping[str, Any]
    doubts: tuple[str, ...] = ()
    templates: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    t2w: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


@lru_cache(maxsize=3)
def report_layout(name: str) -> tuple[Mapping[str, Any], ...]:
    """Read the reportlets of a section, such as Anatomical, from ``configs/report.yml``."""
    from importlib.resources import files

    import yaml

    text = files("neuroferry.configs").joinpath("report.yml").read_text(encoding="utf-8")
    return tuple(
        item
        for section in yaml.safe_load(text)["sections"]
        if section["name"] == name
        for item in section["reportlets"]
    )


def read_if_sound(path: Path) -> dict[str, Any]:
    """Read a JSON object; a file that is missing or broken counts as empty."""
    try:
        return read_json(path)
    except InputError:
        return {}


def is_of_quality(path: Path) -> bool:
    """Whether a file belongs to the metrics of an image, by its name.

    >>> is_of_quality(Path("sub-01_task-rest_desc-qcmean_bold.svg"))
    True
    """
    return parse_name(path).entities.get("description", "").startswith(("qc", "iqms"))


def find_sessions(out_dir: Path, subject: str) -> tuple[Session, ...]:
    """Collect figures and brain-mask verdicts of each session.

    Parameters
    ----------
    out_dir : pathlib.Path
        Root of the derivatives.
    subject : str
        Label without ``sub-``.

    Returns
    -------
    tuple of Session
        In the order of their labels; one without a label if nothing was written, none if there
        are only derivatives of BOLD or DWI runs, or only quality metrics.
    """
    root = out_dir / f"sub-{subject}"
    drawn = sorted((root / "figures").glob("*_T[12]w.svg"))
    figures = [path for path in drawn if not is_of_quality(path)]
    jsons = sorted([*root.glob("anat/*.json"), *root.glob("ses-*/anat/*.json")])
    measured = any(map(is_of_quality, [*drawn, *root.rglob("*_desc-iqms_*.json")]))
    made = [*figures, *(path for path in jsons if not is_of_quality(path))]
    labels = {parse_name(path).entities.get("session") for path in made}
    if len(labels) > 1:
        labels.discard(None)
    others = any(any((root / "figures").glob(f"*_{suffix}.svg")) for suffix in OTHERS)
    if not labels and not others and not measured:
        labels = {None}
    ordered = sorted(labels, key=lambda label: label or "")
    return tuple(_read_session(label, figures, jsons) for label in ordered)


def _read_session(label: str | None, figures: list[Path], jsons: list[Path]) -> Session:
    ours = [path for path in jsons if parse_name(path).entities.get("session") == label]
    drawn = [path for path in figures if parse_name(path).entities.get("session") == label]
    brain: dict[str, Any] = {}
    templates: dict[str, Mapping[str, Any]] = {}
    t2w: dict[str, Mapping[str, Any]] = {}
    doubts: list[str] = []
    for path in ours:
        name = parse_name(path)
        desc, space = (name.entities.get(key) for key in ("description", "space"))
        if name.suffix == "mask" and desc == "brain" and space is None:
            found = read_if_sound(path).get(BRAIN_KEY)
            brain = found if isinstance(found, dict) else {}
        elif name.suffix == "xfm" and name.entities.get("from") == "T2w":
            found = read_if_sound(path).get(T2W_KEY)
            t2w[path.name.partition("_from-")[0]] = found if isinstance(found, dict) else {}
        elif name.suffix == "xfm" and name.entities.get("from") == "T1w":
            found = read_if_sound(path).get(TEMPLATE_KEY)
            if isinstance(found, dict):
                templates[name.entities.get("to", "")] = found
        elif space is None and name.suffix in DOUBTS:
            doubts += _read_doubts(path, DOUBTS[name.suffix])
    # a session may have T2w images only, aligned with the T1w image of another one
    with_t1w = any(not _is_of_t2w(path) for path in (*drawn, *ours)) or not t2w
    reportlets = [*_find_pictures(drawn, t2w, with_t1w=with_t1w)]
    aligned = {f"{stem}_T2w": found for stem, found in t2w.items()}
    return Session(label, tuple(reportlets), brain, tuple(doubts), templates, aligned)


def _find_pictures(
    drawn: Iterable[Path], t2w: Iterable[str], *, with_t1w: bool
) -> Iterator[Reportlet]:
    """Find the figures that the T1w image and each T2w image of a session should have."""
    whole = {path.name: path for path in drawn if looks_whole(path)}
    t1w = {
        parse_name(path).entities.get("description"): path
        for path in whole.values()
        if not _is_of_t2w(path)
    }
    stems = [*t2w]
    for item in report_layout("Anatomical"):
        desc, title, look_for = item["bids"]["desc"], item["subtitle"], item["description"]
        if item["bids"]["suffix"] == "T1w":
            if with_t1w:
                yield Reportlet(desc, title, look_for, t1w.get(desc))
            continue
        for number, stem in enumerate(stems, start=1):
            which = f": {stem}_T2w" if len(stems) > 1 else ""
            path = whole.get(f"{stem}_desc-{desc}_T2w.svg")
            yield Reportlet(f"{desc}{number}", f"{title}{which}", look_for, path)


def _is_of_t2w(path: Path) -> bool:
    """Whether a file belongs to a T2w image, by its name.

    >>> _is_of_t2w(Path("sub-01_from-T1w_to-T2w_mode-image_xfm.json"))
    True
    """
    name = parse_name(path)
    return "T2w" in (name.suffix, name.entities.get("from"), name.entities.get("to"))


def _read_doubts(path: Path, key: str) -> list[str]:
    """Read the reasons for doubt from a sidecar."""
    found = read_if_sound(path).get(key)
    reasons = found.get("reasons") if isinstance(found, dict) else None
    return [str(reason) for reason in reasons] if isinstance(reasons, list) else []


def raw_root(out_dir: Path) -> Path | None:
    """Find the input dataset by the description of the derivatives."""
    links = read_if_sound(out_dir / "dataset_description.json").get("DatasetLinks")
    url = urlparse(str(links.get("raw", ""))) if isinstance(links, dict) else None
    return Path(unquote(url.path)) if url is not None and url.scheme == "file" else None


def find_inputs(out_dir: Path, subject: str, root: Path | None) -> tuple[InputImage, ...]:
    """List the input images, with geometry and acquisition if they are readable.

    The derivatives' sidecars name them; for a participant without derivatives, all T1w images,
    BOLD and DWI series in the input dataset are listed.
    """
    folder = out_dir / f"sub-{subject}"
    sidecars = [
        path
        for suffix in ("T1w", "T2w", *OTHERS)
        for path in folder.glob(f"**/*_desc-preproc_{suffix}.json")
    ]
    sources: set[str] = set()
    for path in sidecars:
        named = read_if_sound(path).get("Sources")
        uris = named if isinstance(named, list) else []
        sources |= {str(uri).split(":", 2)[2] for uri in uris if str(uri).startswith("bids:raw:")}
    if not sources and root is not None:
        found = [
            path
            for image in ("anat/*_T1w", "anat/*_T2w", "func/*_bold", "dwi/*_dwi")
            for ending in ("nii", "nii.gz")
            for path in root.glob(f"sub-{subject}/**/{image}.{ending}")
        ]
        sources = {path.relative_to(root).as_posix() for path in found}
    reader = SidecarReader(root) if root is not None else None
    return tuple(_describe_input(name, root, reader) for name in sorted(sources))


def _describe_input(name: str, root: Path | None, reader: SidecarReader | None) -> InputImage:
    if root is None or reader is None or not (root / name).exists():
        return InputImage(name, (("Note", "no longer readable"),))
    facts = _geometry(root / name)
    try:
        metadata, broken = reader.read(root / name)
    except OSError:
        metadata, broken = {}, []
    for label, keys, unit in ACQUISITION:
        values = [metadata[key] for key in keys if metadata.get(key) not in (None, "", [])]
        picked = values if label == "Scanner" else values[:1]
        text = " ".join(", ".join(map(str, v)) if isinstance(v, list) else str(v) for v in picked)
        if text:
            facts.append((label, f"{text} {unit}".strip().replace(" °", "°")))
    facts += [("Note", str(error)) for _, error in broken]
    return InputImage(name, tuple(facts))


def _geometry(path: Path) -> list[tuple[str, str]]:
    """Read size, voxels and orientation from an image's header."""
    try:
        facts = read_header(path)
    except InputError as error:
        return [("Note", f"its header cannot be read: {error}")]
    volumes = facts.shape[3:]
    return [
        ("Voxels", " \u00d7 ".join(str(n) for n in facts.shape[:3])),
        *([("Volumes", " \u00d7 ".join(str(n) for n in volumes))] if volumes else []),
        ("Voxel size", " \u00d7 ".join(f"{zoom:.2f}" for zoom in facts.zooms[:3]) + " mm"),
        ("Orientation", facts.axes),
        ("Stored as", facts.dtype),
    ]


def find_outputs(out_dir: Path, subject: str) -> tuple[Output, ...]:
    """List a participant's derivatives, without sidecars and figures."""
    outputs = []
    for path in sorted((out_dir / f"sub-{subject}").rglob("*")):
        if path.is_dir() or path.parent.name == "figures" or path.name.startswith("."):
            continue
        stem = re.sub(r"\.(nii\.gz|nii|h5|txt|tsv|json)$", "", path.name)
        if path.suffix == ".json" and "_desc-iqms" not in path.name:
            continue
        text = read_if_sound(path.with_name(f"{stem}.json")).get("Description", "")
        if "_desc-iqms" in path.name:
            text = "Image quality metrics"
        relative = path.relative_to(out_dir).as_posix()
        outputs.append(Output(relative, str(text), path.stat().st_size))
    return tuple(outputs)


def read_methods(run_dir: Path, subject: str) -> str:
    """Read the methods text of a participant, or else of the run; empty if there is none."""
    for name in (f"methods_sub-{subject}.md", "methods.md"):
        try:
            return (run_dir / name).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            continue
    return ""


def session_names(sessions: Iterable[Session]) -> list[str]:
    """Make the headings of the sessions."""
    return [f"Session {s.label}" if s.label else "Anatomical images" for s in sessions]
