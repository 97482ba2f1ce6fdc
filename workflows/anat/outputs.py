"""Derivatives of the anatomical workflow, under their BIDS names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from niworkflows.engine.workflows import LiterateWorkflow as Workflow

from neuroferry.bids.entities import common_entities, parse_name
from neuroferry.bids.model import Image
from neuroferry.templates import TEMPLATE_SPACE, OtherTemplate
from neuroferry.workflows.sinks import TEXT, Output, RunNamer, hold_back, init_sinks_wf

TISSUES = ("GM", "WM", "CSF")


def init_anat_derivatives_wf(
    *,
    out_dir: str | Path,
    bids_dir: str | Path,
    source_files: Sequence[str],
    seed: int,
    with_std: bool = True,
    std_label: str | None = None,
    with_iqms: bool = True,
    precomputed: Mapping[str, Sequence[str]] | None = None,
    name: str = "anat_derivatives_wf",
) -> Workflow:
    """Build the sinks of the anatomical derivatives of one session.

    Files of the session are named by the entities that all its T1w images share; files of
    one image (its transform, its quality metrics) by the entities of that image.

    Parameters
    ----------
    out_dir : path
        Root of the derivatives dataset.
    bids_dir : path
        Root of the dataset of the source files.
    source_files : sequence of str
        The T1w images of the session, in the order of the workflow's inputs.
    seed : int
        Seed of the random numbers, written into the sidecars.
    with_std : bool
        Write images in the space of the built-in template; the transforms are always written.
    std_label : str, optional
        Value of their ``res`` entity, the voxel size in mm; 1 mm voxels have none.
    with_iqms : bool
        Whether quality metrics are computed.
    precomputed : mapping of str to sequence of str, optional
        BIDS URIs of precomputed files, by input field: the sources of these files instead of
        the images of this dataset.
    name : str
        Name of the workflow.

    Returns
    -------
    Workflow

    Notes
    -----
    **Inputs**: the fields of the same names of `init_anat_wf`'s outputs, ``t1w_preproc``,
    ``brain_mask``, ``brain_score`` (goes into the sidecar of the mask), ``dseg``, ``tpms``,
    ``average_report`` (of several images), ``tissue_report`` (unless precomputed),
    ``anat2std_xfm``, ``std2anat_xfm``, ``norm_report`` (goes into the sidecars of these two,
    unless they are precomputed), ``run2ref_xfms``; with the template space
    ``std_t1w``, ``std_mask``, ``std_dseg``, ``std_tpms``; with quality metrics ``iqms``,
    one JSON file for each source file.

    **Outputs**: ``out_files``, the derivatives, once all are written.
    """
    namer = _Namer(out_dir, bids_dir, source_files, seed, precomputed or {})
    outputs = namer.native_outputs()
    if with_std:
        entities = {"space": TEMPLATE_SPACE, **({"resolution": std_label} if std_label else {})}
        outputs += namer.template_outputs(
            f"{std_label or '1'} mm isotropic", entities, TEMPLATE_SPACE
        )
    if with_iqms:
        outputs.append(namer.metrics_output())
    return init_sinks_wf(outputs=outputs, out_dir=out_dir, name=name)


def init_template_derivatives_wf(
    *,
    out_dir: str | Path,
    bids_dir: str | Path,
    source_files: Sequence[str],
    seed: int,
    template: OtherTemplate,
    resolutions: Sequence[str | None] = (),
    precomputed: Mapping[str, Sequence[str]] | None = None,
    name: str = "template_derivatives_wf",
) -> Workflow:
    """Build the sinks of the results in another template's space, and of the transforms.

    Parameters
    ----------
    out_dir, bids_dir, source_files, seed, precomputed
        As for `init_anat_derivatives_wf`.
    template : OtherTemplate
        The template.
    resolutions : sequence of str or None
        Labels of the grids that are written; None has no ``res`` entity.
    name : str
        Name of the workflow.

    Returns
    -------
    Workflow

    Notes
    -----
    **Inputs**: ``anat2std_xfm``, ``std2anat_xfm``, ``norm_report``; for each grid
    ``std_t1w``, ``std_mask``, ``std_dseg`` and ``std_tpms``, with the suffix ``_res_<label>``
    where it has a label.

    **Outputs**: ``out_files``, the derivatives, once all are written.
    """
    namer = _Namer(out_dir, bids_dir, source_files, seed, precomputed or {})
    outputs = namer.transforms(template.label)
    for label in resolutions:
        entities = {**template.entities, **({"resolution": label} if label else {})}
        outputs += [
            replace(output, source=f"{output.source}{res_suffix(label)}", kind=output.source)
            for output in namer.template_outputs(
                template.grid(label).size, entities, template.label
            )
        ]
    return init_sinks_wf(outputs=outputs, out_dir=out_dir, name=name)


def init_t2w_derivatives_wf(
    *,
    out_dir: str | Path,
    bids_dir: str | Path,
    image: Image,
    seed: int,
    write_doubtful: bool = False,
    name: str = "t2w_derivatives_wf",
) -> Workflow:
    """Build the sinks of a T2w image on the grid of the T1w image, and of its transforms.

    Parameters
    ----------
    out_dir, bids_dir, seed
        As for `init_anat_derivatives_wf`.
    image : Image
        The T2w image; its entities name the files.
    write_doubtful : bool
        Write the resampled image even if the registration failed its check.
    name : str
        Name of the workflow.

    Returns
    -------
    Workflow

    Notes
    -----
    **Inputs**: ``t2w_preproc``, ``T2w2anat_xfm``, ``anat2T2w_xfm``, ``coreg_report`` (goes into
    the sidecars of the transforms).

    **Outputs**: ``out_files``, the derivatives, once all are written.
    """
    namer = _T2wNamer(
        *(out_dir, bids_dir, image.entities, [image.path]),
        datatype="anat",
        reference="T2w",
        seed=seed,
    )
    written = hold_back([namer.image_output()], "" if write_doubtful else "coreg_report")
    return init_sinks_wf(outputs=[*namer.transforms(), *written], out_dir=out_dir, name=name)


def res_suffix(label: str | None) -> str:
    """Make the suffix of names in a graph that belong to one grid of a template.

    >>> res_suffix("2"), res_suffix(None)
    ('_res_2', '')
    """
    return f"_res_{label}" if label else ""


class _Namer(RunNamer):
    """Names and sidecars of the files of one session, from the entities its images share."""

    def __init__(
        self,
        out_dir: str | Path,
        bids_dir: str | Path,
        source_files: Sequence[str],
        seed: int,
        precomputed: Mapping[str, Sequence[str]],
    ) -> None:
        self._runs = [parse_name(path).entities for path in source_files]
        super().__init__(
            out_dir,
            bids_dir,
            common_entities(self._runs),
            [Path(path) for path in source_files],
            datatype="anat",
            reference="T1w",
            seed=seed,
        )
        self._given = precomputed
        self._preproc = self._uri("T1w", description="preproc")
        self._mask = self._uri("mask", description="brain")

    def _output(
        self, source: str, suffix: str, metadata: Mapping[str, Any], **entities: str
    ) -> Output:
        return Output(source, {**self._names, **entities}, suffix, metadata, datatype="anat")

    def _tissues(self, source: str, metadata: Mapping[str, Any], **entities: str) -> Output:
        """List the probability maps, one per tissue."""
        names = [{**self._names, "label": tissue, **entities} for tissue in TISSUES]
        return Output(source, names, "probseg", metadata, datatype="anat")

    def native_outputs(self) -> list[Output]:
        """List the files in the space of the T1w image, and the transforms."""
        averaged = f", average of {len(self._raw)} images" if len(self._raw) > 1 else ""
        both = [self._preproc, self._mask]
        here: dict[str, Any] = {"SpatialReference": self._preproc}
        label: dict[str, Any] = {"Manual": False, **here}
        preproc = self._about(
            f"T1w image corrected for intensity non-uniformity{averaged}",
            self._raw,
            SpatialReference="orig",
            SkullStripped=False,
        )
        mask = self._about("Brain mask", [self._preproc], Type="Brain", **here)
        dseg = self._about("Tissue labels, as listed in dseg.tsv", both, **label)
        tpms = self._about("Probability of the tissue named by the label entity", both, **label)
        outputs = [
            replace(
                self._output("t1w_preproc", "T1w", preproc, description="preproc"),
                report=("average_report", "Average") if len(self._raw) > 1 else None,
            ),
            replace(
                self._output("brain_mask", "mask", mask, description="brain"),
                report=("brain_score", "BrainExtraction"),
            ),
            replace(
                self._output("dseg", "dseg", dseg),
                report=None if "dseg" in self._given else ("tissue_report", "TissueSegmentation"),
            ),
            self._tissues("tpms", tpms),
            self._transform("run2ref_xfms", self._runs, "orig", "T1w", self._raw, ".txt"),
        ]
        given = [self._as_given(output) for output in outputs]
        return [*given[:-1], *self.transforms(TEMPLATE_SPACE), given[-1]]

    def transforms(self, space: str) -> list[Output]:
        """List the transforms between the T1w image and a template."""
        both = [self._preproc, self._mask]
        outputs = [
            self._transform("anat2std_xfm", [self._names], "T1w", space, both),
            self._transform("std2anat_xfm", [self._names], space, "T1w", both),
        ]
        fit = ("norm_report", "TemplateRegistration")
        return [self._as_given(replace(output, report=fit)) for output in outputs]

    def _as_given(self, output: Output) -> Output:
        """Cite the sources of a precomputed result; its transforms keep their file format."""
        sources = self._given.get(output.source)
        if sources is None or output.metadata is None:
            return output
        about = {key: value for key, value in output.metadata.items() if key != "RandomSeed"}
        about |= {
            "Description": f"{about['Description']}; precomputed",
            "Sources": list(sources),
        }
        kind = Path(sources[0]).suffix if output.suffix == "xfm" else output.extension
        report = None if output.suffix == "xfm" else output.report
        return replace(output, metadata=about, extension=kind, report=report)

    def template_outputs(
        self, resolution: str, space: Mapping[str, str], reference: str
    ) -> list[Output]:
        """List the files in the space of a template."""
        given = self._given.get("anat2std_xfm", ["from-T1w.h5"])
        entities = _transform_entities("T1w", reference)
        xfm = self._uri("xfm", Path(given[0]).suffix, **entities)
        probsegs = [self._uri("probseg", label=tissue) for tissue in TISSUES]
        where = f" in {reference} space"
        there: dict[str, Any] = {"SpatialReference": reference, "Resolution": resolution}
        labels: dict[str, Any] = {"Manual": False, **there}
        t1w = self._about(
            f"Preprocessed T1w image{where}", [self._preproc, xfm], SkullStripped=False, **there
        )
        mask = self._about(f"Brain mask{where}", [self._mask, xfm], Type="Brain", **there)
        dseg = self._about(
            f"Tissue labels{where}, as listed in dseg.tsv", [self._uri("dseg"), xfm], **labels
        )
        tpms = self._about(
            f"Probability of the tissue named by the label entity{where}",
            [*probsegs, xfm],
            **labels,
        )
        return [
            self._output("std_t1w", "T1w", t1w, description="preproc", **space),
            self._output("std_mask", "mask", mask, description="brain", **space),
            self._output("std_dseg", "dseg", dseg, **space),
            self._tissues("std_tpms", tpms, **space),
        ]

    def metrics_output(self) -> Output:
        """Make the sink of the quality metrics of each image."""
        names = [{**run, "description": "iqms"} for run in self._runs]
        return Output("iqms", names, "T1w", extension=".json", datatype="anat")

    def _transform(
        self,
        source: str,
        names: Sequence[Mapping[str, str]],
        origin: str,
        target: str,
        made_from: Sequence[str],
        extension: str = ".h5",
    ) -> Output:
        entities = [{**name, **_transform_entities(origin, target)} for name in names]
        about = self._about(
            f"ITK transform that resamples images of {origin} onto {target}", made_from
        )
        return Output(source, entities, "xfm", about, extension, "anat")


class _T2wNamer(RunNamer):
    """Names and sidecars of the files of one T2w image."""

    def transforms(self) -> list[Output]:
        """List the transforms between the image and the T1w image."""
        return [
            Output(
                source,
                {**self._names, **_transform_entities(origin, target)},
                "xfm",
                self._about(
                    f"ITK affine that resamples images in {origin} space onto {target}", self._raw
                ),
                TEXT,
                "anat",
                report=("coreg_report", "Coregistration"),
            )
            for source, origin, target in (
                ("T2w2anat_xfm", "T2w", "T1w"),
                ("anat2T2w_xfm", "T1w", "T2w"),
            )
        ]

    def image_output(self) -> Output:
        """Make the sink of the image on the grid of the T1w image."""
        xfm = self._uri("xfm", TEXT, **_transform_entities("T2w", "T1w"))
        about = self._about(
            "T2w image corrected for intensity non-uniformity, on the grid of the T1w image, "
            "resampled in a single interpolation",
            [*self._raw, xfm],
            SkullStripped=False,
            SpatialReference="T1w",
        )
        names = {**self._names, "space": "T1w", "description": "preproc"}
        return Output("t2w_preproc", names, "T2w", about, datatype="anat")


def _transform_entities(origin: str, target: str) -> dict[str, str]:
    return {"from": origin, "to": target, "mode": "image"}
