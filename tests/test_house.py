"""The shape of the repository: the root folders are the package's own."""

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
