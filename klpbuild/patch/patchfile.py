"""Apply source patches in memory, exactly or not at all."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from klpbuild.errors import KlpError, Problems, printable
from klpbuild.files.given import PATCH_MAX, read_given_file
from klpbuild.patch.csource import without_comments
from klpbuild.patch.diff import Action, FileDiff, read_diff
from klpbuild.patch.fix import Fault, IdleError, Standing, at_fault
from klpbuild.patch.hunks import ENOUGH, Applied, FileLines, apply_hunks
from klpbuild.patch.makefiles import added_sources, check_makefiles
from klpbuild.patch.patched import PatchedFile, PatchedSource, SourceLine
from klpbuild.patch.paths import (
    MAKEFILE,
    Tree,
    check_kind,
    is_source,
    named,
    stripped,
    without_code,
)
from klpbuild.patch.series import stated_level

#: Modes that git writes for a symbolic link and for another repository.
_MODES = {"120000": "a symbolic link", "160000": "a submodule"}


@dataclass
class _State:
    """A file while the patches are applied."""

    original: bytes | None
    lines: list[SourceLine]
    where: str
    history: tuple[Applied, ...] = ()


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


def needed_patch(
    patch: Path, earlier: Sequence[Path], left: Sequence[Path], source: Path, architecture: str
) -> Path | None:
    """Find the patch among those left out that one needs to apply, None if none is it.

    :param earlier: those that are applied before it.
    """
    applied = _Applied(source, architecture)
    with suppress(KlpError):
        applied.take_all(earlier)
    found = applied.needed(patch, left, [])
    return found and found[0]


def files_after(
    patches: Iterable[Path], source: Path, architecture: str
) -> tuple[PatchedFile, ...]:
    """Compute the files that the first patches of a series change, Makefiles among them.

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
            PatchedFile(
                path,
                state.original,
                tuple(state.lines),
                state.where,
                tuple(dict.fromkeys(applied.patch for applied in state.history)),
            )
            for path, state in sorted(self.states.items())
        )

    def take_all(self, patches: Iterable[Path]) -> None:
        """Apply patches in order; one that does not apply leaves the files as they were.

        :raises KlpError: with everything that is wrong with any of them.
        """
        patches = list(patches)
        problems = Problems()
        taken: set[str] = set()
        for number, patch in enumerate(patches):
            if patch.name in taken:
                problems.add(
                    "two patches have this name",
                    where=printable(patch.name),
                    why="Messages and documents name patches by it.",
                    hint="Rename one of them.",
                )
                continue
            taken.add(patch.name)
            before, notes = dict(self.states), list(self.notes)
            try:
                self.take(patch)
            except KlpError as error:
                self.states, self.notes = before, notes
                needed = self.needed(patch, patches[:number], patches[number + 1 :])
                told = error if needed is None else _needs(patch, *needed, error)
                problems.note(at_fault(told, [patch.name], Standing.NOT_APPLIED))
        problems.check()

    def needed(
        self, patch: Path, earlier: Sequence[Path], later: Sequence[Path]
    ) -> tuple[Path, bool] | None:
        """Find the patch that one needs to apply, and tell whether it stands before it."""
        names = file_names(patch)
        for other in (*later, *(p for p in earlier if not self._has(p))):
            if names.isdisjoint(file_names(other)):
                continue
            trial = _Applied(self.tree.source, self.architecture)
            trial.states = dict(self.states)
            try:
                trial.take(other)
                trial.take(patch)
            except KlpError:
                continue
            return other, other in earlier
        return None

    def _has(self, patch: Path) -> bool:
        """Tell whether a patch was applied to any file."""
        name = printable(patch.name)
        return any(a.patch == name for state in self.states.values() for a in state.history)

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
            if len(problems) >= ENOUGH:
                break
        problems.check()

    def _apply(self, file: FileDiff, path: str, patch: Path, level: int) -> None:
        where = f"{printable(patch.name)}:{file.number}"
        names = [stripped(name, level) for name in named(file, where)]
        if file.action in (Action.RENAMES, Action.COPIES) and not all(
            without_code(name, self.architecture) for name in names
        ):
            why = "A loaded kernel has no file names; a patch for it changes lines."
            hint = "Make the patch with git format-patch --no-renames, or leave this out."
            with _refused():
                raise KlpError(f"{file.action.value} {path}", where=where, why=why, hint=hint)
        self.tree.check_place(path, where)
        reason = without_code(path, self.architecture)
        if reason is None and file.action is Action.ONLY_HERE and not is_source(path):
            reason = "is in one of the two trees only"
        if reason is not None:
            self.notes.append(f"{where}: {path} {reason}; left out")
            return
        with _refused():
            check_kind(path, where)
            self._check_change(file, path, where)
        if not file.hunks and not file.adds:
            self.notes.append(f"{where}: no line of {path} changes; left out")
            return
        state = self.states.get(path) or self._read(file, path, where, level)
        name = printable(patch.name)
        now = FileLines(path, state.lines, state.history)
        lines, applied = apply_hunks(file.hunks, now, name, self.notes)
        if not lines and state.lines:
            with _refused():
                raise _deletion(path, where)
        history = (*state.history, applied)
        self.states[path] = _State(state.original, lines, state.where, history)
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


@cache
def file_names(patch: Path) -> frozenset[bytes]:
    """List the names of the files that a patch changes, without directories."""
    try:
        data = read_given_file(patch, PATCH_MAX)
        found = re.findall(rb"^\+\+\+ ([^\t\r\n]*)", data, re.MULTILINE)
    except KlpError:  # told elsewhere
        return frozenset()
    return frozenset(name.rpartition(b"/")[2] for name in found)


def _needs(patch: Path, other: Path, is_before: bool, error: KlpError) -> KlpError:
    """Make the error of a patch that does not apply without another one."""
    name, needed = printable(patch.name), printable(other.name)
    where = error.problems[0].where
    why = f"With {needed} before it, it applies."
    hint = f"Put {name} behind {needed}, in the order of the names or in the file series."
    if is_before:
        hint = f"See what is wrong with {needed}."
    fault = Fault(f"needs {needed}", where, why, hint, Standing.NEEDS, (patch.name,), (other.name,))
    return KlpError.together([fault])


@contextmanager
def _refused() -> Iterator[None]:
    """Say of errors in the block that no livepatch can do that, whatever the patch applies to."""
    try:
        yield
    except KlpError as error:
        raise at_fault(error, (), Standing.REFUSED) from error


def _deletion(path: str, where: str) -> KlpError:
    return KlpError(
        f"deletes {path}",
        where=where,
        why="A livepatch cannot take code away from a running kernel.",
        hint="Leave the deletion out: unused code does no harm.",
    )


def _check_changes(files: Sequence[PatchedFile], notes: Sequence[str]) -> None:
    if not files:
        raise IdleError(
            "the patch changes nothing in this kernel: it changes no code",
            why="\n".join(notes),
            hint="There is nothing that a livepatch could replace.",
        )
    if all(
        without_comments(file.original or b"") == without_comments(file.patched) for file in files
    ):
        raise IdleError(
            "the patch changes nothing in this kernel: only comments and white space",
            where=files[0].where,
            hint="There is nothing that a livepatch could replace.",
        )
