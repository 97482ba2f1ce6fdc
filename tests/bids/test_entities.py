import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuroferry.bids.entities import ENTITIES, build_name, common_entities, parse_name

LABELS = st.text("abcXYZ019+", min_size=1, max_size=8)
NAMES = st.dictionaries(st.sampled_from(sorted(ENTITIES)), LABELS, max_size=8)


@given(NAMES, st.sampled_from(["T1w", "bold", "xfm"]), st.sampled_from([".nii.gz", ".json"]))
def test_a_name_can_be_read_back(entities, suffix, extension):
    name = build_name(entities, suffix, extension)
    assert parse_name(name) == (entities, suffix, extension)


@given(NAMES)
def test_entities_stand_in_the_order_of_bids(entities):
    keys = [pair.split("-")[0] for pair in build_name(entities, "T1w", ".nii").split("_")[:-1]]
    order = list(ENTITIES.values())
    assert keys == sorted(keys, key=order.index)


def test_our_order_is_that_of_the_schema():
    schema = pytest.importorskip("bidsschematools.schema").load_schema()
    official = [schema.objects.entities[name].name for name in schema.rules.entities]
    not_yet = ("from", "to", "mode", "model", "param", "bundle")
    ours = [key for key in ENTITIES.values() if key not in not_yet]
    assert ours == official


@pytest.mark.parametrize("value", ["", "a_b", "a-b", "../up", "a/b", "ä"])
def test_a_value_that_would_break_the_name_is_refused(value):
    with pytest.raises(ValueError, match="cannot be the value"):
        build_name({"subject": value}, "T1w", ".nii.gz")


def test_an_unknown_entity_is_refused_with_the_nearest():
    with pytest.raises(ValueError, match="did you mean session"):
        build_name({"sesion": "1"}, "T1w", ".nii.gz")


@given(st.lists(NAMES, min_size=1, max_size=4))
def test_common_entities_are_in_every_name(names):
    common = common_entities(names)
    assert all(common.items() <= name.items() for name in names)
    assert common_entities([*names, common]) == common
