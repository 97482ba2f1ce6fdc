"""NiBabel, which reads DICOM with other code than dcm2niix, agrees about the grid."""

from __future__ import annotations

import numpy as np
import pytest
from nibabel.nicom.dicomwrappers import wrapper_from_data

from neuroferry.phantom.dicom import Scanner, objects

LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
pytestmark = pytest.mark.slow


def test_a_mosaic_is_a_volume(bold, patient):
    made = list(objects(bold, patient, Scanner(), "mosaic"))
    assert [one.volume for one in made] == list(range(bold.n_volumes))
    wrapper = wrapper_from_data(made[2].dataset)
    assert wrapper.is_mosaic
    assert wrapper.n_mosaic == bold.n_slices
    # NiBabel turns rows into the first axis.
    np.testing.assert_array_equal(wrapper.get_data(), bold.data[..., 2].transpose(1, 0, 2))
    np.testing.assert_allclose(wrapper.affine[:, [1, 0, 2, 3]], bold.affine, atol=1e-4)


def test_slices_of_an_oblique_scan_lie_in_their_planes(t1w, patient):
    made = list(objects(t1w, patient, Scanner(), "mosaic"))
    assert len(made) == t1w.n_slices
    for one in made[:: len(made) // 3]:
        wrapper = wrapper_from_data(one.dataset)
        expected = t1w.affine @ np.array([0, 0, one.slice, 1])
        np.testing.assert_allclose(wrapper.image_position, expected[:3], atol=1e-4)
        np.testing.assert_allclose(wrapper.slice_normal, t1w.normal(), atol=1e-6)
        np.testing.assert_array_equal(wrapper.get_data().T, t1w.data[:, :, one.slice, 0])


@pytest.mark.parametrize("vendor", ["siemens", "ge", "philips"])
def test_each_slice_says_when_it_was_scanned(bold, patient, vendor):
    times = {}
    for one in objects(bold, patient, Scanner(vendor), "classic"):
        times[one.volume, one.slice] = one.dataset.AcquisitionTime
        assert one.dataset.RepetitionTime == bold.tr * 1000
    assert len(times) == bold.n_volumes * bold.n_slices
    varied = {volume: len({times[volume, k] for k in range(bold.n_slices)}) for volume in range(3)}
    # GE states the start of the series; the time of a slice is its TriggerTime.
    assert set(varied.values()) == ({1} if vendor == "ge" else {bold.n_slices})


def test_the_b_value_of_each_volume_is_in_the_vendors_element(dwi, patient):
    for vendor, group, creator, element in (
        ("siemens", 0x19, "SIEMENS MR HEADER", 0x0C),
        ("ge", 0x43, "GEMS_PARM_01", 0x39),
        ("philips", 0x2001, "Philips Imaging DD 001", 0x03),
    ):
        found = {}
        for one in objects(dwi, patient, Scanner(vendor), "classic"):
            value = one.dataset.private_block(group, creator)[element].value
            found[one.volume] = float(value[0] if vendor == "ge" else value)
        assert list(found.values()) == dwi.bvals.tolist()
