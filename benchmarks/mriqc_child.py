"""Runs in the environment of ``mriqc_env``: reads calls from a folder, writes their results there.

MRIQC's configuration imports PyBIDS, TemplateFlow and its whole workflow; its metric functions use
nothing of it but a logger. A module with a logger takes its place, and the package of interfaces
is entered without the imports of its ``__init__``, so that single modules can be imported.
"""

from __future__ import annotations

import importlib
import json
import logging
import sys
import types
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

from mriqc_env import decode, encode


def _stand_in() -> None:
    config: Any = types.ModuleType("mriqc.config")
    log = logging.getLogger("mriqc")
    config.loggers = types.SimpleNamespace(interface=log, workflow=log, cli=log)
    import mriqc

    sys.modules["mriqc.config"] = config
    mriqc.config = config
    for name in ("interfaces", "workflows"):
        package: Any = types.ModuleType(f"mriqc.{name}")
        package.__path__ = [str(distribution("mriqc").locate_file(f"mriqc/{name}"))]
        sys.modules[package.__name__] = package


def _run(call: dict[str, Any]) -> Any:
    module, _, name = call["function"].partition(":")
    found: Any = importlib.import_module(module)
    for part in name.split("."):
        found = getattr(found, part)
    return found(*call["args"], **call["kwargs"])


if __name__ == "__main__":
    here = Path(sys.argv[1])
    _stand_in()
    request = json.loads((here / "request.json").read_text())
    answers = {key: _run(decode(call, here)) for key, call in request.items()}
    (here / "results.json").write_text(json.dumps(encode(answers, here)))
