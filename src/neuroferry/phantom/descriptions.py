"""What a phantom dataset says about itself."""

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
    "The phantom descends from MNI152NLin2009aSym, the very template that workflows register\n"
    "it to, and its T1w contrast follows the tissue maps exactly. Whatever is measured on it\n"
    "is therefore optimistic: read its figures as an upper bound of what real heads allow."
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
    """Write the descriptions of the dataset and of its truth, and the table of people.

    Parameters
    ----------
    out_dir : Path
        The dataset.
    drawn : list of SubjectParameters
    resolution : float
        Of the T1w scans, mm.
    seed : int
    functional : bool
        The dataset holds BOLD runs.
    diffusion : bool
        The dataset holds diffusion scans.
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
    "age": {"Description": "Age of the phantom person", "Units": "year"},
    "sex": {
        "Description": "Sex that the head size was drawn for",
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

Each head is grown from the template's tissue maps: sharpened, given sulci of its own,
wrapped in meninges, skull, scalp, face and neck, deformed smoothly at several scales,
and scanned with a T1w contrast, partial volume, a bias field, Rician noise, and a rotated
and shifted field of view. Some subjects are children, some are defaced, and the voxel
axes run in different directions.

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
The truth behind each T1w image of the phantom, on that image's own voxels.

label-{{GM,WM,CSF}}_probseg  fraction of the voxel that each tissue fills (GM includes deep
                           grey matter; CSF is ventricles and sulci within the brain mask)
dseg                       the largest of the three within the brain mask: 1 GM, 2 WM, 3 CSF
desc-brain_mask            voxels of which at least half lies inside the deformed, undilated
                           brain mask of {TEMPLATE_SPACE}. Fluid between this hull and
                           the skull, and the spinal cord below the template's box, are
                           not brain.
desc-head_mask             inside the skin, sinuses and throat included; without what
                           defacing removed
desc-biasfield_T1w         multiplicative field, mean 1 within the brain mask
desc-noiseless_T1w         the image before bias field and noise, in the T1w's units
from-{TEMPLATE_SPACE}_to-T1w_mode-image_desc-truth_xfm
                           displacement field as ITK and ANTs read it (LPS mm, every 4 mm,
                           linear in between): resamples template images onto the T1w, so
                           it maps T1w points to template points. The T1w was made with
                           exactly this field.
from-T1w_to-{TEMPLATE_SPACE}_mode-image_desc-truth_xfm
                           the reverse, exact at its nodes, every 4 mm of the template
parameters.json            what was drawn for the subject and for the scan, and volumes

{CAVEAT}
"""

_BOLD_README = """
Functional scans show the same heads in T2*-weighted echo-planar images: blocks of faces and
houses in a random order, a moving head, heart, breath and drift, slices taken one after the
other, first volumes before the steady state, distortion and lost signal where air in the head
disturbs the field, a coil's sensitivity, and Rician noise. Field maps of several kinds
measure the same field. What was switched off is in the truth's parameters.json.
"""

_BOLD_TRUTH_README = """
Functional runs: images on the run's voxels, the head as in the reference volume
(reference_volume in parameters.json, counted from 0), without distortion unless said.

from-orig_to-boldref_mode-image_desc-truth_xfm
                           one linear transform a volume (ITK text): maps points of the
                           reference to points of the volume
from-boldref_to-T1w_mode-image_desc-truth_xfm
                           maps points of the session's first T1w to points of the reference
desc-truth_motion          the same motion as shifts (mm) and turns (radians) in the
                           convention of FSL and fMRIPrep, and framewise displacement
desc-truth_fieldmap        Hz. The signal of a point lies in the distorted image at the
                           point plus field x TotalReadoutTime voxels along the phase
                           encoding, minus where its direction ends in a minus
desc-brain_mask, dseg, label-{GM,WM,CSF}_probseg
                           as for the T1w
desc-brainDistorted_mask   where the distorted reference shows the brain
desc-undistorted_boldref, desc-distorted_boldref
                           the reference in the steady state, without noise and physiology
desc-{face,house}_effect   percent of the signal at an echo time of 30 ms where a block that
                           never ends would settle
desc-truth_T2starmap       seconds, of runs with several echoes: the line through the
                           logarithms of the undistorted noiseless echoes
desc-truth_timeseries      courses of what modulates the signal, in the middle of each volume

Field maps: desc-truth_fieldmap and desc-brain_mask on the voxels of the gradient echoes;
from-{gre,epi}_to-boldref maps points of the first run's reference to points of the scan.
"""

_DWI_README = """
Diffusion scans show the same heads in spin-echo echo-planar images whose diffusion gradients
point in many directions: fibres of the large bundles, which cross, white matter between them,
grey matter and free water, with a moving head, eddy currents, distortion, slices that lost
their signal, a coil's sensitivity, and Rician noise. Field maps marked acq-dwi measure the
same field. What was switched off is in the truth's parameters.json.
"""

_DWI_TRUTH_README = """
Diffusion scans: images on the scan's voxels, the head as in the first volume, without
distortion unless said. Directions are along the scanner's axes (RAS+).

from-orig_to-dwiref_mode-image_desc-truthRigid_xfm
                           motion, one linear transform a volume (ITK text): maps points of
                           the first volume to points of the volume. It alone turns gradients
from-orig_to-dwiref_mode-image_desc-truth_xfm
                           the same, then the shift by eddy currents along the phase encoding
from-dwiref_to-T1w_mode-image_desc-truth_xfm
                           maps points of the session's first T1w to points of the reference
desc-truth_motion, desc-truth_fieldmap, desc-brain_mask, dseg, label-{GM,WM,CSF}_probseg
                           as for functional runs
desc-undistorted_dwiref, desc-distorted_dwiref
                           the reference without diffusion weighting and without noise
model-DTI_param-{FA,MD,AD,RD,tensor,direction}_dwimap
                           of the tensor fitted by weighted least squares to the voxel's own
                           noiseless signal along 32 directions at the scan's lowest b-value;
                           mm2/s. Where compartments share a voxel no tensor describes it, so
                           this is what a perfect scan would find
desc-fibres_dwimap         bundles that fill at least a tenth of the voxel
desc-fraction_dwimap       share of the voxel that the largest of them fills
desc-bundles_dseg          that bundle; its tsv names the labels
desc-truth_gradients       b-value, and gradient along the scanner's axes as played out and as
                           the head saw it: a head turned by R sees R^T g
desc-truth_dropped         slices that lost signal (counted from 0), and the share they kept
desc-centre_streamlines    points of each bundle's centre line, RAS+ mm
desc-truth_tractometry     profile of the true maps along each bundle: 100 nodes, each the mean
                           over the voxels there by the share that the bundle fills
desc-fibre_tractometry     profile of the bundle's own fibres, as they were drawn
"""
