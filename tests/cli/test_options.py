"""Files generated from the settings are up to date."""

import argparse
import re
from pathlib import Path

import pytest

from neuroferry.cli.main import COMMANDS, command_parser
from neuroferry.cli.options import ROOT, generated, main, value_options, with_lists
from neuroferry.cli.parser import build_parser
from neuroferry.config import IGNORABLE, Config
from neuroferry.errors import ExitCode
from neuroferry.setting import entries

LAUNCHER = (ROOT / "containers" / "neuroferry").read_text()


@pytest.mark.parametrize("path", generated(), ids=lambda path: path.name)
def test_a_file_says_what_the_settings_say(path):
    assert path.read_text() == generated()[path], "run: make generated"


def test_the_command_names_what_is_out_of_date(capsys):
    assert main([]) == 0
    assert capsys.readouterr().out == ""


def test_the_launcher_keeps_the_rest_of_its_text():
    begin, end = (LAUNCHER.index(mark) for mark in ("readonly TAKES_ONE", "# --- end ---"))
    emptied = LAUNCHER[:begin] + "readonly TAKES_ONE='--old '\n" + LAUNCHER[end:]
    assert with_lists(emptied) == LAUNCHER
    assert LAUNCHER.count("TAKES_ONE=") == LAUNCHER.count("TAKES_MORE=") == 1


def test_the_lists_say_how_many_values_an_option_takes():
    one, more = value_options()
    parsers = [build_parser()]
    parsers += [command_parser(name)[1] for name in COMMANDS if name not in ("job", "steward")]
    actions = [action for parser in parsers for action in parser._actions]
    for action in actions:
        for flag in action.option_strings:
            assert (flag in one) == (action.nargs is None)
            assert (flag in more) == (action.nargs in ("+", "*"))
    assert not set(one) & set(more)


def test_the_launcher_binds_whatever_is_a_path():
    body = re.findall(r"convert_value\(\) \{.*?\n\}", LAUNCHER, re.DOTALL)[0]
    cases = {word for line in re.findall(r"^ +(-.*)\)$", body, re.M) for word in line.split(" | ")}
    paths = {flag for e in entries(Config) if e.kind is Path for flag in e.flags}
    assert paths <= cases


def test_the_launcher_ends_with_codes_that_are_listed():
    codes = {int(code) for code in re.findall(r"\bfail (\d+)", LAUNCHER)}
    assert len(codes) > 3
    assert codes <= set(ExitCode)


def test_the_pages_are_complete():
    pages = generated()
    options = pages[ROOT / "docs" / "options.rst"]
    for entry in entries(Config):
        assert f"``{entry.key}``" in options
    for name, step in IGNORABLE.items():
        assert f"* ``{name}``: {' and '.join(step.modalities)}: {step.leaves_out}" in options
    codes = pages[ROOT / "docs" / "exit_codes.rst"]
    for code in ExitCode:
        assert f"   * - {int(code)}\n     - ``{code.name}``\n" in codes


def test_tables_have_all_their_cells():
    for path, text in generated().items():
        for table in text.split(".. list-table::")[1:] if path.suffix == ".rst" else ():
            widths = len(re.findall(r":widths: (.*)", table)[0].split())
            rows = table.split("\n   * -")[1:]
            assert rows
            assert {row.count("\n     -") for row in rows} == {widths - 1}


def test_commands_are_argparse_parsers_of_their_own():
    for name in COMMANDS:
        assert isinstance(command_parser(name)[1], argparse.ArgumentParser)
