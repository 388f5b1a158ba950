"""A Markdown document as a session: its commands, what they print, its files.

A fenced block ``console`` holds commands behind ``$`` and, below each, what it prints.
A comment before a block says how it is run:

``<!-- test: kernel -->``
    only where a Debian kernel is fetched; all that is not marked runs everywhere.
``<!-- test: fails -->``
    the last command of the block ends with an error.
``<!-- test: shortened -->``
    the document leaves out lines; the others are printed in this order, with other numbers.
    Lines of a kernel's log come when they come.
``<!-- test: not compared, REASON -->``
    what it prints here is not what it prints to a new reader.
``<!-- test: not run, REASON -->``
    never; `tests.docs.test_documents` lists these.
``<!-- file: PATH -->``
    the block, of any language, is written to that file.
``<!-- run: COMMANDS -->``
    commands that a reader need not see.

In what a command prints, ``...`` stands for any text of a line, and as a whole line for
any lines.  Without any line below a command its output is not compared.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path


class Kind(Enum):
    """When a block is run."""

    QUICK = "quick"
    KERNEL = "kernel"
    NEVER = "not run"


@dataclass(frozen=True)
class Command:
    """A command of a document.

    :ivar expected: the lines below it.
    :ivar line: where it stands, from 1.
    """

    text: str
    expected: tuple[str, ...] = ()
    line: int = 0
    fails: bool = False
    shortened: bool = False


@dataclass(frozen=True)
class WrittenFile:
    """A file that the document shows."""

    path: str
    text: str


@dataclass(frozen=True)
class Block:
    """A part of a document that does something."""

    kind: Kind
    content: tuple[Command | WrittenFile, ...]


_COMMENT = re.compile(r"^<!--\s*(test|file|run):\s*(.*?)\s*-->\s*$", re.DOTALL | re.MULTILINE)
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def read_document(path: Path) -> tuple[Block, ...]:
    """The blocks of a document, in order."""
    text = path.read_text()
    # Fences first: what is inside of one is no comment.
    found: list[tuple[int, re.Match[str], bool]] = []
    fences = list(_FENCE.finditer(text))
    spans = [fence.span() for fence in fences]
    found += [(fence.start(), fence, True) for fence in fences]
    for comment in _COMMENT.finditer(text):
        if not any(start <= comment.start() < end for start, end in spans):
            found.append((comment.start(), comment, False))
    return tuple(_blocks(text, [(m, fence) for _, m, fence in sorted(found, key=lambda f: f[0])]))


def _blocks(text: str, found: Sequence[tuple[re.Match[str], bool]]) -> Iterator[Block]:
    words, file = "", ""
    for match, is_fence in found:
        if not is_fence:
            what, value = match[1], match[2]
            if what == "test":
                words = value
            elif what == "file":
                file = value
            else:
                yield Block(_kind(words), (Command(value),))
                words = ""
            continue
        if file:
            yield Block(_kind(words), (WrittenFile(file, match[2]),))
        elif match[1] == "console":
            line = text.count("\n", 0, match.start()) + 2
            commands = tuple(_commands(match[2], line, words))
            yield Block(_kind(words), commands)
        words, file = "", ""


def _kind(words: str) -> Kind:
    if words.startswith("not run"):
        return Kind.NEVER
    return Kind.KERNEL if "kernel" in words else Kind.QUICK


def _commands(text: str, line: int, how: str) -> Iterator[Command]:
    lines = text.splitlines()
    starts = [n for n, row in enumerate(lines) if row.startswith("$ ")]
    for place, start in enumerate(starts):
        end = starts[place + 1] if place + 1 < len(starts) else len(lines)
        words = [lines[start][2:]]
        first = start + 1
        while words[-1].endswith("\\") and first < end:
            words.append(lines[first])
            first += 1
        expected = () if "not compared" in how else tuple(lines[first:end])
        fails = "fails" in how and place + 1 == len(starts)
        shortened = "shortened" in how
        yield Command("\n".join(words), expected, line + start, fails, shortened)


def difference(expected: Sequence[str], printed: Sequence[str]) -> str:
    """Why output is not as expected; empty when it is."""
    if not expected:
        return ""
    rows = [row.rstrip() for row in printed]
    pattern = ""
    for row in expected:
        if row.strip() == "...":
            pattern += r"(?:.*\n)*?"
        else:
            pattern += r".*?".join(map(re.escape, row.rstrip().split("..."))) + "\n"
    if re.fullmatch(pattern, "".join(f"{row}\n" for row in rows)):
        return ""
    return "expected:\n" + "\n".join(expected) + "\nprinted:\n" + "\n".join(rows)


def missing_lines(expected: Sequence[str], printed: Sequence[str]) -> str:
    """Which lines of a shortened output are not printed, in this order; empty when all are."""
    rows = [_without_numbers(row) for row in printed]
    rest = iter(rows)
    for row in expected:
        place = rows if re.match(r"\s*\[ *\d+\.\d+\]", row) else rest
        if "..." not in row and _without_numbers(row) not in place:
            return f"not printed, or not in this place: {row}\nprinted:\n" + "\n".join(printed)
    return ""


def _without_numbers(row: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"\b(?:0x)?[0-9a-f]*\d[0-9a-f]*\b", "0", row)).strip()
