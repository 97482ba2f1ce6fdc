"""The converter's failures are told apart: the series', the disk's, the installation's."""

from __future__ import annotations

import sys

import nibabel as nb
import numpy as np
import pytest
from scanner import made, received, scan

from neuroferry.errors import InputError, ResourceError, ToolError
from neuroferry.intake import dcm2niix


def program(tmp_path, text):
    path = tmp_path / "dcm2niix"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize(
    ("text", "error", "said"),
    [
        ("kill -SEGV $$", InputError, "crashed on it .signal 11"),
        ("echo 'Error: bad slope in /home/x/a.dcm'; exit 1", InputError, "bad slope in .file"),
        ("exit 0", InputError, "made no image"),
        ("echo 'No space left on device'; exit 1", ResourceError, "No space is left"),
    ],
)
def test_failures(tmp_path, monkeypatch, text, error, said):
    monkeypatch.setattr(dcm2niix, "find_dcm2niix", lambda: program(tmp_path, text))
    with pytest.raises(error, match=said):
        dcm2niix.convert([], tmp_path / "work")


def test_it_is_not_installed(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "dcm2niix", None)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ToolError, match="is not installed"):
        dcm2niix.find_dcm2niix()


def test_the_header_is_changed_and_the_voxels_are_not(tmp_path):
    series = received(tmp_path / "in", made(scan("func_task-rest")))
    (converted,), _ = dcm2niix.convert([one.path for one in series.instances], tmp_path / "work")
    before = np.asanyarray(nb.load(converted.image).dataobj)
    dcm2niix.set_step(converted.image, 1.25)
    dcm2niix.clear_description(converted.image)
    image = nb.load(converted.image)
    assert image.header["pixdim"][4] == 1.25
    assert image.header["descrip"].item() == b""
    assert np.array_equal(np.asanyarray(image.dataobj), before)
    assert image.header["aux_file"].item() == b""
