"""Field maps name the runs of their session, by time and shims."""

from __future__ import annotations

import json

import pytest

from neuroferry.intake.fieldmaps import update_intended
from neuroferry.intake.ledger import Entry


class Dataset:
    def __init__(self, folder):
        self.folder, self.entries = folder, []

    def add(self, datatype, stem, minute, shims=(), base=(), **content):
        names = tuple(f"sub-01/{datatype}/{stem}{kind}" for kind in (".json", ".nii.gz"))
        path = self.folder / names[0]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"EchoTime": 0.03, **content}))
        suffix = stem.rpartition("_")[2]
        self.entries.append(
            Entry(stem, "", "placed", "", "bids", "01", files=names, datatype=datatype,
                  suffix=suffix, base=("protocol", datatype, *base), number=minute,
                  acquired=f"2024-03-05T09:{minute:02d}:00", shims=shims)
        )  # fmt: skip

    def intended(self, stem, *, closest=True, match_shims=True):
        update_intended(self.folder, self.entries, closest=closest, match_shims=match_shims)
        content = json.loads((self.folder / f"sub-01/fmap/{stem}.json").read_text())
        return [name.rpartition("/")[2] for name in content.get("IntendedFor", [])]


@pytest.fixture
def dataset(tmp_path):
    return Dataset(tmp_path)


def test_the_field_map_nearest_in_time(dataset):
    dataset.add("fmap", "a_dir-AP_epi", 1, base=("acquisition-a",))
    dataset.add("fmap", "a_dir-PA_epi", 2, base=("acquisition-a",))
    dataset.add("func", "r1_bold", 3)
    dataset.add("func", "r2_bold", 18)
    dataset.add("fmap", "b_dir-AP_epi", 20, base=("acquisition-b",))
    for stem in ("a_dir-AP_epi", "a_dir-PA_epi"):
        assert dataset.intended(stem) == ["r1_bold.nii.gz"]
    assert dataset.intended("b_dir-AP_epi") == ["r2_bold.nii.gz"]
    assert len(dataset.intended("b_dir-AP_epi", closest=False)) == 2


def test_shims_have_to_agree_where_they_are_known(dataset):
    near, far = (100.0, -200.0, 30.0), (160.0, -200.0, 30.0)
    dataset.add("fmap", "a_epi", 1, far, ("acquisition-a",))
    dataset.add("fmap", "b_epi", 40, near, ("acquisition-b",))
    dataset.add("func", "r1_bold", 2, (101.0, -204.0, 30.0))
    dataset.add("dwi", "d1_dwi", 3)
    assert dataset.intended("a_epi") == ["d1_dwi.nii.gz"]
    assert dataset.intended("b_epi") == ["r1_bold.nii.gz"]
    assert dataset.intended("a_epi", match_shims=False) == ["d1_dwi.nii.gz", "r1_bold.nii.gz"]


def test_a_phase_difference_gets_the_echo_times_of_its_magnitudes(dataset):
    dataset.add("fmap", "m_magnitude1", 1, EchoTime=0.005)
    dataset.add("fmap", "m_magnitude2", 1, EchoTime=0.007)
    dataset.add("fmap", "p_phasediff", 1, EchoTime=0.007)
    dataset.add("func", "r1_bold", 2)
    assert dataset.intended("p_phasediff") == ["r1_bold.nii.gz"]
    assert dataset.intended("m_magnitude1") == []
    content = json.loads((dataset.folder / "sub-01/fmap/p_phasediff.json").read_text())
    assert (content["EchoTime1"], content["EchoTime2"]) == (0.005, 0.007)


def test_no_run_no_field(dataset):
    dataset.add("fmap", "a_epi", 1)
    assert dataset.intended("a_epi") == []
