"""Descriptions and README files of a phantom dataset."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from neuroferry import __version__
from neuroferry.phantom import files
from neuroferry.templates import TEMPLATE_SPACE

if TYPE_CHECKING:
    from pathlib import Path

    from neuroferry.phantom.subject import SubjectParameters

GENERATOR = "neuroferry phantom"
_BIDS_VERSION = "1.10.0"

CAVEAT = (
    "The phantom is derived from MNI152NLin2009aSym, the template that workflows register it to,\n"
    "and its T1w contrast follows the tissue maps exactly. Measurements on it are therefore\n"
    "optimistic: treat its figures as an upper bound of the performance on real heads."
)


def write_descriptions(
    out_dir: Path,
    drawn: list[SubjectParameters],
    *,
    resolution: float,
    seed: int,
    functional: bool,
    diffusion: bool,
) -> None:
    """Write the descriptions of the dataset and of its truth, and the participants table.

    Parameters
    ----------
    out_dir : Path
        The dataset.
    drawn : list of SubjectParameters
    resolution : float
        Of the T1w scans, mm.
    seed : int
    functional : bool
        Whether the dataset holds BOLD runs.
    diffusion : bool
        Whether the dataset holds diffusion scans.
    """
    generated = [{"Name": GENERATOR, "Version": __version__}]
    description = {
        "Name": "neuroferry phantom: digital heads with a known truth",
        "BIDSVersion": _BIDS_VERSION,
        "DatasetType": "raw",
        "License": "CC0",
        "Authors": ["neuroferry"],
        "GeneratedBy": generated,
    }
    files.write_json(out_dir / "dataset_description.json", description)
    about = _readme(resolution, seed) + _BOLD_README * functional + _DWI_README * diffusion
    files.write_text(out_dir / "README", about)
    rows = [(f"sub-{p.label}", f"{p.age:g}", p.sex, f"{p.size:.3f}") for p in drawn]
    columns = ("participant_id", "age", "sex", "size")
    files.write_table(out_dir / "participants.tsv", columns, rows)
    files.write_json(out_dir / "participants.json", _PARTICIPANTS)
    truth = out_dir / "derivatives" / "truth"
    files.write_json(
        truth / "dataset_description.json",
        {
            "Name": "Truth of the neuroferry phantom",
            "BIDSVersion": _BIDS_VERSION,
            "DatasetType": "derivative",
            "License": "CC0",
            "GeneratedBy": generated,
            "SourceDatasets": [{"URL": "../../"}],
            "DatasetLinks": {"raw": "../../"},
        },
    )
    about = _TRUTH_README + _BOLD_TRUTH_README * functional + _DWI_TRUTH_README * diffusion
    files.write_text(truth / "README", about)
    files.write_text(truth / ".bidsignore", _TRUTH_IGNORED)


_PARTICIPANTS: dict[str, Any] = {
    "age": {"Description": "Age of the phantom participant", "Units": "year"},
    "sex": {
        "Description": "Sex assumed when drawing the head size",
        "Levels": {"M": "male", "F": "female"},
    },
    "size": {
        "Description": "Brain volume relative to the average adult phantom (1.505 l)",
        "Units": "1",
    },
}


def _readme(resolution: float, seed: int) -> str:
    return f"""\
Digital heads with a known truth, made by `neuroferry phantom` {__version__}
(voxels of {resolution:g} mm, seed {seed}). No person was scanned.

{CAVEAT}

Each head is generated from the template's tissue maps: sharpened, given individual sulci,
surrounded by meninges, skull, scalp, face and neck, deformed smoothly at several scales,
and scanned with a T1w contrast, partial volume, a bias field, Rician noise, and a rotated
and shifted field of view. Some participants are children, some images are defaced, and
voxel orientations differ.

The truth is the derivatives dataset in derivatives/truth; its README defines each file.
"""


_TRUTH_IGNORED = """\
*_xfm.*
*_parameters.json
*_effect.*
*_motion.tsv
*_timeseries.tsv
*_fieldmap.*
*_boldref.*
*_dwiref.*
*_dwimap.*
*_gradients.tsv
*_dropped.tsv
*_streamlines.tsv
*_tractogram.tck
*_tractometry.tsv
*_T2starmap.*
**/fmap/
"""

_TRUTH_README = f"""\
The truth of each T1w image of the phantom, on the voxel grid of that image.

label-{{GM,WM,CSF}}_probseg  fraction of the voxel that each tissue fills (GM includes deep
                           grey matter; CSF is ventricles and sulci within the brain mask)
dseg                       the largest of the three within the brain mask: 1 GM, 2 WM, 3 CSF
desc-brain_mask            voxels at least half of which lies inside the deformed, undilated
                           brain mask of {TEMPLATE_SPACE}. Fluid between this hull and
                           the skull, and the spinal cord below the template's box, are
                           not brain.
desc-head_mask             inside the skin, including sinuses and throat, without what
                           defacing removed
desc-biasfield_T1w         multiplicative field, mean 1 within the brain mask
desc-noiseless_T1w         the image before bias field and noise, in the T1w's units
from-{TEMPLATE_SPACE}_to-T1w_mode-image_desc-truth_xfm
                           displacement field in the format of ITK and ANTs (LPS mm, every 4 mm,
                           linear in between): resamples template images onto the T1w, so
                           it maps T1w points to template points. The T1w image was simulated
                           with exactly this field.
from-T1w_to-{TEMPLATE_SPACE}_mode-image_desc-truth_xfm
                           the inverse, exact at its nodes, every 4 mm of the template
parameters.json            drawn parameters of the participant and the scan, and volumes

T2w images, if any: the same on their own grid, with space-T2w in the name; and
from-T2w_to-T1w_mode-image_desc-truth_xfm
                           linear transform (ITK text) that resamples the T2w onto the session's
                           first T1w: maps points of the T1w to points of the T2w

{CAVEAT}
"""

_BOLD_README = """
Functional scans show the same heads in T2*-weighted echo-planar images: blocks of faces and
houses in random order, head motion, cardiac and respiratory effects, drift, slices acquired one
after the other, first volumes before the steady state, distortion and signal dropout where air
in the head disturbs the field, coil sensitivity, and Rician noise. Field maps of several kinds
measure the same field. parameters.json of the truth shows which effects were switched off.
"""

_BOLD_TRUTH_README = """
Functional runs: images on the voxel grid of the run, head position of the reference volume
(reference_volume in parameters.json, counted from 0), undistorted unless stated otherwise.

from-orig_to-boldref_mode-image_desc-truth_xfm
                           one linear transform per volume (ITK text): maps points of the
                           reference to points of the volume
from-boldref_to-T1w_mode-image_desc-truth_xfm
                           maps points of the session's first T1w to points of the reference
desc-truth_motion          the same motion as translations (mm) and rotations (radians) in the
                           convention of FSL and fMRIPrep, and framewise displacement
desc-truth_fieldmap        Hz. In the distorted image the signal of a point is displaced by
                           field x TotalReadoutTime voxels along the phase-encoding axis,
                           with opposite sign if the direction ends in a minus
desc-brain_mask, dseg, label-{GM,WM,CSF}_probseg
                           as for the T1w
desc-brainDistorted_mask   brain mask of the distorted reference
desc-undistorted_boldref, desc-distorted_boldref
                           the reference in the steady state, without noise and physiology
desc-{face,house}_effect   percent signal change at an echo time of 30 ms at the plateau of an
                           endless block
desc-truth_T2starmap       seconds, for multi-echo runs: log-linear fit to the undistorted
                           noiseless echoes
desc-truth_timeseries      time courses that modulate the signal, at the middle of each volume

Field maps: desc-truth_fieldmap and desc-brain_mask on the grid of the gradient echoes;
from-{gre,epi}_to-boldref maps points of the first run's reference to points of the scan.
"""

_DWI_README = """
Diffusion scans show the same heads in spin-echo echo-planar images with many diffusion gradient
directions: fibres of the major bundles, which cross, white matter between them, grey matter and
free water, with head motion, eddy currents, distortion, slices with signal dropout, coil
sensitivity, and Rician noise. Field maps labelled acq-dwi measure the same field.
parameters.json of the truth shows which effects were switched off.
"""

_DWI_TRUTH_README = """
Diffusion scans: images on the voxel grid of the scan, head position of the first volume,
undistorted unless stated otherwise. Directions are along the scanner axes (RAS+).

from-orig_to-dwiref_mode-image_desc-truthRigid_xfm
                           motion, one linear transform per volume (ITK text): maps points of
                           the first volume to points of the volume. Only this part rotates
                           gradients
from-orig_to-dwiref_mode-image_desc-truth_xfm
                           the same, followed by the eddy-current shift along the phase encoding
from-dwiref_to-T1w_mode-image_desc-truth_xfm
                           maps points of the session's first T1w to points of the reference
desc-truth_motion, desc-truth_fieldmap, desc-brain_mask, dseg, label-{GM,WM,CSF}_probseg
                           as for functional runs
desc-undistorted_dwiref, desc-distorted_dwiref
                           the noiseless b0 reference
model-DTI_param-{FA,MD,AD,RD,tensor,direction}_dwimap
                           of the tensor fitted by weighted least squares to the noiseless
                           signal of the voxel along 32 directions at the lowest b-value;
                           mm2/s. No tensor describes a voxel with several compartments, so
                           this is the result of a perfect scan
desc-fibres_dwimap         number of bundles that fill at least a tenth of the voxel
desc-fraction_dwimap       share of the voxel that the largest of them fills
desc-bundles_dseg          label of that bundle; its tsv names the labels
desc-truth_gradients       b-value, and gradient along the scanner axes as played out and in
                           the frame of the head: rotated by R it sees R^T g
desc-truth_dropped         slices with signal dropout (counted from 0), and the remaining share
desc-centre_streamlines    points of each bundle's centre line, RAS+ mm
desc-truth_tractometry     profile of the true maps along each bundle: 100 nodes, each the mean
                           over voxels weighted by the share that the bundle fills
desc-fibre_tractometry     profile of the bundle's own fibres, as drawn
"""
