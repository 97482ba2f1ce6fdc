"""Settings: layers, round trip, and messages for what is wrong."""

import tomllib
from pathlib import Path

import pytest

from neuroferry.cli.parser import parse_config
from neuroferry.config import make_config, write_config
from neuroferry.errors import ExitCode, InputError, UsageError
from neuroferry.files import read_toml


@pytest.mark.parametrize("option", ["--use-syn-sdc", "--use_syn_sdc=warn", "--force-syn"])
def test_why_there_is_no_correction_without_a_field_map(option):
    with pytest.raises(UsageError, match="distortion without a field map that was tried"):
        parse_config(["/in", "/out", "participant", option])


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
            "unknown key 'workflow.slopy'; the nearest is 'workflow.s",
        ),
        ("[work]\na = 1\n", "unknown key 'work'; the nearest is 'workflow'"),
        ("[workflow]\nsloppy = 1\n", "'workflow.sloppy' must be of type bool, not 1"),
        ("workflow = 3\n", "'workflow' must be a table"),
        ("[execution]\nnprocs = 0\n", "nprocs must be at least 1"),
        ('[execution]\nplugin = "SGE"\n', "'SGE' is no plugin of neuroferry"),
        ('[workflow]\nworkflows = ["anatomy"]\n', "'anatomy' is no workflow"),
        ('[workflow]\nignore = ["b0bias"]\n', "cannot leave out 'b0bias'"),
        ("[workflow]\nb0_threshold = -1\n", "b0-threshold must not be negative"),
        ("[workflow]\nstreamlines = -1\n", "streamlines must not be negative"),
        ("[workflow]\nrandom_seed = 0\n", "random-seed must be at least 1"),
    ],
)
def test_a_wrong_setting_is_named(tmp_path, text, message):
    path = tmp_path / "settings.toml"
    path.write_text(text)
    with pytest.raises(UsageError, match=message):
        parse_config(["/in", "/out", "--config", str(path)])


def test_a_file_that_is_missing_or_no_toml(tmp_path):
    with pytest.raises(InputError, match="cannot be read") as info:
        read_toml(tmp_path / "none.toml")
    assert info.value.exit_code == ExitCode.NO_INPUT
    (tmp_path / "bad.toml").write_text("= 3")
    with pytest.raises(InputError, match=r"bad\.toml is not valid TOML"):
        read_toml(tmp_path / "bad.toml")


def test_the_settings_that_come_with_the_package_are_the_defaults():
    from neuroferry import configs

    path = Path(configs.__file__).parent / "laptop.toml"
    shipped = make_config({**read_toml(path), "bids_dir": "/a", "output_dir": "/b"})
    assert shipped == make_config({"bids_dir": "/a", "output_dir": "/b"})
