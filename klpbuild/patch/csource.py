"""Find lines and pieces of C source in one pass over a text of any form.

An unterminated comment or literal ends with the text or its line, so that no search
begins twice at the same place: the time is proportional to the text's length.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from itertools import accumulate

#: A string or character constant.
LITERAL = rb"\"(?:[^\"\\\n]|\\.)*\"?|'(?:[^'\\\n]|\\.)*'?"
_COMMENT = rb"//(?:[^\n\\]|\\.)*|/\*.*?(?:\*/|\Z)"
_TOKENS = re.compile(
    rb"(%b)|(?:%b|\\\r?\n|[ \t\r\f\v]+)+" % (LITERAL, _COMMENT),
    re.DOTALL,
)
_DIRECTIVE = re.compile(rb"^[ \t]*#(?:[^\n]*\\\r?\n)*[^\n]*", re.MULTILINE)
_NO_CODE = re.compile(
    rb"%b|%b|^[ \t]*#(?:[^\n]*\\\n)*[^\n]*" % (_COMMENT, LITERAL), re.DOTALL | re.MULTILINE
)
_BRACES = re.compile(rb"[{}]")
_PARENTHESES = re.compile(rb"[()]")


def without_comments(text: bytes) -> bytes:
    """Reduce comments and runs of white space in C source to one blank, for comparing."""
    lines = _TOKENS.sub(lambda match: match[1] or b" ", text).split(b"\n")
    return b"\n".join(line.strip() for line in lines if line.strip())


def code_alone(text: bytes) -> bytes:
    """Blank out comments, literals and preprocessor lines in C source."""
    return _NO_CODE.sub(lambda match: re.sub(rb"[^\n]", b" ", match[0]), text)


class Lines:
    """Line numbers of a text, from 1."""

    def __init__(self, text: bytes) -> None:
        self._ends = list(accumulate(len(line) + 1 for line in text.split(b"\n")))

    def number(self, offset: int) -> int:
        """Find the line that an offset is in."""
        return bisect_right(self._ends, offset) + 1

    def numbers(self, start: int, end: int) -> range:
        """List the lines that the text from one offset up to another is in."""
        return range(self.number(start), self.number(max(start, end - 1)) + 1)


class Marks:
    """Offsets of some kinds of bytes in a text."""

    def __init__(self, kinds: bytes, text: bytes) -> None:
        found = re.compile(rb"[%b]" % re.escape(kinds)).finditer(text)
        self._offsets = [match.start() for match in found]
        self._end = len(text)

    def next(self, offset: int) -> int:
        """Find the next offset from a given one on; the text's end if there is none."""
        at = bisect_left(self._offsets, offset)
        return self._offsets[at] if at < len(self._offsets) else self._end


def directive_lines(text: bytes) -> set[int]:
    """List the numbers of a file's preprocessor lines, continued ones included."""
    lines = Lines(text)
    found = (lines.numbers(*match.span()) for match in _DIRECTIVE.finditer(text))
    return {number for numbers in found for number in numbers}


def directives(text: bytes) -> Iterator[re.Match[bytes]]:
    """Find a file's preprocessor lines, each with those that continue it."""
    return _DIRECTIVE.finditer(text)


def blank_lines(text: bytes) -> set[int]:
    """List the numbers of lines with nothing but white space."""
    return {number for number, line in enumerate(text.split(b"\n"), 1) if not line.strip()}


def function_bodies(text: bytes) -> Iterator[tuple[int, list[bytes]]]:
    """Find the lines between the braces of functions, each with the first one's number.

    The braces stand in the first column, below the parameters; no line between them
    is a preprocessor's.
    """
    lines = text.split(b"\n")
    at = 1
    while at < len(lines):
        above = lines[at - 1]
        begins = lines[at].rstrip(b"\r") == b"{" and above.rfind(b")") > max(
            above.rfind(mark) for mark in (b";", b"{", b"}")
        )
        at += 1
        if begins:
            first = at
            while at < len(lines) and not lines[at].startswith((b"}", b"#")):
                at += 1
            if at < len(lines) and lines[at].startswith(b"}"):
                yield first + 1, lines[first:at]


def function_lines(text: bytes) -> set[int]:
    """List the numbers of the lines between the braces of functions."""
    return {
        number
        for first, lines in function_bodies(text)
        for number in range(first, first + len(lines))
    }


def closing_braces(text: bytes) -> dict[int, int]:
    """Pair braces: the offset behind the closing one, by that of each opening one that has one."""
    return _pairs(_BRACES, text)


def closing_parentheses(text: bytes) -> dict[int, int]:
    """Pair parentheses as `closing_braces` does."""
    return _pairs(_PARENTHESES, text)


def _pairs(kind: re.Pattern[bytes], text: bytes) -> dict[int, int]:
    found: dict[int, int] = {}
    opened: list[int] = []
    for mark in kind.finditer(text):
        if mark[0] in b"{(":
            opened.append(mark.start())
        elif opened:
            found[opened.pop()] = mark.end()
    return found
