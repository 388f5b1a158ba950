"""From source patches to a livepatch module, without building the kernel."""

from __future__ import annotations

import shlex
import subprocess
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from klpbuild import steps
from klpbuild.compiler.log import BuildLog
from klpbuild.convert.converter import Conversion
from klpbuild.elf.constants import STB, STT
from klpbuild.elf.reader import ElfFile
from klpbuild.errors import KlpError, Problems
from klpbuild.extract.extraction import extract
from klpbuild.extract.fidelity import Fidelity, prove, shipped_file
from klpbuild.extract.keys import key_policy
from klpbuild.extract.pair import CompiledPatch, ObjectPair, compile_patch
from klpbuild.extract.references import Home, decide_references, name_references
from klpbuild.extract.result import Extraction
from klpbuild.extract.sizes import EntrySizes
from klpbuild.kernel.prepare import build_environment
from klpbuild.kernel.tree import Kernel
from klpbuild.module.livepatch import Function, Livepatch, PatchedObject
from klpbuild.names import VMLINUX
from klpbuild.resolve.fate import Decision, Resolver
from klpbuild.symbols.database import SymbolDatabase
from klpbuild.symbols.entries import EntryPoints
from klpbuild.symbols.symvers import Exports

Say = Callable[[str], None]


@dataclass(frozen=True)
class BuiltPatch:
    """A livepatch module made from patches.

    :ivar module: the converted module.
    :ivar extractions: for each object of the kernel that changed, what was taken from it.
    :ivar functions: the functions that are replaced, by object.
    :ivar decisions: what became of each reference of the extracted code.
    :ivar notes: what the user should know and is no fault.
    """

    module: Path
    extractions: tuple[tuple[ObjectPair, Extraction], ...]
    functions: tuple[PatchedObject, ...]
    decisions: tuple[Decision, ...]
    conversion: Conversion
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Builder:
    """What the steps for one livepatch share."""

    kernel: Kernel
    directory: Path
    compiled: CompiledPatch
    resolver: Resolver
    entries: EntryPoints
    log: BuildLog

    def extract(self, pair: ObjectPair, sizes: EntrySizes) -> Extraction:
        return extract(
            ElfFile.read(pair.original),
            ElfFile.read(pair.patched),
            entry_sizes=sizes,
            arch=self.kernel.arch,
            source_file=pair.source,
            in_module=pair.owner != VMLINUX,
            key_policy=key_policy(self.resolver, pair.owner),
        )

    def home(self, pair: ObjectPair) -> Home:
        def log(line: str) -> None:
            with self.log.path.open("a") as file:
                file.write(line + "\n")

        shipped = ElfFile.read(shipped_file(self.kernel, pair.owner))
        fidelity = prove(self.kernel, self.compiled, pair, log)
        return Home(pair.owner, shipped, fidelity, f"{pair.source}:{pair.target}")

    def functions(self, extraction: Extraction, home: Home, number: int) -> list[Function]:
        """The table entries of an object's changed functions."""
        problems = Problems()
        found = []
        for changed in extraction.changed:
            where = f"{home.where}:{changed.name}"
            with problems.collect():
                _check_proven(home.fidelity, changed.name, home, where)
                place = home.place(changed.name)
                candidate = self.resolver.at(changed.name, where, home.owner, place)
                if self.entries.has(home.owner, changed.name, candidate.sympos) is False:
                    raise KlpError(
                        f"function {changed.name} has no ftrace entry in the kernel",
                        where=where,
                        why="Livepatch redirects a function at its entry call; this one is "
                        "notrace, or the kernel refuses to trace it.",
                        hint="Patch the functions that call it.",
                    )
                new = new_symbol(changed.symbol, number)
                found.append(Function(changed.name, new, candidate.sympos, where))
        problems.check()
        return found

    def finish_object(
        self, pair: ObjectPair, extraction: Extraction, decisions: dict[str, Decision], number: int
    ) -> Path:
        """Run objtool over the extracted object and give its symbols their final names."""
        path = self.directory / "extracted" / f"{number}-{Path(pair.target).name}"
        extraction.object.write(path)
        self._objtool(pair, path)
        out = name_references(ElfFile.read(path), decisions)
        elf = ElfFile.read(path)
        by_name = {s.name: s for s in elf.symbol_list if s.is_defined}
        for changed in extraction.changed:
            symbol = by_name[changed.symbol]
            out.add_symbol(
                new_symbol(changed.symbol, number),
                bind=STB.GLOBAL,
                type=STT.FUNC,
                st_shndx=symbol.st_shndx,
                st_value=symbol.st_value,
                st_size=symbol.st_size,
            )
        finished = path.with_name(f"{path.stem}.named.o")
        out.write(finished)
        return finished

    def _objtool(self, pair: ObjectPair, path: Path) -> None:
        command = [*self.compiled.tree.objtool, str(path.resolve())]
        if not self.compiled.tree.objtool or self.compiled.tree.objtool_runs_late:
            return
        done = subprocess.run(
            command,
            cwd=self.compiled.tree.build,
            env=build_environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
        said = done.stdout + done.stderr
        self.log.command(command, self.compiled.tree.build, output=path, said=said)
        if done.returncode or "warning" in said:
            raise KlpError(
                "objtool does not accept the extracted code",
                where=pair.target,
                why=said.strip(),
                hint=shlex.join(command),
            )


def new_symbol(name: str, number: int) -> str:
    """The global name of a function's new version, which no other object has."""
    return f"{name}.livepatch{number}"


def _check_proven(fidelity: Fidelity, name: str, home: Home, where: str) -> None:
    difference = fidelity.difference(name)
    if difference is not None:
        raise KlpError(
            f"{name} compiled here is not the function that {home.owner} ships",
            where=where,
            why=str(difference),
            hint="Compiler, configuration or source differ from the kernel's.",
        )


def build_from_patches(
    kernel: Kernel,
    patches: Sequence[Path],
    name: str,
    build: Path,
    *,
    livepatch: Livepatch | None = None,
    say: Say = lambda _: None,
) -> BuiltPatch:
    """Build a livepatch from source patches.

    :param patches: applied in order.
    :param name: the livepatch's name, without ``livepatch-``.
    :param build: the kernel's directory of outputs.
    :param livepatch: description, references, callbacks; functions are found here.
    :param say: told what is being done.
    :raises KlpError: with every reason why the patches cannot be made a livepatch.
    """
    directory = build / f"livepatch-{name}"
    directory.mkdir(parents=True, exist_ok=True)
    log = BuildLog(build / "build.log")

    def write_log(line: str) -> None:
        with log.path.open("a") as file:
            file.write(line + "\n")

    symbols = build / "symbols.klp"
    steps.write_symbols(kernel, symbols)
    compiled = compile_patch(kernel, patches, directory / "pair", write_log)
    database = SymbolDatabase.read(symbols)
    exports = Exports.read(kernel.module_symvers)
    owners = frozenset(pair.owner for pair in compiled.pairs)
    builder = _Builder(
        kernel,
        directory,
        compiled,
        Resolver(database, exports, owners),
        EntryPoints(
            database,
            filter_functions=kernel.filter_functions,
            vmlinux=kernel.vmlinux,
            modules=kernel.modules,
        ),
        log,
    )
    sizes = steps.entry_sizes(kernel, log)
    problems = Problems()
    extractions = []
    for pair in compiled.pairs:
        with problems.collect():
            extractions.append((pair, builder.extract(pair, sizes)))
    problems.check()
    return _assemble(builder, kernel, name, build, tuple(extractions), livepatch, say)


def _assemble(
    builder: _Builder,
    kernel: Kernel,
    name: str,
    build: Path,
    extractions: tuple[tuple[ObjectPair, Extraction], ...],
    livepatch: Livepatch | None,
    say: Say,
) -> BuiltPatch:
    own = frozenset(new for _, extraction in extractions for new in extraction.new)
    problems = Problems()
    functions: dict[str, list[Function]] = defaultdict(list)
    decisions: list[Decision] = []
    objects = []
    for number, (pair, extraction) in enumerate(extractions):
        with problems.collect():
            home = builder.home(pair)
            decided = decide_references(extraction, home, builder.resolver, own)
            functions[pair.owner] += builder.functions(extraction, home, number)
            objects.append(builder.finish_object(pair, extraction, decided, number))
            decisions += decided.values()
    problems.check()
    patched = tuple(
        PatchedObject(owner, tuple(found)) for owner, found in sorted(functions.items()) if found
    )
    if not patched:
        raise KlpError(
            "the patch changes no function that runs",
            where=extractions[0][0].source if extractions else "",
            hint="There is nothing that a livepatch could replace.",
        )
    described = replace(livepatch or Livepatch(name, ()), objects=patched)
    tables = builder.directory / "tables.c"
    steps.write_tables(kernel, described, tables)
    module = f"livepatch-{name}"
    compiled_tables = builder.directory / "tables.o"
    steps.compile_source(kernel, tables, compiled_tables, module, builder.log.path)
    linked = steps.link_objects(
        kernel, module, [*objects, compiled_tables], builder.directory / "linked", builder.log
    )
    output = build / f"{module}.ko"
    conversion = steps.convert(
        kernel, linked, build / "symbols.klp", output, builder.directory / "relocations.json"
    )
    notes = [*builder.compiled.notes, *(n for _, e in extractions for n in e.notices)]
    say(f"{output}")
    return BuiltPatch(
        output, extractions, patched, tuple(decisions), conversion, tuple(dict.fromkeys(notes))
    )
