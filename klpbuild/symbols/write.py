"""Write symbols.klp and its index, from one fragment for each object."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from klpbuild.elf.writer import write_file
from klpbuild.errors import KlpError, Problems
from klpbuild.names import VMLINUX, object_name
from klpbuild.symbols.database import MAGIC
from klpbuild.symbols.fragments import FragmentCache, fragment_key
from klpbuild.symbols.index import build, index_path
from klpbuild.symbols.objects import read_symbols
from klpbuild.symbols.sources import read_kallsyms, read_system_map, vmlinux_symbols
from klpbuild.symbols.table import ObjectSymbols, joined
from klpbuild.symbols.tables import SymbolTables, read_tables

#: Modules read together: enough to spread numpy's cost, few enough to stay small.
_TOGETHER = 128


@dataclass(frozen=True)
class SymbolSources:
    """Where a kernel's symbols are read from.

    Of `vmlinux`, `system_map` and `kallsyms` the first that is there is read; all
    give the same symbols, the first also their source files.

    :ivar version: the kernel's.
    :ivar modules: its ``.ko`` files.
    """

    version: tuple[int, ...]
    modules: tuple[Path, ...] = ()
    vmlinux: Path | None = None
    system_map: Path | None = None
    kallsyms: Path | None = None


@dataclass(frozen=True)
class Written:
    """What `write_symbols` did.

    :ivar objects: how many objects symbols.klp has.
    :ivar symbols: how many symbols.
    :ivar scanned: how many objects had to be read; the others' fragments were there.
    """

    objects: int
    symbols: int
    scanned: int


def write_symbols(output: Path, sources: SymbolSources, cache: Path) -> Written:
    """Write the symbols.klp of a kernel and the index beside it.

    vmlinux comes first, then the modules by name; livepatches are left out.  The
    same sources give the same bytes.

    :param output: where; its directory is made.
    :param cache: directory for fragments, shared by whoever likes.
    :raises KlpError: when no symbols of vmlinux are at hand, with every file that
        is broken or has no symbols, or when the output cannot be written.
    """
    with FragmentCache(cache, str(output.absolute())) as fragments:
        collected = _Collected(fragments)
        collected.add_vmlinux(sources)
        collected.add_modules(sources.modules)
        collected.problems.check()
    vmlinux, *modules = collected.found
    modules = sorted((m for m in modules if not m.livepatch), key=lambda m: m.object)
    _check_names(modules, sources.modules)
    symbols = write_objects(output, [vmlinux, *modules])
    return Written(1 + len(modules), symbols, collected.scanned)


def write_objects(output: Path, objects: Sequence[ObjectSymbols]) -> int:
    """Write a symbols.klp with these objects, in this order, and its index.

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
    name_at = np.cumsum(lengths) - lengths + before

    # The index first: whoever sees the new text must find the index that belongs to it.
    _replace(index_path(output), build(text, objects, name_at))
    _replace(output, text)
    return len(lengths)


def _replace(path: Path, data: bytes) -> None:
    """Write a file, unless it holds just this."""
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
        """:raises KlpError: when there is no source."""
        version = sources.version
        series = f"{version[0]}.{version[1]}"
        with self.problems.collect():
            if sources.vmlinux is not None:
                path = sources.vmlinux
                if not self._remembered(path, VMLINUX):
                    tables = read_tables(path)
                    key = fragment_key(f"vmlinux {series}", tables.digest)
                    self._add_vmlinux(path, key, lambda: vmlinux_symbols(tables, version))
            elif sources.system_map is not None:
                path = sources.system_map
                if not self._remembered(path, VMLINUX):
                    key = fragment_key(f"System.map {series}", _digest_of_file(path))
                    self._add_vmlinux(path, key, lambda: read_system_map(path, version))
            elif sources.kallsyms is not None:
                path = sources.kallsyms
                if not self._remembered(path, VMLINUX):
                    key = fragment_key("kallsyms", _digest_of_file(path))
                    self._add_vmlinux(path, key, lambda: read_kallsyms(path))
            else:
                raise KlpError(
                    "no symbols of vmlinux are at hand",
                    why="In a tree without symbols nobody can tell what a name stands for.",
                    hint="Give vmlinux from the kernel's build or debug package, its System.map,\n"
                    "or a copy of /proc/kallsyms that root made.",
                )

    def _add_vmlinux(self, path: Path, key: str, read: Callable[[], ObjectSymbols]) -> None:
        symbols = self._fragments.load(key, VMLINUX)
        if symbols is None:
            self._add(path, key, read())
        else:
            self._keep(path, key, symbols)

    def add_modules(self, paths: Sequence[Path]) -> None:
        """Modules may come in another order than their paths."""
        names = {path: object_name(path.name) for path in paths}
        pending = [path for path, name in names.items() if not self._remembered(path, name)]
        for first in range(0, len(pending), _TOGETHER):
            unknown = []
            for tables in self._read_tables(pending[first : first + _TOGETHER]):
                key = _module_key(tables)
                symbols = self._fragments.load(key, names[tables.path])
                if symbols is None:
                    unknown.append(tables)
                else:
                    self._keep(tables.path, key, symbols)
            for tables, symbols in self._scan(unknown):
                self._add(tables.path, _module_key(tables), symbols)

    def _read_tables(self, paths: Sequence[Path]) -> Iterator[SymbolTables]:
        for path in paths:
            with self.problems.collect():
                yield read_tables(path)

    def _scan(self, tables: Sequence[SymbolTables]) -> Iterator[tuple[SymbolTables, ObjectSymbols]]:
        try:
            scanned = list(read_symbols(tables)) if tables else []
        except KlpError:  # one by one, to find all that are broken
            for alone in tables:
                with self.problems.collect():
                    yield alone, next(read_symbols([alone]))
        else:
            yield from zip(tables, scanned, strict=True)

    def _remembered(self, path: Path, object: str) -> bool:
        key = self._fragments.seen(path)
        symbols = None if key is None else self._fragments.load(key, object)
        if key is None or symbols is None:
            return False
        self._keep(path, key, symbols)
        return True

    def _add(self, path: Path, key: str, symbols: ObjectSymbols) -> None:
        self._fragments.save(key, symbols)
        self.scanned += 1
        self._keep(path, key, symbols)

    def _keep(self, path: Path, key: str, symbols: ObjectSymbols) -> None:
        self.found.append(symbols)
        self._fragments.note(path, key)


def _module_key(tables: SymbolTables) -> str:
    return fragment_key("module", tables.digest)


def _digest_of_file(path: Path) -> str:
    try:
        return hashlib.blake2b(path.read_bytes()).hexdigest()
    except OSError as error:
        raise KlpError(f"cannot be read: {error.strerror}", where=str(path)) from error
