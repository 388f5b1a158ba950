"""From patches to pairs of objects: what an object was, and what the patches make of it."""

from __future__ import annotations

import hashlib
import os
import posixpath
import re
import shlex
import subprocess
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from klpbuild.elf.writer import write_file
from klpbuild.errors import KlpError, Problem, Problems
from klpbuild.extract.commands import CompileCommand, compile_commands, make_objects
from klpbuild.extract.includes import IncludeGraph
from klpbuild.extract.patchfile import PatchedFile, PatchedSource, apply_patches
from klpbuild.extract.shadow import make_shadow
from klpbuild.extract.touched import Touched, touched_units
from klpbuild.extract.units import Unit, Units
from klpbuild.kernel.packages import source_tree
from klpbuild.kernel.prepare import Log, PreparedTree, build_environment, prepare
from klpbuild.kernel.tree import Kernel

#: Each function and variable in a section of its own.  Debug information is never used,
#: and code is the same without.
SECTION_FLAGS = ("-ffunction-sections", "-fdata-sections", "-g0")
_PLAIN_FLAGS = ("-g0",)
_MANY = 64
_ENOUGH_PROBLEMS = 20
_DIAGNOSTIC = re.compile(
    r"^(?P<file>[^:\s]+):(?P<line>\d+):(?:\d+:)? (?:fatal )?error: (?P<text>.*)$"
)


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
    """

    owner: str
    source: str
    target: str
    original: Path
    patched: Path
    plain: Path
    command: CompileCommand


@dataclass(frozen=True)
class CompiledPatch:
    """What the patches make of the kernel's objects.

    :ivar pairs: the objects that changed, by owner and target.
    :ivar unchanged: objects that were compiled and came out the same.
    :ivar tree: the prepared tree, in whose ``build`` the commands run.
    :ivar patched: the patched source files.
    :ivar notes: what was remarkable and no fault.
    """

    pairs: tuple[ObjectPair, ...]
    unchanged: tuple[str, ...]
    tree: PreparedTree
    patched: PatchedSource
    notes: tuple[str, ...]


def compile_patch(
    kernel: Kernel,
    patches: Iterable[Path],
    workdir: Path,
    log: Log,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> CompiledPatch:
    """Compile every object that patches touch, as it was and as they make it.

    :param patches: applied in order.
    :param workdir: a directory for the shadow tree and the patched objects.
    :param log: takes the command lines and their output.
    :param progress: called with the number of objects that are done and of all.
    :raises KlpError: when the patches cannot be applied or compiled, or touch no object.
    """
    patched = apply_patches(patches, source_tree(kernel))
    tree = prepare(kernel, log)
    notes = [*patched.notes, *tree.differences]
    includes = IncludeGraph(tree.source, kernel.arch.kernel_name, kernel.cache / "includes.json")
    touched = touched_units(Units.read(kernel), includes, patched, notes)
    commands = _commands(tree, touched.units, log)
    workdir.mkdir(parents=True, exist_ok=True)
    shadow = workdir.resolve() / "shadow"
    make_shadow(shadow, tree.source, patched.files)
    compiler = _Compiler(tree, tree.kept, workdir.resolve(), shadow, log)
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        pairs = compiler.pairs(commands, touched, patched.files, pool, progress)
    unchanged = tuple(command.target for unit, command in commands if unit not in pairs)
    found = sorted(pairs.values(), key=lambda pair: (pair.owner, pair.target))
    return CompiledPatch(tuple(found), unchanged, tree, patched, tuple(dict.fromkeys(notes)))


def _commands(
    tree: PreparedTree, units: Sequence[Unit], log: Log
) -> list[tuple[Unit, CompileCommand]]:
    """How kbuild makes the object of each unit."""
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
        if source == unit.source:
            return command
    return None


@dataclass(frozen=True)
class _Compiler:
    tree: PreparedTree
    cache: Path
    workdir: Path
    shadow: Path
    log: Log

    def pairs(
        self,
        commands: Sequence[tuple[Unit, CompileCommand]],
        touched: Touched,
        files: Sequence[PatchedFile],
        pool: ThreadPoolExecutor,
        progress: Callable[[int, int], None],
    ) -> dict[Unit, ObjectPair]:
        """Compile all originals and patched objects; pairs that are the same are left out."""
        alone = len(commands) == 1
        jobs = []
        for unit, command in commands:
            unsure = unit in touched.unsure
            new = pool.submit(self.patched, command, files, unsure)
            old = None if unsure else pool.submit(self.kept, command, "sections", SECTION_FLAGS)
            # One object changes almost surely: no need to wait before the third compile.
            plain = pool.submit(self.kept, command, "plain", _PLAIN_FLAGS) if alone else None
            jobs.append((unit, command, new, old, plain))
        problems = Problems()
        found = {}
        for number, (unit, command, new, old, plain) in enumerate(jobs, 1):
            with problems.collect():
                objects = new.result(), old.result() if old else None
                pair = self._pair(unit, command, *objects, many=len(jobs) > _MANY)
                if pair is not None:
                    plain = plain or pool.submit(self.kept, command, "plain", _PLAIN_FLAGS)
                    found[unit] = pair, plain
            progress(number, len(jobs))
            if len(problems) >= _ENOUGH_PROBLEMS:
                pool.shutdown(cancel_futures=True)
                break
        problems.check()
        return {unit: replace(pair, plain=plain.result()) for unit, (pair, plain) in found.items()}

    def _pair(
        self, unit: Unit, command: CompileCommand, new: Path | None, old: Path | None, many: bool
    ) -> ObjectPair | None:
        """A pair without its `plain`, None if both objects are the same."""
        if new is None:
            return None
        old = old or self.kept(command, "sections", SECTION_FLAGS)
        if new.read_bytes() == old.read_bytes():
            new.unlink()
            if many:  # a header's: thousands are not worth keeping
                old.unlink()
            return None
        return ObjectPair(unit.owner, unit.source, command.target, old, new, old, command)

    def kept(self, command: CompileCommand, kind: str, flags: tuple[str, ...]) -> Path:
        """The original object, compiled once for a kernel.

        :raises KlpError: when the kernel's own source does not compile.
        """
        line = command.compile(Path(), *flags, source=self.tree.source, shadow=None)
        digest = hashlib.sha256(shlex.join(line).encode()).hexdigest()[:16]
        path = self.cache / "objects" / f"{command.target[:-2]}.{kind}-{digest}.o"
        if path.is_file():
            return path
        temporary = self.workdir / f"{command.target[:-2]}.{kind}.o"
        error = self._compile(command, temporary, flags, None)
        if error and make_objects(self.tree, self.cache / "commands", [command.target], self.log):
            # It wants a header that is generated for it alone; kbuild has made it now.
            error = self._compile(command, temporary, flags, None)
        if error:
            raise KlpError(
                "the kernel's own source does not compile",
                where=posixpath.normpath(command.source.removeprefix(f"{self.tree.source}/")),
                why=_first_lines(error),
                hint="Source, configuration or compiler are not those that built the kernel.",
            )
        write_file(path, temporary.read_bytes())
        return path

    def patched(
        self, command: CompileCommand, files: Sequence[PatchedFile], unsure: bool
    ) -> Path | None:
        """The patched object.

        :param unsure: whether to look first if the preprocessor makes any difference;
            None if it does not.
        :raises KlpError: with the compiler's errors, by the lines of the patches.
        """
        if unsure and self._same_to_the_compiler(command):
            return None
        path = self.workdir / f"{command.target[:-2]}.patched.o"
        error = self._compile(command, path, SECTION_FLAGS, self.shadow)
        if error and "No such file or directory" in error:
            self.kept(command, "sections", SECTION_FLAGS)
            error = self._compile(command, path, SECTION_FLAGS, self.shadow)
        if error:
            raise self._explained(command, files, error)
        return path

    def _compile(
        self, command: CompileCommand, output: Path, flags: Sequence[str], shadow: Path | None
    ) -> str:
        """Compile; what the compiler says when it fails, else nothing."""
        output.parent.mkdir(parents=True, exist_ok=True)
        line = command.compile(output, *flags, source=self.tree.source, shadow=shadow)
        done = self._run(line)
        return done.stderr or f"exit status {done.returncode}" if done.returncode else ""

    def _same_to_the_compiler(self, command: CompileCommand) -> bool:
        """Whether the preprocessor makes the same of the original and the patched file."""
        texts = []
        for shadow in (None, self.shadow):
            line = command.compile(Path("-"), "-E", "-P", source=self.tree.source, shadow=shadow)
            done = self._run([word for word in line if word != "-c"])
            if done.returncode:
                return False
            texts.append(done.stdout)
        return texts[0] == texts[1]

    def _run(self, line: list[str]) -> subprocess.CompletedProcess[str]:
        self.log(shlex.join(line))
        done = subprocess.run(
            line,
            cwd=self.tree.build,
            env=build_environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
        if done.stderr:
            self.log(done.stderr)
        return done

    def _explained(
        self, command: CompileCommand, files: Sequence[PatchedFile], error: str
    ) -> KlpError:
        """The compiler's errors, once more without ``#line``, so that its lines are the file's."""
        plain = self.workdir / "shadow-with-its-own-lines"
        make_shadow(plain, self.tree.source, files, directives=False)
        again = self._compile(command, self.workdir / "refused.o", ("-fsyntax-only",), plain)
        by_path = {file.path: file for file in files}
        problems = []
        for line in (again or error).splitlines():
            match = _DIAGNOSTIC.match(line)
            if match is None:
                continue
            path = posixpath.normpath(match["file"].removeprefix(f"{plain}/"))
            file = by_path.get(path)
            where = file.origin(int(match["line"])) if file else f"{path}:{match['line']}"
            problems.append(
                Problem(
                    f"{path} does not compile alone: {match['text']}",
                    where,
                    why=f"{path}:{match['line']}" if file else "",
                    hint="The patch may need another file's change that belongs to the same fix.",
                )
            )
        if not problems:
            problems.append(Problem("does not compile", command.target, why=_first_lines(error)))
        return KlpError.together(problems)


def _first_lines(text: str) -> str:
    return "\n".join(text.splitlines()[:10])
