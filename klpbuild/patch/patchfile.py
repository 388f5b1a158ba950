"""Source patches, applied in memory: exactly, or not at all."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from pathlib import Path

from klpbuild.errors import KlpError, Problems, printable
from klpbuild.patch.csource import without_comments
from klpbuild.patch.diff import Action, FileDiff, Hunk, Side, read_diff
from klpbuild.patch.makefiles import added_sources, check_makefiles
from klpbuild.patch.patched import PatchedFile, PatchedSource, SourceLine
from klpbuild.patch.paths import MAKEFILE, Tree, check_kind, is_source, named, without_code
from klpbuild.patch.series import stated_level

#: How many hunks that do not apply are explained.
_ENOUGH = 20
#: How many places of a hunk are named.
_PLACES = 5
#: What git writes for the mode of a symbolic link, and of another repository.
_MODES = {"120000": "a symbolic link", "160000": "a submodule"}


@dataclass
class _State:
    """A file while the patches are applied."""

    original: bytes | None
    lines: list[SourceLine]
    where: str
    patches: tuple[str, ...] = ()


def apply_patches(patches: Iterable[Path], source: Path, architecture: str = "") -> PatchedSource:
    """Read patches and apply them in order, in memory.

    Every hunk must match the source exactly; it may stand at another line if
    there is one such place only.

    :param patches: what ``git format-patch`` or ``diff -u`` wrote.
    :param source: the kernel's source tree; nothing is written there.
    :param architecture: kbuild's name of it: what is below ``arch/`` and not there is left out.
    :raises KlpError: with everything that is wrong with any of the patches.
    """
    applied = _Applied(source, architecture)
    applied.take_all(patches)
    changed = applied.files
    files = tuple(file for file in changed if not MAKEFILE.search(file.path))
    makefiles = tuple(file for file in changed if MAKEFILE.search(file.path))
    check_makefiles(makefiles, added_sources(files))
    _check_changes(files, applied.notes)
    notes, letters = tuple(dict.fromkeys(applied.notes)), frozenset(applied.cover_letters)
    return PatchedSource(files, makefiles, notes, letters)


def files_after(
    patches: Iterable[Path], source: Path, architecture: str
) -> tuple[PatchedFile, ...]:
    """The files that the first patches of a series change, Makefiles among them.

    :param patches: some that `apply_patches` has applied.
    """
    applied = _Applied(source, architecture)
    applied.take_all(patches)
    return applied.files


class _Applied:
    """The source as the patches so far leave it.

    :ivar states: files that they change, by path.
    :ivar notes: what was remarkable and no fault.
    :ivar cover_letters: the names of those that are none.
    """

    def __init__(self, source: Path, architecture: str) -> None:
        self.tree, self.architecture = Tree(source), architecture
        self.states: dict[str, _State] = {}
        self.notes: list[str] = []
        self.cover_letters: list[str] = []

    @property
    def files(self) -> tuple[PatchedFile, ...]:
        """The files that the patches change, by path."""
        return tuple(
            PatchedFile(path, state.original, tuple(state.lines), state.where, state.patches)
            for path, state in sorted(self.states.items())
        )

    def take_all(self, patches: Iterable[Path]) -> None:
        """Apply patches in order.

        :raises KlpError: with everything that is wrong with any of them.
        """
        problems = Problems()
        taken: set[str] = set()
        for patch in patches:
            with problems.collect():
                if patch.name in taken:
                    raise KlpError(
                        "two patches have this name",
                        where=printable(patch.name),
                        why="Messages and documents name patches by it.",
                        hint="Rename one of them.",
                    )
                taken.add(patch.name)
                self.take(patch)
        problems.check()

    def take(self, patch: Path) -> None:
        """Apply one more patch.

        :raises KlpError: with everything that is wrong with it.
        """
        name = printable(patch.name)
        diff = read_diff(patch)
        if diff.is_cover_letter:
            self.cover_letters.append(patch.name)
            self.notes.append(f"{name}: is a cover letter; left out")
            return
        problems = Problems()
        found = []
        for file in diff.files:
            with problems.collect():
                found.append((file, named(file, f"{name}:{file.number}")))
        problems.check()
        stated = stated_level(patch)
        level = self.tree.level(found, name) if stated is None else stated
        if level != 1:
            self.notes.append(f"{name}: its names are taken as by patch -p{level}")
        for file, names in found:
            with problems.collect():
                where = f"{name}:{file.number}"
                path = self.tree.path(names, level, where)
                self._apply(file, path, patch, level)
            if len(problems) >= _ENOUGH:
                break
        problems.check()

    def _apply(self, file: FileDiff, path: str, patch: Path, level: int) -> None:
        where = f"{printable(patch.name)}:{file.number}"
        if file.action in (Action.RENAMES, Action.COPIES):
            raise KlpError(
                f"{file.action.value} {path}",
                where=where,
                why="A loaded kernel has no file names; a patch for it changes lines.",
                hint="Make the patch with git format-patch --no-renames, or leave this out.",
            )
        self.tree.check_place(path, where)
        reason = without_code(path, self.architecture)
        if reason is None and file.action is Action.ONLY_HERE and not is_source(path):
            reason = "is in one of the two trees only"
        if reason is not None:
            self.notes.append(f"{where}: {path} {reason}; left out")
            return
        check_kind(path, where)
        self._check_change(file, path, where)
        if not file.hunks and not file.adds:
            self.notes.append(f"{where}: no line of {path} changes; left out")
            return
        state = self.states.get(path) or self._read(file, path, where, level)
        name = printable(patch.name)
        lines = _apply_hunks(file.hunks, state.lines, path, name, self.notes)
        if not lines and state.lines:
            raise _deletion(path, where)
        patches = tuple(dict.fromkeys((*state.patches, patch.name)))
        self.states[path] = _State(state.original, lines, state.where, patches)
        self.tree.add(path)

    @staticmethod
    def _check_change(file: FileDiff, path: str, where: str) -> None:
        if file.action is Action.BINARY:
            raise KlpError(f"{path} is changed as a binary file", where=where)
        if file.action is Action.ONLY_HERE:
            raise KlpError(
                f"{path} is in one of the two trees only",
                where=where,
                why="The diff does not say what is in it.",
                hint="Make the diff with diff -N, or take this line out.",
            )
        if file.mode in _MODES:
            raise KlpError(f"makes {path} {_MODES[file.mode]}", where=where)
        if file.new is None:
            raise _deletion(path, where)

    def _read(self, file: FileDiff, path: str, where: str, level: int) -> _State:
        place = self.tree.source / path
        if place.is_file():
            data = place.read_bytes()
            if file.adds and data:
                raise KlpError(f"adds {path}, which is there already", where=where)
            texts = re.findall(rb"[^\n]*\n|[^\n]+", data)
            lines = [SourceLine(text, number) for number, text in enumerate(texts, 1)]
            return _State(data, lines, where)
        if place.exists():
            raise KlpError(f"{path} is not a file", where=where)
        if file.adds:
            return _State(None, [], where)
        raise KlpError(
            f"changes {path}, which the kernel's source does not have",
            where=where,
            why=f"Names in this patch are taken as by patch -p{level}.",
            hint=self.tree.elsewhere(named(file, where), level)
            or "Use a patch for this kernel's version.",
        )


def _deletion(path: str, where: str) -> KlpError:
    return KlpError(
        f"deletes {path}",
        where=where,
        why="A livepatch cannot take code away from a running kernel.",
        hint="Leave the deletion out: unused code does no harm.",
    )


class _Lines:
    """A file's lines, in which those of a hunk are looked for."""

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
        """Places where wanted lines stand, five at most: the expected one alone if it is one.

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


def _apply_hunks(
    hunks: Sequence[Hunk], lines: Sequence[SourceLine], path: str, patch: str, notes: list[str]
) -> list[SourceLine]:
    """A file's lines with hunks applied, each below the one before it."""
    problems = Problems()
    search = _Lines(lines)
    result: list[SourceLine] = []
    done = moved = 0  # lines that are in the result or gone; how far the last hunk was off
    for number, hunk in enumerate(hunks, 1):
        name, where = f"hunk {number} of {path}", f"{patch}:{hunk.number}"
        expected = hunk.start + moved
        places = search.places(hunk.old, expected, done) if hunk.old or not lines else []
        if len(places) != 1:
            _explain(problems, hunk, name, where, search, done, expected, places)
            if len(problems) == _ENOUGH:
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
    problems.check()
    return [*result, *lines[done:]]


def _explain(
    problems: Problems,
    hunk: Hunk,
    name: str,
    where: str,
    search: _Lines,
    done: int,
    expected: int,
    places: Sequence[int],
) -> None:
    """Say why a hunk does not apply."""
    if places:
        found = ", ".join(str(at + 1) for at in places)
        problems.add(
            f"{name} fits at {len(places)} places (lines {found}) and not at its own",
            where=where,
            hint="Make the patch again against this kernel's source.",
        )
        return
    if not hunk.old:
        problems.add(
            f"{name} has no line that tells where it belongs",
            where=where,
            hint="Make the patch with lines of context: diff -u, not diff -U0.",
        )
        return
    if search.places(hunk.old, expected) and done:
        problems.add(
            f"{name} stands before the end of the hunk above it",
            where=where,
            why="Hunks are in the order of the file's lines.",
        )
        return
    if hunk.new and search.places(hunk.new, expected):
        problems.add(
            f"{name} is in the kernel's source already",
            where=where,
            hint="Leave it out, or choose the kernel that lacks it.",
        )
        return
    context = [line.side is Side.BOTH for line in hunk.lines]
    for fuzz in (1, 2):
        head = min(fuzz, [*context, False].index(False))
        tail = min(fuzz, [*context[::-1], False].index(False))
        core = hunk.old[head : len(hunk.old) - tail]
        if core and search.places(core, expected + head):
            problems.add(
                f"{name} applies only with fuzz {fuzz}",
                where=where,
                why="The lines around the change differ: it may end up in the wrong place.",
                hint="Make the patch again against this kernel's source.",
            )
            return
    problems.add(
        f"{name} does not apply",
        where=where,
        why="The lines that it changes are not in this kernel's source.",
        hint="Use the fix that was made for this kernel's version.",
    )


def _check_changes(files: Sequence[PatchedFile], notes: Sequence[str]) -> None:
    if not files:
        raise KlpError(
            "the patch changes nothing in this kernel: it changes no code",
            why="\n".join(notes),
            hint="There is nothing that a livepatch could replace.",
        )
    if all(
        without_comments(file.original or b"") == without_comments(file.patched) for file in files
    ):
        raise KlpError(
            "the patch changes nothing in this kernel: only comments and white space",
            where=files[0].where,
            hint="There is nothing that a livepatch could replace.",
        )
