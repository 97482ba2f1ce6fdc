"""Image quality metrics of one T1w image."""

from __future__ import annotations

from nipype.interfaces.utility import IdentityInterface
from nipype.pipeline.engine import Node
from niworkflows.engine.workflows import LiterateWorkflow as Workflow

from neuroferry.bids.model import Image
from neuroferry.interfaces.qc.metrics import AnatIQMs
from neuroferry.workflows.anat.memory import METRICS_BYTES, METRICS_GB, memory_gb
from neuroferry.workflows.qc.about import about_image


def init_anat_qc_wf(
    *,
    image: Image,
    n_voxels: int = 256**3,
    template_resolution: int = 1,
    name: str = "anat_qc_wf",
) -> Workflow:
    """Build the quality metrics of one T1w image.

    Masks, tissue maps and bias field of the session are resampled onto the image's own voxels;
    the image itself is not resampled.

    Parameters
    ----------
    image : Image
        The image in the dataset.
    n_voxels : int
        Voxels of the image, for the memory estimate.
    template_resolution : int
        Voxel size of the template's tissue maps in mm.
    name : str
        Name of the workflow.

    Returns
    -------
    LiterateWorkflow
        Inputs: ``t1w`` (one image, canonical orientation), ``run2ref_xfm`` (ITK text),
        ``bias_field``, ``brain_mask``, ``dseg``, ``tpms`` (GM, WM, CSF), all on the
        session's reference, and ``std2anat_xfm`` (ITK composite).
        Outputs: ``iqms`` (JSON) and ``regions`` (label image of head, air, artefacts and
        empty frame).
    """
    workflow = Workflow(name=name)
    workflow.__desc__ = """\
Image quality metrics, as defined by *MRIQC* [@mriqc], were computed for each T1-weighted
image on its own voxel grid.

"""
    fields = ["t1w", "run2ref_xfm", "bias_field", "brain_mask", "dseg", "tpms", "std2anat_xfm"]
    inputnode = Node(IdentityInterface(fields=fields), name="inputnode")
    outputnode = Node(IdentityInterface(fields=["iqms", "regions"]), name="outputnode")
    compute_iqms = Node(
        AnatIQMs(template_resolution=template_resolution, **about_image(image)),
        name="compute_iqms",
        mem_gb=memory_gb(METRICS_BYTES, n_voxels, base_gb=METRICS_GB),
        n_procs=1,
    )
    workflow.connect(
        [
            (inputnode, compute_iqms, [(field, field) for field in fields]),
            (compute_iqms, outputnode, [("iqms", "iqms"), ("regions", "regions")]),
        ]
    )
    return workflow
