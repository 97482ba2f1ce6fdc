"""The shape of the repository: folders, tests, requirements, and the page that describes it."""

import ast
import configparser
import re
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

import neuroferry

ROOT = Path(neuroferry.__file__).resolve().parents[2]
PACKAGE = ROOT / "src" / "neuroferry"

#: Tests of several modules together, and of what; every other test module mirrors one module.
TOGETHER = {
    "app/test_bold_quality_run.py": "quality of a BOLD run, end to end",
    "app/test_dwi_run.py": "a DWI run, end to end",
    "app/test_func_run.py": "a BOLD run, end to end",
    "app/test_mutations.py": "thousands of damaged files, planned",
    "app/test_poor_disk.py": "a run on a disk with few abilities",
    "cli/test_slurm_commands.py": "the commands for runs on a cluster",
    "cluster/test_image.py": "the image",
    "cluster/test_intake.py": "from a scanner to the page",
    "cluster/test_move.py": "move and fetch, between two machines",
    "cluster/test_slurm.py": "the SLURM plugin on a real SLURM",
    "cluster/test_gridengine.py": "Dask workers on a real Grid Engine",
    "cluster/test_slurm_faults.py": "faults around jobs on a real SLURM",
    "cluster/test_slurm_image.py": "the image on a real SLURM",
    "cluster/test_trust.py": "awkward names and signatures, with the image",
    "engine/slurm/test_plan.py": "units, packs, groups and scripts",
    "engine/slurm/test_submit.py": "submit.sh",
    "interfaces/epi/test_fieldmaps.py": "field maps of every kind against one field",
    "reports/test_parts.py": "pictures, methods, verdicts and advice of a page",
    "selection/test_said_and_built.py": "plans against graphs",
    "test_docs.py": "pages of the documentation against the program",
    "test_house.py": "the repository",
    "workflows/test_base_func.py": "BOLD runs in a participant's graph",
    "engine/test_nipype_conformance.py": "Nipype's own tests, with our plugins",
    "workflows/test_kinds.py": "kinds of step of every builder",
}


@pytest.mark.parametrize("name", ["workflows", "interfaces", "configs"])
def test_root_folders_are_linked_into_the_package(name):
    link = Path(neuroferry.__file__).parent / name
    assert link.is_symlink()
    assert link.resolve() == ROOT / name
    assert (ROOT / name / "__init__.py").is_file()


def mirrored(test):
    """Name what a test module may be the test of: a module, a package or a benchmark."""
    path = test.parent / test.stem.removeprefix("test_")
    if path.parts[0] == "benchmarks":
        return [ROOT / f"{path}.py"]
    return [PACKAGE / f"{path}.py", PACKAGE / path / "__init__.py"]


def test_every_test_module_mirrors_a_module():
    tests = [path.relative_to(ROOT / "tests") for path in (ROOT / "tests").rglob("test_*.py")]
    lost = [
        str(test)
        for test in tests
        if str(test) not in TOGETHER and not any(path.exists() for path in mirrored(test))
    ]
    assert lost == []
    assert set(TOGETHER) <= set(map(str, tests))


def layers():
    """Read the layers from the contract: a list of sets of names, the highest first."""
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    lines = parser["importlinter:contract:layers"]["layers"].split("\n")
    names = [set(re.findall(r"(?<!\()\bneuroferry\.(\w+)", line)) for line in lines]
    return [found for found in names if found]


def test_every_part_of_the_package_has_a_layer():
    parts = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()}
    parts |= {path.stem for path in PACKAGE.glob("*.py")} - {"__init__", "__main__"}
    assert set().union(*layers()) == parts - {"configs"}  # configs holds no code


def test_the_architecture_page_has_the_layers_of_the_contract():
    text = (ROOT / "docs" / "architecture.rst").read_text(encoding="utf-8")
    section = text.partition("\nLayers\n")[2].partition("\nPackages with subpackages")[0]
    table = section.partition("\n=====")[2]
    rows = [re.findall(r"``(\w+)``", line) for line in table.splitlines() if line[:2] == "``"]
    assert [set(row) for row in rows if row] == layers()


def test_the_architecture_page_names_every_room():
    text = (ROOT / "docs" / "architecture.rst").read_text(encoding="utf-8")
    section = text.partition("\nPackages with subpackages")[2].partition("\n===")[0]
    rooms = {
        str(path.parent.relative_to(PACKAGE))
        for top in PACKAGE.iterdir()
        for path in top.glob("*/__init__.py")
    }
    assert len(rooms) > 10
    entries = dict(re.findall(r"^``(\w+)``\n((?:    .*\n)+)", section, re.MULTILINE))
    named = {
        f"{top}/{room}" for top, body in entries.items() for room in re.findall(r"``(\w+)``", body)
    }
    assert rooms - named == set()


def imported_packages(*folders):
    """Give the top-level packages that modules import, wherever in them that happens."""
    found = set()
    for path in (path for folder in folders for path in (ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                found.add(node.module.partition(".")[0])
    return found - sys.stdlib_module_names - {"neuroferry"}


def test_requirements_are_what_the_code_imports():
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    lines = config["options"]["install_requires"]
    lines += config["options.extras_require"]["dask"] + config["options.extras_require"]["intake"]
    required = {re.findall(r"^[\w.-]+", line)[0] for line in lines.split() if line[0].isalpha()}
    holders = packages_distributions()
    imported = {
        re.sub(r"[-_.]+", "-", holders[name][0]).lower()
        for name in imported_packages("src", "workflows", "interfaces", "configs")
    }
    assert required == imported
