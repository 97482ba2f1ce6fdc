"""Settings: layers, round trip, and messages about errors."""

import re
import tomllib
from dataclasses import MISSING
from pathlib import Path

import pytest

from neuroferry import configs
from neuroferry.cli.parser import parse_config
from neuroferry.config import IGNORABLE, Config, make_config, write_config
from neuroferry.errors import ExitCode, InputError, UsageError
from neuroferry.files import read_toml
from neuroferry.setting import entries

FOLDERS = {"bids_dir": "/in", "output_dir": "/out"}


def test_what_is_written_is_read_again(tmp_path):
    config = parse_config(
        [
            *("in put", "out", "participant", "--participant_label", "sub-01", "02"),
            *("--session-id", "ses-a", "--workflows", "anat", "-d", "anat=x/y", "-w", "work"),
            *("--nprocs", "3", "--mem", "8GB", "--no-average-t1w", "--sloppy", "-vv"),
            *("--ignore", "denoising", "eddy", "--b0_threshold", "100", "--fix-gradients"),
            *("--streamlines", "0"),
        ]
    )
    assert config.bids_dir == Path("in put").absolute()
    assert config.input.participant_label == ("01", "02")
    assert config.input.session_label == ("a",)
    assert config.input.derivatives == {"anat": Path("x/y").absolute()}
    assert config.workflow.average_t1w is False
    assert config.execution.verbose == 2
    assert config.workflow.ignore == ("denoising", "eddy")
    assert (config.workflow.b0_threshold, config.workflow.fix_gradients) == (100.0, True)
    assert config.workflow.streamlines == 0
    assert make_config(tomllib.loads(write_config(config))) == config


def test_flags_go_over_the_file_and_the_file_over_the_defaults(tmp_path):
    path = tmp_path / "settings.toml"
    path.write_text('bids_dir = "/a"\n[workflow]\nsloppy = true\nrandom_seed = 5\n')
    config = parse_config(["--config", str(path), "/b", "/out", "--random-seed", "7"])
    assert config.bids_dir == Path("/b")
    assert config.workflow.sloppy is True
    assert config.workflow.random_seed == 7
    assert config.execution.plugin == "MultiProc"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "[workflow]\nslopy = true\n",
            "unknown key 'workflow.slopy'; the nearest is 'workflow.sloppy'.",
        ),
        ("[work]\na = 1\n", "unknown key 'work'; the nearest is 'workflow'."),
        ("[workflow]\nsloppy = 1\n", "'workflow.sloppy' must be true or false, not 1."),
        ("[workflow]\nstreamlines = true\n", "'workflow.streamlines' must be a whole number,"),
        ("[workflow]\nignore = 'eddy'\n", "'workflow.ignore' must be a list, not 'eddy'."),
        ("[workflow]\nignore = [1]\n", "'workflow.ignore' must hold text, not 1."),
        ("[input]\nderivatives = ['/a']\n", "'input.derivatives' must be a table, not ['/a']."),
        ("workflow = 3\n", "'workflow' must be a table, not 3."),
        ("[execution]\nnprocs = 0\n", "'execution.nprocs' must be at least 1, not 0."),
        (
            '[execution]\nplugin = "SGE"\n',
            "unknown value 'SGE' for 'execution.plugin'. Choose one of: MultiProc, Linear,",
        ),
        ('[workflow]\nworkflows = ["anatomy"]\n', "unknown value 'anatomy' for 'workflow.workfl"),
        ('[workflow]\nignore = ["b0bias"]\n', "unknown value 'b0bias' for 'workflow.ignore'."),
        ("[workflow]\nb0_threshold = -1\n", "'workflow.b0_threshold' must be at least 0, not -1."),
        ("[workflow]\nstreamlines = -1\n", "'workflow.streamlines' must be at least 0, not -1."),
        ("[workflow]\nrandom_seed = 0\n", "'workflow.random_seed' must be at least 1, not 0."),
        (
            "[workflow]\nslice_time_ref = 2\n",
            "'workflow.slice_time_ref' must be between 0 and 1, not 2.",
        ),
        (
            "[workflow]\nfd_spike_threshold = 0\n",
            "'workflow.fd_spike_threshold' must be above 0, not 0.",
        ),
        ("[slurm]\nretries = -1\n", "'slurm.retries' must be at least 0, not -1."),
        ('[slurm]\nprolog = ["a\\nb"]\n', "'slurm.prolog' must be one line of text."),
    ],
)
def test_a_wrong_setting_is_named(tmp_path, text, message):
    path = tmp_path / "settings.toml"
    path.write_text(text)
    with pytest.raises(UsageError, match=re.escape(f"The settings file {path}: {message}")):
        parse_config(["/in", "/out", "--config", str(path)])


FLOATS = [entry.key for entry in entries(Config) if entry.kind is float]


@pytest.mark.parametrize("key", FLOATS)
@pytest.mark.parametrize("number", ["nan", "inf", "-inf"])
def test_a_number_has_to_be_finite(key, number):
    table, _, name = key.rpartition(".")
    values = tomllib.loads(f"[{table}]\n{name} = {number}")
    with pytest.raises(UsageError, match=f"'{key}' must be a finite number, not {number}"):
        make_config({**FOLDERS, **values})


@pytest.mark.parametrize("entry", entries(Config), ids=lambda entry: entry.key)
def test_each_setting_keeps_its_own_rules(entry):
    """Its default and its example are valid, and its help reads as a sentence."""
    source = "The test"
    if entry.default is not MISSING:
        assert entry.read(entry.default, source) == entry.default
    if "example" in entry.about:
        entry.read(entry.about["example"], source)
    elif entry.kind is not bool:  # files show an example where there is no default
        assert entry.default is not None
    assert not entry.about["help"].endswith((".", " "))
    for value in entry.about.get("shortcuts", {}).values():
        entry.read(value, source)


def test_labels_come_with_and_without_their_prefix():
    labels = {"participant_label": ["sub-01", "02"], "task_id": ["task-rest"]}
    config = make_config({**FOLDERS, "input": labels})
    assert config.input.participant_label == ("01", "02")
    assert config.input.task_id == ("rest",)


@pytest.mark.parametrize("label", ["a\nb", "a\n"])
def test_no_text_has_two_lines(label):
    with pytest.raises(UsageError, match="must be one line of text"):
        make_config({**FOLDERS, "input": {"session_label": [label]}})


def test_json_is_the_plan_of_a_dry_run():
    with pytest.raises(UsageError, match="prints the plan of a dry run as JSON: add --dry-run"):
        make_config({**FOLDERS, "execution": {"json": True}})
    assert make_config({**FOLDERS, "execution": {"json": True, "dry_run": True}}).execution.json


def test_a_file_that_is_missing_or_no_toml(tmp_path):
    with pytest.raises(InputError, match="cannot be read") as info:
        read_toml(tmp_path / "none.toml")
    assert info.value.exit_code == ExitCode.NO_INPUT
    (tmp_path / "bad.toml").write_text("= 3")
    with pytest.raises(InputError, match=r"bad\.toml is not valid TOML"):
        read_toml(tmp_path / "bad.toml")


@pytest.mark.parametrize("name", ["laptop.toml", "slurm.toml"])
def test_the_settings_files_hold_the_defaults(name):
    values = read_toml(Path(configs.__file__).parent / name)
    assert make_config({**values, **FOLDERS}) == make_config(FOLDERS)


def test_every_step_that_can_be_ignored_says_of_what():
    for step in IGNORABLE.values():
        assert step.leaves_out
        assert set(step.modalities) <= {"T2w", "BOLD", "DWI"}
        assert step.modalities
