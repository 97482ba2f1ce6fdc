from __future__ import annotations

import numpy as np
from nibabel.nicom import csareader

from neuroferry.phantom.dicom.csa import csa_header


def test_nibabel_reads_the_values_back():
    times = np.arange(7) * 52.5
    header = csa_header(
        {
            "NumberOfImagesInMosaic": ("IS", [7]),
            "MosaicRefAcqTimes": ("FD", times.tolist()),
            "SliceNormalVector": ("FD", [0.0, -0.6, 0.8]),
            "B_value": ("IS", []),
            "ICE_Dims": ("LO", ["X_1_1_1_1_1_1_1_1_1_1_1_1"]),
        }
    )
    assert len(header) % 4 == 0
    read = csareader.read(header)
    assert read["type"] == 2  # SV10
    assert csareader.get_n_mosaic(read) == 7
    assert csareader.get_slice_normal(read).tolist() == [0.0, -0.6, 0.8]
    np.testing.assert_allclose(read["tags"]["MosaicRefAcqTimes"]["items"], times)
    assert read["tags"]["B_value"]["items"] == []
    assert csareader.get_scalar(read, "ICE_Dims").startswith("X_1")
