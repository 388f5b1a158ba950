"""Compare a function's machine code with what it replaces, as the report page shows it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from itertools import groupby

from klpbuild.check.explain import Pair
from klpbuild.elf.constants import EM
from klpbuild.report.facts import Facts
from klpbuild.report.picture import Replacement

#: Of longer functions, and of all together, the page shows no more.
_BYTES_MAX, _LINES_MAX = 20_000, 6_000


class Kind(StrEnum):
    """What became of a line of a diff."""

    ADD = "add"
    DEL = "del"
    HUNK = "hunk"
    FILE = "file"
    SAME = "same"


@dataclass(frozen=True)
class DiffLine:
    """A line of a diff, of source or of machine code."""

    kind: Kind
    text: str


@dataclass(frozen=True)
class ChangedCode:
    """The instructions of a function that differ from those that it replaces.

    :ivar old: the function that is replaced, ``object:name``.
    """

    old: str
    lines: tuple[DiffLine, ...]


def changed_code(facts: Facts, replacements: tuple[Replacement, ...]) -> tuple[ChangedCode, ...]:
    """Compare each function that is replaced, where the shipped code is at hand."""
    if facts.kernel.arch.machine != EM.X86_64:
        return ()
    subject = facts.check.subject
    functions = {
        (patched.object, function.new): function
        for patched in (subject and subject.patched) or ()
        for function in patched.functions or ()
    }
    found, room = [], _LINES_MAX
    for replacement in replacements:
        function = functions.get((replacement.object, replacement.new))
        if subject is None or function is None or (replacement.size or 0) > _BYTES_MAX:
            continue
        pairs = subject.explainer.compare(replacement.object, function)
        lines = tuple(_lines(pairs or ()))
        if lines and len(lines) <= room:
            room -= len(lines)
            found.append(ChangedCode(f"{replacement.object}:{function.old}", lines))
    return tuple(found)


def _lines(compared: Iterable[Pair]) -> Iterator[DiffLine]:
    """Write old instructions before new ones, and how many between them are the same."""
    for same, pairs in groupby(compared, lambda pair: pair.same):
        if same:
            yield DiffLine(Kind.HUNK, f"... {len(list(pairs))} the same")
            continue
        differing = list(pairs)
        for kind, instructions in (
            (Kind.DEL, [pair.old for pair in differing]),
            (Kind.ADD, [pair.new for pair in differing]),
        ):
            for instruction in filter(None, instructions):
                yield DiffLine(kind, f"{instruction.offset:6x}  {instruction.text}")
