"""The symbols of ELF files in symbol-table order, many files in one pass.

One pass over a hundred modules costs numpy little more than one module.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from klpbuild.elf.constants import SHF, SHN_ABS, SHN_COMMON, SHN_UNDEF, SHT, STB, STT
from klpbuild.elf.tables import Table, section_dtype, symbol_dtype
from klpbuild.errors import KlpError
from klpbuild.names import object_name
from klpbuild.symbols.lines import Bytes, Lines, Numbers
from klpbuild.symbols.table import NUMBER_MAX, ROW, Flag, ObjectSymbols, Rows
from klpbuild.symbols.tables import SymbolTables

#: Sections that the module loader does not keep although they are SHF_ALLOC
#: (kernel/module/main.c, rewrite_section_headers).
_NOT_KEPT = (b".modinfo\0", b"__versions\0")
_PERCPU = b".data..percpu\0"
#: module_init_section() goes by how the name begins.
_INIT = b".init"

#: nm's letters, for local and then for other symbols.
_LETTERS = np.frombuffer(b"nbtrd?acVWNBTRD?ACVW", "S1")
_NOT_LOADED, _ZEROED, _TEXT, _READ_ONLY, _DATA, _OTHER, _ABSOLUTE, _COMMON, _WEAK_DATA, _WEAK = (
    range(10)
)


def read_symbols(tables: Sequence[SymbolTables]) -> Iterator[ObjectSymbols]:
    """Each file's defined and named symbols, in symbol-table order.

    Objects are called as the files; flags are those of a module's symbols.
    STT_FILE symbols are left out, although a module's count while it loads:
    nothing else is called ``ctree.c``.

    :param tables: of any number of files, all of one byte order.
    :raises KlpError: when a table is broken.
    """
    files = _Files(tables)
    shndx, types = files.symbols["st_shndx"], files.symbols["st_info"] & 0xF
    named = files.strings[files.name_starts] != 0
    chosen = np.flatnonzero((shndx != SHN_UNDEF) & (types != STT.FILE) & named)
    names = files.lines(files.strings, files.name_starts[chosen])
    if len(names) and names.lengths.max() > NUMBER_MAX:
        raise KlpError(f"has a symbol name of {names.lengths.max()} bytes", where=files.where)

    rows = np.zeros(len(chosen), ROW)
    rows["address"] = files.symbols["st_value"][chosen]
    rows["hash"] = names.hashes()
    rows["section"] = shndx[chosen]
    rows["length"] = names.lengths
    files.fill_kinds_and_flags(rows, chosen)
    source_files, file_counts = files.fill_source_files(rows, chosen)

    counts = np.bincount(files.owner[chosen], minlength=len(tables))
    section_names = files.lines(files.section_strings, files.section_name_starts)
    each = zip(
        tables,
        np.split(rows, np.cumsum(counts)[:-1]),
        names.cut(counts),
        section_names.cut(files.section_counts),
        source_files.cut(file_counts),
        strict=True,
    )
    for table, part, lines, sections, sources in each:
        name = object_name(table.path.name)
        yield ObjectSymbols(name, part, lines, sections, sources, livepatch=table.livepatch)


class _Files:
    """The tables of several files, one after the other."""

    def __init__(self, tables: Sequence[SymbolTables]) -> None:
        order = tables[0].order
        self.where = str(tables[0].path) + (" or a file read with it" if len(tables) > 1 else "")
        self.symbols: Table = np.frombuffer(
            b"".join(t.symbols for t in tables), symbol_dtype(order)
        )
        counts = _sizes(t.symbols for t in tables) // self.symbols.itemsize
        #: Number of the file that each symbol is in.
        self.owner: Numbers = np.repeat(np.arange(len(tables)), counts)

        self.strings: Bytes = np.frombuffer(b"".join(t.strings for t in tables), np.uint8)
        sizes = _sizes(t.strings for t in tables)
        outside = self.symbols["st_name"] >= sizes[self.owner]
        if outside.any():
            raise KlpError(
                "is broken: a symbol's name lies outside its string table",
                where=str(tables[int(self.owner[outside.argmax()])].path),
                hint="Build or fetch the file again.",
            )
        self.name_starts: Numbers = self.symbols["st_name"] + _firsts(sizes)[self.owner]

        self.sections: Table = np.frombuffer(
            b"".join(t.sections for t in tables), section_dtype(order)
        )
        self.section_counts = _sizes(t.sections for t in tables) // self.sections.itemsize
        self.first_section = _firsts(self.section_counts)
        names = b"".join(t.section_names for t in tables)
        self.section_strings: Bytes = np.frombuffer(names, np.uint8)
        sizes = _sizes(t.section_names for t in tables)
        owner = np.repeat(np.arange(len(tables)), self.section_counts)
        self.section_name_starts: Numbers = self.sections["sh_name"] + _firsts(sizes)[owner]
        self.section_name_starts[self.sections["sh_name"] >= sizes[owner]] = len(names) - 1

    def lines(self, table: Bytes, starts: Numbers) -> Lines:
        """:raises KlpError: when a name holds a line end."""
        try:
            return Lines.of_strings(table, starts)
        except ValueError as error:
            raise KlpError(f"is broken: {error}", where=self.where) from error

    def fill_kinds_and_flags(self, rows: Rows, chosen: Numbers) -> None:
        """Set ``kind`` and ``flags`` of the rows, which are these symbols."""
        symbols, owner = self.symbols[chosen], self.owner[chosen]
        shndx = symbols["st_shndx"].astype(np.int64)
        in_section = shndx < self.section_counts[owner]
        section = np.where(in_section, shndx + self.first_section[owner], 0)

        kept, init, percpu = self._section_traits()
        live = in_section & (kept | percpu)[section] & ~init[section]
        rows["flags"] = live * Flag.LIVE | (in_section & init[section]) * Flag.INIT

        letter = np.where(in_section, self._section_letters()[section], _OTHER)
        letter[shndx == SHN_ABS] = _ABSOLUTE
        letter[shndx == SHN_COMMON] = _COMMON
        bind = symbols["st_info"] >> 4
        weak = bind == STB.WEAK
        is_data = symbols["st_info"][weak] & 0xF == STT.OBJECT
        letter[weak] = np.where(is_data, _WEAK_DATA, _WEAK)
        rows["kind"] = _LETTERS[letter + (bind != STB.LOCAL) * (len(_LETTERS) // 2)]

    def _section_traits(self) -> tuple[npt.NDArray[np.bool_], ...]:
        """Which sections a module keeps, loses after its init, has for each processor."""
        width = max(map(len, (*_NOT_KEPT, _PERCPU, _INIT)))
        places = self.section_name_starts[:, None] + np.arange(width)
        names = self.section_strings.take(places, mode="clip")

        def begins(text: bytes) -> npt.NDArray[np.bool_]:
            same = names[:, : len(text)] == np.frombuffer(text, np.uint8)
            found: npt.NDArray[np.bool_] = np.logical_and.reduce(same, axis=1)
            return found

        loaded = self.sections["sh_flags"].astype(np.int64) & SHF.ALLOC != 0
        dropped = np.any([begins(name) for name in _NOT_KEPT], axis=0)
        return loaded & ~dropped, begins(_INIT), begins(_PERCPU)

    def _section_letters(self) -> npt.NDArray[np.int64]:
        flags = self.sections["sh_flags"].astype(np.int64)
        return np.select(
            [
                flags & SHF.EXECINSTR != 0,
                flags & SHF.ALLOC == 0,
                self.sections["sh_type"] == SHT.NOBITS,
                flags & SHF.WRITE == 0,
            ],
            [_TEXT, _NOT_LOADED, _ZEROED, _READ_ONLY],
            _DATA,
        )

    def fill_source_files(self, rows: Rows, chosen: Numbers) -> tuple[Lines, Numbers]:
        """Set ``file`` of the rows: an STT_FILE symbol stands before its locals.

        :returns: the names of the source files, and how many each file has.
        """
        info = self.symbols["st_info"]
        is_file = (info & 0xF == STT.FILE) & (info >> 4 == STB.LOCAL)
        files = np.flatnonzero(is_file)
        names = self.lines(self.strings, self.name_starts[files])
        counts = np.bincount(self.owner[files], minlength=len(self.section_counts))

        # How many stand before a symbol, in all files and in its own.
        before = np.cumsum(is_file)[chosen]
        number = before - _firsts(counts)[self.owner[chosen]]
        known = (number > 0) & (info[chosen] >> 4 == STB.LOCAL) & (number <= NUMBER_MAX)
        known[known] &= names.lengths[before[known] - 1] > 0
        rows["file"] = np.where(known, number, 0)
        return names, counts


def _sizes(parts: Iterable[bytes]) -> Numbers:
    return np.array([len(part) for part in parts], np.int64)


def _firsts(counts: Numbers) -> Numbers:
    """Where each part begins when all stand one after the other."""
    found: Numbers = np.cumsum(counts) - counts
    return found
