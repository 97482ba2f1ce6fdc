"""The bill of materials, and its description in words."""

import json
from datetime import UTC, datetime

from neuroferry.cli.licences import describe
from neuroferry.cli.main import main
from neuroferry.files import write_json
from neuroferry.licences.bill import make_bill, read_bill
from neuroferry.licences.packages import Package

PACKAGES = [
    Package("atlas", "2009a", "data", "LicenseRef-ICBM152"),
    Package("some-package", "1.2", "python", "MIT"),
    Package("libtool+", "3:4-5", "debian", "GPL-2.0-or-later AND LicenseRef-Debian-own"),
]
WHEN = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def test_a_bill_is_read_as_it_was_made(tmp_path):
    write_json(tmp_path / "bill.json", make_bill(PACKAGES, {}, WHEN))
    assert read_bill(tmp_path / "bill.json") == PACKAGES


def test_a_bill_follows_spdx():
    bill = make_bill(PACKAGES, {"LicenseRef-Debian-own": "Do as you like."}, WHEN)
    assert (bill["spdxVersion"], bill["dataLicense"]) == ("SPDX-2.3", "CC0-1.0")
    assert bill["creationInfo"]["created"] == "2026-01-02T03:04:05Z"
    ids = [entry["SPDXID"] for entry in bill["packages"]]
    assert ids == ["SPDXRef-data-atlas", "SPDXRef-python-some-package", "SPDXRef-debian-libtool-"]
    assert [item["relatedSpdxElement"] for item in bill["relationships"]] == ids
    texts = {
        item["licenseId"]: item["extractedText"] for item in bill["hasExtractedLicensingInfos"]
    }
    assert texts["LicenseRef-Debian-own"] == "Do as you like."
    assert "Louis Collins" in texts["LicenseRef-ICBM152"]
    assert len(texts) == 2
    urls = [
        item["referenceLocator"]
        for entry in bill["packages"]
        for item in entry.get("externalRefs", [])
    ]
    assert urls == ["pkg:pypi/some-package@1.2", "pkg:deb/debian/libtool%2B@3%3A4-5"]
    assert make_bill(PACKAGES, {}, WHEN)["documentNamespace"] == bill["documentNamespace"]
    other = make_bill(PACKAGES[:2], {}, WHEN)["documentNamespace"]
    assert other != bill["documentNamespace"]
    json.dumps(bill)


def test_words_say_what_forbids_commercial_use():
    lines = describe([*PACKAGES, Package("atlas-2", "1", "data", "CC-BY-NC-4.0")])
    (line,) = [line for line in lines if line.startswith("  atlas-2")]
    assert line.split() == ["atlas-2", "1", "no", "CC-BY-NC-4.0"]
    assert any("not known to be allowed, for: atlas-2." in line for line in lines)
    assert "The licences of all 3 packages allow commercial use." in describe(PACKAGES)


def test_the_command_lists_this_environment(capsys):
    assert main(["licences"]) == 0
    said = capsys.readouterr().out
    for word in ("MNI152NLin2009aSym", "nipype", "numpy", "allow commercial use", "10,698,065"):
        assert word in said
