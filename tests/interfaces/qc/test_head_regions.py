import nibabel as nb
import numpy as np

from neuroferry.interfaces.image.transforms import write_itk_affine
from neuroferry.interfaces.qc.background import above_plane
from neuroferry.interfaces.qc.head_regions import (
    REGION_LABELS,
    FindRegions,
    Regions,
    find_regions,
    read_regions,
)


def ball(centre, radius, shape=(60, 70, 60)):
    grid = np.indices(shape).T - np.asarray(centre)
    return (np.sum(grid**2, axis=-1) < radius**2).T


def test_regions_survive_their_file(tmp_path):
    rng = np.random.default_rng(0)
    made = Regions(*(rng.random((6, 7, 8)) > 0.5 for _ in range(4)))
    path = tmp_path / "regions.nii"
    nb.Nifti1Image(made.pack(), np.eye(4)).to_filename(path)
    read = read_regions(path)
    for name in ("frame", "head", "hat", "artifacts"):
        np.testing.assert_array_equal(getattr(read, name), getattr(made, name))


def test_the_last_region_wins():
    here = np.ones((1, 1, 1), bool)
    nowhere = ~here
    assert Regions(here, here, nowhere, nowhere).labels()[0, 0, 0] == REGION_LABELS["head"]
    assert Regions(here, here, here, here).labels()[0, 0, 0] == REGION_LABELS["artifact"]


def test_step_finds_what_the_function_finds(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(1)
    brain = ball((30, 35, 30), 18)
    image = np.where(ball((30, 35, 30), 24), 100.0, 0) + np.abs(rng.normal(0, 2, brain.shape))
    image = image.astype(np.float32)
    affine = np.diag([2.0, 2, 2, 1])
    affine[:3, 3] = (-60, -70, -60)
    for name, data in (("image", image), ("bias", np.ones_like(image)), ("brain", brain)):
        nb.Nifti1Image(data.astype(np.float32), affine).to_filename(f"{name}.nii")
    xfm = write_itk_affine(np.eye(4), tmp_path / "xfm.txt")
    step = FindRegions(
        in_file="image.nii", bias_field="bias.nii", brain_mask="brain.nii", std2anat_xfm=str(xfm)
    )
    read = read_regions(step.run().outputs.regions)
    made = find_regions(image, image, brain, above_plane(image.shape, affine), (2.0, 2.0, 2.0))
    for name in ("frame", "head", "hat", "artifacts"):
        np.testing.assert_array_equal(getattr(read, name), getattr(made, name))
    assert made.hat.any()
    assert made.head[brain].all()
