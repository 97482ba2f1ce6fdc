"""The command line: flags, their spellings, and the resulting settings."""

from pathlib import Path

import pytest

from neuroferry.cli.parser import build_parser, parse_config
from neuroferry.config import Config, InputConfig, make_config
from neuroferry.errors import UsageError
from neuroferry.setting import COMMAND_LINE, entries

FOLDERS = ["/in", "/out", "participant"]
SPELLINGS = [(e, flag) for e in entries(Config) if not e.positional for flag in e.flags]


def value_of(config, key):
    for name in key.split("."):
        config = getattr(config, name)
    return config


def given(entry):
    """Make arguments that set a value other than the default, and return this value."""
    about = entry.about
    if entry.kind is bool:
        return [], not entry.default
    if about.get("action") == "count":
        return [], 1
    if "choices" in about:
        word = next(name for name in about["choices"] if name != entry.default)
    elif entry.kind in (int, float):
        word = "1" if about.get("maximum") else "7"
    else:
        word = "/some/where" if entry.kind is Path else "some"
    if entry.shape == "table":
        return [f"x={word}"], {"x": Path(word)}
    value = entry.kind(word)
    return [word], (value,) if entry.shape == "list" else value


@pytest.mark.parametrize(("entry", "flag"), SPELLINGS, ids=lambda item: getattr(item, "key", item))
@pytest.mark.parametrize("underscores", [False, True])
def test_every_flag_sets_its_own_setting_alone(monkeypatch, entry, flag, underscores):
    monkeypatch.delenv("TEMPLATEFLOW_HOME", raising=False)
    words, value = given(entry)
    if underscores and flag.startswith("--"):
        flag = "--" + flag[2:].replace("-", "_")
    needed = ["--dry-run"] if entry.name == "json" else []
    config = parse_config([*FOLDERS, *needed, flag, *words])
    assert value_of(config, entry.key) == value
    assert value != entry.default
    plain = parse_config([*FOLDERS, *needed])
    for other in entries(Config):
        if other.key != entry.key:
            assert value_of(config, other.key) == value_of(plain, other.key)


def test_no_two_settings_share_a_flag():
    flags = [flag for _, flag in SPELLINGS]
    flags += [flag for entry in entries(Config) for flag in entry.about.get("shortcuts", {})]
    assert len(flags) == len(set(flags))


def test_without_flags_there_are_the_defaults(monkeypatch):
    monkeypatch.delenv("TEMPLATEFLOW_HOME", raising=False)
    config = parse_config(["/in", "/out"])
    assert config == make_config({"bids_dir": "/in", "output_dir": "/out"})
    assert config.input == InputConfig()


def test_words_become_values(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/me")
    config = parse_config(
        [
            *("in", "out", "group", "-t", "task-rest", "x", "-d", "a=d", "b=~/e=f"),
            *("-w~/work", "-vv", "-v", "--finished-work", "pack", "--clean-workdir"),
            *("--slurm-extra=--exclusive", "--slurm-extra=--x=1", "--no-average-t1w"),
        ]
    )
    assert config.bids_dir == tmp_path / "in"
    assert config.level == "group"
    assert config.input.task_id == ("rest", "x")
    assert config.input.derivatives == {"a": tmp_path / "d", "b": Path("/home/me/e=f")}
    assert config.work_dir == Path("/home/me/work")
    assert config.execution.verbose == 3
    assert config.execution.finished_work == "remove"
    assert config.slurm.extra == ("--exclusive", "--x=1")
    assert config.workflow.average_t1w is False


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--plugin", "SGE"], r"^Unknown value 'SGE' for --plugin\. Choose one of: MultiProc, "),
        (["--slurm-packing", "all"], r"^Unknown value 'all' for --slurm-packing\. Choose one of"),
        (["--ignore", "eddy", "b0bias"], r"^Unknown value 'b0bias' for --ignore\."),
        (["--nthreads", "0"], r"^--nprocs must be at least 1, not 0\.$"),
        (["--slice-time-ref", "1.5"], r"^--slice-time-ref must be between 0 and 1, not 1\.5\.$"),
        (["--b0-threshold", "inf"], r"^--b0-threshold must be a finite number, not inf\.$"),
        (["--slurm-prolog", "a\nb"], r"^--slurm-prolog must be one line of text\.$"),
        (["--echo-idx", "x"], r"^Argument --echo-idx: invalid int value: 'x'. See neuroferry --h"),
        (["--plug", "Linear"], "^Unrecognized arguments: --plug Linear"),
        (["--ignore"], "^Argument --ignore: expected at least one argument"),
        (["--derivatives", "x"], "^--derivatives takes NAME=PATH"),
        (["--slurm-retries", "2"], "^Unrecognized arguments: --slurm-retries 2"),
    ],
)
def test_a_wrong_word_is_named(words, message):
    with pytest.raises(UsageError, match=message):
        parse_config([*FOLDERS, *words])


FLOATS = [e for e in entries(Config) if e.kind is float and e.flag]


@pytest.mark.parametrize("entry", FLOATS, ids=lambda entry: entry.key)
@pytest.mark.parametrize("word", ["nan", "inf", "-inf"])
def test_a_number_has_to_be_finite(entry, word):
    with pytest.raises(UsageError, match=f"^{entry.flag} must be a finite number, not {word}"):
        parse_config([*FOLDERS, f"{entry.flag}={word}"])


@pytest.mark.parametrize("option", ["--use-syn-sdc", "--use_syn_sdc=warn", "--force-syn"])
def test_why_there_is_no_correction_without_a_field_map(option):
    with pytest.raises(UsageError, match="none of the fieldmap-less methods we tested reduced"):
        parse_config([*FOLDERS, option])


def test_help_has_every_flag_with_its_default():
    text = "".join(build_parser().format_help().split())  # lines break anywhere
    for entry, flag in SPELLINGS:
        assert flag in text
        if isinstance(entry.default, (int, float)) and not isinstance(entry.default, bool):
            assert f"(default:{entry.default:g})" in text or entry.about.get("action")
    for choice in ("slice-replacement", "waypoints", "SLURMGraph", "subject"):
        assert choice in text


def test_a_file_may_ask_for_json_and_the_command_line_for_the_dry_run(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text("[execution]\njson = true\n")
    assert parse_config([*FOLDERS, "--config", str(path), "--dry-run"]).execution.json


def test_a_setting_without_a_flag_is_named_by_its_key():
    entry = next(e for e in entries(Config) if e.key == "slurm.retries")
    with pytest.raises(UsageError, match=r"^'slurm\.retries' must be a whole number, not 'x'"):
        entry.read("x", COMMAND_LINE)
