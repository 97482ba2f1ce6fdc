"""MRIQC's own metric functions, called on arrays in an environment of their own.

The environment holds the pinned package ``mriqc`` without its dependencies, and what its metric
modules import: PyTorch, AFNI, FSL and FreeSurfer are not needed. It is made at the first use
(about 600 MB), below ``.cache`` or in the folder that ``MRIQC_ENV`` names. Nothing of it is
imported here.

    from mriqc_env import Call, call_mriqc
    values = call_mriqc({"efc": Call("mriqc.qc.anatomical:efc", (image,), {"decimals": 12})})

The command ``python benchmarks/mriqc_env.py`` makes the environment and prints its interpreter.
"""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import tempfile
import venv
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

MRIQC = "mriqc==24.0.2"
#: Versions of 2024, the year of that release: it asks for NumPy 1.
REQUIREMENTS = (
    *("numpy==1.26.4", "scipy==1.14.1", "pandas==2.2.3", "statsmodels==0.14.4"),
    *("scikit-learn==1.5.2", "scikit-image==0.24.0", "nibabel==5.3.2", "nilearn==0.10.4"),
    *("nipype==1.9.2", "nitransforms==24.0.2", "dipy==1.9.0"),
)
CHILD = Path(__file__).with_name("mriqc_child.py")


@dataclass(frozen=True)
class Call:
    """One call of a function in the environment.

    Attributes
    ----------
    function : str
        ``module:name``, the name dotted for a method.
    args : tuple
        Positional arguments: arrays, numbers, strings, None, and lists and dicts of these.
    kwargs : dict
        Keyword arguments.
    """

    function: str
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)


def mriqc_python() -> Path:
    """Return the interpreter of the environment, which is made if it is missing.

    Raises
    ------
    subprocess.CalledProcessError
        If a package cannot be installed.
    """
    cache = Path(__file__).parents[1] / ".cache"
    folder = Path(os.environ.get("MRIQC_ENV", cache / MRIQC.replace("==", "-")))
    python, complete = folder / "bin" / "python", folder / "complete"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_name(f"{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not complete.exists() or complete.read_text() != _contents():
            venv.create(folder, clear=True, with_pip=True)
            pip = [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check"]
            pip += ["--only-binary", ":all:"]
            for packages in (REQUIREMENTS, ("--no-deps", MRIQC)):
                subprocess.run([*pip, *packages], check=True, stdout=sys.stderr)
            complete.write_text(_contents())
    return python


def call_mriqc(calls: Mapping[str, Call]) -> dict[str, Any]:
    """Call functions in the environment, one after another in one process.

    Parameters
    ----------
    calls : mapping of str to Call
        By name.

    Returns
    -------
    dict
        Results by name; tuples come back as lists.

    Raises
    ------
    RuntimeError
        If a call fails, with its traceback.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        request = {
            key: {"function": c.function, "args": list(c.args), "kwargs": dict(c.kwargs)}
            for key, c in calls.items()
        }
        (folder / "request.json").write_text(json.dumps(encode(request, folder)))
        clean = {k: v for k, v in os.environ.items() if k not in {"PYTHONPATH", "PYTHONHOME"}}
        done = subprocess.run(
            [str(mriqc_python()), str(CHILD), name],
            env={**clean, "OMP_NUM_THREADS": "1", "NO_ET": "1"},
            cwd=name,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"A function of MRIQC failed:\n{done.stderr}")
        results: dict[str, Any] = decode(json.loads((folder / "results.json").read_text()), folder)
    return results


def encode(value: Any, folder: Path) -> Any:
    """Turn a value into JSON; arrays become files in the folder."""
    if isinstance(value, np.ndarray):
        path = folder / f"{len(list(folder.glob('*.npy')))}.npy"
        np.save(path, value, allow_pickle=False)
        return {"__array__": path.name}
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Mapping):
        return {str(key): encode(item, folder) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [encode(item, folder) for item in value]
    return str(value) if isinstance(value, Path) else value


def decode(value: Any, folder: Path) -> Any:
    """Turn JSON back into a value."""
    if isinstance(value, dict):
        if set(value) == {"__array__"}:
            return np.load(folder / value["__array__"], allow_pickle=False)
        return {key: decode(item, folder) for key, item in value.items()}
    return [decode(item, folder) for item in value] if isinstance(value, list) else value


def _contents() -> str:
    return "\n".join([*REQUIREMENTS, MRIQC, ""])


if __name__ == "__main__":
    print(mriqc_python())
