"""Refuse structures that patches lay out otherwise, unless no object of one can tell."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from klpbuild.elf.reader import ElfFile
from klpbuild.elf.types import Layout
from klpbuild.errors import KlpError, Problems
from klpbuild.patch.commands import CompileCommand
from klpbuild.patch.fix import faults
from klpbuild.patch.holes import OBJECTS_MAX, new_members, why_not_zero
from klpbuild.patch.layout import (
    compare_layouts,
    kept_local_types,
    layouts,
    may_change_layouts,
)
from klpbuild.patch.members import holds_state, in_place
from klpbuild.patch.patched import PatchedFile
from klpbuild.patch.recompile import Recompiler
from klpbuild.patch.touched import Touched
from klpbuild.patch.units import Unit
from klpbuild.patch.whole import why_read


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


def check_layouts(
    compiler: Recompiler,
    changed: Collection[Unit],
    touched: Touched,
    commands: Mapping[Unit, CompileCommand],
    pool: ThreadPoolExecutor,
    told: set[str],
    notes: list[str],
    seen: Collection[str] = (),
) -> set[str]:
    """Compare the layouts of structures and the numbers of enumerations.

    A structure may get members where nothing was, if they are zero in each one that exists.

    :param changed: the units of which the patches change the objects.
    :param told: those that may differ; grows.
    :param notes: takes what was assumed.
    :param seen: the paths of files that need not be looked at.
    :returns: the paths of the files that were looked at.
    :raises KlpError: when a patch lays out a structure or numbers an enumeration otherwise.
    :raises MovableError: when members may keep their places instead.
    """
    problems = Problems()
    looked_at = set()
    moved: dict[str, PatchedFile] = {}
    names: list[tuple[str, str]] = []
    assumed: list[str] = []
    for file in compiler.files:
        if file.path in seen:
            continue
        where = may_change_layouts(file)
        # One object tells: it has all types that its source and headers declare.
        one = next((unit for unit in touched.by_file[file.path] if unit in changed), None)
        if not where or one is None:
            continue
        command = commands[one]
        looked_at.add(file.path)
        found = Problems()
        for name in kept_local_types(file):
            if name not in told:
                found.add(
                    f"{name}, which a static variable of a function has, is declared otherwise",
                    where=where,
                    why="The variable is the running kernel's and keeps its old layout.",
                    hint="Give the type and the variable other names.\n"
                    f"If the layout is the same, accept it: {_accept(name)}",
                )
        jobs = [pool.submit(compiler.with_layouts, command, new) for new in (False, True)]
        before, after = (ElfFile.read(job.result()) for job in jobs)
        compared = compare_layouts(before, after, compiler.tree.kept / "layouts")
        olds, news = compared.before, compared.after
        for name, change in compared.layouts:
            if name in told:
                continue
            told.add(name)
            why = f"Each {name} that exists when the livepatch is loaded keeps its old layout."
            if members := _new_members(olds[name], news[name]):
                units = touched.by_file[file.path]
                known = [commands[unit] for unit in units if unit in commands]
                sizes = min(olds[name]).size, min(news[name]).size
                prove = partial(why_not_zero, compiler, name, sizes, file, known)
                unproven = prove()
                if unproven and not why_read(compiler, name, file, known):
                    unproven = prove(only_cleared=True)
                if not unproven:
                    notes.append(
                        f"{name} gets {', '.join(members)} where nothing was: taken to be zero in"
                        " each one that exists, since all of them are allocated as zeros"
                    )
                    continue
                why += f"\nWhat it gets may hold anything in those: {unproven}."
            else:
                units = touched.by_file[file.path]
                lost, unproven, arranged = _lost(olds[name], news[name]), "", None
                keeps_size = min(olds[name]).size == min(news[name]).size
                if len(units) <= OBJECTS_MAX or (lost and keeps_size):
                    paths = {compiler.tree.source / unit.source for unit in units}
                    sources = [path.read_bytes() for path in sorted(paths)]
                    sources += [other.patched for other in compiler.files]
                    arranged = in_place(moved.get(file.path, file), name, sources)
                if arranged is not None and not _read_alike(olds[name], news[name], file, name):
                    known = [commands[unit] for unit in units if unit in commands]
                    unproven = why_read(compiler, name, file, known)
                    what = "keep what it loses" if lost else "have that behind the others"
                    why += f"\nIt cannot just {what}: {unproven}." if unproven else ""
                if arranged is not None and not unproven:
                    moved[file.path] = arranged
                    names.append((file.path, name))
                    assumed.append(f"{file.where}: {_kept(name, lost) if lost else _BEHIND}")
            found.add(
                f"{name} {change}",
                where=where,
                why=why,
                hint="Keep new data in a shadow variable (klp_shadow_get_or_alloc), or give the "
                "new layout another name if only new code uses it.\n"
                f"If none outlives the replaced functions, accept it: {_accept(name)}",
            )
        for name, change in compared.enumerators:
            if name in told:
                continue
            told.add(name)
            found.add(
                f"{name} is numbered otherwise: {change}",
                where=where,
                why="What the running kernel has stored keeps its old numbers.",
                hint="Add new enumerators behind the others.\n"
                f"If no such number outlives the replaced functions, accept it: {_accept(name)}",
            )
        with faults(problems, file.patches, command.target):
            found.check()
    try:
        problems.check()
    except KlpError as error:
        if not moved:
            raise
        movable = MovableError.together(error.problems)
        movable.files, movable.names = tuple(moved.values()), tuple(names)
        movable.notes = tuple(assumed)
        raise movable from error
    return looked_at


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
