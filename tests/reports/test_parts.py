"""Inline SVG, methods text, verdicts and advice."""

import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest

import neuroferry.workflows
from neuroferry.engine.record import RunSummary, StepSummary
from neuroferry.reports.gather import Reportlet, Session
from neuroferry.reports.methods import cited_keys, load_references, render_methods
from neuroferry.reports.svg import inline_svg
from neuroferry.reports.verdict import advice, judge

HOSTILE = """<?xml version="1.0"?>
<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"
  width="10" height="10" viewBox="0 0 10 10" onload="alert(1)" aria-label="p">
<script>alert(2)</script><title>tooltip</title><style>@import url(http://x/y.css)</style>
<foreignObject><p xmlns="http://www.w3.org/1999/xhtml">html</p></foreignObject>
<a href="javascript:alert(3)"><rect width="1" height="1"/></a>
<defs><clipPath id="c"><rect id="r" width="5" height="5"/></clipPath></defs>
<g clip-path="url(#c)" class="nf-view" data-label="V"><use href="#r"/>
<image href="http://x/y.png"/><image xlink:href="file:///etc/passwd"/>
<image xlink:href="data:image/png;base64,AAAA"/><image href="data:image/svg+xml;base64,AAAA"/>
<rect style="fill:url(http://x/y)" fill="url('#c')" width="2"/>
<animate attributeName="href" values="javascript:alert(4)"/></g></svg>"""


def test_only_drawing_stays_of_a_picture(tmp_path):
    path = tmp_path / "a.svg"
    path.write_text(HOSTILE)
    svg = inline_svg(path, "p-")
    assert svg is not None
    assert "alert" not in svg
    assert "tooltip" not in svg
    assert "http://x" not in svg
    assert "file:" not in svg
    assert "svg+xml" not in svg
    assert re.findall(r'href="([^"]*)"', svg) == ["#p-r", "data:image/png;base64,AAAA"]
    assert re.findall(r' id="([^"]*)"', svg) == ["p-c", "p-r"]
    assert svg.count("url(#p-c)") == 2
    assert 'data-label="V"' in svg
    assert 'viewBox="0 0 10 10"' in svg
    assert ' width="10"' not in svg


@pytest.mark.parametrize(
    ("text", "html"),
    [
        ("a < b & c", "<p>a &lt; b &amp; c</p>"),
        (
            "*x* and **y** and `z<`",
            "<p><em>x</em> and <strong>y</strong> and <code>z&lt;</code></p>",
        ),
        ("one\ntwo\n\nthree", "<p>one two</p>\n<p>three</p>"),
        ("# Title\n\ntext", "<h3>Title</h3>\n<p>text</p>"),
        ("mail me@x.org", "<p>mail me@x.org</p>"),
        ("", ""),
    ],
)
def test_methods_text(text, html):
    assert render_methods(text).html == html


class Tags(HTMLParser):
    """Every tag of a page with its attributes."""

    def __init__(self, page):
        super().__init__()
        self.found = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))


@pytest.mark.parametrize(
    "doi",
    [
        '10.1234/x"onmouseover="alert(1)',
        "10.1234/x'onmouseover='alert(1)",
        "10.1234/a*b*c**d**",
        "10.1234/`x`",
        "10.1234/(@ants2008)[@avants2008]",
    ],
)
def test_a_doi_is_a_link_and_nothing_else(doi):
    tags = Tags(render_methods(f"See doi:{doi} and `so` on.").html).found
    (link,) = (attrs for tag, attrs in tags if attrs.get("href", "").startswith("https"))
    assert list(link) == ["href"]
    assert doi.startswith(unquote(link["href"].removeprefix("https://doi.org/")))
    assert {name for _, attrs in tags for name in attrs} <= {"href", "class"}


def test_citations_are_numbered_by_first_use():
    methods = render_methods("A [@avants2008]. B [@tustison2010; @avants2008]. C @ants.")
    assert [reference.key for reference in methods.references] == [
        "avants2008",
        "tustison2010",
        "ants",
    ]
    assert ">2</a>, <a" in methods.html
    assert methods.unknown == ()


def test_references_are_complete():
    for reference in load_references().values():
        assert re.fullmatch(r"10\.\d{4,}/\S+", reference.doi), reference
        assert 1950 < reference.year < 2100
        assert reference.authors
        assert reference.title
        assert reference.journal


def test_every_key_that_a_workflow_cites_is_in_the_list():
    folder = Path(neuroferry.workflows.__file__).parent
    cited = set()
    for path in folder.rglob("*.py"):
        for text in re.findall(r"\[@[^\]]+\]", path.read_text(encoding="utf-8")):
            cited |= set(cited_keys(text))
    assert {"nipype", "bids"} <= cited
    assert cited - set(load_references()) == set()


@pytest.mark.parametrize(
    ("message", "traceback", "start"),
    [
        ("OSError: [Errno 28] No space left on device", None, "Free space"),
        ("ended (SIGKILL); nothing shows that memory ran out", None, "Somebody, or a limit"),
        ("The step was killed (SIGKILL)", None, "The step seems to have run out of memory"),
        (
            "x",
            "Traceback\n  killed_by_name()\nneuroferry.errors.InputError: x",
            "Check the input image",
        ),
        ("PermissionError: Permission denied", None, "Make the output and work"),
        ("something else", "Traceback\nValueError: x", "Run the same command again"),
        (None, None, "Run the same command again"),
    ],
)
def test_advice(message, traceback, start):
    assert advice(message, traceback).startswith(start)


def session(verdict="good", pictures=True):
    item = Reportlet("brain", "Brain mask", "", Path("x.svg") if pictures else None)
    return Session(None, (item,), {"verdict": verdict})


def step(state, name="a"):
    return StepSummary(f"wf.{name}", "01", state, message="why" if state == "failed" else None)


@pytest.mark.parametrize(
    ("steps", "problems", "sessions", "any_output", "level"),
    [
        (["done", "cached"], [], [session()], True, "good"),
        (["done"], ["warning"], [session()], True, "good"),
        (["done"], ["error"], [session()], True, "look"),
        (["done"], [], [session("look")], True, "look"),
        (["done"], [], [session(pictures=False)], True, "look"),
        (["done", "failed"], [], [session()], True, "failed"),
        (["done", "running"], [], [session()], True, "failed"),
        ([], ["error"], [session(pictures=False)], False, "failed"),
        ([], [], [session(pictures=False)], False, "failed"),
    ],
)
def test_judge(steps, problems, sessions, any_output, level):
    run = RunSummary(
        steps=tuple(step(state, f"s{n}") for n, state in enumerate(steps)),
        problems=tuple({"severity": p, "message": "m", "subject": "01"} for p in problems),
    )
    verdict = judge(run, sessions, any_output=any_output)
    assert verdict.level == level
    assert bool(verdict.reasons) == (level != "good")


def test_what_was_left_out_of_the_dataset_does_not_count_against_a_participant():
    odd = {"severity": "error", "message": "sub-P-01 is left out", "subject": None}
    run = RunSummary(steps=(step("done"),), problems=(odd,))
    assert judge(run, [session()], any_output=True).level == "good"
