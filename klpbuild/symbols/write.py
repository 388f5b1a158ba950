"""Write symbols.klp and its index, from one fragment for each object."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np

from klpbuild.errors import KlpError, Problems, reading
from klpbuild.files.whole import write_file
from klpbuild.names import VMLINUX, index_path, object_name
from klpbuild.symbols.database import MAGIC
from klpbuild.symbols.exported import ExportedNames
from klpbuild.symbols.fragments import FragmentCache, fragment_key, is_settled
from klpbuild.symbols.index import MAGIC as INDEX_MAGIC
from klpbuild.symbols.index import build, locked
from klpbuild.symbols.lines import Numbers
from klpbuild.symbols.objects import read_symbols
from klpbuild.symbols.sources import read_kallsyms, read_system_map, vmlinux_symbols
from klpbuild.symbols.table import ObjectSymbols, joined
from klpbuild.symbols.tables import FileState, SymbolTables, read_tables, state_of

#: Modules read together: enough to spread numpy's cost, few enough to stay small.
_TOGETHER = 128


@dataclass(frozen=True)
class SymbolSources:
    """Sources of a kernel's symbols.

    Of `vmlinux`, `system_map` and `kallsyms` the first that is there is read; all
    give the same symbols, the first also their source files.

    :ivar version: the kernel's.
    :ivar modules: its ``.ko`` files.
    :ivar module_symvers: its Module.symvers; without it the index does not say what is
        exported.
    """

    version: tuple[int, ...]
    modules: tuple[Path, ...] = ()
    vmlinux: Path | None = None
    system_map: Path | None = None
    kallsyms: Path | None = None
    module_symvers: Path | None = None

    @property
    def of_vmlinux(self) -> tuple[Path, str] | None:
        """The file that is read for vmlinux, and how it is read."""
        series = f"{self.version[0]}.{self.version[1]}"
        first = (
            (self.vmlinux, f"vmlinux {series}"),
            (self.system_map, f"System.map {series}"),
            (self.kallsyms, "kallsyms"),
        )
        return next(((path, kind) for path, kind in first if path is not None), None)

    @property
    def files(self) -> list[tuple[Path, str]]:
        """The files that are read, each with how it is read."""
        modules = ((path, _MODULE) for path in self.modules)
        return [*filter(None, [self.of_vmlinux]), *modules]


#: The kind of a module's fragment.
_MODULE = "module"


@dataclass(frozen=True)
class Written:
    """Result of `write_symbols`.

    :ivar objects: how many objects symbols.klp has.
    :ivar symbols: how many symbols.
    :ivar scanned: how many objects had to be read; the others' fragments were there.
    """

    objects: int
    symbols: int
    scanned: int


def write_symbols(
    output: Path,
    sources: SymbolSources,
    cache: Path,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Written:
    """Write the symbols.klp of a kernel and the index beside it.

    vmlinux comes first, then the modules by name; livepatches are left out.  The
    same sources give the same bytes.

    :param output: where; its directory is made.
    :param cache: directory for fragments, shared by whoever likes.
    :param progress: called with the number of modules that are read and of all that must be.
    :raises KlpError: when no symbols of vmlinux are at hand, with every file that
        is broken or has no symbols, or when the output cannot be written.
    """
    with FragmentCache(cache, str(output.absolute())) as fragments:
        before = fragments.finished(sources.files, _state(output, sources))
        if before is not None:
            return Written(*before, scanned=0)
        collected = _Collected(fragments)
        collected.add_vmlinux(sources)
        collected.add_modules(sources.modules, progress)
        exported = None
        if sources.module_symvers is not None:
            with collected.problems.collect():
                exported = ExportedNames.read(sources.module_symvers)
        collected.problems.check()
        vmlinux, *modules = collected.found
        modules = sorted((m for m in modules if not m.livepatch), key=lambda m: m.object)
        _check_names(modules, sources.modules)
        with ThreadPoolExecutor(1) as pool:
            kept = pool.submit(fragments.write)
            symbols = write_objects(output, [vmlinux, *modules], exported)
            kept.result()
        if sources.module_symvers is None or is_settled(sources.module_symvers):
            fragments.finish(_state(output, sources), (1 + len(modules), symbols))
    return Written(1 + len(modules), symbols, collected.scanned)


def _state(output: Path, sources: SymbolSources) -> list[object]:
    """Describe the output's other inputs, and the state of it and its index."""
    files = (sources.module_symvers, output, index_path(output))
    return [INDEX_MAGIC.decode(), list(sources.version), *(_state_of(path) for path in files)]


def _state_of(path: Path | None) -> FileState | None:
    try:
        return state_of(path.stat()) if path is not None else None
    except OSError:
        return None


def write_objects(
    output: Path, objects: Sequence[ObjectSymbols], exported: ExportedNames | None = None
) -> int:
    """Write a symbols.klp with these objects, in this order, and its index.

    :param exported: what Module.symvers says, for the index.
    :returns: how many symbols it has.
    :raises KlpError: when it cannot be written, or a name is not UTF-8.
    """
    headings = [b"*%s\n" % o.object.encode() for o in objects]
    parts = [MAGIC + b"\n"]
    for heading, symbols in zip(headings, objects, strict=True):
        parts += [heading, symbols.names]
    text = b"".join(parts)
    if not text.isascii():
        _check_utf8(objects)

    lengths = joined(o.rows for o in objects)["length"].astype(np.int64) + 1
    heading_bytes = len(parts[0]) + np.cumsum([len(heading) for heading in headings])
    before = np.repeat(heading_bytes, [len(o) for o in objects])
    name_at: Numbers = np.cumsum(lengths) - lengths + before

    index = build(text, objects, name_at, exported)
    with suppress(OSError):  # writing says why
        output.parent.mkdir(parents=True, exist_ok=True)
    with locked(output):
        _replace(index_path(output), index)
        _replace(output, text)
    return len(lengths)


def _replace(path: Path, data: bytes) -> None:
    """Write a file, unless it holds just this already."""
    try:
        same = path.stat().st_size == len(data) and path.read_bytes() == data
    except OSError:
        same = False
    if not same:
        write_file(path, data)


def _check_utf8(objects: Sequence[ObjectSymbols]) -> None:
    problems = Problems()
    for symbols in objects:
        try:
            symbols.names.decode()
        except UnicodeDecodeError as error:
            line = symbols.names.count(b"\n", 0, error.start)
            problems.add(
                f"symbol {symbols.name_list[line]!r} is not UTF-8",
                where=symbols.object,
                why="symbols.klp is text.",
            )
    problems.check()


def _check_names(modules: Sequence[ObjectSymbols], paths: Sequence[Path]) -> None:
    problems = Problems()
    for one, other in pairwise(modules):
        if one.object == other.object:
            files = [str(p) for p in paths if object_name(p.name) == one.object]
            problems.add(
                f"there are two modules {one.object}",
                where=files[0],
                why=f"The other one is {files[1]}.",
                hint="The kernel loads only one of them: leave the other one out.",
            )
    problems.check()


class _Collected:
    """The symbols of the objects read so far; from fragments, where they are there."""

    def __init__(self, fragments: FragmentCache) -> None:
        self._fragments = fragments
        self.problems = Problems()
        self.found: list[ObjectSymbols] = []
        self.scanned = 0

    def add_vmlinux(self, sources: SymbolSources) -> None:
        """Add the symbols of vmlinux from the first source that is there.

        :raises KlpError: when there is no source.
        """
        with self.problems.collect():
            if sources.of_vmlinux is None:
                raise KlpError(
                    "no symbols of vmlinux are at hand",
                    why="In a tree without symbols nobody can tell what a name stands for.",
                    hint="Give vmlinux from the kernel's build or debug package, its System.map,\n"
                    "or a copy of /proc/kallsyms that root made.",
                )
            path, kind = sources.of_vmlinux
            if self._remembered(path, VMLINUX, kind):
                return
            if path == sources.vmlinux:
                tables = read_tables(path)
                state, digest = tables.state, tables.digest
                read = partial(vmlinux_symbols, tables, sources.version)
            else:
                state, digest = _state_and_digest(path)
                read = partial(read_kallsyms, path)
                if path == sources.system_map:
                    read = partial(read_system_map, path, sources.version)
            source = _Source(path, state, fragment_key(kind, digest))
            symbols = self._fragments.load(source.key, VMLINUX)
            if symbols is None:
                self._add(source, read())
            else:
                self._keep(source, symbols)

    def add_modules(self, paths: Sequence[Path], progress: Callable[[int, int], None]) -> None:
        """Add the symbols of modules; they may come in another order than their paths."""
        pending = [
            path for path in paths if not self._remembered(path, object_name(path.name), _MODULE)
        ]
        for first in range(0, len(pending), _TOGETHER):
            unknown = []
            for tables in self._read_tables(pending[first : first + _TOGETHER]):
                source = _Source(tables.path, tables.state, fragment_key(_MODULE, tables.digest))
                symbols = self._fragments.load(source.key, object_name(tables.path.name))
                if symbols is None:
                    unknown.append((source, tables))
                else:
                    self._keep(source, symbols)
            self._scan(unknown)
            progress(min(first + _TOGETHER, len(pending)), len(pending))

    def _read_tables(self, paths: Sequence[Path]) -> Iterator[SymbolTables]:
        for path in paths:
            with self.problems.collect():
                yield read_tables(path)

    def _scan(self, unknown: Sequence[tuple[_Source, SymbolTables]]) -> None:
        if not unknown:
            return
        try:
            scanned = list(read_symbols([tables for _, tables in unknown]))
        except KlpError:  # one by one, to find all that are broken
            for source, alone in unknown:
                with self.problems.collect():
                    self._add(source, next(read_symbols([alone])))
        else:
            for (source, _), symbols in zip(unknown, scanned, strict=True):
                self._add(source, symbols)

    def _remembered(self, path: Path, object: str, kind: str) -> bool:
        key = self._fragments.seen(path, kind)
        symbols = None if key is None else self._fragments.load(key, object)
        if symbols is None:
            return False
        self.found.append(symbols)
        return True

    def _add(self, source: _Source, symbols: ObjectSymbols) -> None:
        self._fragments.save(source.key, symbols)
        self.scanned += 1
        self._keep(source, symbols)

    def _keep(self, source: _Source, symbols: ObjectSymbols) -> None:
        self.found.append(symbols)
        self._fragments.note(source.path, source.state, source.key)


@dataclass(frozen=True)
class _Source:
    """A file that was read, its state from before, and its fragment."""

    path: Path
    state: FileState
    key: str


def _state_and_digest(path: Path) -> tuple[FileState, str]:
    with reading(path), path.open("rb") as file:
        return state_of(os.fstat(file.fileno())), hashlib.sha256(file.read()).hexdigest()
