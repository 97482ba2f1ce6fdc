"""The process environment that a run needs, set before any numerical library is loaded."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

_CACHES = {
    "MPLCONFIGDIR": "matplotlib",
    "TEMPLATEFLOW_HOME": "templateflow",
    "XDG_CACHE_HOME": "cache",
    "DIPY_HOME": "dipy",
    "NILEARN_DATA": "nilearn",
}


def prepare_environment(omp_nthreads: int) -> None:
    """Pin what would change results, and give every library a place to write.

    Parameters
    ----------
    omp_nthreads : int
        Threads that one step may use.

    Notes
    -----
    The sum of a dot product depends on how many threads share it, so the linear algebra of
    every step runs on one thread whatever the machine has; steps and participants run side
    by side instead. Libraries that insist on a folder in ``$HOME`` get one that can be
    written, since ``$HOME`` on a compute node or in a container often cannot.
    """
    for name in ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS"):
        os.environ[name] = "1"
    os.environ["OMP_NUM_THREADS"] = str(omp_nthreads)
    os.environ["NO_ET"] = "1"  # Nipype is not to phone home
    os.environ["MPLBACKEND"] = "Agg"
    os.environ.setdefault("TEMPLATEFLOW_AUTOUPDATE", "off")
    home = Path.home()
    if not os.access(home, os.W_OK | os.X_OK):
        base = Path(tempfile.gettempdir()) / f"neuroferry-{os.getuid()}"
        base.mkdir(mode=0o700, exist_ok=True)
        os.environ["HOME"] = str(base)
        for name, folder in _CACHES.items():
            os.environ.setdefault(name, str(base / folder))
