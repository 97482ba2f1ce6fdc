"""Bill of materials: every package with its version and licence, as SPDX 2.3.

``python -m neuroferry.licences.bill FILE`` writes that of the image while it is built, and
prints the licence expression of the whole image.

References
----------
.. [1] https://spdx.github.io/spdx-spec/v2.3/
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from neuroferry import __version__
from neuroferry.errors import InputError
from neuroferry.files import write_json
from neuroferry.licences.debian import debian_packages
from neuroferry.licences.packages import Package, data_packages, python_packages
from neuroferry.licences.terms import join_expressions, load_licences

_KINDS = {"python": "pkg:pypi/{0}@{1}", "debian": "pkg:deb/debian/{0}@{1}"}


def make_bill(
    packages: Sequence[Package], texts: Mapping[str, str], created: datetime
) -> dict[str, Any]:
    """Describe packages as an SPDX 2.3 document.

    Parameters
    ----------
    packages : sequence of Package
        Packages of the image.
    texts : mapping of str to str
        Text of each of their licences without an SPDX identifier.
    created : datetime.datetime
        Time of creation, in UTC.
    """
    entries = [_entry(package) for package in packages]
    digest = hashlib.sha256(json.dumps(entries).encode()).hexdigest()[:16]
    return {
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": f"neuroferry-{__version__}",
        "documentNamespace": f"https://spdx.org/spdxdocs/neuroferry-{__version__}-{digest}",
        "creationInfo": {
            "created": created.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "creators": [f"Tool: neuroferry-{__version__}"],
        },
        "packages": entries,
        "relationships": [
            {
                "spdxElementId": "SPDXRef-DOCUMENT",
                "relationshipType": "DESCRIBES",
                "relatedSpdxElement": entry["SPDXID"],
            }
            for entry in entries
        ],
        "hasExtractedLicensingInfos": [
            {
                "licenseId": ref,
                "extractedText": text or f"See /usr/share/doc of the packages under {ref}.",
            }
            for ref, text in sorted(_used(packages, texts).items())
        ],
    }


def _entry(package: Package) -> dict[str, Any]:
    name = re.sub(r"[^A-Za-z0-9.-]", "-", package.name)
    entry: dict[str, Any] = {
        "SPDXID": f"SPDXRef-{package.kind}-{name}",
        "name": package.name,
        "versionInfo": package.version,
        "downloadLocation": "NOASSERTION",
        "filesAnalyzed": False,
        "licenseConcluded": "NOASSERTION",
        "licenseDeclared": package.licence,
        "copyrightText": "NOASSERTION",
    }
    if package.kind in _KINDS:
        entry["externalRefs"] = [
            {
                "referenceCategory": "PACKAGE-MANAGER",
                "referenceType": "purl",
                "referenceLocator": _KINDS[package.kind].format(
                    quote(package.name, safe=""), quote(package.version, safe="")
                ),
            }
        ]
    return entry


def _used(packages: Sequence[Package], texts: Mapping[str, str]) -> dict[str, str]:
    """Collect the texts of the packages' licences without an identifier."""
    known = {**load_licences()["texts"], **texts}
    refs = {
        ref for package in packages for ref in re.findall(r"LicenseRef-[\w.-]+", package.licence)
    }
    return {ref: known.get(ref, "") for ref in refs}


def read_bill(path: Path) -> list[Package]:
    """Read the packages of a bill of materials written by `make_bill`."""
    document = json.loads(path.read_text(encoding="utf-8"))
    return [
        Package(
            entry["name"],
            entry["versionInfo"],
            entry["SPDXID"].split("-")[1],
            entry["licenseDeclared"],
        )
        for entry in document["packages"]
    ]


def image_packages() -> tuple[list[Package], dict[str, str]]:
    """Read the packages of the image from inside it, and the texts of unnamed licences.

    Raises
    ------
    InputError
        If commercial use of a package is not allowed, or not known to be.
    """
    debian, texts = debian_packages()
    packages = [*data_packages(), *python_packages(), *debian]
    doubtful = [package for package in packages if not package.commercial]
    if doubtful:
        names = ", ".join(f"{package.name} ({package.licence})" for package in doubtful)
        raise InputError(
            f"The image must not contain packages that forbid, or may forbid, commercial use: "
            f"{names}. Remove them, or add the terms of their licences to configs/licences.toml."
        )
    return packages, texts


def main(path: str) -> None:
    """Write the bill of materials of the image in which this runs, and print its licences."""
    packages, texts = image_packages()
    write_json(path, make_bill(packages, texts, datetime.now(UTC)))
    print(join_expressions(package.licence for package in packages))


if __name__ == "__main__":
    main(sys.argv[1])
