"""Process environment of a run, set before any numerical library is loaded."""

from __future__ import annotations

import os
import stat
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
    """Fix variables that would change results, and give every library a folder to write to.

    Parameters
    ----------
    omp_nthreads : int
        Threads that one step may use.

    Notes
    -----
    The sum of a dot product depends on the number of threads that share it, so the linear algebra
    of every step runs on one thread on any machine; steps and participants run in parallel
    instead. Libraries that need a folder in ``$HOME`` get a writable one, since ``$HOME`` on a
    compute node or in a container often is not.
    """
    for name in ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS"):
        os.environ[name] = "1"
    os.environ["OMP_NUM_THREADS"] = str(omp_nthreads)
    os.environ["NO_ET"] = "1"  # Nipype must not phone home
    os.environ["MPLBACKEND"] = "Agg"
    os.environ.setdefault("TEMPLATEFLOW_AUTOUPDATE", "off")
    # else HDF5 refuses transforms where the file system has no locks
    os.environ.setdefault("HDF5_USE_FILE_LOCKING", "FALSE")
    try:
        home: Path | None = Path.home()
    except RuntimeError:  # no HOME, and a user without a name on this machine
        home = None
    if home is None or not os.access(home, os.W_OK | os.X_OK):
        base = make_home()
        os.environ["HOME"] = str(base)
        for name, folder in _CACHES.items():
            os.environ.setdefault(name, str(base / folder))


def make_home() -> Path:
    """Create a folder of this user alone in the temporary folder.

    Returns
    -------
    pathlib.Path
        The same at each call, unless another user owns a folder of that name: then a new one.
    """
    base = Path(tempfile.gettempdir()) / f"neuroferry-{os.getuid()}"
    try:
        base.mkdir(mode=0o700)
    except FileExistsError:
        about = base.lstat()
        private = stat.S_ISDIR(about.st_mode) and not about.st_mode & 0o077
        if about.st_uid != os.getuid() or not private:
            return Path(tempfile.mkdtemp(prefix=f"{base.name}-"))
    return base
