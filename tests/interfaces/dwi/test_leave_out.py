"""A DWI run without its unusable volumes keeps the others as they are stored."""

import json
from pathlib import Path

import nibabel as nb
import numpy as np
import pytest

from neuroferry.errors import InputError
from neuroferry.interfaces.dwi.check_gradients import CheckGradients
from neuroferry.interfaces.dwi.leave_out import LeaveOutVolumes

AFFINE = np.diag([-2.0, 2, 2, 1])


def write(path, dtype=np.int16, slope=0.5):
    data = np.random.default_rng(1).integers(0, 900, (10, 11, 9, 6)).astype(dtype)
    image = nb.Nifti1Image(data, AFFINE)
    image.header.set_slope_inter(slope, 3.0)
    image.header["pixdim"][4] = 4.5
    image.header.extensions.append(nb.nifti1.Nifti1Extension(6, b"words of a converter"))
    nb.save(image, path)
    return nb.load(path)


@pytest.mark.parametrize("name", ["dwi.nii", "dwi.nii.gz"])
@pytest.mark.parametrize("dtype", [np.int16, np.uint8, np.float32])
def test_the_other_volumes_are_the_same(tmp_path, name, dtype):
    before = write(tmp_path / name, dtype)
    (tmp_path / "out").mkdir()
    step = LeaveOutVolumes(in_file=str(tmp_path / name), volumes=[0, 4])
    made = step.run(cwd=str(tmp_path / "out"))
    after = nb.load(made.outputs.out_file)
    assert after.get_data_dtype() == before.get_data_dtype()
    np.testing.assert_array_equal(after.get_fdata(), before.get_fdata()[..., [1, 2, 3, 5]])
    np.testing.assert_array_equal(after.affine, before.affine)
    assert after.header["pixdim"][4] == 4.5


@pytest.mark.parametrize("volumes", [[6], [0, 1, 2, 3, 4, 5]])
def test_impossible_volumes_are_refused(tmp_path, volumes):
    write(tmp_path / "dwi.nii.gz")
    step = LeaveOutVolumes(in_file=str(tmp_path / "dwi.nii.gz"), volumes=volumes)
    with pytest.raises(InputError, match="cannot leave out"):
        step.run(cwd=str(tmp_path))


def test_gradients_are_left_out_after_they_were_read_as_a_whole(tmp_path):
    """A shorter direction encodes a lower b-value relative to the longest one."""
    write(tmp_path / "dwi.nii.gz")
    vectors = np.array([[0, 0, 0], [1, 0, 0], [0, 0.5**0.5, 0], [0, 0, 0.5**0.5]])
    vectors = np.vstack([vectors, [0.5, 0.5, 0], [0, 0, 0]])
    np.savetxt(tmp_path / "a.bval", [[0, 2000, 2000, 2000, 2000, 0]], fmt="%g")
    np.savetxt(tmp_path / "a.bvec", vectors.T, fmt="%.8f")
    made = CheckGradients(
        in_file=str(tmp_path / "dwi.nii.gz"),
        bval=str(tmp_path / "a.bval"),
        bvec=str(tmp_path / "a.bvec"),
        unusable=[1, 5],
    ).run(cwd=str(tmp_path))
    np.testing.assert_allclose(np.loadtxt(made.outputs.out_bval), [0, 1000, 1000, 1000])
    assert np.loadtxt(made.outputs.out_bvec).shape == (3, 4)
    report = json.loads(Path(made.outputs.report).read_text())
    assert report["left_out_volumes"] == [1, 5]
    assert report["shells"] == [{"b": 1000.0, "volumes": 3}]
