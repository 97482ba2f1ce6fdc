"""Number the references of a docstring, and cite them by their numbers.

Functions here cite the references of their module. To Sphinx a citation belongs to one docstring,
so references become a numbered list and ``[1]_`` becomes ``[1]`` before numpydoc looks at them.
Headings in the docstring of a module become rubrics, as numpydoc makes them of functions.
"""

from __future__ import annotations

import re
from typing import Any

from sphinx.application import Sphinx


def _number(
    _app: Sphinx, what: str, _name: str, _obj: Any, _options: Any, lines: list[str]
) -> None:
    """Rewrite a docstring in place."""
    lines[:] = [
        re.sub(r"\[(\d+)\]_", r"[\1]", re.sub(r"^\.\. \[\d+\] ", "#. ", line)) for line in lines
    ]
    if what == "module":
        for index in range(1, len(lines)):
            if re.fullmatch(r"-{3,}", lines[index]) and len(lines[index]) == len(lines[index - 1]):
                lines[index - 1 : index + 1] = [f".. rubric:: {lines[index - 1]}", ""]


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the extension."""
    app.connect("autodoc-process-docstring", _number, priority=100)  # before numpydoc
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
