from __future__ import annotations

import json
import subprocess
from dataclasses import replace

import dcm2niix
import numpy as np
import pytest

from neuroferry.phantom.dicom import Scanner, faults, multiband, objects, write_objects

pytestmark = pytest.mark.slow
XA30 = Scanner(software="syngo MR XA30")


def make(series, patient, form="mosaic", scanner=None):
    return objects(series, patient, scanner or Scanner(), form)


def converted_sidecar(made, folder):
    write_objects(folder / "in", made)
    (folder / "out").mkdir()
    command = [dcm2niix.bin, "-z", "n", "-f", "image", "-o", folder / "out", folder / "in"]
    subprocess.run(command, check=True, capture_output=True)
    (path,) = (folder / "out").glob("*.json")
    return json.loads(path.read_text())


def uids(made):
    return [one.dataset.SOPInstanceUID for one in made]


def test_what_is_lost_is_lost_and_all_else_stays(bold, patient):
    whole = uids(make(bold, patient, "classic"))
    k = bold.n_slices
    some = faults.lose(make(bold, patient, "classic"), volumes=[1], slices=[(3, 5)])
    assert uids(some) == [one for n, one in enumerate(whole) if n // k != 1 and n != 3 * k + 5]


def test_a_stopped_run_ends_within_a_volume(bold, patient):
    whole = uids(make(bold, patient, "classic"))
    stopped = uids(faults.stop(make(bold, patient, "classic"), 5, slices=4))
    assert stopped == whole[: 5 * bold.n_slices + 4]
    assert len(uids(faults.stop(make(bold, patient), 5))) == 5


def test_other_series_of_a_scan_are_series_of_their_own(bold, dwi, patient):
    first = [one.dataset for one in make(dwi, patient)]
    again = [one.dataset for one in faults.reconstruct_again(make(dwi, patient), scale=0.5)]
    maps = [one.dataset for one in faults.derive(make(dwi, patient), "ADC")]
    moved = [one.dataset for one in faults.derive(make(bold, patient), "MOCO")]
    turned = [one.dataset for one in faults.phase(make(bold, patient))]
    assert len(again) == dwi.n_volumes
    assert len(maps) == 1
    assert len(moved) == len(turned) == bold.n_volumes
    kinds = (first, again, maps, moved, turned)
    assert len({ds[0].SeriesInstanceUID for ds in kinds}) == len(kinds)
    assert len({ds.SOPInstanceUID for kind in kinds for ds in kind}) == sum(map(len, kinds))
    assert again[0].ImageType == ["ORIGINAL", "PRIMARY", "M", "MOSAIC", "NORM", "DIS2D"]
    assert again[0].StudyInstanceUID == first[0].StudyInstanceUID
    assert maps[0].ImageType == ["DERIVED", "PRIMARY", "DIFFUSION", "ADC", "ND", "MOSAIC"]
    assert moved[0].SeriesDescription == "MoCoSeries"
    assert turned[0].ImageType[2] == "P"
    for kind in kinds:
        assert kind[0].file_meta.MediaStorageSOPInstanceUID == kind[0].SOPInstanceUID


def test_the_same_objects_come_with_other_pixels(bold, patient):
    first, second = list(make(bold, patient)), list(faults.change_pixels(make(bold, patient)))
    assert uids(first) == uids(second)
    for a, b in zip(first, second, strict=True):
        assert a.dataset.PixelData != b.dataset.PixelData


def test_each_volume_can_be_a_study(bold, patient):
    made = list(faults.study_per_volume(make(bold, patient)))
    assert len({one.dataset.StudyInstanceUID for one in made}) == bold.n_volumes
    assert len({one.dataset.SeriesInstanceUID for one in made}) == 1
    made = list(faults.study_per_volume(make(bold, patient), series_too=True))
    assert len({one.dataset.SeriesInstanceUID for one in made}) == bold.n_volumes
    assert len({one.dataset.SeriesNumber for one in made}) == bold.n_volumes


def test_slices_of_a_multiband_scan_are_excited_together(bold):
    times = np.asarray(multiband(bold, 3).slice_times)
    starts, counts = np.unique(times, return_counts=True)
    assert len(starts) == int(np.ceil(bold.n_slices / 3))
    assert counts.max() == 3
    assert starts.max() < bold.tr


def test_the_first_volume_of_xa30_carries_other_times(bold, patient, tmp_path):
    series = multiband(bold, 2)
    times = np.asarray(series.slice_times)
    made = list(faults.single_band_first(make(series, patient, "classic", XA30), series, factor=2))
    first = [after(one) for one in made if one.volume == 0]
    second = [after(one) for one in made if one.volume == 1]
    assert max(first) > series.tr
    np.testing.assert_allclose(second, times, atol=1e-6)
    converted = converted_sidecar(made, tmp_path)["SliceTiming"]  # those of the second volume
    np.testing.assert_allclose(converted, times, atol=1e-3)
    only = replace(series, data=series.data[..., :1], volume_times=series.volume_times[:1])
    made = list(faults.single_band_first(make(only, patient, "classic", XA30), only, factor=2))
    single = converted_sidecar(made, tmp_path / "single")
    assert "SliceTiming" not in single  # without a second volume there are none


def after(one) -> np.float64:
    return np.float64(one.dataset.private_block(0x21, "SIEMENS MR SDI 02")[0x04].value)


@pytest.mark.parametrize("form", ["mosaic", "enhanced"])
def test_the_stated_tr_contradicts_the_times(bold, patient, tmp_path, form):
    made = list(faults.state_tr(make(bold, patient, form), 1.794))
    assert converted_sidecar(made, tmp_path)["RepetitionTime"] == pytest.approx(1.794)
    clock = [one.dataset.AcquisitionTime for one in made]
    assert float(clock[1]) - float(clock[0]) == pytest.approx(bold.tr)


def test_two_series_arrive_at_once(bold, t1w, patient):
    both = list(faults.interleave(make(bold, patient), make(t1w, patient)))
    numbers = [one.dataset.SeriesNumber for one in both]
    assert len(numbers) == bold.n_volumes + t1w.n_slices
    assert numbers[:4] == [bold.number, t1w.number] * 2
    assert numbers[-1] == t1w.number
