"""What patches say of themselves, in every form that they come in."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from klpbuild.errors import KlpError
from klpbuild.patch.idle import Idle
from klpbuild.report.references import (
    Claims,
    PatchHeader,
    Reference,
    ReferenceKind,
    claims,
    embedded_references,
    find_references,
    read_patch_header,
)
from tests.report.built import PATCH

HASH = "1234567890abcdef1234567890abcdef12345678"


def test_a_mail(tmp_path: Path) -> None:
    path = tmp_path / "fix.patch"
    path.write_text(PATCH)
    header = read_patch_header(path)
    assert header.subject == "mm: say that it is éasy"
    assert header.description.startswith("commit abcdef")
    assert header.description.endswith('Fixes: 1da177e4c3f4 ("Linux-2.6.12-rc2")')
    assert [(r.kind, r.id, r.where) for r in header.references] == [
        (ReferenceKind.COMMIT, HASH, "fix.patch:1"),
        (ReferenceKind.UPSTREAM, "abcdef" * 6 + "abcd", "fix.patch:6"),
        (ReferenceKind.CVE, "CVE-2024-1234", "fix.patch:8"),
        (ReferenceKind.FIXES, "1da177e4c3f4", "fix.patch:10"),
    ]


@pytest.mark.parametrize(
    ("text", "subject", "description"),
    [
        (f"commit {HASH}\nAuthor: x <y@z>\nDate:   d\n\n    net: title\n    \n    body\n",
         "net: title", "body"),
        ("net: title\n\nbody\n  more\n", "net: title", "body\n  more"),
        ("", "", ""),
        ("Subject: [PATCH net v2] [stable] net: a title\n that goes on\n\nbody\n",
         "net: a title that goes on", "body"),
        (f"From {'0' * 40} Mon Sep 17 00:00:00 2001\nSubject: [PATCH] title\r\n\r\nbody\r\n",
         "title", "body"),
    ],
)  # fmt: skip
def test_other_forms(tmp_path: Path, text: str, subject: str, description: str) -> None:
    path = tmp_path / "fix.patch"
    path.write_text(text + "--- a/f.c\n+++ b/f.c\n@@ -1 +1 @@\n-CVE-2000-0001\n+x\n")
    header = read_patch_header(path)
    assert (header.subject, header.description) == (subject, description)
    assert all(r.id == HASH for r in header.references)  # what is in the code does not count


@pytest.mark.parametrize(
    ("line", "found"),
    [
        (f"[ Upstream commit {HASH} ]", (ReferenceKind.UPSTREAM, HASH)),
        (f"upstream commit: {HASH}.", (ReferenceKind.UPSTREAM, HASH)),
        (f"(cherry picked from commit {HASH})", (ReferenceKind.CHERRY_PICKED, HASH)),
        ("Fixes: 1da177e4c3f4", (ReferenceKind.FIXES, "1da177e4c3f4")),
        ("see cve-2024-123456.", (ReferenceKind.CVE, "CVE-2024-123456")),
        ("XCVE-2024-1234 CVE-24-1 CVE-2024-1234x", None),
        (f"From {'0' * 40} Mon Sep 17", None),
        ("Fixes: a leak", None),
        ("commit messages are read", None),
    ],
)
def test_lines(line: str, found: tuple[ReferenceKind, str] | None) -> None:
    wanted = [] if found is None else [Reference(*found, "f:1")]
    assert list(find_references(line, "f")) == wanted


@given(st.text())
def test_any_text_can_be_searched(text: str) -> None:
    for reference in find_references(text, "f"):
        assert int(reference.where.removeprefix("f:")) >= 1


def test_each_once_and_no_commits_in_the_module(tmp_path: Path) -> None:
    path = tmp_path / "fix.patch"
    path.write_text(PATCH)
    found = claims(["CVE-2024-1234", "an outage"], [read_patch_header(path)]).mended
    assert [r.where for r in found if r.kind is ReferenceKind.CVE] == ["livepatch.toml"]
    assert embedded_references(found) == ("CVE-2024-1234", "an outage")


def cve(number: str) -> str:
    return f"CVE-2024-000{number}"


def header(name: str, *numbers: str) -> PatchHeader:
    found = [Reference(ReferenceKind.CVE, cve(number), f"{name}:1") for number in numbers]
    return PatchHeader(name, "", "", tuple(found))


@pytest.mark.parametrize(
    ("names", "described", "mended", "not_affected"),
    [
        ("", "", "1 2 3", ""),
        ("a", "", "2 3", "1"),
        ("b", "", "1 2", "3"),
        ("a b", "", "", "1 2 3"),
        ("a", "1 4", "4 2 3", "1"),
        ("a", "2", "2 3", "1"),
    ],
)
def test_what_is_mended(names: str, described: str, mended: str, not_affected: str) -> None:
    """What only patches name that change nothing in this kernel is not.  CVEs are numbers here."""
    headers = header("a", "1", "2"), header("b", "2", "3")
    found = claims(map(cve, described.split()), headers, {n: Idle("") for n in names.split()})
    assert [reference.id for reference in found.mended] == [*map(cve, mended.split())]
    assert [reference.id for reference in found.not_affected] == [*map(cve, not_affected.split())]


def test_what_is_neither_mended_nor_known_not_to_be_there() -> None:
    assert claims([], [header("a", "1")], {"a": Idle("", sure=False)}) == Claims(())


def test_what_a_cover_letter_mends(tmp_path: Path) -> None:
    letter = tmp_path / "0000-cover-letter.patch"
    letter.write_text(f"Subject: [PATCH 0/1] {cve('7')}\n\nWords.\n-- \n2.39.5\n")
    headers = read_patch_header(letter), header("a", "1")
    assert [r.id for r in claims([], headers).mended] == [cve("7"), cve("1")]
    alone = claims([], headers, {"a": Idle("")})
    assert (alone.mended, [r.id for r in alone.not_affected]) == ((), [cve("1")])


def test_a_patch_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(KlpError) as error:
        read_patch_header(tmp_path / "no.patch")
    assert str(error.value) == f"{tmp_path}/no.patch: cannot be read: No such file or directory"
    os.mkfifo(pipe := tmp_path / "pipe.patch")
    with pytest.raises(KlpError) as error:
        read_patch_header(pipe)
    assert str(error.value) == f"{pipe}: is not a file"
