"""Licences of the packages of this environment and of Debian."""

import importlib.metadata
import re
from pathlib import Path

import pytest

from neuroferry.errors import InputError
from neuroferry.licences.debian import read_copyright
from neuroferry.licences.packages import data_packages, python_packages
from neuroferry.licences.terms import load_licences, load_tools


@pytest.fixture
def write_package(tmp_path, monkeypatch):
    """Return a function that installs a package with nothing but its metadata."""

    def write(text, files=()):
        folder = tmp_path / "site" / "other-1.0.dist-info"
        folder.mkdir(parents=True)
        (folder / "METADATA").write_text(
            f"Metadata-Version: 2.4\nName: other\nVersion: 1.0\n{text}"
        )
        (folder / "RECORD").write_text("".join(f"{name},,\n" for name in files))
        for name in files:  # newer finders list nothing that is missing
            path = tmp_path / "site" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        found = list(importlib.metadata.distributions(path=[str(tmp_path / "site")]))
        monkeypatch.setattr(importlib.metadata, "distributions", lambda: found)

    return write


def test_requirements_of_neuroferry_allow_commercial_use():
    found = {package.name: package for package in python_packages("neuroferry")}
    assert {"neuroferry", "nipype", "pandas"} <= set(found)
    assert {"pytest", "antspyx"} & set(found) == set()
    assert [package for package in found.values() if not package.commercial] == []
    assert found["numpy"].version == importlib.metadata.version("numpy")


def test_licences_of_tools_are_those_of_their_packages():
    found = {package.name: package.licence for package in python_packages("neuroferry")}
    tools = [tool for tool in load_tools() if tool.package in found]
    assert len(tools) > 8
    for tool in tools:
        assert tool.licence in found[tool.package].split(" AND "), tool


def test_licence_of_the_template_is_that_of_the_notice():
    (template,) = data_packages()
    notice = (Path(__file__).parents[2] / "NOTICE").read_text(encoding="utf-8")
    assert template.name in notice
    text = load_licences()["texts"][template.licence]
    assert " ".join(text.split()) in " ".join(notice.split())


@pytest.mark.parametrize(
    ("description", "licence"),
    [
        ("License-Expression: MIT OR Zlib\nLicense: nonsense\n", "MIT OR Zlib"),
        ("License: BSD\n", "BSD-3-Clause"),
        ("License: see the file\nClassifier: License :: OSI Approved :: MIT License\n", "MIT"),
    ],
)
def test_words_of_a_package_become_an_expression(write_package, description, licence):
    write_package(description)
    assert [package.licence for package in python_packages()] == [licence]


def test_libraries_of_a_wheel_count(write_package):
    write_package("License: MIT\n", ["other.libs/libgfortran-12.so.5", "other/own.so"])
    (package,) = python_packages()
    assert package.licence == "GPL-3.0-or-later WITH GCC-exception-3.1 AND MIT"


@pytest.mark.parametrize(
    ("description", "files", "says"),
    [
        ("License: mine\n", [], "does not declare its licence"),
        ("", [], "does not declare its licence"),
        ("License: MIT\n", ["other.libs/libodd.so"], "bundles the library libodd.so"),
    ],
)
def test_an_unknown_licence_stops(write_package, description, files, says):
    write_package(description, files)
    with pytest.raises(InputError, match=re.escape(says)):
        python_packages()


COPYRIGHT = """\
Format: 1.0
Upstream-Name: other

Files: *
Copyright: 2001 Somebody
License: {}

Files: debian/*
Copyright: 2002 Somebody else
License: AGPL-3

License: own-words
 Use it for whatever you like.
 .
 It is yours.
"""


@pytest.mark.parametrize(
    ("words", "licence"),
    [
        ("GPL-2", "GPL-2.0-only"),
        ("GPL-3+ with Bison exception", "GPL-3.0-or-later"),
        ("LGPL-2.1+ or MPL-1.1", "(LGPL-2.1-or-later OR MPL-1.1)"),
        ("Expat and BSD-3-clause", "BSD-3-Clause AND MIT"),
        ("GPL-2+ or Artistic, and Expat", "Artistic-1.0-Perl AND GPL-2.0-or-later AND MIT"),
        ("public-domain", "LicenseRef-public-domain"),
        ("own-words", "LicenseRef-Debian-own-words"),
    ],
)
def test_words_of_debian_become_an_expression(words, licence):
    expression, texts = read_copyright("other", COPYRIGHT.format(words))
    assert expression == licence
    assert texts == (
        {licence: "Use it for whatever you like.\n\nIt is yours."} if words == "own-words" else {}
    )


def test_prose_of_debian_is_kept_whole():
    expression, texts = read_copyright("other", "Do as you like.\n")
    assert expression == "LicenseRef-Debian-other"
    assert texts == {expression: "Do as you like."}
