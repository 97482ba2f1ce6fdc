"""Writes the derivatives of a DWI run under their BIDS names."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from niworkflows.engine.workflows import LiterateWorkflow as Workflow

from neuroferry.bids.dwi import DwiRun
from neuroferry.bids.outputs import RAW_DATASET, bids_uri, derivative_path
from neuroferry.workflows.dwi.models import MAPS, DwiMap
from neuroferry.workflows.sinks import NIFTI, TABLE, TEXT, Output, init_sinks_wf


def init_dwi_derivatives_wf(
    *,
    out_dir: str | Path,
    bids_dir: str | Path,
    run: DwiRun,
    models: Collection[str] = (),
    with_anat: bool = True,
    with_tracts: bool = False,
    fieldmap_id: str | None = None,
    seed: int = 1,
    name: str = "dwi_derivatives_wf",
) -> Workflow:
    """Write what the diffusion workflow of one run has computed.

    Parameters
    ----------
    out_dir : path
        Root of the derivatives dataset.
    bids_dir : path
        Root of the dataset that the run belongs to.
    run : DwiRun
        The run; its entities name the files.
    models : collection of str
        That were computed, as `neuroferry.workflows.dwi.models.plan_models` names them.
    with_anat, with_tracts : bool
        Whether there is a T1w image, and whether bundles were looked for.
    fieldmap_id : str, optional
        Label of the field map that distortion was corrected with.
    seed : int
        Of the random numbers, written into the sidecars.
    name : str
        Name of the workflow.

    Returns
    -------
    Workflow
        **Inputs**: the fields of the same names of the other workflows of a run.
        **Outputs**: ``out_files``, the derivatives, once all are written.
    """
    namer = _Namer(out_dir, bids_dir, run, seed, with_sdc=fieldmap_id is not None)
    outputs = namer.series_outputs()
    if with_anat:
        outputs += namer.coregistration_outputs()
    if fieldmap_id is not None:
        outputs += namer.fieldmap_outputs(fieldmap_id)
    outputs += [namer.map_output(key, what) for key, what in MAPS.items() if what.model in models]
    if with_tracts:
        outputs += namer.tract_outputs()
    return init_sinks_wf(outputs=outputs, out_dir=out_dir, name=name)


class _Namer:
    """Names and describes the files of one run."""

    def __init__(
        self,
        out_dir: str | Path,
        bids_dir: str | Path,
        run: DwiRun,
        seed: int,
        *,
        with_sdc: bool,
    ) -> None:
        self._out_dir = Path(out_dir)
        self._names = dict(run.entities)
        root = Path(os.path.abspath(bids_dir))  # noqa: PTH100  (resolve() would follow links)
        self._raw = [bids_uri(run.run.path, root, RAW_DATASET)]
        self._seed = seed
        self._with_sdc = with_sdc

    def _uri(
        self, suffix: str, extension: str = NIFTI, datatype: str = "dwi", **entities: str
    ) -> str:
        path = derivative_path(
            self._out_dir,
            {**self._names, **entities},
            suffix=suffix,
            extension=extension,
            datatype=datatype,
        )
        return bids_uri(path, self._out_dir)

    def _about(self, description: str, sources: Sequence[str], **others: Any) -> dict[str, Any]:
        return {
            "Description": description,
            "Sources": list(sources),
            "RandomSeed": self._seed,
            **others,
        }

    def _output(
        self,
        source: str,
        suffix: str,
        metadata: dict[str, Any] | None,
        entities: Mapping[str, str],
        extension: str = NIFTI,
        datatype: str = "dwi",
        report: tuple[str, str | None] | None = None,
    ) -> Output:
        names = {**self._names, **entities}
        return Output(source, names, suffix, metadata, extension, datatype, report)

    def series_outputs(self) -> list[Output]:
        """List what is written of every run."""
        reference = self._uri("dwiref", description="hmc")
        hmc = {"from": "orig", "to": "dwiref", "mode": "image", "description": "hmc"}
        xfm = self._uri("xfm", TEXT, **hmc)
        preproc = {"description": "preproc"}
        unwarped = ", corrected for distortion" if self._with_sdc else ""
        series = self._about(
            "Preprocessed series, resampled once", [*self._raw, xfm], SkullStripped=False
        )
        return [
            self._output("dwi_preproc", "dwi", series, preproc),
            self._output("dwi_bval", "dwi", None, preproc, ".bval"),
            self._output("dwi_bvec", "dwi", None, preproc, ".bvec"),
            self._output(
                "dwi_ref",
                "dwiref",
                self._about(
                    "Mean b0 image that head motion was estimated against",
                    self._raw,
                    SkullStripped=False,
                ),
                {"description": "hmc"},
                report=("gradient_report", "Gradients"),
            ),
            self._output(
                "dwi_ref_sdc",
                "dwiref",
                self._about(
                    f"Mean b0 image{unwarped}, as it was registered to the T1w image",
                    [reference],
                    SkullStripped=False,
                    SpatialReference=reference,
                ),
                {"description": "coreg"},
                report=("sdc_report", "DistortionCorrection") if self._with_sdc else None,
            ),
            self._output(
                "dwi_mask",
                "mask",
                self._about(
                    "Brain mask",
                    [self._uri("dwiref", description="coreg")],
                    Type="Brain",
                    SpatialReference=reference,
                ),
                {"description": "brain"},
            ),
            self._output(
                "eddy_xfms",
                "xfm",
                self._about(
                    "One ITK affine for each volume, onto the reference: motion and eddy currents",
                    [reference, *self._raw],
                ),
                hmc,
                TEXT,
                report=("eddy_report", "HeadMotion"),
            ),
            self._output(
                "confounds_tsv",
                "timeseries",
                None,
                {"description": "confounds"},
                TABLE,
                report=("confounds_json", None),
            ),
        ]

    def coregistration_outputs(self) -> list[Output]:
        """List the transforms between the run and the T1w image."""
        made = [self._uri("dwiref", description="coreg")]
        return [
            self._output(
                source,
                "xfm",
                self._about(f"ITK affine that resamples images of {origin} onto {target}", made),
                {"from": origin, "to": target, "mode": "image", "description": "coreg"},
                TEXT,
                report=("coreg_report", "Coregistration"),
            )
            for source, origin, target in (
                ("dwiref2anat_xfm", "dwiref", "T1w"),
                ("anat2dwiref_xfm", "T1w", "dwiref"),
            )
        ]

    def fieldmap_outputs(self, label: str) -> list[Output]:
        """List the field map on the grid of the run, and how it was brought there."""
        reference = self._uri("dwiref", description="hmc")
        about = self._about(
            "Off-resonance on the grid of the reference",
            [reference],
            Units="Hz",
            SkullStripped=False,
            SpatialReference=reference,
        )
        way = self._about(
            "ITK affine that resamples images of the field map onto the reference", [reference]
        )
        return [
            self._output(
                "fieldmap", "fieldmap", about, {"description": "preproc"}, datatype="fmap"
            ),
            self._output(
                "fmap2dwiref_xfm",
                "xfm",
                way,
                {"from": label, "to": "dwiref", "mode": "image"},
                TEXT,
            ),
        ]

    def map_output(self, key: str, what: DwiMap) -> Output:
        """Name one map of a model."""
        made = [self._uri("dwi", description="preproc"), self._uri("mask", description="brain")]
        about = self._about(what.description, made, **({"Units": what.unit} if what.unit else {}))
        entities = {"model": what.model, "parameter": what.parameter}
        if what.variant:
            entities["description"] = what.variant
        return self._output(
            key,
            "dwimap",
            about,
            entities,
            what.extension,
            report=(what.report, "Model") if what.report else None,
        )

    def tract_outputs(self) -> list[Output]:
        """List the bundles, and the profiles along them."""
        about = self._about(
            "Streamlines of a bundle, RAS+ mm of the reference",
            [self._uri("dwi", description="preproc")],
        )
        bundles = Output(
            "bundles",
            self._names,
            "tractogram",
            about,
            ".trk",
            "dwi",
            labels=("bundle_labels", "bundle"),
        )
        table = self._output(
            "profiles_tsv",
            "tractometry",
            None,
            {"description": "profiles"},
            TABLE,
            report=("profiles_json", None),
        )
        return [bundles, table]
