"""Refuse structures that patches lay out otherwise, unless no object of one can tell."""

from __future__ import annotations

import re
from collections.abc import Collection, Hashable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from klpbuild.elf.reader import ElfFile
from klpbuild.elf.types import Layout
from klpbuild.errors import KlpError, Problems
from klpbuild.patch.commands import CompileCommand
from klpbuild.patch.fix import faults
from klpbuild.patch.holes import OBJECTS_MAX, new_members, why_not_zero
from klpbuild.patch.layout import (
    Compared,
    compare_layouts,
    kept_local_types,
    layouts,
    may_change_layouts,
)
from klpbuild.patch.members import Declared, holds_state, in_place
from klpbuild.patch.patched import PatchedFile
from klpbuild.patch.recompile import Recompiler
from klpbuild.patch.touched import Touched
from klpbuild.patch.units import Unit
from klpbuild.patch.whole import why_read

if TYPE_CHECKING:
    from klpbuild.patch.pair import ObjectPair


class MovableError(KlpError):
    """A structure is laid out otherwise, and would not be if its members kept their places.

    :ivar files: the patched files with the members there.
    :ivar names: of the structures, such as ``struct x``, each with its file's path before it.
    :ivar notes: what that assumes.
    """

    files: tuple[PatchedFile, ...] = ()
    names: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()


def keep_layouts(compiler: Recompiler, command: CompileCommand, names: Collection[str]) -> bool:
    """Tell whether structures that an object knows are laid out as they were."""
    olds, news = (
        layouts(ElfFile.read(compiler.with_layouts(command, new))) for new in (False, True)
    )
    return all(len(olds.get(n, ())) == 1 and olds[n] == news.get(n) for n in names)


@dataclass
class LayoutCheck:
    """Comparison of the layouts of structures and the numbers of enumerations.

    A structure may get members where nothing was, if they are zero in each one that exists.

    :ivar commands: how the objects of all units are compiled.
    :ivar accepted: names of what may differ.
    :ivar notes: takes what was assumed.
    :ivar done: what needs no second look: files with units, types with what differs of them.
    :ivar moved: patched files in which members keep their places.
    :ivar names: their structures, see `MovableError.names`.
    :ivar assumed: what that assumes.
    """

    compiler: Recompiler
    touched: Touched
    commands: Mapping[Unit, CompileCommand]
    pool: ThreadPoolExecutor
    accepted: Collection[str]
    notes: list[str]
    done: set[Hashable] = field(default_factory=set)
    moved: dict[str, PatchedFile] = field(default_factory=dict)
    names: list[tuple[str, str]] = field(default_factory=list)
    assumed: list[str] = field(default_factory=list)

    def check(self, changed: Mapping[Unit, ObjectPair]) -> None:
        """Compare what the objects of units know, before and after the patches.

        :param changed: the objects that the patches change.
        :raises KlpError: when a patch lays out a structure or numbers an enumeration otherwise.
        :raises MovableError: when members may keep their places instead.
        """
        problems = Problems()
        # A header tells what its own lines are about; so does no file that includes it.
        for file in sorted(self.compiler.files, key=lambda file: file.path.endswith(".c")):
            where = may_change_layouts(file)
            known = [u for u in self.touched.by_file[file.path] if u in self.commands]
            units = [unit for unit in known if unit in changed]
            # What includes it now, and did not, may use what none of the others does.
            units = units or known[: any(file.path in pair.files for pair in changed.values())]
            units = [unit for unit in units if (file.path, unit) not in self.done] if where else []
            self.done.update((file.path, unit) for unit in units)
            # One object has all types that the file declares.  What it defines for others, as
            # the size of an array, may be in types that only another object knows.
            for some in (units[:1], units[1:]):
                if not self._check(file, where, some, problems):
                    break
        try:
            problems.check()
        except KlpError as error:
            if not self.moved:
                raise
            movable = MovableError.together(error.problems)
            movable.files, movable.names = tuple(self.moved.values()), tuple(self.names)
            movable.notes = tuple(self.assumed)
            raise movable from error

    def _check(
        self, file: PatchedFile, where: str, units: Sequence[Unit], problems: Problems
    ) -> bool:
        """Compare what some units know of a file; tell whether nothing is wrong."""
        jobs = [
            [self.pool.submit(self.compiler.with_layouts, self.commands[unit], new)
             for new in (False, True)]
            for unit in units
        ]  # fmt: skip
        is_right = True
        for unit, job in zip(units, jobs, strict=True):
            before, after = (ElfFile.read(each.result()) for each in job)
            compared = compare_layouts(before, after, self.compiler.tree.kept / "layouts")
            told = len(problems)
            with faults(problems, file.patches, self.commands[unit].target):
                self._check_local(file, where)
            for name, change in compared.layouts:
                home = self._declaring(file, name)
                with faults(problems, *self._causes(home, unit)):
                    self._check_structure(home or file, where, compared, name, change)
            for name, change in compared.enumerators:
                word = re.compile(rb"\b%b\b" % change.split()[0].encode())
                files = (file, *self.compiler.files)
                home = next((f for f in files if word.search(f.patched)), None)
                with faults(problems, *self._causes(home, unit)):
                    self._check_enumeration(where, name, change)
            is_right = is_right and len(problems) == told
        return is_right

    def _declaring(self, file: PatchedFile, name: str) -> PatchedFile | None:
        """Find the patched file that declares a structure, of two the first."""
        files = (file, *self.compiler.files)
        return next((f for f in files if Declared.find(f.original or b"", name)), None)

    def _causes(self, home: PatchedFile | None, unit: Unit) -> tuple[list[str], str]:
        """Name the patches that may have changed a type, and the object that shows it.

        :param home: the patched file that declares it.
        """
        touching = [f for f in self.compiler.files if unit in self.touched.by_file[f.path]]
        files = touching if home is None else [home]
        return [name for f in files for name in f.patches], self.commands[unit].target

    def _is_done(self, name: str, *what: Hashable) -> bool:
        """Tell whether a type may differ, or it is known what comes of that."""
        if name in self.accepted or (name, *what) in self.done:
            return True
        self.done.add((name, *what))
        return False

    def _check_local(self, file: PatchedFile, where: str) -> None:
        problems = Problems()
        for name in kept_local_types(file):
            if not self._is_done(name, file.path):
                problems.add(
                    f"{name}, which a static variable of a function has, is declared otherwise",
                    where=where,
                    why="The variable is the running kernel's and keeps its old layout.",
                    hint="Give the type and the variable other names.\n"
                    f"If the layout is the same, accept it: {_accept(name)}",
                )
        problems.check()

    def _check_structure(
        self, file: PatchedFile, where: str, compared: Compared, name: str, change: str
    ) -> None:
        olds, news = compared.before[name], compared.after[name]
        if self._is_done(name, file.path, olds, news):
            return
        why = f"Each {name} that exists when the livepatch is loaded keeps its old layout."
        if members := _new_members(olds, news):
            unproven = self._why_not_zero(file, name, olds, news)
            if not unproven:
                self.notes.append(
                    f"{name} gets {', '.join(members)} where nothing was: taken to be zero in"
                    " each one that exists, since all of them are allocated as zeros"
                )
                return
            why += f"\nWhat it gets may hold anything in those: {unproven}."
        elif unproven := self._why_not_in_place(file, name, olds, news):
            what = "keep what it loses" if _lost(olds, news) else "have that behind the others"
            why += f"\nIt cannot just {what}: {unproven}."
        raise KlpError(
            f"{name} {change}",
            where=may_change_layouts(file) or where,
            why=why,
            hint="Keep new data in a shadow variable (klp_shadow_get_or_alloc), or give the "
            "new layout another name if only new code uses it.\n"
            f"If none outlives the replaced functions, accept it: {_accept(name)}",
        )

    def _check_enumeration(self, where: str, name: str, change: str) -> None:
        if not self._is_done(name, change):
            raise KlpError(
                f"{name} is numbered otherwise: {change}",
                where=where,
                why="What the running kernel has stored keeps its old numbers.",
                hint="Add new enumerators behind the others.\n"
                f"If no such number outlives the replaced functions, accept it: {_accept(name)}",
            )

    def _knowing(self, file: PatchedFile) -> list[CompileCommand]:
        """List how the objects are compiled that may know what a file declares."""
        units = self.touched.by_file[file.path]
        return [self.commands[unit] for unit in units if unit in self.commands]

    def _why_not_zero(
        self, file: PatchedFile, name: str, olds: frozenset[Layout], news: frozenset[Layout]
    ) -> str:
        """Explain why new members may hold anything; empty if they are zero."""
        sizes, known = (min(olds).size, min(news).size), self._knowing(file)
        prove = partial(why_not_zero, self.compiler, name, sizes, file, known)
        unproven = prove()
        if unproven and not why_read(self.compiler, name, file, known):
            unproven = prove(only_cleared=True)
        return unproven

    def _why_not_in_place(
        self, file: PatchedFile, name: str, olds: frozenset[Layout], news: frozenset[Layout]
    ) -> str:
        """Arrange a file so that a structure's members keep their places, if that can be.

        :returns: why not, where that is worth telling.
        """
        units, lost = self.touched.by_file[file.path], _lost(olds, news)
        if len(units) > OBJECTS_MAX and not (lost and min(olds).size == min(news).size):
            return ""
        source = self.compiler.tree.source
        users = [path.read_bytes() for path in sorted({source / unit.source for unit in units})]
        users += [other.patched for other in self.compiler.files]
        arranged = in_place(self.moved.get(file.path, file), name, users)
        if arranged is None:
            return ""
        if not _read_alike(olds, news, file, name):
            unproven = why_read(self.compiler, name, file, self._knowing(file))
            if unproven:
                return unproven
        self.moved[file.path] = arranged
        self.names.append((file.path, name))
        self.assumed.append(f"{file.where}: {_kept(name, lost) if lost else _BEHIND}")
        return ""


def _new_members(before: frozenset[Layout], after: frozenset[Layout]) -> list[str]:
    """List the members that are put into holes; none if more changes, or there are several."""
    if len(before) != 1 or len(after) != 1:
        return []
    added = new_members(min(before), min(after))
    return [member.name for member in added if not member.name.endswith("[]")]


def _read_alike(
    before: frozenset[Layout], after: frozenset[Layout], file: PatchedFile, name: str
) -> bool:
    """Tell whether code that reads all of a structure may find its members where they were.

    It finds them where the patch has them, or there is no such code.
    """
    olds, news = min(before), min(after)
    kept = set(news.members) & set(olds.members)
    if olds.size > news.size or len(kept) == len(news.members):
        return olds.size == news.size
    return holds_state(file, name, (member.name for member in kept))


def _lost(before: frozenset[Layout], after: frozenset[Layout]) -> list[str]:
    """List the members that a structure loses."""
    present = {member.name for member in min(after).members}
    return [m.name for m in min(before).members if m.name not in present and "[]" not in m.name]


def _kept(name: str, lost: list[str]) -> str:
    return (
        f"{name} keeps the place of {', '.join(lost)}: the livepatch's code does not write there,"
        " and the kernel's own reads it again when the livepatch is disabled"
    )


_BEHIND = "new members stand behind the others of their structures: nothing else moves"


def _accept(name: str) -> str:
    return f'--accept-layout "{name}", or accept_layouts = ["{name}"] in livepatch.toml.'
