import json
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from neuroferry.errors import InputError
from neuroferry.interfaces.anat.quick import (
    FindAnatomy,
    SegmentQuickly,
    quick_anatomy,
    segment_quickly,
)
from neuroferry.interfaces.image.images import load_map, load_volume, to_canonical
from neuroferry.phantom import write_phantom_dataset
from neuroferry.phantom.score import dice

pytestmark = pytest.mark.slow

LABELS = {"gm": 1, "wm": 2, "csf": 3}


@pytest.fixture(scope="module")
def subject(tmp_path_factory):
    root = tmp_path_factory.mktemp("t2w") / "bids"
    return write_phantom_dataset(root, subjects=1, resolution=2.5, seed=3, t2w=True)[0]


@pytest.fixture(scope="module", params=["T1w", "T2w"])
def measured(request, subject, tmp_path_factory):
    """Outputs of both steps for an image, and its truth."""
    contrast = request.param
    folder = tmp_path_factory.mktemp(contrast)
    scan = subject.t2w[0] if contrast == "T2w" else subject
    image = scan.t2w if contrast == "T2w" else scan.t1w
    before = pytest.MonkeyPatch()
    before.chdir(folder)
    found = FindAnatomy(in_file=str(image), contrast=contrast).run().outputs
    inputs = {"in_file": found.preproc, "in_mask": found.brain_mask, "priors": found.priors}
    tissues = SegmentQuickly(contrast=contrast, **inputs).run().outputs
    before.undo()
    return contrast, scan.truth, found, tissues


def true(truth, name):
    return to_canonical(load_map(truth[name])).data


def test_brain_and_tissues_are_those_of_the_truth(measured):
    _, truth, found, tissues = measured
    mask = load_map(found.brain_mask).data > 0
    assert dice(mask, true(truth, "brain_mask") > 0) > 0.88
    labels, truly = load_map(tissues.dseg).data, true(truth, "dseg")
    for tissue, least in (("gm", 0.7), ("wm", 0.75), ("csf", 0.5)):
        assert dice(labels == LABELS[tissue], truly == LABELS[tissue]) > least, tissue


def test_levels_of_tissues_are_those_of_the_truth(measured):
    contrast, truth, found, tissues = measured
    corrected = load_map(found.preproc).data
    noiseless = true(truth, "noiseless")
    levels, expected = {}, {}
    for number, tissue in enumerate(("gm", "wm", "csf")):
        sure = load_map(tissues.tpms[number]).data > 0.95
        levels[tissue] = np.median(corrected[sure])
        expected[tissue] = np.median(noiseless[true(truth, tissue) > 0.99])
    ratio = levels["gm"] / levels["wm"]
    assert ratio == pytest.approx(expected["gm"] / expected["wm"], rel=0.12)
    # at 2.5 mm, most fluid in sulci shares its voxel with cortex
    order = sorted(levels, key=lambda name: levels[name])
    assert order == (["wm", "gm", "csf"] if contrast == "T2w" else ["csf", "gm", "wm"])


def test_masks_that_worked_raise_no_doubt(measured):
    _, _, found, tissues = measured
    for path in (found.brain_score, tissues.report):
        assert json.loads(Path(path).read_text())["verdict"] == "good"


def test_mask_that_reaches_into_the_bone_is_doubted(subject):
    scan = subject.t2w[0]
    volume = to_canonical(load_volume(scan.t2w))
    brain = true(scan.truth, "brain_mask") > 0
    priors = np.stack([true(scan.truth, tissue) for tissue in LABELS])
    for mask, verdict in ((brain, "good"), (ndimage.binary_dilation(brain, iterations=4), "look")):
        _, report = segment_quickly(volume, mask, priors, contrast="T2w", sloppy=True)
        assert report["verdict"] == verdict, report["reasons"]
    assert "reaches beyond the brain" in report["reasons"][-1]


def test_image_that_is_no_t2w_is_told(subject):
    volume = to_canonical(load_volume(subject.t1w))
    with pytest.raises(InputError, match=r"Fluid is not brighter.*suffix"):
        quick_anatomy(volume, contrast="T2w", sloppy=True)
