"""Reportlets of a DWI run over its volumes, and of its gradients."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import nibabel as nb
import numpy as np
import pytest

from neuroferry.errors import InputError
from neuroferry.interfaces.draw.dwi_time import (
    SHELL_COLOURS,
    DwiMotionPicture,
    GradientsPicture,
    draw_gradients,
)
from neuroferry.interfaces.dwi.confounds import dwi_confounds
from neuroferry.interfaces.dwi.gradients import Gradients, write_gradients
from neuroferry.interfaces.dwi.outliers import read_outliers, write_outliers
from neuroferry.interfaces.epi.confound_table import write_table
from neuroferry.interfaces.epi.motion_table import write_motion_table, write_motion_xfms
from neuroferry.interfaces.epi.realign import stretch_step

N, SLICES = 9, 12


@pytest.fixture
def run(tmp_path: Path) -> dict[str, Path]:
    rng = np.random.default_rng(0)
    bvals = np.array([0.0, *[1000] * 4, *[2000] * 4])
    bvecs = rng.normal(size=(N, 3))
    bvecs /= np.linalg.norm(bvecs, axis=1, keepdims=True)
    bvecs[0] = 0
    nb.save(nb.Nifti1Image(np.zeros((8, 8, 8), "f4"), np.eye(4)), tmp_path / "d.nii.gz")
    bval, bvec = write_gradients(
        Gradients(bvals, bvecs), np.eye(4), tmp_path / "d.bval", tmp_path / "d.bvec"
    )
    deviations = rng.normal(size=(N, SLICES))
    deviations[0] = np.nan
    odd = np.zeros((N, SLICES), bool)
    deviations[3, 5], odd[3, 5] = -9.0, True
    outliers = write_outliers(tmp_path / "outliers.tsv", deviations, odd)
    motion = write_motion_table(rng.normal(size=(N, 6)), np.full(N, 0.2), tmp_path / "m.tsv")
    columns, _ = dwi_confounds(bval, bvec, motion, outliers)
    write_table(tmp_path / "confounds.tsv", columns)
    rigid = np.tile(np.eye(4), (N, 1, 1))
    slopes = rng.normal(0, 0.01, (N, 3))
    bent = [stretch_step(s, np.zeros(3), np.array([0, 1.0, 0])) for s in slopes]
    return {
        "confounds_tsv": tmp_path / "confounds.tsv",
        "outliers_tsv": outliers,
        "eddy_xfms": write_motion_xfms(bent, tmp_path / "eddy.txt"),
        "motion_xfms": write_motion_xfms(rigid, tmp_path / "rigid.txt"),
        "bval": bval,
        "bvec": bvec,
        "in_file": tmp_path / "d.nii.gz",
    }


def test_motion_eddy_currents_and_slices(run: dict[str, Path], tmp_path: Path) -> None:
    names = ("confounds_tsv", "outliers_tsv", "eddy_xfms", "motion_xfms")
    made = DwiMotionPicture(**{name: run[name] for name in names}).run(cwd=tmp_path)
    text = Path(made.outputs.out_file).read_text()
    ElementTree.fromstring(text)
    assert "Eddy currents" in text
    assert "1 slice lost signal" in text
    assert "b = 1000: 4" in text
    replaced = tmp_path / "replaced.tsv"
    rows = run["confounds_tsv"].read_text().splitlines()
    counts = ["replaced_slices", *("1" if n == 1 else "0" for n in range(1, len(rows)))]
    replaced.write_text("".join(f"{r}\t{c}\n" for r, c in zip(rows, counts, strict=True)))
    told = {**{name: run[name] for name in names}, "confounds_tsv": replaced}
    said = Path(DwiMotionPicture(**told).run(cwd=tmp_path).outputs.out_file).read_text()
    assert "1 slice lost signal: outlined, and replaced" in said
    still = DwiMotionPicture(**{name: run[name] for name in names[:2]}).run(cwd=tmp_path)
    assert "Eddy currents</text>" not in Path(still.outputs.out_file).read_text()


def test_directions_and_their_opposites(run: dict[str, Path], tmp_path: Path) -> None:
    made = GradientsPicture(**{name: run[name] for name in ("in_file", "bval", "bvec")})
    text = Path(made.run(cwd=tmp_path).outputs.out_file).read_text()
    ElementTree.fromstring(text)
    for colour in SHELL_COLOURS[:2]:
        assert len(re.findall(rf'r="5.5"[^/]*{colour}', text)) == 8
    assert "b0: 1 volume<" in text


def test_right_is_where_it_should_be() -> None:
    """A direction to the right is on the left from the front, on the right from above."""
    one = draw_gradients(Gradients(np.array([1000.0]), np.array([[0.8, 0.36, 0.48]])))
    first, second = (float(x) for x in re.findall(r'cx="([\d.]+)" cy="[\d.]+" r="5.5"', one))
    assert first < 300
    assert second > 900


def test_other_tables_are_refused(run: dict[str, Path]) -> None:
    with pytest.raises(InputError, match="not a table of slices"):
        read_outliers(run["confounds_tsv"])
