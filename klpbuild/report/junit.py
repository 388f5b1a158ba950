"""Write results as JUnit XML, which every continuous integration shows."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from xml.etree import ElementTree

#: Characters that XML 1.0 cannot hold (https://www.w3.org/TR/xml/#charsets).
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@dataclass(frozen=True)
class Case:
    """A test case.

    :ivar group: what it belongs to; a kernel.
    :ivar failure: what went wrong; empty if nothing did.
    :ivar skipped: why it was not tried; empty if it was.
    :ivar said: what else there is to say.
    """

    group: str
    name: str
    failure: str = ""
    skipped: str = ""
    said: str = ""
    seconds: float | None = None


def junit(title: str, cases: Sequence[Case]) -> bytes:
    """Write test cases as JUnit XML: a suite for each group, in the order of their names.

    :param title: of the whole.
    """
    root = ElementTree.Element("testsuites", _counts(title, cases))
    ordered = sorted(cases, key=lambda case: case.group)
    for group, of_group in groupby(ordered, key=lambda case: case.group):
        found = list(of_group)
        suite = ElementTree.SubElement(root, "testsuite", _counts(group, found))
        for case in found:
            attributes = {"classname": _text(group), "name": _text(case.name)}
            if case.seconds is not None:
                attributes["time"] = f"{case.seconds:.3f}"
            made = ElementTree.SubElement(suite, "testcase", attributes)
            if case.failure:
                first = _text(case.failure.partition("\n")[0])
                failure = ElementTree.SubElement(made, "failure", {"message": first})
                failure.text = _text(case.failure)
            if case.skipped:
                ElementTree.SubElement(made, "skipped", {"message": _text(case.skipped)})
            if case.said:
                ElementTree.SubElement(made, "system-out").text = _text(case.said)
    ElementTree.indent(root)
    text: bytes = ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
    return text + b"\n"


def _counts(name: str, cases: Sequence[Case]) -> dict[str, str]:
    return {
        "name": _text(name),
        "tests": str(len(cases)),
        "failures": str(sum(bool(case.failure) for case in cases)),
        "skipped": str(sum(bool(case.skipped) for case in cases)),
    }


def _text(text: str) -> str:
    return _NOT_XML.sub("\N{REPLACEMENT CHARACTER}", text)
