import json

import numpy as np
import pytest
from scipy import ndimage

from neuroferry.errors import InputError
from neuroferry.interfaces.epi.boundary import (
    Boundary,
    boundary_contrast,
    boundary_cost,
    find_boundary,
)
from neuroferry.interfaces.epi.confidence import gather_evidence, is_convincing
from neuroferry.interfaces.epi.coregister import Coregister, coregister, follow_surface
from neuroferry.interfaces.epi.heads import even_out, mask_points, near_brain, rms_distance
from neuroferry.interfaces.image.affine import compose
from neuroferry.interfaces.image.images import (
    Volume,
    inverse,
    resample_to,
    save_nifti,
    save_volume,
)
from neuroferry.interfaces.image.transforms import read_itk_affine
from neuroferry.templates import load_template

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def anatomy():
    """Use the template as T1w image, brain mask and white matter of a head."""
    template = load_template(2)
    t1w = Volume(template.t1w * 1000, template.affine)
    return t1w, template.brain_mask, Volume(template.wm, template.affine)


def make_epi(parameters, *, noise=0.0, shape=(64, 64, 34), contrast=(1.0, 0.75, 1.5)):
    """Simulate an EPI of the template in another position, and its true transform."""
    template = load_template(2)
    tissue = sum(c * t for c, t in zip(contrast, template.tpms, strict=True))
    image = np.where(template.brain_mask, tissue, 0.02).astype(np.float32)
    truth = compose(np.array(parameters, dtype=float), np.zeros(3))
    affine = np.diag([-3.5, 3.5, 3.8, 1.0])
    affine[:3, 3] = (112.0, -128.0, -58.0)
    source = Volume(ndimage.gaussian_filter(image, 0.8), truth @ template.affine)
    epi = resample_to(source, shape, affine, order=1)
    rng = np.random.default_rng(5)
    parts = rng.normal(scale=noise, size=(2, *shape))
    return epi.with_data(np.hypot(1000 * epi.data + parts[0], parts[1]).astype(np.float32)), truth


@pytest.mark.parametrize(
    "parameters",
    [(0, 0, 0, 0, 0, 0), (6, -9, 12, 0.15, -0.08, 0.1), (-4, 25, -30, -0.25, 0, 0)],
)
def test_position_is_found_to_half_a_millimetre(anatomy, parameters):
    t1w, mask, wm = anatomy
    epi, truth = make_epi(parameters, noise=25.0)
    found = coregister(epi, t1w, mask, wm, sloppy=True)
    points = mask_points(mask, t1w.affine)
    assert rms_distance(found.matrix, truth, points) < 0.5
    assert found.method == "boundary"
    assert found.edges is not None
    assert found.edges > 0.7
    assert found.from_header_mm == pytest.approx(rms_distance(truth, np.eye(4), points), abs=0.5)


def test_part_of_the_brain_is_enough(anatomy):
    t1w, mask, wm = anatomy
    epi, truth = make_epi((3, 5, -6, 0.08, 0.02, -0.05), noise=25.0)
    part = Volume(epi.data[:, :, 14:26], epi.affine @ _lift(14))
    found = coregister(part, t1w, mask, wm)
    assert rms_distance(found.matrix, truth, mask_points(mask, t1w.affine)) < 1.0
    assert 0.2 < found.coverage < 0.6


def uneven(epi, *, radius=30.0):
    """Multiply by the receive field of a few small coils without a filter: ten to one."""
    index = np.moveaxis(np.indices(epi.shape, dtype=float), 0, -1)
    points = index @ epi.affine[:3, :3].T + epi.affine[:3, 3]
    rng = np.random.default_rng(3)
    field = np.zeros(epi.shape)
    for way in rng.normal(size=(24, 3)):
        place = way / np.linalg.norm(way) * (95, 115, 100) + (0, -15, 10)
        field += (1 + ((points - place) ** 2).sum(axis=-1) / radius**2) ** -2
    return epi.with_data((epi.data * field / field.mean()).astype(np.float32))


@pytest.mark.parametrize(
    "parameters", [(0.4, -0.3, 0.3, 0, 0.004, 0), (6, -9, 8, 0.1, -0.08, 0.1)]
)
def test_an_uneven_receive_field_is_no_contrast(anatomy, parameters):
    t1w, mask, wm = anatomy
    epi, truth = make_epi(parameters, noise=25.0)
    found = coregister(uneven(epi), t1w, mask, wm)
    assert rms_distance(found.matrix, truth, mask_points(mask, t1w.affine)) < 0.6
    assert found.verdict == "good"


def test_the_header_is_a_start_and_the_cost_decides(anatomy):
    t1w, mask, wm = anatomy
    epi, truth = make_epi((0.4, -0.3, 0.3, 0, 0.004, 0), noise=25.0)
    points = mask_points(mask, t1w.affine)
    boundary = find_boundary(t1w, mask, wm, count=4000)
    # Mutual information that is led astray by 2 cm.
    astray = compose(np.array([14.0, 10.0, -12.0, 0.2, 0.0, 0.1]), points.mean(axis=1))
    followed = follow_surface(boundary, even_out(epi), astray, points)
    assert rms_distance(followed.matrix, truth, points) < 0.6
    assert is_convincing(followed.evidence)


def test_expected_error_grows_with_noise(anatomy):
    t1w, mask, wm = anatomy
    points = mask_points(mask, t1w.affine)
    boundary = find_boundary(t1w, mask, wm, count=4000)
    errors = []
    for noise in (10.0, 150.0):
        epi, truth = make_epi((0, 0, 0, 0, 0, 0), noise=noise)
        errors.append(gather_evidence(boundary, even_out(epi), truth, points).error_mm)
    assert errors[0] < 0.5
    assert errors[1] > 1.5 * errors[0]


def test_another_head_is_told_apart(anatomy):
    t1w, mask, wm = anatomy
    epi, _ = make_epi((0, 0, 0, 0, 0, 0), noise=25.0)
    # Upside down and mirrored: a brain, but not this one in any position.
    other = epi.with_data(np.ascontiguousarray(epi.data[::-1, ::-1, ::-1]))
    found = coregister(other, t1w, mask, wm, sloppy=True)
    assert found.verdict != "good"
    assert found.method == "mutual information"


def test_evidence_outside_the_field_of_view(anatomy):
    t1w, mask, wm = anatomy
    epi, _ = make_epi((0, 0, 0, 0, 0, 0))
    away = np.eye(4)
    away[0, 3] = 900.0
    boundary = find_boundary(t1w, mask, wm, count=1000)
    evidence = gather_evidence(boundary, epi, away, mask_points(mask, t1w.affine))
    assert evidence.seen == 0.0
    assert not is_convincing(evidence)


def _lift(slices):
    moved = np.eye(4)
    moved[2, 3] = slices
    return moved


def test_without_white_matter_mutual_information_decides(anatomy):
    t1w, mask, _ = anatomy
    epi, truth = make_epi((6, -9, 12, 0.15, -0.08, 0.1), noise=25.0)
    found = coregister(epi, t1w, mask, sloppy=True)
    assert rms_distance(found.matrix, truth, mask_points(mask, t1w.affine)) < 1.5
    assert found.method == "mutual information"
    assert found.verdict == "look"


@pytest.mark.parametrize(
    ("parameters", "verdict"),
    [((2, 1, 1, 0.02, 0, 0), "look"), ((6, 9, 4, 0.15, 0, 0), "bad")],
)
def test_an_epi_without_edges_is_trusted_only_near_the_header(anatomy, parameters, verdict):
    t1w, mask, wm = anatomy
    epi, _ = make_epi(parameters, contrast=(0.7, 1.0, 0.1), noise=25.0)
    found = coregister(epi, t1w, mask, wm, sloppy=True)
    assert found.method == "mutual information"
    assert found.verdict == verdict
    assert any("surface" in reason for reason in found.reasons)


def test_images_of_two_places_are_refused(anatomy):
    t1w, mask, _ = anatomy
    epi, _ = make_epi((0, 0, 0, 0, 0, 0))
    away = np.eye(4)
    away[0, 3] = 900.0
    with pytest.raises(InputError, match="do not overlap"):
        near_brain(epi, Volume(mask.astype(np.float32), t1w.affine), away, 4.0)


def test_contrast_of_a_step():
    data = np.ones((10, 10, 10), dtype=np.float32)
    data[:, :, 5:] = 1.2
    inner = np.array([[4.0, 4.0], [4.0, 4.0], [2.0, 2.0]])
    outer = np.array([[4.0, 4.0], [4.0, 4.0], [7.0, 12.0]])
    contrast = boundary_contrast(Boundary(inner, outer), Volume(data, np.eye(4)), np.eye(4))
    assert contrast[0] == pytest.approx(100 * 0.2 / 1.1, rel=1e-5)
    assert np.isnan(contrast[1])
    assert boundary_cost(contrast) < 1.0 < boundary_cost(-contrast)


def test_interface_writes_both_ways(anatomy, tmp_path):
    t1w, mask, wm = anatomy
    epi, truth = make_epi((3, 2, -4, 0.05, 0.02, 0))
    interface = Coregister(
        bold_ref=save_volume(epi, tmp_path / "epi.nii.gz"),
        t1w_preproc=save_volume(t1w, tmp_path / "t1w.nii.gz"),
        t1w_mask=str(save_nifti(mask, t1w.affine, tmp_path / "mask.nii.gz", dtype=np.uint8)),
        wm_probseg=save_volume(wm, tmp_path / "wm.nii.gz"),
        sloppy=True,
    )
    outputs = interface.run(cwd=str(tmp_path)).outputs
    there = read_itk_affine(outputs.boldref2anat_xfm)
    back = read_itk_affine(outputs.anat2boldref_xfm)
    np.testing.assert_allclose(there @ back, np.eye(4), atol=1e-9)
    # boldref2anat resamples the EPI onto the T1w grid: T1w points to EPI points.
    assert rms_distance(there, truth, mask_points(mask, t1w.affine)) < 1.0
    assert rms_distance(there, inverse(truth), mask_points(mask, t1w.affine)) > 5.0
    with open(outputs.coreg_report) as file:  # noqa: PTH123
        report = json.load(file)
    assert {"method", "verdict", "edges", "from_header_mm", "coverage"} <= report.keys()
    # Where the head lies: the middle of the brain, as the EPI has it.
    middle = mask_points(mask, t1w.affine).mean(axis=1)
    np.testing.assert_allclose(report["head_mm"][0], (truth @ [*middle, 1])[:3], atol=1.0)
