"""Compile each object that patches touch twice: as it was, and as the patches make it."""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from klpbuild.elf.vartypes import VariableType
from klpbuild.errors import KlpError, Problems
from klpbuild.kernel.cache import locked
from klpbuild.kernel.prepare import Log, PreparedTree, prepare
from klpbuild.kernel.source import source_tree
from klpbuild.kernel.tree import Kernel
from klpbuild.names import VMLINUX
from klpbuild.patch.added import added_units, listing_directories
from klpbuild.patch.commands import CompileCommand, compile_commands
from klpbuild.patch.fix import at_fault, faults
from klpbuild.patch.identifiers import without_blind
from klpbuild.patch.includes import IncludeGraph
from klpbuild.patch.layout import renumbered_macros
from klpbuild.patch.patched import PatchedFile, PatchedSource
from klpbuild.patch.patchfile import apply_patches
from klpbuild.patch.recompile import PLAIN_FLAGS, SECTION_FLAGS, Recompiler
from klpbuild.patch.regions import changed_names
from klpbuild.patch.shadow import make_shadow
from klpbuild.patch.structures import LayoutCheck, MovableError, keep_layouts
from klpbuild.patch.touched import Touched, touched_units
from klpbuild.patch.units import Unit, Units
from klpbuild.terminal.stopwatch import measured

_MANY = 64
_ENOUGH_PROBLEMS = 20
_WEAK = rb"(?:__weak\b|__attribute__\s*\(\(\s*(?:__)?weak\b)"


@dataclass(frozen=True)
class ObjectPair:
    """An object before and after the patches.

    :ivar owner: vmlinux or the module that it is linked into.
    :ivar source: the C file that it is compiled from, relative to the source tree.
    :ivar target: what kbuild calls it.
    :ivar original: compiled from the kernel's source with `SECTION_FLAGS`, objtool not run.
    :ivar patched: compiled from the patched source in the same way.
    :ivar plain: the original as kbuild compiles it, objtool not run.
    :ivar command: kbuild's command, with the objtool command.
    :ivar files: paths of the patched files that it is made from.
    :ivar known: names of functions that change though its two versions do not show it.
    """

    owner: str
    source: str
    target: str
    original: Path
    patched: Path
    plain: Path
    command: CompileCommand
    files: frozenset[str] = frozenset()
    known: frozenset[str] = frozenset()

    @property
    def where(self) -> str:
        """Its name in messages."""
        return f"{self.source}:{self.target}"


@dataclass(frozen=True)
class CompiledPatch:
    """The kernel's objects, compiled before and after the patches.

    :ivar pairs: the objects that changed, by owner and target.
    :ivar unchanged: objects that were compiled and came out the same.
    :ivar same: those of `unchanged` that each patched file may go into.
    :ivar assembled: patched files that assembly includes, too; that was not looked at.
    :ivar tree: the prepared tree, in whose ``build`` the commands run.
    :ivar patched: the patched source files.
    :ivar notes: what was remarkable and no fault.
    :ivar compiler: what compiled the patched objects.
    :ivar sources: the C files that the kernel is made from.
    :ivar moved: structures of which members keep their places, see `MovableError.names`.
    """

    pairs: tuple[ObjectPair, ...]
    unchanged: tuple[str, ...]
    same: Mapping[str, tuple[str, ...]]
    assembled: frozenset[str]
    tree: PreparedTree
    patched: PatchedSource
    notes: tuple[str, ...]
    compiler: Recompiler
    sources: frozenset[str]
    moved: tuple[tuple[str, str], ...] = ()

    def weak_in(self, name: str) -> str:
        """Find the source file of the kernel that defines a weak function; empty if none does."""
        word = name.encode()
        weak = re.compile(_WEAK + rb"[^;{}]*\b%b\s*\([^;{}]*\{" % re.escape(word))
        for path in sorted(self.sources):
            file = self.tree.source / path
            text = file.read_bytes() if file.is_file() else b""
            if word in text and weak.search(text):
                return path
        return ""

    def variable_types(self, pair: ObjectPair, patched: bool) -> Mapping[str, VariableType]:
        """Read the types of an object's variables, before or after, by their symbols.

        :raises KlpError: when the compiler does not tell them.
        """
        is_new = any(f.path == pair.source and f.original is None for f in self.patched.files)
        if is_new and not patched:
            return {}
        return self.compiler.types(pair.command, patched).variables


@measured("compile")
def compile_patch(
    kernel: Kernel,
    patches: Iterable[Path],
    workdir: Path,
    log: Log,
    progress: Callable[[int, int], None] = lambda done, total: None,
    accept_layouts: Sequence[str] = (),
    only: Collection[str] | None = None,
) -> CompiledPatch:
    """Compile every object that patches touch, as it was and as they make it.

    What takes little comes first: the patches' own C files and the layouts that they change.

    :param patches: applied in order.
    :param workdir: a directory for the shadow tree and the patched objects.
    :param log: takes the command lines and their output.
    :param progress: called with the number of objects that are done and of all.
    :param accept_layouts: structures, such as ``struct x``, that may be laid out otherwise.
    :param only: objects, as kbuild calls them, to leave out all others.
    :raises KlpError: when the patches cannot be applied or compiled, or touch no object.
    """
    patched = apply_patches(patches, source_tree(kernel), kernel.arch.kernel_name)

    refused: dict[tuple[str, str], MovableError] = {}
    keeps_layouts = True
    while True:
        try:
            given = kernel, patched, workdir, log, progress, accept_layouts, only
            return replace(_compile(*given, keeps_layouts), moved=tuple(refused))
        except _OtherLayoutsError:
            keeps_layouts = False
        except KlpError as error:
            said = [problem.what for problem in error.problems]
            for (_, name), first in refused.items():
                if any(what.startswith(f"{name} ") or "designated_init" in what for what in said):
                    raise first from None
            if not isinstance(error, MovableError):
                raise
            refused |= dict.fromkeys(error.names, error)
            moved = {file.path: file for file in error.files}
            files = tuple(moved.get(file.path, file) for file in patched.files)
            patched = replace(patched, files=files, notes=(*patched.notes, *error.notes))
            keeps_layouts = True


class _OtherLayoutsError(Exception):
    """Structures do not keep their layouts, by which objects were left out."""


def _compile(
    kernel: Kernel,
    patched: PatchedSource,
    workdir: Path,
    log: Log,
    progress: Callable[[int, int], None],
    accept_layouts: Sequence[str],
    only: Collection[str] | None,
    keeps_layouts: bool,
) -> CompiledPatch:
    """Compile the objects that patched files go into, see `compile_patch`.

    :param keeps_layouts: whether structures of headers are taken to do so, until it is known.
    :raises _OtherLayoutsError: when they do not.
    """
    tree = prepare(kernel, log)
    renumbered = (note for file in patched.files for note in renumbered_macros(file))
    notes = [*patched.notes, *renumbered, *tree.differences]
    includes = IncludeGraph(tree.source, kernel.arch.kernel_name, kernel.cache / "includes.json")
    units = Units.read(kernel)
    whole = touched_units(units, includes, patched, notes)
    touched = without_blind(whole, includes, patched, tree, notes, keeps_layouts)
    commands = _commands(tree, touched.units, log)
    if only is not None:
        commands = [each for each in commands if each[1].target in only]
    own, others = _own_first(commands, touched)
    workdir = workdir.resolve()
    shadow = workdir / "shadow"
    with (
        locked(workdir),
        ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool,
    ):
        workdir.mkdir(exist_ok=True)
        # A path may leave them by `..` to reach a patched file.
        ways = touched.including.union(*(c.detours(tree.source) for _, c in commands))
        ways |= listing_directories(patched, units)
        real = frozenset(place for place in ways if (tree.source / place).is_dir())
        make_shadow(shadow, tree.source, [*patched.files, *patched.makefiles], real)
        launcher = kernel.toolchain.launcher
        compiler = Recompiler(tree, patched.files, workdir, shadow, real, log, launcher)
        new = added_units(tree, shadow, patched, units, log)
        jobs = _Jobs(compiler, touched, pool, progress, len(commands))
        pairs = _pairs(jobs, own)
        pairs |= _new_pairs(compiler, new, patched.makefiles, pool)
        known = dict(commands)
        for file in compiler.files if touched is not whole else ():
            changed = changed_names(file)
            names = changed.structures if changed else ()
            one = next((unit for unit in touched.by_file[file.path] if unit in known), None)
            if names and (one is None or not keep_layouts(compiler, known[one], names)):
                raise _OtherLayoutsError
        check = LayoutCheck(compiler, touched, known, pool, accept_layouts, notes)
        check.check(pairs)
        if others:
            pairs |= _pairs(jobs, others)
            check.check(pairs)
    unchanged = {unit: command.target for unit, command in commands if unit not in pairs}
    same = {
        path: tuple(unchanged[unit] for unit in touching if unit in unchanged)
        for path, touching in touched.by_file.items()
    }
    return CompiledPatch(
        tuple(sorted(pairs.values(), key=lambda pair: (pair.owner, pair.target))),
        tuple(unchanged.values()),
        same,
        touched.assembled,
        tree,
        patched,
        tuple(dict.fromkeys(notes)),
        compiler,
        units.sources,
    )


def _commands(
    tree: PreparedTree, units: Sequence[Unit], log: Log
) -> list[tuple[Unit, CompileCommand]]:
    """Find how kbuild makes the object of each unit."""
    cache = tree.kept / "commands"
    first = compile_commands(tree, cache, [unit.objects[0] for unit in units], log)
    problems = Problems()
    found = []
    for unit in units:
        command = _matching(tree, unit, first)
        if command is None:
            others = compile_commands(tree, cache, unit.objects[1:], log)
            command = _matching(tree, unit, others)
        if command is None:
            problems.add(
                f"kbuild has no rule for the object of {unit.source}",
                where=unit.owner,
                why="It is in the kernel, and " + " or ".join(unit.objects) + " cannot be made.",
            )
        else:
            found.append((unit, command))
    problems.check()
    return found


def _matching(
    tree: PreparedTree, unit: Unit, commands: dict[str, CompileCommand]
) -> CompileCommand | None:
    for target in unit.objects:
        command = commands.get(target)
        if command is None:
            continue
        source = posixpath.normpath(command.source.removeprefix(f"{tree.source}/"))
        # make has a rule for every C file; that of another directory has other flags.
        if source == unit.source and command.module == (unit.owner != VMLINUX):
            return command
    return None


def _own_first(
    commands: Sequence[tuple[Unit, CompileCommand]], touched: Touched
) -> tuple[list[tuple[Unit, CompileCommand]], list[tuple[Unit, CompileCommand]]]:
    """Split the commands: the patches' own C files and one user of each header; all others."""
    own = {unit for path, units in touched.by_file.items() for unit in units if unit.source == path}
    for units in touched.by_file.values():
        if not own.intersection(units):
            own.update(units[:1])
    return [c for c in commands if c[0] in own], [c for c in commands if c[0] not in own]


@dataclass
class _Jobs:
    """Jobs that compile the objects of patches.

    :ivar total: how many objects there are.
    :ivar done: how many of them are compiled.
    """

    compiler: Recompiler
    touched: Touched
    pool: ThreadPoolExecutor
    progress: Callable[[int, int], None]
    total: int
    done: int = 0

    def patches(self, unit: Unit) -> list[str]:
        """Name the patches that may change the object of a unit."""
        files = (f for f in self.compiler.files if unit in self.touched.by_file[f.path])
        return list(dict.fromkeys(name for file in files for name in file.patches))


def _pairs(jobs: _Jobs, commands: Sequence[tuple[Unit, CompileCommand]]) -> dict[Unit, ObjectPair]:
    """Compile originals and patched objects; pairs that are the same are left out."""
    compiler, pool, touched = jobs.compiler, jobs.pool, jobs.touched
    alone = jobs.total == 1
    started = []
    for unit, command in commands:
        unsure = unit in touched.unsure
        new = pool.submit(compiler.patched, command, unsure)
        old = None if unsure else pool.submit(compiler.kept, command, "sections", SECTION_FLAGS)
        # One object changes almost surely: no need to wait before the third compile.
        plain = pool.submit(compiler.kept, command, "plain", PLAIN_FLAGS) if alone else None
        started.append((unit, command, new, old, plain))
    problems = Problems()
    found = {}
    for unit, command, new, old, plain in started:
        with problems.collect():
            before = old.result() if old else None  # what the kernel's own source lacks comes first
            try:
                after = new.result()
            except KlpError as error:
                raise at_fault(error, jobs.patches(unit), object_=command.target) from error
            pair = _pair(compiler, unit, command, after, before, many=jobs.total > _MANY)
            if pair is not None:
                plain = plain or pool.submit(compiler.kept, command, "plain", PLAIN_FLAGS)
                found[unit] = pair, plain
        jobs.done += 1
        jobs.progress(jobs.done, jobs.total)
        if len(problems) >= _ENOUGH_PROBLEMS:
            pool.shutdown(cancel_futures=True)
            break
    problems.check()
    return {unit: replace(pair, plain=plain.result()) for unit, (pair, plain) in found.items()}


def _new_pairs(
    compiler: Recompiler,
    added: Sequence[tuple[Unit, CompileCommand]],
    makefiles: Sequence[PatchedFile],
    pool: ThreadPoolExecutor,
) -> dict[Unit, ObjectPair]:
    """Compile pairs of new files: there was nothing before.

    :param makefiles: those that say of which objects they are part.
    """
    jobs = [pool.submit(compiler.patched, command, False) for _, command in added]
    problems = Problems()
    found = {}
    for (unit, command), job in zip(added, jobs, strict=True):
        names = [n for f in compiler.files if f.path == unit.source for n in f.patches]
        with faults(problems, names, command.target):
            new, old = job.result(), compiler.empty(command)
            assert new is not None
            files = compiler.files_read(command) | {file.path for file in makefiles}
            found[unit] = ObjectPair(
                unit.owner, unit.source, command.target, old, new, old, command, files
            )
    problems.check()
    return found


def _pair(
    compiler: Recompiler,
    unit: Unit,
    command: CompileCommand,
    new: Path | None,
    old: Path | None,
    many: bool,
) -> ObjectPair | None:
    """Make a pair without its `plain`, None if both objects are the same."""
    if new is None:
        return None
    old = old or compiler.kept(command, "sections", SECTION_FLAGS)
    if new.read_bytes() == old.read_bytes():
        compiler.keep_same(command)
        new.unlink()
        if many:  # a header's: thousands are not worth keeping
            old.unlink()
        return None
    files = compiler.files_read(command)
    return ObjectPair(unit.owner, unit.source, command.target, old, new, old, command, files)
