import json

import pytest

from neuroferry.bids.outputs import (
    Container,
    bids_uri,
    derivative_path,
    prepare_dataset,
    write_dataset_description,
)
from neuroferry.errors import ExitCode, InputError
from neuroferry.files import write_json


def test_names_have_their_folders_and_order(tmp_path):
    entities = {"description": "preproc", "run": "02", "session": "b", "subject": "01"}
    path = derivative_path(tmp_path, entities, suffix="T1w", extension=".nii.gz", datatype="anat")
    assert path == tmp_path / "sub-01/ses-b/anat/sub-01_ses-b_run-02_desc-preproc_T1w.nii.gz"
    entities = {"subject": "01", "mode": "image", "to": "T1w", "from": "orig", "acquisition": "x"}
    path = derivative_path(tmp_path, entities, suffix="xfm", extension=".txt", datatype="anat")
    assert path.name == "sub-01_acq-x_from-orig_to-T1w_mode-image_xfm.txt"
    with pytest.raises(ValueError, match="needs a subject"):
        derivative_path(tmp_path, {"run": "1"}, suffix="T1w", extension=".nii", datatype="anat")
    with pytest.raises(ValueError, match="not in the subpath"):
        bids_uri("/elsewhere/x", tmp_path)


def test_the_description_says_what_made_it_from_what(make_dataset, tmp_path):
    raw = make_dataset(
        {
            "dataset_description.json": {
                "Name": "toy",
                "BIDSVersion": "1.8.0",
                "License": "CC0",
                "DatasetDOI": "doi:10.1/2",
            }
        }
    )
    container = Container(Type="apptainer", Tag="1.2", Digest="sha256:ab")
    path = write_dataset_description(
        tmp_path / "out", bids_dir=raw, version="1.2", container=container
    )
    content = json.loads(path.read_text())
    assert content["DatasetType"] == "derivative"
    assert content["GeneratedBy"] == [
        {"Name": "neuroferry", "Version": "1.2", "Container": container}
    ]
    assert content["SourceDatasets"] == [{"URL": raw.as_uri(), "DOI": "doi:10.1/2"}]
    assert content["DatasetLinks"] == {"raw": raw.as_uri()}
    assert content["License"] == "CC0"


def test_the_description_names_the_datasets_of_precomputed_results(make_dataset, tmp_path):
    raw, out = make_dataset({}), tmp_path / "out"

    def describe(**derivatives):
        prepare_dataset(out, bids_dir=raw, version="1", derivatives=derivatives)
        return json.loads((out / "dataset_description.json").read_text())

    mine, old = tmp_path / "mine", tmp_path / "old"
    first = describe(mine=old)
    assert first["DatasetLinks"] == {"raw": raw.as_uri(), "mine": old.as_uri()}
    assert first["SourceDatasets"] == [{"URL": raw.as_uri()}, {"URL": old.as_uri()}]
    # A later run names others: what sidecars of the first cite stays, what moved is followed.
    later = describe(mine=mine, other=old)
    assert later["DatasetLinks"] == {
        "raw": raw.as_uri(),
        "mine": mine.as_uri(),
        "other": old.as_uri(),
    }
    assert describe() == later


def test_preparing_twice_changes_no_byte_and_keeps_what_is_not_ours(make_dataset, tmp_path):
    raw, out = make_dataset({}), tmp_path / "out"
    out.mkdir()
    (out / ".bidsignore").write_text("mine.txt\n*.html\n")
    (out / "README.md").write_text("my own")
    prepare_dataset(out, bids_dir=raw, version="1")
    before = {path.name: (path.read_bytes(), path.stat().st_ino) for path in out.iterdir()}
    prepare_dataset(out, bids_dir=raw, version="1")
    after = {path.name: (path.read_bytes(), path.stat().st_ino) for path in out.iterdir()}
    assert before == after
    assert set(after) == {".bidsignore", "README.md", "dataset_description.json", "dseg.tsv"}
    ignored = (out / ".bidsignore").read_text().splitlines()
    assert ignored[:2] == ["mine.txt", "*.html"]
    assert ignored.count("*.html") == 1
    table = [row.split("\t") for row in (out / "dseg.tsv").read_text().splitlines()]
    assert [row[0] + row[2] for row in table[2:]] == ["1GM", "2WM", "3CSF"]


@pytest.mark.parametrize(
    "theirs", [{"Name": "raw"}, {"Name": "x", "GeneratedBy": [{"Name": "other"}]}]
)
def test_a_folder_with_another_dataset_is_refused(make_dataset, tmp_path, theirs):
    out = tmp_path / "out"
    write_json(out / "dataset_description.json", theirs)
    with pytest.raises(InputError, match="choose another output folder") as caught:
        prepare_dataset(out, bids_dir=make_dataset({}), version="1")
    assert caught.value.exit_code == ExitCode.CANNOT_CREATE
    assert json.loads((out / "dataset_description.json").read_text()) == theirs
