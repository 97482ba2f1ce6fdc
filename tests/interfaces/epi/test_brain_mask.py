import nibabel as nb
import numpy as np
import pytest

from neuroferry.errors import InputError
from neuroferry.interfaces.epi.brain_mask import MaskBold, carry_mask, find_mask
from neuroferry.interfaces.image.affine import compose
from neuroferry.interfaces.image.images import (
    Volume,
    inverse,
    resample_to,
    save_nifti,
    save_volume,
)
from neuroferry.interfaces.image.transforms import write_itk_affine
from neuroferry.phantom.score import dice
from neuroferry.templates import load_template

TRUTH = compose(np.array([4.0, -12.0, 15.0, 0.2, -0.05, 0.06]), np.zeros(3))
AFFINE = np.array([[-3.5, 0, 0, 112.0], [0, 3.5, 0, -128], [0, 0, 3.8, -58], [0, 0, 0, 1]])


@pytest.fixture(scope="module")
def head():
    """Simulate an EPI of a brain with a faint scalp and bright eyes, and its true mask."""
    template = load_template(2)
    tissue = template.gm + 0.75 * template.wm + 1.5 * template.csf
    axes = np.indices(template.t1w.shape).reshape(3, -1)
    world = (template.affine[:3, :3] @ axes + template.affine[:3, 3:]).reshape(
        3, *template.t1w.shape
    )
    centre = np.array([0.0, -18, 8])[:, None, None, None]
    radius = np.sqrt(np.sum(((world - centre) / [[[[84.0]]], [[[102]]], [[[86]]]]) ** 2, axis=0))
    image = np.where(radius < 1, 0.15, 0.01)
    for side in (-32, 32):
        eye = np.linalg.norm(world - np.array([side, 82.0, -40])[:, None, None, None], axis=0)
        image = np.where(eye < 11, 1.6, image)
    image = np.where(template.brain_mask, tissue, image).astype(np.float32)
    epi = resample_to(Volume(image, TRUTH @ template.affine), (64, 64, 36), AFFINE)
    noise = np.random.default_rng(2).normal(scale=0.03, size=epi.shape)
    mask = Volume(template.brain_mask.astype(np.float32), TRUTH @ template.affine)
    truth = resample_to(mask, epi.shape, AFFINE).data > 0.5
    return epi.with_data(np.abs(1000 * (epi.data + noise)).astype(np.float32)), truth


def test_brain_is_found_alone(head):
    epi, truth = head
    assert dice(find_mask(epi), truth) > 0.94


def test_brain_of_a_part_of_the_head(head):
    epi, truth = head
    affine = AFFINE.copy()
    affine[2, 3] += 10 * 3.8
    part = Volume(epi.data[:, :, 10:26], affine)
    assert dice(find_mask(part), truth[:, :, 10:26]) > 0.92


def test_carried_mask_is_exact(head):
    epi, truth = head
    template = load_template(2)
    mask = Volume(template.brain_mask.astype(np.float32), template.affine)
    assert dice(carry_mask(mask, inverse(TRUTH), epi), truth) > 0.985


def test_voxels_never_acquired_are_left_out(head):
    epi, _ = head
    template = load_template(2)
    mask = Volume(template.brain_mask.astype(np.float32), template.affine)
    data = epi.data.copy()
    data[:, :, :12] = 0
    carried = carry_mask(mask, inverse(TRUTH), epi.with_data(data))
    assert not carried[:, :, :12].any()
    assert carried[:, :, 12:].any()


def test_a_brain_elsewhere_is_refused(head):
    epi, _ = head
    template = load_template(2)
    mask = Volume(template.brain_mask.astype(np.float32), template.affine)
    away = np.eye(4)
    away[0, 3] = 900.0
    with pytest.raises(InputError, match="field of view"):
        carry_mask(mask, away, epi)


def test_noise_holds_no_brain():
    rng = np.random.default_rng(4)
    noise = np.where(rng.random((20, 20, 20)) > 0.97, rng.random((20, 20, 20)), 0)
    with pytest.raises(InputError, match="brain"):
        find_mask(Volume(noise.astype(np.float32), np.diag([3.0, 3, 3, 1])))


def test_interface_with_and_without_t1w(head, tmp_path):
    epi, truth = head
    template = load_template(2)
    bold = save_volume(epi, tmp_path / "epi.nii.gz")
    mask = save_nifti(template.brain_mask, template.affine, tmp_path / "m.nii.gz", dtype=np.uint8)
    xfm = write_itk_affine(inverse(TRUTH), tmp_path / "anat2boldref.txt")
    lost = write_itk_affine(
        compose(np.array([0, 60.0, 0, 0, 0, 0]), np.zeros(3)), tmp_path / "l.txt"
    )
    failed = tmp_path / "coreg.json"
    failed.write_text('{"verdict": "bad"}')
    # A T1w image whose position is not known must not say where the brain is.
    astray = {"t1w_mask": mask, "anat2boldref_xfm": lost, "coreg_report": failed}
    known = {"t1w_mask": mask, "anat2boldref_xfm": xfm}
    for given, least in (({}, 0.94), (known, 0.985), (astray, 0.94)):
        interface = MaskBold(bold_ref=bold, **{key: str(path) for key, path in given.items()})
        image = nb.load(interface.run(cwd=str(tmp_path)).outputs.bold_mask)
        assert image.get_data_dtype() == np.uint8
        np.testing.assert_allclose(image.affine, epi.affine, atol=1e-4)
        assert dice(np.asanyarray(image.dataobj), truth) > least
