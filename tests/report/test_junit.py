"""JUnit XML of what was tried."""

from __future__ import annotations

from xml.etree import ElementTree

from klpbuild.report.junit import Case, junit


def test_cases_by_group() -> None:
    cases = [
        Case("6.12", "a", seconds=1.25, said="would load"),
        Case("6.1", "a", "failed: <why>\nmore\x1b"),
        Case("6.1", "b", skipped="not for this kernel"),
    ]
    root = ElementTree.fromstring(junit("all", cases))
    assert root.attrib == {"name": "all", "tests": "3", "failures": "1", "skipped": "1"}
    first, second = root
    assert (first.get("name"), first.get("tests")) == ("6.1", "2")
    assert first[0][0].attrib == {"message": "failed: <why>"}
    assert first[0][0].text == "failed: <why>\nmore\N{REPLACEMENT CHARACTER}"
    assert first[1][0].attrib == {"message": "not for this kernel"}
    assert second[0].attrib == {"classname": "6.12", "name": "a", "time": "1.250"}
    assert second[0][0].text == "would load"
