"""Find the CVE numbers and commits that a livepatch mends, from its patches and description."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from email import message_from_string
from email.errors import MessageError
from email.header import decode_header, make_header
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType

from klpbuild.files.given import PATCH_MAX, read_given_file
from klpbuild.module.livepatch import FILE_NAME
from klpbuild.patch.idle import Idle


class ReferenceKind(StrEnum):
    """Kind of a reference."""

    CVE = "cve"
    UPSTREAM = "upstream commit"
    CHERRY_PICKED = "cherry-picked commit"
    COMMIT = "commit"
    FIXES = "fixes commit"
    OTHER = "other"


@dataclass(frozen=True)
class Reference:
    """A fault that is mended, or a commit that a patch names.

    :ivar id: ``CVE-2024-1234``, a commit's digits, or the author's own text.
    :ivar where: what says so: ``fix.patch:12``, ``livepatch.toml``.
    """

    kind: ReferenceKind
    id: str
    where: str


@dataclass(frozen=True)
class PatchHeader:
    """The text before the first file of a patch.

    :ivar name: the patch file's name.
    :ivar subject: its first line, without ``[PATCH]``; empty when there is none.
    :ivar description: the text below it.
    :ivar references: in the order in which they stand there.
    :ivar has_diff: whether anything follows; nothing does in a series' cover letter.
    """

    name: str
    subject: str
    description: str
    references: tuple[Reference, ...]
    has_diff: bool = True


_CVE = re.compile(r"(?<![\w-])CVE-\d{4}-\d{4,19}(?!\w)", re.IGNORECASE)
_HASH = r"([0-9a-f]{8,40})\b"
#: Commits, as git, Documentation/process/submitting-patches.rst and stable-kernel-rules.rst
#: have them written.
_COMMITS = (
    (ReferenceKind.COMMIT, rf"^From {_HASH} (?=Mon|Tue|Wed|Thu|Fri|Sat|Sun)"),
    (ReferenceKind.COMMIT, rf"^commit {_HASH}\s*$"),
    (ReferenceKind.UPSTREAM, rf"^\s*(?:\[\s*)?upstream commit:? {_HASH}"),
    (ReferenceKind.UPSTREAM, rf"^\s*(?:\[\s*)?commit:? {_HASH} upstream"),
    (ReferenceKind.CHERRY_PICKED, rf"\(cherry[- ]picked from commit {_HASH}"),
    (ReferenceKind.FIXES, rf"^\s*fixes:\s*(?:commit )?{_HASH}"),
)
_PATTERNS = tuple((kind, re.compile(text, re.IGNORECASE)) for kind, text in _COMMITS)
_ENDS = re.compile(r"^(?:---\s*$|diff --git |--- \S|Index: )", re.MULTILINE)
_MAIL = re.compile(r"(?:From|To|Cc|Date|Subject|Message-I[Dd]|MIME-Version|Received):")
#: More than any title; the time to decode one grows with the square of its length.
_LONG_HEADER = 2000
_TAG = re.compile(r"^(?:\[[^]]*\]\s*)+")


def read_patch_header(path: Path) -> PatchHeader:
    """Read the text before a patch's first file: a mail, ``git show``'s words, or any text.

    :raises KlpError: when it cannot be read.
    """
    data = read_given_file(path, PATCH_MAX)
    text = data.decode(errors="replace").replace("\r\n", "\n")
    end = _ENDS.search(text)
    text = text[: end.start()] if end else text
    subject, description = _subject(text)
    found = tuple(find_references(text, path.name))
    return PatchHeader(path.name, subject, description, found, end is not None)


def find_references(text: str, name: str) -> Iterator[Reference]:
    """Find the CVE numbers and commits in a text, each once, with the lines that name them."""
    seen: set[tuple[ReferenceKind, str]] = set()
    for number, line in enumerate(text.splitlines(), 1):
        found = [(ReferenceKind.CVE, match[0].upper()) for match in _CVE.finditer(line)]
        for kind, pattern in _PATTERNS:
            if (match := pattern.search(line)) and match[1].strip("0"):
                found.append((kind, match[1].lower()))
                break
        for key in found:
            if key not in seen:
                seen.add(key)
                yield Reference(*key, f"{name}:{number}")


def described_references(texts: Iterable[str]) -> tuple[Reference, ...]:
    """Make references of those that a ``livepatch.toml`` lists."""
    return tuple(
        Reference(ReferenceKind.CVE, text.upper(), FILE_NAME)
        if _CVE.fullmatch(text)
        else Reference(ReferenceKind.OTHER, text, FILE_NAME)
        for text in texts
    )


def _subject(text: str) -> tuple[str, str]:
    text = re.sub(r"\AFrom [^\n]*\n", "", text)
    if re.match(r"commit [0-9a-f]{8,40}\b", text):  # git show, git log -p
        _, _, body = text.partition("\n\n")
        lines = [line.removeprefix("    ") for line in body.splitlines()]
    elif _MAIL.match(text):  # git format-patch, or a mail that was saved
        message = message_from_string(text)
        title = re.sub(r"\s*\n\s*", " ", _decoded(message["Subject"] or ""))
        lines = [_TAG.sub("", title), *str(message.get_payload()).splitlines()]
    else:
        lines = text.splitlines()
    body = "\n".join(line.rstrip() for line in lines).strip()
    subject, _, description = body.partition("\n")
    return subject.strip(), description.strip("\n")


def _decoded(text: str) -> str:
    """Decode RFC 2047's encoded words in a mail's header."""
    if len(text) > _LONG_HEADER:
        return text
    try:
        return str(make_header(decode_header(text)))
    except (MessageError, LookupError, ValueError):
        return text


@dataclass(frozen=True)
class Claims:
    """The faults that a livepatch mends.

    :ivar mended: what it refers to, each once, the description's first.
    :ivar not_affected: what only patches name that change nothing in this kernel.
    """

    mended: tuple[Reference, ...]
    not_affected: tuple[Reference, ...] = ()


def claims(
    described: Iterable[str],
    headers: Sequence[PatchHeader],
    idle: Mapping[str, Idle] = MappingProxyType({}),
    left: Sequence[PatchHeader] = (),
) -> Claims:
    """Collect what a description and patches refer to, without what is not mended.

    A cover letter speaks of all patches of its series: it counts only if all of them do.  What
    a patch names that is left out is not mended, whatever else names it.

    :param headers: of the patches that are in the livepatch.
    :param idle: the patches that change nothing in this kernel, by name.
    :param left: of the patches that are left out.
    """
    whole = not idle and not left
    mending = [h for h in headers if h.name not in idle and (h.has_diff or whole)]
    kinds = (ReferenceKind.CVE, ReferenceKind.OTHER)
    out = {key for key in _once(r for h in left for r in h.references) if key[0] in kinds}
    found = _once(reference for header in mending for reference in header.references)
    idling = _once(r for h in headers if h.name in idle for r in h.references)
    mended = _once((*described_references(described), *found.values()))
    known = {r for h in headers if h.name in idle and idle[h.name].sure for r in h.references}
    return Claims(
        tuple(
            r for key, r in mended.items() if key not in out and (key in found or key not in idling)
        ),
        tuple(r for key, r in idling.items() if key not in found and key not in out and r in known),
    )


def _once(references: Iterable[Reference]) -> dict[tuple[ReferenceKind, str], Reference]:
    first: dict[tuple[ReferenceKind, str], Reference] = {}
    for reference in references:
        first.setdefault((reference.kind, reference.id), reference)
    return first


def embedded_references(references: Iterable[Reference]) -> tuple[str, ...]:
    """Select the references that the module carries: CVE numbers and the author's, no commits."""
    kinds = (ReferenceKind.CVE, ReferenceKind.OTHER)
    return tuple(reference.id for reference in references if reference.kind in kinds)
