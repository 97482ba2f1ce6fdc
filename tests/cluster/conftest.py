"""The image that several tests of this folder share."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from people import APPTAINER

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def built():
    """The path of the image, built where it is missing or out of date."""
    if not shutil.which(APPTAINER) and not os.environ.get("NEUROFERRY_NEEDS_IMAGE"):
        pytest.skip("Apptainer is not installed and could not be")
    build = subprocess.run(
        [ROOT / "containers" / "build"], capture_output=True, text=True, check=False
    )
    assert build.returncode == 0, build.stderr
    return Path(build.stdout.strip())
