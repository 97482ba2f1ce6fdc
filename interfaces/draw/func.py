"""Interfaces that draw the reportlets of a BOLD run."""

from __future__ import annotations

from nipype.interfaces.base import (
    BaseInterfaceInputSpec,
    File,
    InputMultiObject,
    isdefined,
    traits,
)

from neuroferry.interfaces.draw.base import Picture


class _TableInputSpec(BaseInterfaceInputSpec):
    confounds_tsv = File(exists=True, mandatory=True, desc="confounds table")
    summary_json = File(exists=True, mandatory=True, desc="summary of the confounds")


class _CarpetPictureInputSpec(_TableInputSpec):
    bold = File(exists=True, mandatory=True, desc="preprocessed series")
    bold_mask = File(exists=True, mandatory=True, desc="brain mask on its grid")
    bold_tpms = InputMultiObject(File(exists=True), desc="GM, WM, CSF on its grid")


class CarpetPicture(Picture):
    """Reportlet of signals, DVARS, displacement and a carpet of voxels, aligned in time."""

    input_spec = _CarpetPictureInputSpec

    def _draw(self) -> str:
        from neuroferry.interfaces.draw.func_time import draw_carpet

        tpms = self.inputs.bold_tpms
        return draw_carpet(
            self.inputs.bold,
            self.inputs.bold_mask,
            self.inputs.confounds_tsv,
            self.inputs.summary_json,
            list(tpms) if isdefined(tpms) else None,
        )


class MotionPicture(Picture):
    """Reportlet of motion parameters and framewise displacement."""

    input_spec = _TableInputSpec

    def _draw(self) -> str:
        from neuroferry.interfaces.draw.func_time import draw_motion

        return draw_motion(self.inputs.confounds_tsv, self.inputs.summary_json)


class CorrelationsPicture(Picture):
    """Reportlet of the correlations between confounds."""

    input_spec = _TableInputSpec

    def _draw(self) -> str:
        from neuroferry.interfaces.draw.func_time import draw_correlations

        return draw_correlations(self.inputs.confounds_tsv, self.inputs.summary_json)


class _ComponentsPictureInputSpec(BaseInterfaceInputSpec):
    summary_json = File(exists=True, mandatory=True, desc="summary of the confounds")


class ComponentsPicture(Picture):
    """Reportlet of the variance explained by noise components."""

    input_spec = _ComponentsPictureInputSpec

    def _draw(self) -> str:
        from neuroferry.interfaces.draw.func_time import draw_components

        return draw_components(self.inputs.summary_json)


class _MasksPictureInputSpec(BaseInterfaceInputSpec):
    bold_ref = File(exists=True, mandatory=True, desc="reference image")
    bold_mask = File(exists=True, mandatory=True, desc="brain mask on its grid")
    compcor_masks = File(exists=True, mandatory=True, desc="bit mask of ComputeConfounds")


class MasksPicture(Picture):
    """Reportlet of the brain mask and the masks of noise components."""

    input_spec = _MasksPictureInputSpec

    def _draw(self) -> str:
        from neuroferry.interfaces.draw.epi_space import draw_masks

        return draw_masks(self.inputs.bold_ref, self.inputs.bold_mask, self.inputs.compcor_masks)


class _TSNRPictureInputSpec(BaseInterfaceInputSpec):
    tsnr_map = File(exists=True, mandatory=True, desc="temporal signal-to-noise ratio")
    bold_ref = File(exists=True, mandatory=True, desc="reference image on its grid")
    bold_mask = File(exists=True, mandatory=True, desc="brain mask on its grid")


class TSNRPicture(Picture):
    """Reportlet of the temporal signal-to-noise ratio."""

    input_spec = _TSNRPictureInputSpec

    def _draw(self) -> str:
        from neuroferry.interfaces.draw.epi_space import draw_tsnr

        return draw_tsnr(self.inputs.tsnr_map, self.inputs.bold_ref, self.inputs.bold_mask)


class _CoregistrationPictureInputSpec(BaseInterfaceInputSpec):
    bold_ref = File(
        exists=True, mandatory=True, desc="reference image, distortion-corrected if available"
    )
    t1w = File(exists=True, mandatory=True, desc="T1w image")
    dseg = File(exists=True, mandatory=True, desc="1 = GM, 2 = WM, 3 = CSF")
    brain_mask = File(exists=True, mandatory=True, desc="brain mask of the T1w image")
    boldref2anat_xfm = File(
        exists=True, desc="ITK, resamples BOLD onto T1w; none for an image on the T1w grid"
    )
    kind = traits.Str("BOLD", usedefault=True, desc="name of the reference")


class CoregistrationPicture(Picture):
    """Reportlet of the BOLD reference on the T1w image."""

    input_spec = _CoregistrationPictureInputSpec

    def _draw(self) -> str:
        from neuroferry.interfaces.draw.epi_space import draw_coregistration

        xfm = self.inputs.boldref2anat_xfm
        return draw_coregistration(
            self.inputs.bold_ref,
            self.inputs.t1w,
            self.inputs.dseg,
            self.inputs.brain_mask,
            xfm if isdefined(xfm) else None,
            self.inputs.kind,
        )


class _DistortionPictureInputSpec(BaseInterfaceInputSpec):
    bold_ref = File(exists=True, mandatory=True, desc="reference image as measured")
    bold_ref_sdc = File(exists=True, mandatory=True, desc="distortion-corrected reference image")
    bold_mask = File(exists=True, mandatory=True, desc="brain mask of the corrected image")
    bold_tpms = InputMultiObject(File(exists=True), desc="GM, WM, CSF on the same grid")


class DistortionPicture(Picture):
    """Reportlet of the BOLD reference before and after distortion correction."""

    input_spec = _DistortionPictureInputSpec

    def _draw(self) -> str:
        from neuroferry.interfaces.draw.epi_space import draw_distortion

        tpms = self.inputs.bold_tpms
        return draw_distortion(
            self.inputs.bold_ref,
            self.inputs.bold_ref_sdc,
            self.inputs.bold_mask,
            tpms[1] if isdefined(tpms) else None,
        )


class _FieldmapPictureInputSpec(BaseInterfaceInputSpec):
    fieldmap = File(exists=True, mandatory=True, desc="off-resonance, Hz")
    image = File(exists=True, mandatory=True, desc="image on its grid")
    bold_mask = File(exists=True, mandatory=True, desc="brain mask on its grid")


class FieldmapPicture(Picture):
    """Reportlet of the field map."""

    input_spec = _FieldmapPictureInputSpec

    def _draw(self) -> str:
        from neuroferry.interfaces.draw.epi_space import draw_fieldmap

        return draw_fieldmap(self.inputs.fieldmap, self.inputs.image, self.inputs.bold_mask)
