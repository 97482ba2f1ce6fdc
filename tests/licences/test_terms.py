"""Licence expressions, and the table of tools."""

import re
from pathlib import Path

import pytest

import neuroferry.workflows
from neuroferry.licences.terms import (
    allows_commercial_use,
    join_expressions,
    licences_of,
    load_licences,
    load_tools,
    patents_of,
    tools_of,
)
from neuroferry.reports.methods import cited_keys, load_references

FREE, UNFREE, UNKNOWN = "MIT", "CC-BY-NC-4.0", "LicenseRef-somebody"


@pytest.mark.parametrize(
    ("expression", "allowed"),
    [
        (FREE, True),
        (UNFREE, False),
        (UNKNOWN, None),
        (f"{FREE} AND {UNFREE}", False),
        (f"{FREE} AND {UNKNOWN}", None),
        (f"{UNKNOWN} AND {UNFREE}", False),
        (f"{FREE} OR {UNFREE}", True),
        (f"{FREE} OR {UNKNOWN}", True),
        (f"{UNFREE} OR {UNKNOWN}", None),
        (f"{UNFREE} OR {FREE} AND {UNFREE}", False),
        (f"({UNFREE} OR {FREE}) AND {FREE}", True),
        (f"{UNFREE} WITH Some-exception AND {FREE}", False),
        ("LicenseRef-Debian-whatever", True),
    ],
)
def test_commercial_use(expression, allowed):
    assert allows_commercial_use(expression) is allowed


@pytest.mark.parametrize(
    "text", ["", "MIT AND", "MIT or later", "(MIT", "MIT)", "MIT, Zlib", "A B"]
)
def test_what_is_not_an_expression(text):
    with pytest.raises(ValueError, match="SPDX licence expression"):
        allows_commercial_use(text)


def test_joined_expressions_keep_their_meaning():
    parts = ["(MIT AND Zlib) OR CC-BY-NC-4.0", "CC-BY-NC-4.0", "Zlib AND (MIT OR ISC)"]
    joined = join_expressions(parts)
    assert joined == ("CC-BY-NC-4.0 AND Zlib AND (MIT OR ISC)")
    assert allows_commercial_use(joined) is False


def test_every_licence_of_the_table_has_an_answer():
    table = load_licences()
    assert not set(table["commercial"]["allowed"]) & set(table["commercial"]["forbidden"])
    expressions = [tool.licence for tool in load_tools()]
    expressions += [entry["licence"] for entry in table["data"]]
    for kind, words in (("python", ("names", "packages", "libraries")), ("debian", ("names",))):
        for name in words:
            expressions += table[kind][name].values()
    expressions += table["debian"]["packages"].values()
    assert [text for text in expressions if allows_commercial_use(text) is None] == []


def test_every_reference_is_a_tool_with_a_licence_or_a_paper():
    tools = {key for tool in load_tools() for key in tool.cited}
    papers = set(load_licences()["papers"]["keys"])
    both = tools | papers
    assert both == set(load_references())
    assert tools & papers == set()


def test_every_tool_that_a_builder_cites_has_a_licence():
    """Emphasised names before a citation are tools in the table, unless a paper is cited."""
    folder = Path(neuroferry.workflows.__file__).parent
    text = "\n".join(path.read_text(encoding="utf-8") for path in folder.rglob("*.py"))
    cited = {key for part in re.findall(r"\[@[^\]]+\]", text) for key in cited_keys(part)}
    names = {tool.name for tool in tools_of(cited)}
    assert {"Nipype", "MRtrix3", "DIPY", "neuroferry"} <= names
    papers = set(load_licences()["papers"]["keys"])
    for name, citation in re.findall(r"\*(\w+)\*\s+\"?\s*f?\"?\[@([\w]+)\]", text):
        assert name in names or citation in papers, name


def test_licences_of_a_result_name_what_took_part():
    uses = {use.licence: use for use in licences_of(["mrtrix3", "veraart2016"])}
    assert uses["MPL-2.0"].tools == "MRtrix3"
    assert "neuroferry" in uses["Apache-2.0"].tools
    assert "Nipype" not in uses["Apache-2.0"].tools
    assert all(use.commercial for use in uses.values())
    assert "10,698,065" in patents_of(["veraart2016"])[0]
    assert patents_of(["mrtrix3"]) == ()
