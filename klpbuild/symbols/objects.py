"""Read the symbols of ELF files in symbol-table order, many files in one pass.

Undefined symbols are left out, as module_kallsyms_on_each_symbol() of kernel/module/kallsyms.c
counts them.  One pass over a hundred modules costs numpy little more than one module.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from klpbuild.elf.constants import SHF, SHN_ABS, SHN_COMMON, SHN_UNDEF, SHT, STB, STT
from klpbuild.elf.tables import Table, section_dtype, symbol_dtype
from klpbuild.errors import KlpError
from klpbuild.names import object_name
from klpbuild.symbols.lines import Bytes, Lines, Numbers
from klpbuild.symbols.table import NUMBER_MAX, ROW, Flag, ObjectSymbols, Rows
from klpbuild.symbols.tables import SymbolTables

#: What the names of sections say: not kept although SHF_ALLOC, one for each processor
#: (kernel/module/main.c, rewrite_section_headers), init (module_init_section, by how
#: the name begins).
_BY_NAME = {
    b".modinfo\n": Flag(0),
    b"__versions\n": Flag(0),
    b".data..percpu\n": Flag.LIVE,
    b".init": Flag.INIT,
}

#: nm's letters, for local and then for other symbols.
_LETTERS = np.frombuffer(b"nbtrd?acVWNBTRD?ACVW", "S1")
_NOT_LOADED, _ZEROED, _TEXT, _READ_ONLY, _DATA, _OTHER, _ABSOLUTE, _COMMON, _WEAK_DATA, _WEAK = (
    range(10)
)


@dataclass(frozen=True, eq=False)
class Scanned:
    """The defined and named symbols of several files, one file after the other.

    :ivar tables: the files.
    :ivar rows: dtype `klpbuild.symbols.table.ROW`, shape (n,).
    :ivar names: n names.
    :ivar counts: how many of them each file has.
    :ivar section_names: of all sections of all files, and `section_counts` of each.
    :ivar source_files: what STT_FILE symbols name, and `source_counts` of each file.
    """

    tables: Sequence[SymbolTables]
    rows: Rows
    names: Lines
    counts: Numbers
    section_names: Lines
    section_counts: Numbers
    source_files: Lines
    source_counts: Numbers

    def objects(self) -> Iterator[ObjectSymbols]:
        """Split the symbols by file, and name each object after its file."""
        bounds = [0, *np.cumsum(self.counts).tolist()]
        each = zip(
            self.tables,
            pairwise(bounds),
            self.names.cut(self.counts),
            self.section_names.cut(self.section_counts),
            self.source_files.cut(self.source_counts),
            strict=True,
        )
        for table, (first, end), names, sections, sources in each:
            name, rows = object_name(table.path.name), self.rows[first:end]
            yield ObjectSymbols(name, rows, names, sections, sources, livepatch=table.livepatch)


def scan(tables: Sequence[SymbolTables]) -> Scanned:
    """Scan each file's defined and named symbols, in symbol-table order.

    Flags are those of a module's symbols.  STT_FILE symbols are left out, although
    a module's count while it loads: nothing else is called ``ctree.c``.

    :param tables: of any number of files, all of one byte order.
    :raises KlpError: when a table is broken.
    """
    files = _Files(tables)
    shndx, types = files.symbols["st_shndx"], files.symbols["st_info"] & 0xF
    named = files.strings[files.name_starts] != 0
    chosen = np.flatnonzero((shndx != SHN_UNDEF) & (types != STT.FILE) & named)
    counts = np.diff(np.searchsorted(chosen, files.first_symbol), append=len(chosen))
    names = files.lines(files.strings, files.name_starts[chosen])
    if len(names) and names.lengths.max() > NUMBER_MAX:
        raise KlpError(f"has a symbol name of {names.lengths.max()} bytes", where=files.where)

    rows = np.zeros(len(chosen), ROW)
    rows["address"] = files.symbols["st_value"][chosen]
    rows["hash"] = names.hashes()
    rows["section"] = shndx[chosen]
    rows["length"] = names.lengths
    files.fill_kinds_and_flags(rows, chosen, counts)
    source_files, source_counts = files.fill_source_files(rows, chosen, counts)
    return Scanned(
        tables,
        rows,
        names,
        counts,
        files.section_names,
        files.section_counts,
        source_files,
        source_counts,
    )


def read_symbols(tables: Sequence[SymbolTables]) -> Iterator[ObjectSymbols]:
    """Read the symbols of each file: `scan`, split by file."""
    return scan(tables).objects()


class _Files:
    """The tables of several files, one after the other."""

    def __init__(self, tables: Sequence[SymbolTables]) -> None:
        order = tables[0].order
        self.where = str(tables[0].path) + (" or a file read with it" if len(tables) > 1 else "")
        self.symbols: Table = np.frombuffer(
            b"".join(t.symbols for t in tables), symbol_dtype(order)
        )
        counts = _sizes(t.symbols for t in tables) // self.symbols.itemsize
        self.first_symbol = _firsts(counts)

        self.strings: Bytes = np.frombuffer(b"".join(t.strings for t in tables), np.uint8)
        sizes = _sizes(t.strings for t in tables)
        outside = self.symbols["st_name"] >= np.repeat(sizes, counts)
        if outside.any():
            number = int(np.searchsorted(self.first_symbol, outside.argmax(), "right")) - 1
            raise KlpError(
                "is broken: a symbol's name lies outside its string table",
                where=str(tables[number].path),
                hint="Build or fetch the file again.",
            )
        self.name_starts: Numbers = self.symbols["st_name"] + np.repeat(_firsts(sizes), counts)

        self.sections: Table = np.frombuffer(
            b"".join(t.sections for t in tables), section_dtype(order)
        )
        self.section_counts = _sizes(t.sections for t in tables) // self.sections.itemsize
        self.first_section = _firsts(self.section_counts)
        names = b"".join(t.section_names for t in tables)
        sizes = _sizes(t.section_names for t in tables)
        owner = np.repeat(np.arange(len(tables)), self.section_counts)
        starts: Numbers = self.sections["sh_name"] + _firsts(sizes)[owner]
        starts[self.sections["sh_name"] >= sizes[owner]] = len(names) - 1
        self.section_names = self.lines(np.frombuffer(names, np.uint8), starts)

    def lines(self, table: Bytes, starts: Numbers) -> Lines:
        """Read strings of a string table.

        :raises KlpError: when a name holds a line end.
        """
        try:
            return Lines.of_strings(table, starts)
        except ValueError as error:
            raise KlpError(f"is broken: {error}", where=self.where) from error

    def fill_kinds_and_flags(self, rows: Rows, chosen: Numbers, counts: Numbers) -> None:
        """Set ``kind`` and ``flags`` of the rows, which are these symbols, so many of each file."""
        shndx = self.symbols["st_shndx"][chosen].astype(np.int64)
        in_section = shndx < np.repeat(self.section_counts, counts)
        section = np.where(in_section, shndx + np.repeat(self.first_section, counts), 0)
        rows["flags"] = self._section_flags()[section] * in_section

        letter = self._section_letters()[section]
        elsewhere = np.flatnonzero(~in_section)
        letter[elsewhere] = _OTHER
        letter[elsewhere[shndx[elsewhere] == SHN_ABS]] = _ABSOLUTE
        letter[elsewhere[shndx[elsewhere] == SHN_COMMON]] = _COMMON
        info = self.symbols["st_info"][chosen]
        bind = info >> 4
        weak = np.flatnonzero(bind == STB.WEAK)
        letter[weak] = np.where(info[weak] & 0xF == STT.OBJECT, _WEAK_DATA, _WEAK)
        letter[bind != STB.LOCAL] += len(_LETTERS) // 2
        rows["kind"] = _LETTERS[letter]

    def _section_flags(self) -> npt.NDArray[np.uint8]:
        """Compute the flags of the symbols in each section of a module."""
        flags = np.zeros(len(self.sections), np.uint8)
        flags[self.sections["sh_flags"].astype(np.int64) & SHF.ALLOC != 0] = Flag.LIVE
        for name, flag in _BY_NAME.items():
            flags[self.section_names.beginning_with(name)] = flag
        return flags

    def _section_letters(self) -> npt.NDArray[np.int8]:
        flags = self.sections["sh_flags"].astype(np.int64)
        letters = np.select(
            [
                flags & SHF.EXECINSTR != 0,
                flags & SHF.ALLOC == 0,
                self.sections["sh_type"] == SHT.NOBITS,
                flags & SHF.WRITE == 0,
            ],
            [_TEXT, _NOT_LOADED, _ZEROED, _READ_ONLY],
            _DATA,
        )
        return letters.astype(np.int8)

    def fill_source_files(
        self, rows: Rows, chosen: Numbers, counts: Numbers
    ) -> tuple[Lines, Numbers]:
        """Set ``file`` of the rows: an STT_FILE symbol stands before its locals.

        :returns: the names of the source files, and how many each file has.
        """
        info = self.symbols["st_info"]
        is_file = info == STB.LOCAL << 4 | STT.FILE
        files = np.flatnonzero(is_file)
        names = self.lines(self.strings, self.name_starts[files])
        firsts = np.searchsorted(files, self.first_symbol)

        # How many stand before a symbol, in all files and in its own.
        before = np.cumsum(is_file)[chosen]
        number = before - np.repeat(firsts, counts)
        known = (number > 0) & (info[chosen] >> 4 == STB.LOCAL) & (number <= NUMBER_MAX)
        known[known] &= names.lengths[before[known] - 1] > 0
        rows["file"] = number * known
        return names, np.diff(firsts, append=len(files))


def _sizes(parts: Iterable[bytes]) -> Numbers:
    return np.array([len(part) for part in parts], np.int64)


def _firsts(counts: Numbers) -> Numbers:
    """Compute where each part begins when all stand one after the other."""
    found: Numbers = np.cumsum(counts) - counts
    return found
