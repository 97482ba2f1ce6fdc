"""Digital heads that several tests share."""

import shutil
import signal
import tempfile
from pathlib import Path

import pytest

from neuroferry.phantom import write_phantom_dataset

# A shell in the background starts its programs with Ctrl-C ignored, and they hand that on; tests
# that interrupt a program need it as a terminal has it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_configure(config):
    """Apply the filters for warnings in setup.cfg to the helpers, which have no package."""
    for path in (Path(__file__).parent / "helpers").glob("*.py"):
        for category in ("DeprecationWarning", "PendingDeprecationWarning"):
            config.addinivalue_line("filterwarnings", f"error::{category}:{path.stem}$")


@pytest.fixture(scope="session")
def phantom_bids(tmp_path_factory):
    """Two small phantom participants as a BIDS dataset; read-only by agreement."""
    root = tmp_path_factory.mktemp("phantom") / "bids"
    write_phantom_dataset(root, subjects=2, resolution=3.0, seed=3)
    return root


@pytest.fixture
def bids_copy(phantom_bids, tmp_path):
    """A copy of the phantom dataset that a test may spoil."""
    return Path(shutil.copytree(phantom_bids, tmp_path / "bids"))


@pytest.fixture
def shared_folder():
    """A folder that others can enter, which pytest's own is not."""
    folder = Path(tempfile.mkdtemp(prefix="neuroferry-test-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)
