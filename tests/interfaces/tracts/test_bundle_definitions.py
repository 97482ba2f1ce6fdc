"""Bundle definitions: the built-in ones, and errors in a user's file."""

import textwrap
import tomllib
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest

from neuroferry.errors import InputError
from neuroferry.interfaces.tracts.bundle_definitions import Region, load_bundles
from neuroferry.templates import load_template

NAMES = {
    "Callosum Forceps Major",
    "Callosum Forceps Minor",
    *(
        f"{side} {name}"
        for side in ("Left", "Right")
        for name in (
            "Arcuate",
            "Cingulum Cingulate",
            "Corticospinal",
            "IFOF",
            "ILF",
            "Uncinate",
        )
    ),
}

GOOD = """
space = "MNI152NLin2009aSym"
[[bundles]]
name = "Cord"
paired = true
colour = "#E69F00"
include = [
    { name = "below", box = [-9, -1, 0, -3, 1, 2] },
    { name = "above", sphere = [-6, 0, 9, 2] },
]
exclude = [{ name = "egg", ellipsoid = [-6, 0, 5, 1, 2, 3] }]
"""


def load(tmp_path, text):
    path = tmp_path / "own.toml"
    path.write_text(text)
    return load_bundles(path)


def test_the_packages_own_bundles():
    bundles = load_bundles()
    assert {bundle.name for bundle in bundles} == NAMES
    known = tomllib.loads(
        files("neuroferry.configs").joinpath("references.toml").read_text(encoding="utf-8")
    )
    for bundle in bundles:
        assert bundle.sources
        assert set(bundle.sources) <= set(known)


@pytest.mark.parametrize("bundle", load_bundles(), ids=lambda bundle: bundle.name)
def test_each_region_to_pass_holds_white_matter_of_the_template(bundle):
    template = load_template(1)
    index = 2 * np.argwhere(template.wm[::2, ::2, ::2] > 0.5)
    points = (index @ template.affine[:3, :3].T + template.affine[:3, 3]).T
    for region in bundle.include:
        assert region.contains(points).sum() > 40, region.name


def test_left_and_right_mirror_each_other():
    bundles = {bundle.name: bundle for bundle in load_bundles()}
    points = np.random.default_rng(1).uniform(-60, 60, (3, 5000))
    mirrored = points * np.array([[-1.0], [1.0], [1.0]])
    for name, left in bundles.items():
        if not name.startswith("Left"):
            continue
        right = bundles[name.replace("Left", "Right")]
        for role in ("include", "exclude"):
            for one, other in zip(getattr(left, role), getattr(right, role), strict=True):
                assert np.array_equal(one.contains(points), other.contains(mirrored))
        assert all(region.second[0] <= 0 for region in left.include)


def test_shapes(tmp_path):
    left, right = load(tmp_path, GOOD)
    assert (left.name, right.name) == ("Left Cord", "Right Cord")
    assert left.include[1] == Region("above", "ellipsoid", (-6.0, 0.0, 9.0), (2.0, 2.0, 2.0))
    assert right.exclude[0].first == (6.0, 0.0, 5.0)
    corners = np.array([[-9.0, -3.0, -2.9], [1.0, 1.0, 1.0], [2.0, 2.0, 2.0]])
    assert left.include[0].contains(corners).tolist() == [True, True, False]
    poles = np.array([[-6.0, -5.1, -6.0], [0.0, 0.0, 0.0], [8.0, 5.0, 8.1]])
    assert left.exclude[0].contains(poles).tolist() == [True, True, False]


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("exclude =", "exlude =", "Cord: the key 'exlude' is unknown; the nearest is 'exclude'"),
        ("sphere =", "sphre =", "above: the key 'sphre' is unknown; the nearest is 'sphere'"),
        ("MNI152NLin2009aSym", "Talairach", "space must be 'MNI152NLin2009aSym'"),
        ("[-9, -1, 0, -3, 1, 2]", "[-3, -1, 0, -9, 1, 2]", "box must be the lowest corner"),
        ("[-9, -1, 0, -3, 1, 2]", "[-9, -1, 0, -3]", "box needs 6 numbers"),
        ("[-6, 0, 9, 2]", '[-6, 0, 9, "2"]', "sphere must be a number"),
        ("[-6, 0, 9, 2]", "[-6, 0, 9, 0]", "a radius must be above zero"),
        ('"#E69F00"', '"orange"', "colour must be a string"),
        ("paired = true", "paired = 1", "paired must be true or false"),
        ("paired = true", "min_length = 300", "min_length must be below max_length"),
        ('    { name = "above", sphere = [-6, 0, 9, 2] },\n', "", "at least two regions"),
        ('name = "Cord"\n', "", "it has no name"),
        ("[-6, 0, 9, 2]", "[90, 0, 90, 2]", "above: the region lies outside the brain"),
        ('"Cord"', '"Co\\nrd"', "a name must be one line with letters or digits"),
        ('"Cord"', '"?!"', "a name must be one line with letters or digits"),
        ("space =", "extend = 1\nspace =", "extend must be true or false"),
        ("[[bundles]]", "[[bundle]]", "the key 'bundle' is unknown; the nearest is 'bundles'"),
    ],
)
def test_what_is_wrong_is_said(tmp_path, old, new, says):
    assert old in GOOD
    with pytest.raises(InputError) as caught:
        load(tmp_path, GOOD.replace(old, new, 1))
    assert says in str(caught.value)
    assert "own.toml" in str(caught.value)


def test_the_same_bundle_twice(tmp_path):
    body = GOOD.split("[[bundles]]")[1]
    with pytest.raises(InputError, match="Left Cord: it is defined twice"):
        load(tmp_path, GOOD + "[[bundles]]" + body)
    with pytest.raises(
        InputError, match="its files would have the same names as those of 'Left Cord'"
    ):
        load(tmp_path, GOOD + "[[bundles]]" + body.replace('"Cord"', '"C o.rd"'))


def test_bundles_that_come_after_the_packages_own_and_take_their_place(tmp_path):
    body = GOOD.split("[[bundles]]")[1]
    uncinate = body.replace('"Cord"', '"Uncinate"')
    space = GOOD.split("[[bundles]]")[0]
    text = f"extend = true\n{space}[[bundles]]{uncinate}[[bundles]]{body}"
    own, bundles = load_bundles(), load(tmp_path, text)
    names = [bundle.name for bundle in own]
    assert [bundle.name for bundle in bundles] == [*names, "Left Cord", "Right Cord"]
    changed = {bundle.name for bundle, old in zip(bundles, own, strict=False) if bundle != old}
    assert changed == {"Left Uncinate", "Right Uncinate"}


def test_the_example_of_the_documentation_is_one(tmp_path):
    page = (Path(__file__).parents[3] / "docs" / "bundles.rst").read_text(encoding="utf-8")
    code = page.split(".. code-block:: toml\n")[1]
    lines = [line for line in code.splitlines() if not line or line.startswith("    ")]
    bundles = load(tmp_path, textwrap.dedent("\n".join(lines)))
    assert len(bundles) == len(NAMES) + 1


def test_a_file_that_is_not_there_or_no_toml(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        load_bundles(tmp_path / "none.toml")
    with pytest.raises(InputError, match="is not valid TOML"):
        load(tmp_path, "space = ")
