"""List the inputs and outputs of each Nipype interface below its documentation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from nipype.interfaces.base import BaseInterface
from sphinx.application import Sphinx

#: Fields that every interface inherits from Nipype.
_INHERITED = {"trait_added", "trait_modified", "args", "environ"}


def _fields(spec: Any) -> Iterator[tuple[str, str, str]]:
    """Give name, type and description of each field."""
    for name, trait in sorted(spec.traits(transient=None).items()):
        if name in _INHERITED or name not in spec.copyable_trait_names():
            continue
        kind = str(trait.full_info(spec, name, None)).removeprefix("a ").removeprefix("an ")
        notes = [
            part for part in ("mandatory" if trait.mandatory else "", trait.desc or "") if part
        ]
        yield name, kind, "; ".join(notes)


def _section(title: str, spec: Any) -> Iterator[str]:
    fields = list(_fields(spec))
    if not fields:
        return
    yield from ("", f"**{title}**", "", ".. list-table::", "   :widths: 25 30 45", "")
    for name, kind, about in fields:
        yield f"   * - ``{name}``"
        yield f"     - {_plain(kind)}"
        yield f"     - {_plain(about)}"
    yield ""


def _plain(text: str) -> str:
    return " ".join(text.split()).replace("\\", "\\\\").replace("*", "\\*").replace("|", "\\|")


def _insert(
    _app: Sphinx, what: str, _name: str, obj: Any, _options: Any, lines: list[str]
) -> None:
    if what != "class" or not issubclass(obj, BaseInterface):
        return
    for title, spec in (("Inputs", obj.input_spec), ("Outputs", obj.output_spec)):
        if spec is not None:
            lines += _section(title, spec())


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the extension."""
    app.connect("autodoc-process-docstring", _insert, priority=900)  # after numpydoc
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
