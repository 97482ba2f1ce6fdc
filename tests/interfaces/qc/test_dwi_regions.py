"""White matter and corpus callosum of made-up anisotropy."""

from __future__ import annotations

import numpy as np
import pytest

from neuroferry.interfaces.qc.dwi_regions import corpus_callosum, white_matter

SHAPE = (40, 44, 36)


@pytest.fixture
def head():
    """Anisotropy of a block with a red bar in its middle, a green one, and a far voxel."""
    fa = np.zeros(SHAPE, np.float32)
    fa[5:35, 5:39, 5:31] = 0.6
    fa[1, 1, 1] = 0.9
    color = np.zeros((*SHAPE, 3), np.float32)
    color[..., 1] = fa
    red = np.zeros(SHAPE, bool)
    red[15:25, 18:26, 14:20] = True
    color[red] = (0.6, 0.05, 0.05)
    return fa, color, red


def test_white_matter_is_the_largest_region(head):
    fa, _, _ = head
    white = white_matter(fa)
    block = fa == np.float32(0.6)
    # opening takes the edges of the block
    assert white.sum() > 0.95 * block.sum()
    assert not (white & ~block).any()
    assert not white_matter(np.zeros_like(fa)).any()


def test_low_anisotropy_is_no_white_matter(head):
    fa, _, _ = head
    fa[5:20] *= 0.5
    assert not white_matter(fa)[5:20].any()


def test_corpus_callosum_is_red_and_in_the_middle(head):
    fa, color, red = head
    white = white_matter(fa)
    found = corpus_callosum(color, white)
    # opening takes the corners of the bar
    assert found.sum() > 0.9 * red.sum()
    assert not (found & ~red).any()
    color[6:9, 10:30, 10:30] = (0.6, 0.05, 0.05)
    assert np.array_equal(corpus_callosum(color, white), found)


def test_other_colours_are_no_corpus_callosum(head):
    fa, color, _ = head
    white = white_matter(fa)
    assert not corpus_callosum(color[..., [1, 0, 2]] * 0, white).any()
    assert not corpus_callosum(color[..., [2, 1, 0]], white).any()
    assert not corpus_callosum(color, np.zeros_like(white)).any()
