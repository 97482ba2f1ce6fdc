"""Nipype's own tests of its engine and plugins, run with our plugins in the place of its own.

What users' code relies on works: errors, crash files, callbacks, results. The differences that
remain are named here with their reasons.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import nipype.pipeline
import pytest

_SWAP = """
import nipype.pipeline.plugins as plugins
from neuroferry.engine import LinearPlugin, MultiProcPlugin

plugins.LinearPlugin = LinearPlugin
plugins.MultiProcPlugin = MultiProcPlugin
"""

# the test wants an error before the run; a step that declares more than there is runs alone with
# all that there is, as declarations are estimates
DIFFERENCES = {
    "test_no_more_memory_than_specified": "memory",
    "test_no_more_threads_than_specified": "processors",
    "test_no_more_gpu_threads_than_specified": "GPUs",
}

# of the plugins, those that nothing else is needed for
_FILES = (
    *(f"engine/tests/test_{name}.py" for name in ("base", "engine", "join", "nodes", "utils")),
    "engine/tests/test_workflows.py",
    *(f"plugins/tests/test_{name}.py" for name in ("base", "callback", "debug", "linear")),
    "plugins/tests/test_multiproc.py",
    "plugins/tests/test_tools.py",
)


@pytest.mark.slow
def test_nipypes_own_tests_pass_with_our_plugins(tmp_path: Path) -> None:
    """All but the named differences."""
    (tmp_path / "swap.py").write_text(_SWAP)
    folder = Path(nipype.pipeline.__path__[0])
    ended = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "-p", "swap", "-p", "no:cacheprovider"),
            *("-W", "ignore", "--rootdir", str(tmp_path), "--basetemp", str(tmp_path / "base")),
            *(str(folder / name) for name in _FILES),
        ],
        cwd=tmp_path,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path]),
            "NO_ET": "1",
            "PYTEST_ADDOPTS": "",
        },
        capture_output=True,
        text=True,
    )
    failed = {
        found[1].partition("[")[0]
        for found in re.finditer(r"^(?:FAILED|ERROR) \S*?::(\S+)", ended.stdout, re.MULTILINE)
    }
    assert failed == set(DIFFERENCES), ended.stdout[-4000:]
    passed = re.search(r"(\d+) passed", ended.stdout)
    assert passed is not None
    assert int(passed[1]) >= 110
