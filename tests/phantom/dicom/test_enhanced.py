from __future__ import annotations

import numpy as np
import pytest
from nibabel.nicom.dicomwrappers import wrapper_from_data

from neuroferry.phantom.dicom import Scanner, objects


def test_one_object_holds_all_volumes_of_philips(dwi, patient):
    (made,) = objects(dwi, patient, Scanner("philips"), "enhanced")
    ds = made.dataset
    assert ds.NumberOfFrames == dwi.n_slices * dwi.n_volumes
    frames = ds.PerFrameFunctionalGroupsSequence
    bvals = [frame.MRDiffusionSequence[0].DiffusionBValue for frame in frames]
    assert bvals == np.repeat(dwi.bvals, dwi.n_slices).tolist()
    last = frames[-1]
    gradient = last.MRDiffusionSequence[0].DiffusionGradientDirectionSequence[0]
    np.testing.assert_allclose(gradient.DiffusionGradientOrientation, dwi.bvecs[-1])
    index = last.FrameContentSequence[0]
    assert list(index.DimensionIndexValues) == [1, dwi.n_slices, dwi.n_volumes]
    begun = frames[0].FrameContentSequence[0].FrameAcquisitionDateTime
    assert index.FrameAcquisitionDateTime > begun
    # NiBabel turns rows into the first axis, and counts slices the other way round.
    with pytest.warns(UserWarning, match="Philips private scale factor"):
        read = wrapper_from_data(ds).get_data()
    np.testing.assert_array_equal(read[:, :, ::-1], dwi.data.transpose(1, 0, 2, 3))


def test_one_object_holds_one_volume_of_siemens(bold, patient):
    made = list(objects(bold, patient, Scanner(), "enhanced"))
    assert [one.volume for one in made] == list(range(bold.n_volumes))
    assert {one.dataset.NumberOfFrames for one in made} == {bold.n_slices}
    assert len({one.dataset.SeriesInstanceUID for one in made}) == 1
    assert "XA30" in made[0].dataset.SoftwareVersions
    frame = made[0].dataset.PerFrameFunctionalGroupsSequence[1]
    item = frame.private_block(0x21, "SIEMENS MR SDI 02")[0xFE].value[0]
    after = float(item.private_block(0x21, "SIEMENS MR SDI 02")[0x04].value)
    assert after == pytest.approx(bold.slice_times[1], abs=1e-6)


def test_what_identifies_the_sequence_is_in_the_enhanced_elements(t1w, patient):
    (made,) = objects(t1w, patient, Scanner("philips"), "enhanced")
    ds = made.dataset
    assert ds.PulseSequenceName
    assert "SequenceName" not in ds
    assert "EchoTime" not in ds
    shared = ds.SharedFunctionalGroupsSequence[0]
    assert shared.MREchoSequence[0].EffectiveEchoTime == pytest.approx(2.98)
    assert shared.MRModifierSequence[0].InversionTimes == pytest.approx(900)
