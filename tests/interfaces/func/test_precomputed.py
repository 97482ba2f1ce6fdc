"""Completion of precomputed parts yields the same bytes as the steps themselves."""

from pathlib import Path

import moving_head as mh
import numpy as np

from neuroferry.interfaces.epi.motion_table import (
    motion_parameters,
    rms_deviation,
    write_motion_table,
    write_motion_xfms,
)
from neuroferry.interfaces.func.precomputed import InvertAffine, TabulateMotion
from neuroferry.interfaces.image.images import Volume, load_volume, save_volume
from neuroferry.interfaces.image.transforms import read_itk_affine, write_itk_affine


def test_the_table_is_that_of_the_estimate(tmp_path):
    truth = mh.motions(6, 1)
    head = Volume(mh.head(truth[0]).astype(np.float32), mh.AFFINE)
    reference = load_volume(save_volume(head, tmp_path / "ref.nii.gz"))
    expected = write_motion_table(
        motion_parameters(truth, reference),
        rms_deviation(truth, reference),
        tmp_path / "expected.tsv",
    )
    node = TabulateMotion(
        motion_xfms=str(write_motion_xfms(truth, tmp_path / "xfms.txt")),
        ref_file=str(tmp_path / "ref.nii.gz"),
    )
    found = Path(node.run(cwd=tmp_path).outputs.motion_tsv)
    assert found.read_bytes() == expected.read_bytes()


def test_there_and_back(tmp_path):
    matrix = mh.motions(5, 2)[4]
    path = write_itk_affine(matrix, tmp_path / "there.txt")
    back = InvertAffine(in_xfm=str(path)).run(cwd=tmp_path).outputs.out_xfm
    assert np.allclose(read_itk_affine(back) @ matrix, np.eye(4), atol=1e-9)
