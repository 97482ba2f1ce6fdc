"""Sidecars: what cannot be true is left out, what rules give stays."""

from __future__ import annotations

from pathlib import Path

import pytest

from neuroferry.intake.dcm2niix import Converted
from neuroferry.intake.identity import Identifiers
from neuroferry.intake.outputs import Item
from neuroferry.intake.reproin import Name
from neuroferry.intake.rules import read_rules
from neuroferry.intake.sidecars import complete
from neuroferry.intake.volumes import Volumes

RULES = read_rules()
HEADERS = Volumes((), False, False, None, False, None)


@pytest.mark.parametrize(("seconds", "left"), [(188.7, None), (0.03, 0.03)])
def test_a_readout_of_minutes_is_none(seconds, left):
    content = {"TotalReadoutTime": seconds, "EffectiveEchoSpacing": seconds / 100}
    item = Item(Converted(Path("a.nii.gz"), {}, (), (4, 4, 4), ""), "T1w", {}, content)
    done = complete(item, Name("anat", "T1w", "a rule"), HEADERS, Identifiers(()), RULES, {})
    assert done.item.content.get("TotalReadoutTime") == left
    assert ("EffectiveEchoSpacing" in done.item.content) == (left is not None)
    assert any("no time of a readout" in text for text in done.warnings) == (left is None)
