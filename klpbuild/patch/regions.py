"""Cut a header into what only matters where its names are, and find the names that a patch changes.

A structure matters by its layout, too: the names of members are all only where that is kept.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from klpbuild.patch.csource import LITERAL, closing_braces, code_alone, directives
from klpbuild.patch.layout import KEPT
from klpbuild.patch.members import DESIGNATED, ONE_NAME
from klpbuild.patch.patched import PatchedFile
from klpbuild.patch.touched import changed_lines

_COMMENTS = re.compile(rb"(%b)|//(?:[^\n\\]|\\.)*|/\*.*?(?:\*/|\Z)" % LITERAL, re.DOTALL)
_CALLED = re.compile(rb"\b([A-Za-z_]\w*)\s*\(")
_WORD = re.compile(rb"[A-Za-z_]\w*")
_DEFINE = re.compile(rb"\A[ \t]*#[ \t]*define[ \t]+(\w+)")
_ITEM = re.compile(rb"(?:^|,)\s*(\w+)")
_PROTOTYPE = re.compile(rb"\s*(?:extern\s+)?[a-z_]\w*(?:[\s*]+\w+)*[\s*]+([a-z_]\w*)\s*\(")
_NOT_PROTOTYPE = re.compile(rb"\b(?:static|typedef|asm|__asm__)\b|[={}]")
#: Enumerators whose values could make an enumeration wider.
_WIDE = re.compile(rb"<<|0[xX]\w{8}|\b\d+[uU]?[lL]+\b|\bBIT")
_STRUCTURE = re.compile(rb"\s*((?:struct|union)\s+\w+)\s*")
_BEHIND = re.compile(rb"\s*(?:__\w+\s*(?:\(\([^;]*\)\)\s*)?)*;")
_CLOSING = re.compile(rb"\}(?: __\w+)? ?;")
_KEPT = KEPT.encode()
#: A bit field without a name.
_PADDING = re.compile(rb"\w+(?: \w+)* ?: ?\w+ ?;")
#: Types for which values are converted, or that the compiler reads in another way.
_OTHERWISE = re.compile(
    rb"\b(?:bool|_Bool|float|double|volatile|const)\b|\b(?:struct|union) \w+ \w"
)
_IF = re.compile(rb"[ \t]*#[ \t]*(?:if|elif)")
#: A condition that is the same in all files.
_CONFIGURED = re.compile(
    rb"\s*#\s*(?:(?:el)?if|ifn?def)\b(?:\s|[!|&()]|\bdefined\b|\bIS_[A-Z]+\b|\bCONFIG_\w+|\\)*"
)


@dataclass(frozen=True)
class Region:
    """A piece of a header that only matters where its names are.

    :ivar start: its first byte; `end`: the byte behind it.
    :ivar is_declaration: whether it does nothing but declare its names.
    :ivar structure: the structure or union that it declares, such as ``struct x``.
    """

    start: int
    end: int
    names: frozenset[bytes]
    is_declaration: bool = False
    structure: str = ""


_KEYWORDS = frozenset(b"int void long char short unsigned signed bool sizeof typeof if".split())


def _called(head: bytes) -> frozenset[bytes]:
    """Find the words before parentheses, of which one is the function's name."""
    return frozenset(_CALLED.findall(head)) - _KEYWORDS


def blanked(text: bytes) -> bytes:
    """Blank out comments."""
    return _COMMENTS.sub(lambda m: m[1] or re.sub(rb"[^\n]", b" ", m[0]), text)


class HeaderText:
    """A header's text, cut into regions."""

    def __init__(self, text: bytes) -> None:
        self.text = blanked(text)
        self.plain = code_alone(text)
        macros = [
            Region(match.start(), match.end(), frozenset(_DEFINE.findall(match[0])[:1]))
            for match in directives(self.text)
        ]
        self.regions = sorted([*macros, *self._code()], key=lambda r: r.start)

    def _code(self) -> Iterator[Region]:
        closing = closing_braces(self.plain)
        done = 0
        for match in re.finditer(rb"[{;]", self.plain):
            if match.start() < done:
                continue
            head = self.plain[done : match.start()]
            begin = done + len(head) - len(head.lstrip())
            if match[0] == b";":
                if _PROTOTYPE.match(head) and not _NOT_PROTOTYPE.search(head):
                    names = _called(head)
                    yield Region(begin, match.end(), names, is_declaration=True)
                elif re.match(rb"\s*_?[sS]tatic_assert\b", head):
                    yield Region(begin, match.end(), frozenset(_WORD.findall(head)), True)
                done = match.end()
                continue
            end = closing.get(match.start())
            if end is None:
                return  # nothing behind it is known
            body = self.plain[match.end() : end - 1]
            if re.search(rb"^(?:\}|static\b)", body, re.MULTILINE):
                return  # a condition of the preprocessor opens more braces than are closed
            words = set(_WORD.findall(head))
            if b"static" in words and words & {b"inline", b"__always_inline"} and b"(" in head:
                yield Region(begin, end, _called(head))
            elif declared := _STRUCTURE.fullmatch(head):
                behind = _BEHIND.match(self.plain, end)
                end = behind.end() if behind else end
                name = b" ".join(declared[1].split())
                yield Region(begin, end, frozenset([name]), structure=name.decode())
            elif b"enum" in words and b"(" not in head and not _WIDE.search(body):
                yield Region(begin, end, frozenset(_ITEM.findall(body)))
            done = end

    def at(self, place: int) -> Region | None:
        """Find the region at an offset; a macro inside of a function counts as both."""
        found = [r for r in self.regions if r.start <= place < r.end and r.names]
        if len(found) < 2:
            return found[0] if found else None
        found = [r for r in found if not r.structure]
        names = frozenset().union(*(region.names for region in found))
        return Region(found[0].start, found[0].end, names)

    def is_one(self, structure: str) -> bool:
        """Tell whether a structure is declared once, in all files that include the header alike."""
        found = [region for region in self.regions if region.structure == structure]
        inside = (self.text[region.start : region.end] for region in found)
        lines = (line[0] for text in inside for line in directives(text))
        conditions = (line for line in lines if _IF.match(line))
        return len(found) == 1 and all(map(_CONFIGURED.fullmatch, conditions))


class Changed(NamedTuple):
    """What a patch changes in a header.

    :ivar names: functions, macros, enumerators, and whatever else is declared.
    :ivar members: of structures.
    :ivar structures: those of which they are; all that changes is named only if these keep their
        layouts.
    """

    names: frozenset[bytes]
    members: frozenset[bytes] = frozenset()
    structures: frozenset[str] = frozenset()


def changed_names(file: PatchedFile) -> Changed | None:
    """Find the names that a patch changes in a header; None where that is not known."""
    if file.original is None or not file.path.endswith(".h"):
        return None
    gone, come = changed_lines(file)
    names: set[bytes] = set()
    declared: tuple[set[tuple[str, bytes]], set[tuple[str, bytes]]] = set(), set()
    cuts = HeaderText(file.original), HeaderText(file.patched)
    if not _keeps_lines(file, *cuts):
        return None
    texts = file.original, file.patched
    for cut, text, numbers, found in zip(cuts, texts, (gone, come), declared, strict=True):
        starts = [0, *(m.end() for m in re.finditer(rb"\n", text))]
        for number in numbers:
            start = starts[number - 1]
            line = cut.text[start : starts[number] if number < len(starts) else len(text)]
            if not line.strip():
                continue
            first, last = (start + len(line) - len(line.lstrip()), start + len(line.rstrip()) - 1)
            region = cut.at(first)
            if region is None or region != cut.at(last):
                return None
            if not region.structure:
                names |= region.names
                continue
            if not cut.is_one(region.structure):
                return None
            found.add((region.structure, b" ".join(line.split())))
    was, becomes = ({_unmarked(text) for _, text in side} for side in declared)
    olds, news = (
        [_Member.of(name, text, _unmarked(text) in was & becomes) for name, text in side]
        for side in declared
    )
    both = {member for member in (*olds, *news) if member is not None}
    keys = ({member.key for member in side if member and member.name} for side in (olds, news))
    if None in (*olds, *news) or next(keys) != next(keys) or not _keeps_regions(file, *cuts, names):
        return None
    named = frozenset(member.name for member in both if member.name)
    return Changed(frozenset(names), named, frozenset(member.structure for member in both))


def _unmarked(text: bytes) -> bytes:
    """Take the marks of members that keep their places from a line of a structure."""
    return text.replace(_KEPT, b"").replace(DESIGNATED, b"}")


class _Member(NamedTuple):
    """A line of a structure's declaration.

    :ivar name: of the member; empty for padding, and where the declaration ends.
    :ivar rest: what follows it: the width of a bit field, the sizes of an array.
    """

    structure: str
    name: bytes
    rest: bytes

    @property
    def key(self) -> tuple[str, bytes, bytes]:
        """The member without the mark of one that keeps its place."""
        return self.structure, self.name.removeprefix(_KEPT), self.rest

    @classmethod
    def of(cls, structure: str, text: bytes, is_same: bool) -> _Member | None:
        """Read a line; None if it does anything but declare one member, of a number or pointer.

        :param is_same: whether one of the same type is declared before and after.
        """
        if _PADDING.fullmatch(text) or (is_same and _CLOSING.fullmatch(_unmarked(text))):
            return cls(structure, b"", b"")
        match = ONE_NAME.fullmatch(text)
        if match is None or (_OTHERWISE.search(text) and not is_same):
            return None
        if match["pointer"]:
            return cls(structure, match["pointer"], b"()")
        return cls(structure, match["name"], match["rest"])


def _keeps_lines(file: PatchedFile, old: HeaderText, new: HeaderText) -> bool:
    """Tell whether lines that stay are code, comments and preprocessor lines as before."""
    for before, after in ((old.text, new.text), (old.plain, new.plain)):
        olds, news = before.split(b"\n"), after.split(b"\n")
        for number, line in enumerate(file.lines):
            if line.old is not None and olds[line.old - 1] != news[number]:
                return False
    return True


def _keeps_regions(file: PatchedFile, old: HeaderText, new: HeaderText, names: set[bytes]) -> bool:
    """Tell whether lines that stay belong to what they did, or to what changes."""
    starts = [
        [0, *(m.end() for m in re.finditer(rb"\n", cut.text)), len(cut.text)] for cut in (old, new)
    ]
    for number, line in enumerate(file.lines):
        if line.old is None or not line.text.strip():
            continue
        indent = len(line.text) - len(line.text.lstrip())
        regions = old.at(starts[0][line.old - 1] + indent), new.at(starts[1][number] + indent)
        was, becomes = (region.names if region else frozenset() for region in regions)
        if was != becomes and not was | becomes <= names:
            return False
    return True
