"""List all packages with their licences, and whether commercial use is allowed."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from neuroferry.errors import ExitCode
from neuroferry.licences.bill import read_bill
from neuroferry.licences.packages import Package, data_packages, python_packages
from neuroferry.licences.terms import load_licences

_IN_IMAGE = Path("/usr/share/neuroferry/licences.spdx.json")
_WORDS = {True: "yes", False: "no", None: "unknown"}
_KINDS = {"data": "Data", "python": "Python packages", "debian": "Debian packages"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare no arguments."""


def run(arguments: argparse.Namespace) -> int:
    """Print the packages of the image or, outside it, of this Python environment."""
    in_image = _IN_IMAGE.is_file()
    packages = (
        read_bill(_IN_IMAGE) if in_image else [*data_packages(), *python_packages("neuroferry")]
    )
    print("\n".join(describe(packages)))
    print()
    if in_image:
        print(
            "Texts of the licences: /usr/share/common-licenses, /usr/share/doc/PACKAGE/copyright, "
            "and /opt/neuroferry/lib; notices: /usr/share/neuroferry/NOTICE; all as SPDX 2.3: "
            f"{_IN_IMAGE}"
        )
    else:
        print(
            "External programs, such as those of MRtrix3, belong to this machine and are not "
            "listed."
        )
    return int(ExitCode.OK)


def describe(packages: Sequence[Package]) -> list[str]:
    """Describe packages in words.

    Parameters
    ----------
    packages : sequence of Package
        Packages to describe.

    Returns
    -------
    list of str
        A table for each kind of package, then the consequences for commercial use.
    """
    lines = []
    widths = [max(len(row) for row in column) for column in zip(*map(_row, packages), strict=True)]
    for kind, title in _KINDS.items():
        rows = [_row(package) for package in packages if package.kind == kind]
        if rows:
            lines += ["", f"{title}: name, version, commercial use, licence"]
            lines += [
                f"  {row[0]:<{widths[0]}}  {row[1]:<{widths[1]}}  {row[2]:<{widths[2]}}  {row[3]}"
                for row in rows
            ]
    doubtful = [package.name for package in packages if not package.commercial]
    lines.append("")
    if doubtful:
        names = ", ".join(doubtful)
        lines.append(f"Commercial use is forbidden, or not known to be allowed, for: {names}.")
    else:
        lines.append(f"The licences of all {len(packages)} packages allow commercial use.")
    return [*lines[1:], *(entry["text"] for entry in load_licences()["patents"])]


def _row(package: Package) -> tuple[str, str, str, str]:
    return package.name, package.version, _WORDS[package.commercial], package.licence
