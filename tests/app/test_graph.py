"""Settings of Nipype for a run."""

import logging

import pytest
from nipype import config as nipype_config

from neuroferry.app.graph import configure_nipype
from neuroferry.config import make_config


@pytest.fixture
def nipype_settings():
    """Restore the settings and the log handlers of Nipype."""
    before = dict(nipype_config._sections["execution"])
    loggers = [logging.getLogger(f"nipype.{name}") for name in ("workflow", "interface", "utils")]
    handlers = [(logger, list(logger.handlers), logger.propagate) for logger in loggers]
    yield
    nipype_config._sections["execution"].update(before)
    for logger, kept, propagate in handlers:
        for handler in logger.handlers:
            handler.close()
        logger.handlers[:], logger.propagate = kept, propagate


def test_a_run_folder_with_awkward_characters(tmp_path, nipype_settings):
    folder = tmp_path / "it's 50% (odd): x"
    folder.mkdir()
    configure_nipype(make_config({"bids_dir": "/a", "output_dir": "/b"}), folder)
    assert nipype_config.get("execution", "crashdump_dir") == str(folder)
    assert (folder / "steps.log").exists()
