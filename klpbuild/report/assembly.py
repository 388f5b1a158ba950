"""Compare a function's machine code with what it replaces, as the report page shows it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from itertools import groupby

from klpbuild.check.explain import Explainer, Explanation
from klpbuild.check.module import open_module
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
    explainer = Explainer(open_module(facts.module, facts.side))
    found, room = [], _LINES_MAX
    for replacement in replacements:
        if not replacement.new or (replacement.size or 0) > _BYTES_MAX:
            continue
        explanation = explainer.explain(replacement.new)
        lines = tuple(_lines(explanation)) if explanation.shipped else ()
        if lines and len(lines) <= room:
            room -= len(lines)
            found.append(ChangedCode(explanation.old, lines))
    return tuple(found)


def _lines(explanation: Explanation) -> Iterator[DiffLine]:
    """Write old instructions before new ones, and how many between them are the same."""
    for same, pairs in groupby(explanation.pairs, lambda pair: pair.same):
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
