"""Apply the hunks of a patch to a file's lines; explain those that do not apply."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from functools import cached_property
from itertools import accumulate

from klpbuild.errors import KlpError
from klpbuild.patch.diff import Hunk, HunkLine, Side
from klpbuild.patch.fix import Fault, Standing
from klpbuild.patch.patched import SourceLine

#: Limit on hunks that are explained.
ENOUGH = 20
#: Limit on places of a hunk that are named.
_PLACES = 5
#: Limits on lines of each side that are shown, and on each one's length.
_SHOWN = 5
_WIDTH = 100
#: Share of a hunk's lines in one place below which it counts as not there.
_ALIKE = 0.3
_AGAIN = "Make the patch again against this kernel's source."


@dataclass(frozen=True)
class Applied:
    """A patch that was applied to a file.

    :ivar patch: its name.
    :ivar before: the file's lines before it.
    :ivar hunks: the first line of each hunk, the one behind its last, and its place in the
        patch.
    """

    patch: str
    before: Sequence[SourceLine]
    hunks: tuple[tuple[int, int, int], ...]

    def place(self, first: int, last: int) -> str:
        """Name the line of the patch that changed some lines."""
        numbers = [n for start, end, n in self.hunks if start <= last and first <= end]
        return f"{self.patch}:{min(numbers, default=1)}"


@dataclass(frozen=True)
class FileLines:
    """A file as the patches so far leave it.

    :ivar path: relative to the source tree.
    :ivar history: the patches that changed it, in order.
    """

    path: str
    lines: Sequence[SourceLine]
    history: Sequence[Applied] = ()


class _Search:
    """Index of a file's lines, in which those of a hunk are looked for."""

    def __init__(self, lines: Sequence[SourceLine]) -> None:
        self.lines = lines

    @cached_property
    def _texts(self) -> list[bytes]:
        return [line.text for line in self.lines]

    @cached_property
    def _ends(self) -> list[int]:
        return list(accumulate(map(len, self._texts), initial=0))

    @cached_property
    def _text(self) -> bytes:
        return b"\n" + b"".join(self._texts)

    def places(self, wanted: Sequence[bytes], expected: int, first: int = 0) -> list[int]:
        """Find where wanted lines stand, five places at most: the expected one alone if it is one.

        :param first: the first place that may be one.
        """
        there = self.lines[expected : expected + len(wanted)] if expected >= first else ()
        if [line.text for line in there] == list(wanted):
            return [expected]
        found: list[int] = []
        text = b"\n" + b"".join(wanted)  # only whole lines follow a line's end
        at = self._text.find(text, self._ends[first]) if wanted else -1
        while at >= 0 and len(found) < _PLACES:
            if text.endswith(b"\n") or at + len(text) == len(self._text):
                found.append(bisect_left(self._ends, at))
            at = self._text.find(text, at + 1)
        return found


def apply_hunks(
    hunks: Sequence[Hunk], file: FileLines, patch: str, notes: list[str]
) -> tuple[list[SourceLine], Applied]:
    """Apply hunks to a file's lines, each below the one before it, and record what was done.

    :param patch: its name.
    :param notes: takes what is remarkable and no fault.
    :raises KlpError: with each hunk that does not apply.
    """
    faults: list[Fault] = []
    lines = file.lines
    search = _Search(lines)
    result: list[SourceLine] = []
    places_of: list[tuple[int, int, int]] = []
    done = moved = 0  # lines that are in the result or gone; how far the last hunk was off
    for number, hunk in enumerate(hunks, 1):
        name, where = f"hunk {number} of {file.path}", f"{patch}:{hunk.number}"
        expected = hunk.start + moved
        places = search.places(hunk.old, expected, done) if hunk.old or not lines else []
        if len(places) != 1:
            faults.append(_explained(hunk, name, patch, file, search, done, expected, places))
            if len(faults) == ENOUGH:
                break
            continue
        (at,) = places
        if at != expected:
            notes.append(f"{where}: {name} applies {at - expected:+d} lines off")
            moved += at - expected
        result += lines[done:at]
        done = at
        changed = [i for i, line in enumerate(hunk.lines, 1) if line.side is not Side.BOTH]
        for line in hunk.lines[: max(changed, default=0)]:
            if line.side is Side.NEW:
                result.append(SourceLine(line.text, None, f"{patch}:{line.number}"))
                continue
            if line.side is Side.BOTH:
                result.append(lines[done])
            done += 1
        places_of.append((at, done, hunk.number))
    if faults:
        raise KlpError.together(faults)
    return [*result, *lines[done:]], Applied(patch, lines, tuple(places_of))


def _explained(
    hunk: Hunk,
    name: str,
    patch: str,
    file: FileLines,
    search: _Search,
    done: int,
    expected: int,
    places: Sequence[int],
) -> Fault:
    """Explain why a hunk does not apply."""
    where = f"{patch}:{hunk.number}"

    def fault(
        what: str, why: str, hint: str, *others: str, is_a: Standing = Standing.NOT_APPLIED
    ) -> Fault:
        return Fault(f"{name} {what}", where, why, hint, is_a, (patch,), others)

    if places:
        found = ", ".join(str(at + 1) for at in places)
        what = f"fits at {len(places)} places (lines {found}) and not at its own"
        return fault(what, "", _AGAIN)
    if not hunk.old:
        hint = "Make the patch with lines of context: diff -u, not diff -U0."
        return fault("has no line that tells where it belongs", "", hint)
    if search.places(hunk.old, expected) and done:
        what = "stands before the end of the hunk above it"
        return fault(what, "Hunks are in the order of the file's lines.", "")
    compared = _compared(hunk, patch, file, expected)
    if hunk.new and (at := search.places(hunk.new, expected)):
        for applied in file.history:
            start, last = at[0], at[0] + len(hunk.new)
            if any(line.origin.startswith(f"{applied.patch}:") for line in file.lines[start:last]):
                what = f"does what {applied.place(start, last)} does"
                hint = "Leave one of them out."
                return fault(what, "", hint, applied.patch, is_a=Standing.CONFLICTS)
        hint = "Leave it out, or choose the kernel that lacks it."
        return fault("is in the kernel's source already", "", hint)
    for applied in reversed(file.history):
        if at := _Search(applied.before).places(hunk.old, expected):
            place = applied.place(at[0], at[0] + len(hunk.old))
            why = f"{applied.patch} changes these lines before.\n{compared}"
            hint = f"Make {patch} again on top of {applied.patch}, or leave one of them out."
            what = f"conflicts with {place}"
            return fault(what, why, hint, applied.patch, is_a=Standing.CONFLICTS)
    context = [line.side is Side.BOTH for line in hunk.lines]
    for fuzz in (1, 2):
        head = min(fuzz, [*context, False].index(False))
        tail = min(fuzz, [*context[::-1], False].index(False))
        core = hunk.old[head : len(hunk.old) - tail]
        if core and search.places(core, expected + head):
            what = f"applies only with fuzz {fuzz}"
            why = "The lines around the change differ: it may end up in the wrong place."
            return fault(what, f"{why}\n{compared}", _AGAIN)
    why = f"The lines that it changes are not in this kernel's source.\n{compared}"
    return fault("does not apply", why, "Use the fix that was made for this kernel's version.")


def _compared(hunk: Hunk, patch: str, file: FileLines, expected: int) -> str:
    """Compare the first lines that a hunk expects and does not find with those that are there."""
    wanted = [line for line in hunk.lines if line.side is not Side.NEW]
    texts = [line.text for line in wanted]
    start = _most_alike(texts, file.lines, expected)
    there = file.lines[start : start + len(texts)]
    matcher = SequenceMatcher(None, texts, [line.text for line in there], autojunk=False)
    if not there or matcher.ratio() < _ALIKE:
        shown = [_wanted(line, patch) for line in wanted if line.text.strip()]
        return _listed("It expects", shown) + f"\n{file.path} has nothing like it."
    gone, come = _difference(matcher)
    expects = [_wanted(line, patch) for line in wanted[slice(*gone)]]
    has = [_there(line, file.path) for line in there[slice(*come)]]
    return "\n".join((_listed("It expects", expects), _listed("There is", has)))


def _difference(matcher: SequenceMatcher[bytes]) -> tuple[tuple[int, int], tuple[int, int]]:
    """Find the first lines that differ, with one that is the same where a side has none."""
    for tag, i1, i2, j1, j2 in matcher.get_opcodes():
        if tag != "equal":
            if i1 == i2 or j1 == j2:
                i1, j1 = max(i1 - 1, 0), max(j1 - 1, 0)
            return (i1, max(i2, i1 + 1)), (j1, max(j2, j1 + 1))
    return (0, 1), (0, 1)


def _most_alike(wanted: Sequence[bytes], lines: Sequence[SourceLine], expected: int) -> int:
    """Find the place at which most of the wanted lines stand, the nearest to the expected one."""
    at = {text: i for i, text in reversed(list(enumerate(wanted))) if text.strip()}
    votes: dict[int, int] = {}
    for number, line in enumerate(lines):
        if line.text in at:
            start = max(number - at[line.text], 0)
            votes[start] = votes.get(start, 0) + 1
    return max(votes, key=lambda start: (votes[start], -abs(start - expected)), default=expected)


def _listed(heading: str, lines: Sequence[str]) -> str:
    more = [f"  and {len(lines) - _SHOWN} lines more"] if len(lines) > _SHOWN else []
    return "\n".join((f"{heading}:", *(f"  {line}" for line in lines[:_SHOWN]), *more))


def _wanted(line: HunkLine, patch: str) -> str:
    return f"{patch}:{line.number}: {_text(line.text)}".rstrip()


def _there(line: SourceLine, path: str) -> str:
    return f"{line.origin or f'{path}:{line.old}'}: {_text(line.text)}".rstrip()


def _text(text: bytes) -> str:
    shown = text.rstrip(b"\r\n").decode(errors="surrogateescape")
    return shown if len(shown) <= _WIDTH else f"{shown[:_WIDTH]}..."
