"""How the documentation is built: ``make docs``."""

import re
import sys
from pathlib import Path

import neuroferry

_HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(_HERE / "_ext"), str(_HERE.parent / "tests" / "helpers")]

project = "neuroferry"
author = "The neuroferry developers"
project_copyright = author
version = release = neuroferry.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.graphviz",
    "sphinx.ext.mathjax",
    "numpydoc",
    "references",
    "builder_graphs",
    "interface_specs",
]
exclude_patterns = ["_templates", "_ext"]
templates_path = ["_templates"]
default_role = "autolink"
highlight_language = "none"

autosummary_generate = True
add_module_names = False
autodoc_typehints = "none"  # the signature and the numpydoc section would say it twice more
autodoc_member_order = "bysource"
numpydoc_show_class_members = False
numpydoc_use_plots = False
graphviz_output_format = "svg"

html_theme = "furo"
html_title = f"neuroferry {release}"
html_static_path = ["_static"]
html_css_files = ["neuroferry.css"]
html_show_sourcelink = False
html_copy_source = False


def _link_pages(_app: object, _name: str, source: list[str]) -> None:
    """Link what pages call ``docs/usage.rst``, as they are read in the repository too."""
    source[0] = re.sub(r"``docs/(\w+)\.rst``", r":doc:`/\1`", source[0])


def _skip_imported(
    _app: object, _what: str, _name: str, member: object, _skip: bool, _options: object
) -> bool | None:
    """Leave out what a module imports; classes in C do not always say where they are from."""
    from_elsewhere = isinstance(member, type) and not member.__module__.startswith("neuroferry")
    return True if from_elsewhere else None


def setup(app: object) -> None:
    """Register what is this project's own."""
    app.connect("source-read", _link_pages)  # type: ignore[attr-defined]
    app.connect("autodoc-skip-member", _skip_imported)  # type: ignore[attr-defined]
