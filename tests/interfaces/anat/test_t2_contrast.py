import numpy as np

from neuroferry.interfaces.anat.t2_contrast import as_t1w, dark_share, darken_fluid_edges
from neuroferry.interfaces.image.images import Volume
from neuroferry.phantom.t2w import t2w_contrast


def test_reciprocal_of_t2w_contrast_is_t1w_contrast():
    contrast = t2w_contrast()
    turned = {
        name: float(as_t1w(np.array([v], dtype=np.float32), 1.0)[0])
        for name, v in contrast.items()
    }
    assert turned["wm"] > turned["gm"] > turned["csf"]
    assert max(turned["bone"], turned["air"]) < 0.2


def test_edge_of_fluid_and_bone_is_no_tissue_and_cortex_under_fluid_is():
    line = np.array([10, 10, 10, 100, 300, 300, 300, 140, 140, 100, 100], dtype=np.float32)
    head = np.broadcast_to(line, (5, 5, line.size))
    turned = as_t1w(head, 100.0)
    darkened = darken_fluid_edges(turned, head, 100.0)
    assert turned[2, 2, 3] == 1.0
    assert darkened[2, 2, 3] == np.float32(0.25)
    np.testing.assert_array_equal(darkened[..., 5:], turned[..., 5:])


def test_dark_share_counts_bone_in_a_mask():
    data = np.full((20, 20, 20), 10, dtype=np.float32)
    data[:16] = 100
    head = Volume(data, np.diag([4.0, 4.0, 4.0, 1.0]))
    white = data > 50
    assert dark_share(head, white, white) == 0.0
    assert dark_share(head, np.ones_like(white), white) == 0.2
    assert dark_share(head, white, np.zeros_like(white)) == 0.0
