"""Rendering of the page templates into self-contained pages."""

from __future__ import annotations

from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neuroferry import __version__
from neuroferry.files import write_text
from neuroferry.host import in_host_words
from neuroferry.judgement.ratings import ARTIFACTS, RATING_WORDS

if TYPE_CHECKING:
    from jinja2 import Environment


@lru_cache(maxsize=1)
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("neuroferry.reports", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["host"] = in_host_words
    environment.globals["asset"] = _asset
    environment.globals["artifacts"] = ARTIFACTS
    environment.globals["rating_words"] = RATING_WORDS
    return environment


def _asset(name: str) -> str:
    """Read a script or a style sheet of a page."""
    return files("neuroferry.reports").joinpath(name).read_text(encoding="utf-8")


def write_page(template: str, path: Path, values: dict[str, Any]) -> Path:
    """Render a template and write the page, whole or not at all.

    Parameters
    ----------
    template : str
        Name of a template in the folder of this module.
    path : pathlib.Path
        The HTML file.
    values : dict
        Values for the template; text is escaped.

    Returns
    -------
    pathlib.Path
        ``path``.
    """
    page = (
        _environment()
        .get_template(template)
        .render(
            version=__version__,
            css=_asset("report.css"),
            js=_asset("report.js"),
            **values,
        )
    )
    write_text(path, page)
    return path
