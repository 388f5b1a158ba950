"""Recompile a kernel's objects: from its source, and from a shadow tree with patched files."""

from __future__ import annotations

import hashlib
import os
import posixpath
import re
import shlex
import subprocess
import tempfile
import threading
import zlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from klpbuild.compiler.launcher import launched, launcher_environment
from klpbuild.compiler.quotes import without_foreign
from klpbuild.elf import abbreviations, dwarf, vartypes
from klpbuild.elf.reader import ElfFile
from klpbuild.elf.vartypes import VariableType, function_types, variable_types
from klpbuild.errors import KlpError
from klpbuild.files.kept import code_key
from klpbuild.files.records import from_json, read_record, to_json
from klpbuild.files.whole import write_file
from klpbuild.kernel.config import Config
from klpbuild.kernel.kbuild import shortened
from klpbuild.kernel.prepare import Log, PreparedTree, build_environment
from klpbuild.patch.commands import CompileCommand, make_objects
from klpbuild.patch.fix import Fault, Standing
from klpbuild.patch.keptobjects import KeptObjects
from klpbuild.patch.layout import BTF_FLAGS, CLANG_FLAGS
from klpbuild.patch.named import with_globals, with_names
from klpbuild.patch.patched import PatchedFile
from klpbuild.patch.shadow import make_shadow
from klpbuild.run import run

#: Each function and variable in a section of its own.  Debug information is never used,
#: and code is the same without.
SECTION_FLAGS = ("-ffunction-sections", "-fdata-sections", "-g0")
PLAIN_FLAGS = ("-g0",)
#: clang's, of flags that assembly does not need; gcc passes over it.
_UNUSED = "-Wno-unused-command-line-argument"
#: The same sections and symbols, with the types of variables.
TYPE_FLAGS = (*SECTION_FLAGS[:2], "-g", "-gdwarf-5", "-gno-split-dwarf", "-gz=none")
#: Several livepatches may be extracted at once; all together start this many compilers.
_PROCESSORS = threading.BoundedSemaphore(len(os.sched_getaffinity(0)))
#: The compiler's message on a line, and the lines that included its file.
_DIAGNOSTIC = re.compile(
    r"(?P<file>[^:\s]+):(?P<line>\d+):(?:\d+:)?"
    r" (?P<kind>(?:fatal )?error|warning|note): (?P<text>.*)"
)
_INCLUDED = re.compile(r"(?:In file included|\s+) from (?P<file>[^:\s]+):(?P<line>\d+)")


_HINT = "The patch may need another file's change that belongs to the same fix."
_KPATCH_HINT = (
    "kpatch's macros are not read here: make the callback a global function, and say in\n"
    'livepatch.toml: callbacks = { pre_patch = "NAME" }'
)


@dataclass(frozen=True)
class Types:
    """Types of an object's variables and functions, see `klpbuild.elf.vartypes`."""

    variables: Mapping[str, VariableType]
    functions: Mapping[str, tuple[str, ...]]


def _types_kind() -> str:
    """Name what is kept of debug information: it changes with the code that reads that."""
    return f"types-{code_key(abbreviations, dwarf, vartypes).hex()[:8]}"


@dataclass(frozen=True)
class Recompiler:
    """The compiler with the kernel's own commands.

    :ivar tree: the prepared tree.
    :ivar files: the patched files.
    :ivar workdir: where patched objects go.
    :ivar shadow: the shadow tree, with `files` in it.
    :ivar real: directories of the shadow tree that are no links.
    :ivar log: takes the command lines and what the compiler says.
    :ivar launcher: starts the compiler; empty for none.
    """

    tree: PreparedTree
    files: tuple[PatchedFile, ...]
    workdir: Path
    shadow: Path
    real: frozenset[str]
    log: Log
    launcher: str = ""

    def kept(self, command: CompileCommand, kind: str, flags: tuple[str, ...]) -> Path:
        """Compile the original object, once for a kernel.

        :raises KlpError: when the kernel's own source does not compile.
        """
        line = command.compile(Path(), *flags, source=self.tree.source, shadow=None)
        digest = hashlib.sha256(shlex.join(line).encode()).hexdigest()[:16]
        path = self.tree.kept / "objects" / f"{command.target[:-2]}.{kind}-{digest}.o"
        if read_record(path, lambda data: ElfFile(data, path.name).symbols) is not None:
            return path
        temporary = self.workdir / f"{command.target[:-2]}.{kind}.o"
        error = self._compile(command, temporary, flags, None)
        if error and make_objects(
            self.tree, self.tree.kept / "commands", [command.target], self.log
        ):
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

    def empty(self, command: CompileCommand) -> Path:
        """Compile an object without code: what was there before a new file."""
        source = self.workdir / "empty.c"
        write_file(source, b"")
        output = self.workdir / f"{command.target[:-2]}.sections.o"
        error = self._compile(replace(command, source=str(source)), output, SECTION_FLAGS, None)
        if error:
            raise KlpError("does not compile", where=command.target, why=_first_lines(error))
        return output

    def patched(self, command: CompileCommand, unsure: bool) -> Path | None:
        """Compile the patched object; None if it is known to be the original.

        :param unsure: whether to look first if the preprocessor makes any difference.
        :raises KlpError: with the compiler's errors, by the lines of the patches.
        """
        path = self.workdir / f"{command.target[:-2]}.patched.o"
        line = self._line(command)
        if (found := self._kept_objects.find(command.target, line)) is not None:
            if found.data is None:
                return None
            write_file(path, found.data)
            names = [*(str(self.shadow / name) for name in found.files), *found.others]
            path.with_suffix(".d").write_text(" ".join(names), errors="surrogateescape")
            return path
        if unsure and self._same_to_the_compiler(command):
            self._keep(command, "preprocessed", None)
            return None
        flags = (*SECTION_FLAGS, f"-Wp,-MD,{path.with_suffix('.d')}")
        error = self._compile(command, path, flags, self.shadow)
        if error and "No such file or directory" in error:
            self.kept(command, "sections", SECTION_FLAGS)
            error = self._compile(command, path, flags, self.shadow)
        if error:
            raise self._explained(command, error)
        self._keep(command, "patched", path.read_bytes())
        return path

    def keep_same(self, command: CompileCommand) -> None:
        """Record in the cache that the patched object is the original."""
        self._keep(command, "patched", None)

    def answer(
        self,
        command: CompileCommand,
        kind: str,
        flags: tuple[str, ...],
        patched: bool,
        ask: Callable[[Path], bytes],
    ) -> bytes:
        """Keep what the compiler tells of the original or the patched file, as objects are kept.

        :param kind: what is asked.
        :param flags: what is added to the command to ask it.
        :param ask: runs the compiler, which writes the names of what it reads to that file.
        """
        line = [*self._line(command, flags), kind]
        if patched:
            found = self._kept_objects.find(command.target, line)
            if found is not None and found.data is not None:
                return zlib.decompress(found.data)
        else:
            digest = hashlib.sha256(shlex.join(line).encode()).hexdigest()[:16]
            path = self.tree.kept / "objects" / f"{command.target[:-2]}.{kind}-{digest}"
            if (known := read_record(path, zlib.decompress)) is not None:
                return known
        name = kind if patched else f"{kind}-before"
        dependencies = self.workdir / f"{command.target[:-2]}.{name}.d"
        dependencies.parent.mkdir(parents=True, exist_ok=True)
        data = ask(dependencies)
        packed = zlib.compress(data, 1)
        if patched:
            self._keep(command, kind, packed, line)
        else:
            with suppress(KlpError):  # a cache that cannot be written costs time only
                write_file(path, packed)
        return data

    def _keep(
        self, command: CompileCommand, kind: str, data: bytes | None, line: Sequence[str] = ()
    ) -> None:
        files = self.files_read(command, kind)
        dependencies = self.workdir / f"{command.target[:-2]}.{kind}.d"
        read = dependencies.read_text(errors="surrogateescape").split()
        self._kept_objects.keep(command.target, line or self._line(command), read, files, data)

    def _line(self, command: CompileCommand, flags: tuple[str, ...] = SECTION_FLAGS) -> list[str]:
        return command.compile(Path(), *flags, source=self.tree.source, shadow=None)

    @cached_property
    def digests(self) -> Mapping[str, str]:
        """The SHA-256 of each patched file, by its path."""
        contents = {file.path: (self.shadow / file.path).read_bytes() for file in self.files}
        return {path: hashlib.sha256(data).hexdigest() for path, data in contents.items()}

    @cached_property
    def _kept_objects(self) -> KeptObjects:
        return KeptObjects(
            self.tree.kept / "patched",
            self.digests,
            frozenset(file.path for file in self.files if file.original is None),
        )

    def files_read(self, command: CompileCommand, kind: str = "patched") -> frozenset[str]:
        """Read the paths of the patched files that the compiler read for a patched object.

        :param kind: what the file of dependencies is called: that of the object, or
            ``preprocessed``.
        :raises KlpError: when it found a patched file's original instead.
        """
        dependencies = self.workdir / f"{command.target[:-2]}.{kind}.d"
        names, originals, patched = self._found_as
        read = set()
        for word in dependencies.read_text(errors="surrogateescape").split():
            if posixpath.basename(word) not in names:
                continue
            found = os.path.realpath(self.tree.build / word)
            if found in patched:
                read.add(patched[found])
            elif found in originals:
                raise KlpError(
                    f"{command.target} is compiled with {originals[found]} as it was",
                    where=posixpath.normpath(command.source.removeprefix(f"{self.tree.source}/")),
                    why=f"The compiler found it as {word}, which leads out of the patched tree.",
                )
        return frozenset(read)

    @cached_property
    def _found_as(self) -> tuple[frozenset[str], Mapping[str, str], Mapping[str, str]]:
        """The names of the patched files; what each is called in the source and the shadow tree."""
        originals, patched = (
            {os.path.realpath(tree / file.path): file.path for file in self.files}
            for tree in (self.tree.source, self.shadow)
        )
        return frozenset(posixpath.basename(f.path) for f in self.files), originals, patched

    def with_layouts(self, command: CompileCommand, patched: bool) -> Path:
        """Compile the object with the layouts of all its structures, original or patched.

        :raises KlpError: when the compiler cannot write them.
        """
        kind = CLANG_FLAGS if self._is_clang else BTF_FLAGS
        output = self.workdir / f"{command.target[:-2]}.{'new' if patched else 'old'}-btf.o"

        def ask(dependencies: Path) -> bytes:
            flags = (*kind, f"-Wp,-MD,{dependencies}")
            error = self._compile(command, output, flags, self.shadow if patched else None)
            if error:
                raise KlpError(
                    "the compiler does not write the layouts of structures",
                    where=command.target,
                    why=_first_lines(error),
                    hint="gcc can since version 12 (-gbtf).",
                )
            return output.read_bytes()

        data = self.answer(command, "layouts", kind, patched, ask)
        write_file(output, data)
        return output

    def with_names(
        self, command: CompileCommand, patched: bool, plain: ElfFile, names: Sequence[str]
    ) -> ElfFile:
        """Compile an object once more, with references to local variables by their symbols.

        :param plain: the object, compiled with `SECTION_FLAGS`.
        :param names: of the variables, see `klpbuild.extract.sharing`.
        :raises KlpError: when the compiler or the assembler fails.
        """
        stem = f"{command.target[:-2]}.{'new' if patched else 'old'}-named"
        output, assembly = (self.workdir / f"{stem}.{kind}" for kind in "os")

        def ask(dependencies: Path) -> bytes:
            shadow = self.shadow if patched else None
            flags = (*SECTION_FLAGS, f"-Wp,-MD,{dependencies}")
            line = command.compile(assembly, *flags, source=self.tree.source, shadow=shadow)
            done = self._run(["-S" if word == "-c" else word for word in line])
            if not done.returncode:
                assembly.write_text(with_globals(assembly.read_text(), names))
                line = command.compile(output, *SECTION_FLAGS, _UNUSED, source=Path(), shadow=None)
                done = self._run([*line[:-1], str(assembly)])
            if done.returncode:
                why = _first_lines(done.stderr)
                raise KlpError("is not compiled to assembly", where=command.target, why=why)
            return with_names(plain, ElfFile.read(output), names)

        kind = f"named-{hashlib.sha256(shlex.join(names).encode()).hexdigest()[:8]}"
        return ElfFile(self.answer(command, kind, SECTION_FLAGS, patched, ask), plain.name)

    def with_types(self, command: CompileCommand, patched: bool, *flags: str) -> Path:
        """Compile the object with debug information, from the original or the patched file.

        :raises KlpError: when the compiler fails.
        """
        output = self.workdir / f"{command.target[:-2]}.{'new' if patched else 'old'}-types.o"
        # In DWARF 5 clang numbers addresses instead of writing them.
        kind = (
            [f.replace("dwarf-5", "dwarf-4") for f in TYPE_FLAGS] if self._is_clang else TYPE_FLAGS
        )
        flags = (*kind, *flags)
        error = self._compile(command, output, flags, self.shadow if patched else None)
        if error:
            raise KlpError(
                "the compiler does not write debug information",
                where=command.target,
                why=_first_lines(error),
            )
        return output

    @cached_property
    def _is_clang(self) -> bool:
        return Config.read(self.tree.build / ".config").enabled("CC_IS_CLANG")

    def types(self, command: CompileCommand, patched: bool) -> Types:
        """Read the types in the debug information of the original or the patched file.

        :raises KlpError: when the compiler does not tell.
        """

        def ask(dependencies: Path) -> bytes:
            elf = ElfFile.read(self.with_types(command, patched, f"-Wp,-MD,{dependencies}"))
            return to_json(Types(variable_types(elf), function_types(elf)))

        return from_json(Types, self.answer(command, _types_kind(), TYPE_FLAGS, patched, ask))

    def _compile(
        self, command: CompileCommand, output: Path, flags: Sequence[str], shadow: Path | None
    ) -> str:
        """Compile; return the compiler's errors when it fails, else nothing."""
        output.parent.mkdir(parents=True, exist_ok=True)
        line = command.compile(output, *flags, source=self.tree.source, shadow=shadow)
        done = self._run(launched(self.launcher, line))
        return done.stderr or f"exit status {done.returncode}" if done.returncode else ""

    def _same_to_the_compiler(self, command: CompileCommand) -> bool:
        """Tell whether the preprocessor makes the same of original and patched file."""
        texts = []
        read = self.workdir / f"{command.target[:-2]}.preprocessed.d"
        read.parent.mkdir(parents=True, exist_ok=True)
        flags = ("-E", "-P", f"-Wp,-MD,{read}")
        for shadow in (None, self.shadow):
            line = command.compile(Path("-"), *flags, source=self.tree.source, shadow=shadow)
            done = self._run([word for word in line if word != "-c"])
            if done.returncode:
                return False
            texts.append(done.stdout)
        self.files_read(command, "preprocessed")
        return texts[0] == texts[1]

    def _run(self, line: list[str]) -> subprocess.CompletedProcess[str]:
        self.log(shlex.join(line))
        with _PROCESSORS:
            environment = launcher_environment(self.launcher) | build_environment()
            done = run(line, environment, self.tree.build)
        places = (self.tree.source, self.tree.build, self.tree.kept, self.workdir)
        done.stderr = without_foreign(done.stderr, self.tree.build, places)
        if done.stderr:
            self.log(done.stderr)
        return done

    def _explained(self, command: CompileCommand, error: str) -> KlpError:
        """Explain the compiler's errors, after a run without ``#line``: by the file's own lines."""
        with tempfile.TemporaryDirectory(prefix="refused-", dir=self.workdir) as name:
            plain = Path(name, "shadow")
            make_shadow(plain, self.tree.source, self.files, self.real, directives=False)
            again = self._compile(command, Path(name, "refused.o"), ("-fsyntax-only",), plain)
        by_path = {file.path: file for file in self.files}
        problems = []
        for said in _errors((again or error).replace(f"{plain}/", "")):
            origins = [by_path[path].origin(line) for path, line in said.places if path in by_path]
            added = [by_path[path].added(line) for path, line in said.places if path in by_path]
            path, line = said.places[0]
            problems.append(
                Fault(
                    f"{path} does not compile alone: {said.text}",
                    where=origins[0] if origins else f"{path}:{line}",
                    why=f"{path}:{line}" if origins else "",
                    hint=_KPATCH_HINT if said.text.startswith("kpatch-macros.h") else _HINT,
                    standing=Standing.NOT_COMPILED,
                    patches=tuple(name for name in added if name)[:1],
                    object=command.target,
                )
            )
        if not problems:
            told = "does not compile", command.target, _first_lines(error), ""
            problems.append(Fault(*told, Standing.NOT_COMPILED, object=command.target))
        return KlpError.together(problems)


@dataclass(frozen=True)
class _Error:
    """An error of the compiler, with the file and line of it and those that led there."""

    text: str
    places: list[tuple[str, int]]


def _errors(output: str) -> list[_Error]:
    found: list[_Error] = []
    included: list[tuple[str, int]] = []
    for line in output.splitlines():
        if match := _INCLUDED.match(line):
            included.append(_place(match))
        elif match := _DIAGNOSTIC.match(line):
            if match["kind"].endswith("error"):
                found.append(_Error(match["text"], [_place(match), *included]))
            elif match["kind"] == "note" and found:
                found[-1].places.append(_place(match))
            included = []
    return found


def _place(match: re.Match[str]) -> tuple[str, int]:
    return posixpath.normpath(match["file"]), int(match["line"])


def _first_lines(text: str) -> str:
    return "\n".join(map(shortened, text.splitlines()[:10]))
