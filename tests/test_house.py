"""The shape of the repository: root folders of the package's own, requirements that it imports."""

import ast
import configparser
import re
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

import neuroferry

ROOT = Path(neuroferry.__file__).resolve().parents[2]


@pytest.mark.parametrize("name", ["workflows", "interfaces", "configs"])
def test_root_folders_are_linked_into_the_package(name):
    link = Path(neuroferry.__file__).parent / name
    assert link.is_symlink()
    assert link.resolve() == ROOT / name
    assert (ROOT / name / "__init__.py").is_file()


def imported_packages(*folders):
    """Give the top-level packages that modules import, wherever in them that happens."""
    found = set()
    for path in (path for folder in folders for path in (ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                found.add(node.module.partition(".")[0])
    return found - sys.stdlib_module_names - {"neuroferry"}


def test_requirements_are_what_the_code_imports():
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    lines = config["options"]["install_requires"] + config["options.extras_require"]["dask"]
    required = {re.match(r"[\w.-]+", line)[0] for line in lines.split() if line[0].isalpha()}
    holders = packages_distributions()
    imported = {
        re.sub(r"[-_.]+", "-", holders[name][0]).lower()
        for name in imported_packages("src", "workflows", "interfaces", "configs")
    }
    assert required == imported
