"""The JSON file of metrics, in the form of MRIQC."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path

import pytest

from neuroferry.interfaces.qc.document import IqmInputSpec, write_iqms

IMAGE = b"an image"


@pytest.fixture
def inputs(tmp_path: Path) -> IqmInputSpec:
    anat = tmp_path / "sub-01" / "ses-a" / "anat"
    anat.mkdir(parents=True)
    image = anat / "sub-01_ses-a_acq-fast_T1w.nii.gz"
    image.write_bytes(IMAGE)
    outer, inner = tmp_path / "T1w.json", anat / "sub-01_ses-a_acq-fast_T1w.json"
    outer.write_text('{"Manufacturer": "Made-up", "FlipAngle": 9}')
    inner.write_text('{"FlipAngle": 8, "PatientName": "NOBODY", "Odd": [NaN, 1]}')
    description = tmp_path / "dataset_description.json"
    description.write_text('{"Name": "heads", "BIDSVersion": "1.10.0"}')
    return IqmInputSpec(
        source=str(image),
        sidecars=[str(outer), str(inner)],
        entities={"subject": "01", "session": "a", "acquisition": "fast"},
        description=str(description),
    )


def test_document_has_the_form_of_mriqc(inputs: IqmInputSpec, tmp_path: Path) -> None:
    path = write_iqms(
        tmp_path / "out.json",
        {"snr": 1 / 3, "size_x": 64, "qi_1": math.nan},
        {"qi_1": "There is no air."},
        inputs=inputs,
        modality="T1w",
        settings={"fd_thres": 0.2},
        warnings={"small_air_mask": True},
    )
    document = json.loads(path.read_text())
    assert list(document) == sorted(document)
    assert {k: v for k, v in document.items() if not isinstance(v, dict)} == {
        "snr": 0.333333333,
        "size_x": 64,
        "qi_1": None,
    }
    assert document["bids_meta"] == {
        "Manufacturer": "Made-up",
        "FlipAngle": 8,
        "Odd": [None, 1],
        "subject_id": "01",
        "session_id": "a",
        "acq_id": "fast",
        "modality": "T1w",
        "dataset": "heads",
    }
    provenance = document["provenance"]
    assert provenance["md5sum"] == hashlib.md5(IMAGE).hexdigest()
    assert provenance["settings"] == {"fd_thres": 0.2}
    assert provenance["software"] == "neuroferry"
    assert provenance["warnings"] == {
        "small_air_mask": True,
        "undefined": {"qi_1": "There is no air."},
    }


def test_nothing_that_identifies_a_person_is_passed_on(
    inputs: IqmInputSpec, tmp_path: Path
) -> None:
    path = write_iqms(tmp_path / "out.json", {}, {}, inputs=inputs, modality="T1w", settings={})
    assert "NOBODY" not in path.read_text()
