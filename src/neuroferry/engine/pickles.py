"""Protection against loading other users' pickles as Nipype's result files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from neuroferry.trust import refuse_foreign


def guard_pickles() -> None:
    """Make Nipype, in this process and its forks, refuse pickles that others could have written.

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
