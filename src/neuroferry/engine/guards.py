"""Protection against what Nipype takes for the result of a step although it is not."""

from __future__ import annotations

import hashlib
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

from neuroferry.trust import refuse_foreign

# types of which Nipype hashes the whole value
_PRINTED_WHOLE = (str, bytes, bool, int, complex, type(None), dict, list, tuple)


def guard_nipype() -> None:
    """Make Nipype, in this process and its forks, trust no result that it should not trust."""
    _guard_pickles()
    _guard_hashes()


def _guard_pickles() -> None:
    """Refuse pickles that others could have written.

    The writer of a pickle determines what is executed when it is loaded.
    """
    from nipype.pipeline.engine import base, nodes, utils
    from nipype.utils import filemanip

    load = filemanip.loadpkl
    if getattr(load, "guarded", False):
        return

    def loadpkl(infile: str | Path) -> Any:
        refuse_foreign(Path(infile), "The result file")
        return load(infile)

    loadpkl.guarded = True  # type: ignore[attr-defined]
    for module in (filemanip, base, nodes, utils):
        module.loadpkl = loadpkl


def _guard_hashes() -> None:
    """Hash whole input values.

    Nipype hashes inputs by their printed form. That of an array, table or sparse matrix leaves
    most of it out, that of a float ends with the tenth decimal, and a path that is not a string
    is not followed to the file's content: other inputs would be taken for the same, and the
    earlier result for theirs.
    """
    from nipype.interfaces.base.specs import BaseTraitedSpec

    printed = BaseTraitedSpec._get_sorteddict
    if getattr(printed, "guarded", False):
        return

    def get_sorteddict(spec: Any, value: Any, *args: Any, **kwargs: Any) -> Any:
        def form(part: Any) -> Any:
            return printed(spec, part, *args, **kwargs)

        return _whole(value, form)

    get_sorteddict.guarded = True  # type: ignore[attr-defined]
    BaseTraitedSpec._get_sorteddict = get_sorteddict


def _whole(value: Any, form: Callable[[Any], Any]) -> Any:
    """Return what stands for a value in the hash, given Nipype's own form of a value."""
    import numpy as np
    from nipype.interfaces.base import isdefined

    if isinstance(value, os.PathLike):
        return form(os.fspath(value))
    if isinstance(value, float):
        text = form(value)
        return repr(float(value)) if float(text) != value else text
    if isinstance(value, (set, frozenset)):
        # in one order, whatever the process
        return sorted((_whole(item, form) for item in value), key=repr)
    if not isdefined(value) or isinstance(value, (*_PRINTED_WHOLE, np.generic)):
        return form(value)
    if callable(value):
        return form(value)  # pickled by its name, which says nothing of its code
    try:
        return f"{type(value).__qualname__} {_digest(value)}"
    except Exception:
        return form(value)  # it cannot be pickled; the step itself tells


def _digest(value: Any) -> str:
    """Compute a digest of a value, the same in every process and after it was pickled."""
    import joblib  # few graphs have such values
    import numpy as np

    if type(value) in (np.ndarray, np.memmap) and value.dtype != object:
        return f"{value.shape} {joblib.hash(np.ascontiguousarray(value))}"
    if isinstance(value, np.ma.MaskedArray):  # joblib 1.6 fails on them
        masked = np.broadcast_to(value.mask, value.shape)
        return f"{_digest(np.asarray(value.data))} {_digest(masked)}"
    packed = pickle.dumps(value)
    try:
        return str(joblib.hash(pickle.loads(packed)))
    except Exception:
        return hashlib.sha256(packed).hexdigest()
