"""Read ELF64 files: every table in bulk, every offset checked once."""

from __future__ import annotations

import mmap
import struct
import zlib
from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from klpbuild.elf.constants import ET, SHF, SHN_LORESERVE, SHN_XINDEX, SHT, STB, STT
from klpbuild.elf.tables import (
    EHDR_SIZE,
    Table,
    ehdr_dtype,
    rela_dtype,
    section_dtype,
    string_at,
    symbol_dtype,
)
from klpbuild.errors import KlpError

_EI_CLASS, _EI_DATA = 4, 5
#: How LLVM's bitcode begins, alone and with a header.
_BITCODE = (b"BC\xc0\xde", b"\xde\xc0\x17\x0b")
_ELFCLASS64 = 2
_CHDR_SIZE, _ELFCOMPRESS_ZLIB = 24, 1
#: Largest ratio of deflate (zlib.net/zlib_tech.html).
_ZLIB_RATIO_MAX = 1032

#: Far above KSYM_NAME_LEN.  Without a limit, a small file whose names all run to
#: the end of one long string would take memory without bound.
_NAME_MAX = 4096

#: From how many names on a list of all is made: it takes as long as to look for two hundred of
#: a kernel's.
_MANY_NAMES = 200


@dataclass(frozen=True)
class Section:
    """One section header, with its name and its place in the header table."""

    index: int
    name: str
    sh_type: int
    sh_flags: int
    sh_addr: int
    sh_offset: int
    sh_size: int
    sh_link: int
    sh_info: int
    sh_addralign: int
    sh_entsize: int


@dataclass(frozen=True)
class Symbol:
    """One symbol of ``.symtab``, with its name and its index in the table."""

    index: int
    name: str
    st_info: int
    st_other: int
    st_shndx: int
    st_value: int
    st_size: int

    @property
    def bind(self) -> int:
        return self.st_info >> 4

    @property
    def type(self) -> int:
        return self.st_info & 0xF

    @property
    def is_local(self) -> bool:
        return self.bind == STB.LOCAL

    @property
    def is_defined(self) -> bool:
        """Whether it is defined in a section of this file."""
        return 0 < self.st_shndx < SHN_LORESERVE

    @property
    def is_function(self) -> bool:
        return self.type == STT.FUNC


class ElfFile:
    """An ELF64 file, read only.

    Tables are numpy views of the file: `symbols` has dtype
    `klpbuild.elf.tables.symbol_dtype`, `relocations` gives `rela_dtype`.  Each is
    checked when first read: its indexes and offsets are then good to use.

    :ivar name: what messages call the file.
    :ivar data: the whole file.
    :ivar order: ``"<"`` or ``">"``.
    """

    def __init__(self, data: bytes | mmap.mmap, name: str) -> None:
        """Read the header and the section headers.

        :raises KlpError: when the headers are not those of a whole ELF64 file.
        """
        self.name = name
        self.data = memoryview(data)
        if len(data) < EHDR_SIZE or bytes(self.data[:4]) != b"\x7fELF":
            if bytes(self.data[:4]) in _BITCODE:
                raise KlpError(
                    "is LLVM's bitcode and no ELF file",
                    where=name,
                    why="What it becomes is known when it is linked.",
                    hint="Compile it without -flto.",
                )
            raise self._broken("is not an ELF file")
        if self.data[_EI_CLASS] != _ELFCLASS64 or self.data[_EI_DATA] not in (1, 2):
            raise KlpError(
                "is not a 64-bit ELF file",
                where=name,
                why="Every architecture with livepatch has 64-bit objects.",
            )
        self.order = "<" if self.data[_EI_DATA] == 1 else ">"
        self.header = np.frombuffer(self.data, ehdr_dtype(self.order), 1)[0]
        self._headers = self._section_headers()
        self._names_asked = 0

    @classmethod
    def read(cls, path: Path) -> ElfFile:
        """Map a file into memory and read its headers.

        :raises KlpError: when the file cannot be read or is not ELF64.
        """
        try:
            if path.exists() and not path.is_file():  # a pipe would be waited for
                raise KlpError("is not a file", where=str(path))
            with path.open("rb") as file:
                return cls(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), str(path))
        except OSError as error:
            raise KlpError(f"cannot be read: {error.strerror}", where=str(path)) from error
        except ValueError as error:  # mmap refuses an empty file
            raise KlpError("is empty", where=str(path)) from error

    def _broken(self, what: str) -> KlpError:
        return KlpError(what, where=self.name, hint="Build or fetch the file again.")

    def _section_headers(self) -> Table:
        header, dtype = self.header, section_dtype(self.order)
        offset, count = int(header["e_shoff"]), int(header["e_shnum"])
        if offset == 0:
            return np.zeros(0, dtype)
        if int(header["e_shentsize"]) != dtype.itemsize:
            raise self._broken("has section headers of a wrong size")
        if offset + dtype.itemsize > len(self.data):
            raise self._broken("is truncated: its section headers are missing")
        if count == 0:
            count = int(np.frombuffer(self.data, dtype, 1, offset)["sh_size"][0])
        if offset + count * dtype.itemsize > len(self.data):
            raise self._broken("is truncated: its section headers are missing")
        headers = np.frombuffer(self.data, dtype, count, offset)
        if count == 0 or headers[0]["sh_type"] != SHT.NULL:
            raise self._broken("does not begin with the null section")
        in_file = (headers["sh_type"] != SHT.NOBITS) & (headers["sh_type"] != SHT.NULL)
        ends = headers["sh_offset"] + headers["sh_size"]
        bad = in_file & ((ends > len(self.data)) | (ends < headers["sh_offset"]))
        if bad.any():
            raise self._broken(f"is truncated: section {int(np.argmax(bad))} ends past its end")
        self._check_links(headers[1:])
        return headers

    def _check_links(self, headers: Table) -> None:
        count = len(headers) + 1
        bad = headers["sh_link"] >= count
        if bad.any():
            raise self._broken(
                f"section {int(np.argmax(bad)) + 1} names a section that is not there"
            )
        if int(self.header["e_type"]) != ET.REL:
            return
        kinds, target = headers["sh_type"], headers["sh_info"]
        relocations = np.isin(kinds, (SHT.RELA, SHT.REL))
        to_relocations = np.isin(target, np.flatnonzero(relocations) + 1)
        bad = relocations & ((target == 0) | (target >= count) | to_relocations)
        if bad.any():
            index = int(np.argmax(bad)) + 1
            raise self._broken(f"section {index} holds relocations for section {target[index - 1]}")

    def _check_names(self, table: bytes, offsets: npt.NDArray[np.unsignedinteger[Any]]) -> None:
        """Check that every name lies in its string table and is short."""
        if len(offsets) and int(offsets.max()) >= max(len(table), 1):
            raise self._broken("has a name that is not in its string table")
        zeros = np.flatnonzero(np.frombuffer(table, np.uint8) == 0)
        if table and (len(zeros) == 0 or zeros[0] != 0 or zeros[-1] != len(table) - 1):
            raise self._broken("has a string table that does not begin and end with a zero byte")
        if len(zeros) and int(np.diff(zeros, prepend=0).max()) > _NAME_MAX + 1:
            raise self._broken(f"has a name of more than {_NAME_MAX:,} bytes")

    @property
    def e_type(self) -> int:
        return int(self.header["e_type"])

    @property
    def e_machine(self) -> int:
        return int(self.header["e_machine"])

    @property
    def e_flags(self) -> int:
        return int(self.header["e_flags"])

    @cached_property
    def shstrndx(self) -> int:
        """Section index of the table of section names; 0 without one."""
        index = int(self.header["e_shstrndx"])
        if index == SHN_XINDEX and len(self._headers):
            index = int(self._headers[0]["sh_link"])
        if len(self._headers) and index >= len(self._headers):
            raise self._broken("names a section name table that it does not have")
        return index

    @cached_property
    def sections(self) -> tuple[Section, ...]:
        """All sections, the null section first.

        :raises KlpError: when a name is not in the table of section names.
        """
        if not len(self._headers):
            return ()
        names = self._bytes(self._headers[self.shstrndx])
        self._check_names(names, self._headers["sh_name"])
        return tuple(
            Section(i, string_at(names, row[0]), *row[1:])
            for i, row in enumerate(self._headers.tolist())
        )

    def _bytes(self, header: np.void) -> bytes:
        if header["sh_type"] != SHT.STRTAB:
            return b""
        offset = int(header["sh_offset"])
        return bytes(self.data[offset : offset + int(header["sh_size"])])

    def contents(self, section: Section) -> memoryview:
        """Return a section's bytes; empty for NOBITS."""
        if section.sh_type in (SHT.NOBITS, SHT.NULL):
            return self.data[:0]
        return self.data[section.sh_offset : section.sh_offset + section.sh_size]

    def uncompressed(self, section: Section) -> memoryview:
        """Return a section's bytes, decompressed; debug information often is compressed.

        :raises KlpError: when they are damaged, or compressed by another method than zlib.
        """
        data = self.contents(section)
        if not section.sh_flags & SHF.COMPRESSED:
            return data
        if len(data) < _CHDR_SIZE:
            raise KlpError(f"section {section.name} is cut off", where=self.name)
        # Elf64_Chdr: ch_type, ch_reserved, ch_size, ch_addralign
        method, _, size, _ = struct.unpack_from(f"{self.order}IIQQ", data)
        if method != _ELFCOMPRESS_ZLIB:
            raise KlpError(
                f"section {section.name} is compressed by a method that klpbuild does not know",
                where=self.name,
                why=f"Its ch_type is {method}; 1 is zlib, 2 is zstd.",
                hint="Write it anew by objcopy --decompress-debug-sections.",
            )
        if size > _ZLIB_RATIO_MAX * len(data):
            raise KlpError(f"section {section.name} is damaged", where=self.name)
        unpacker = zlib.decompressobj()
        try:
            plain = unpacker.decompress(data[_CHDR_SIZE:], size + 1)
        except zlib.error as error:
            raise KlpError(
                f"section {section.name} does not decompress", where=self.name, why=str(error)
            ) from error
        if len(plain) != size:
            raise KlpError(f"section {section.name} is damaged", where=self.name)
        return memoryview(plain)

    def section(self, name: str) -> Section | None:
        """Find the first section of a name.  Names repeat: work by index where it matters."""
        return self._by_name.get(name)

    @cached_property
    def _by_name(self) -> dict[str, Section]:
        found: dict[str, Section] = {}
        for section in self.sections:
            found.setdefault(section.name, section)
        return found

    @cached_property
    def symtab(self) -> Section | None:
        """The section of the symbol table; the first, if a file has several.

        :raises KlpError: when its symbols have a wrong size or no names.
        """
        for section in self.sections:
            if section.sh_type == SHT.SYMTAB:
                size = symbol_dtype(self.order).itemsize
                if section.sh_entsize != size or section.sh_size % size:
                    raise self._broken("has symbols of a wrong size")
                if self.sections[section.sh_link].sh_type != SHT.STRTAB:
                    raise self._broken("has a symbol table without names")
                return section
        return None

    @cached_property
    def symbols(self) -> Table:
        """The symbol table, shape (n,), index 0 the null symbol; empty without one.

        :raises KlpError: when a symbol names a string or a section that is not there.
        """
        dtype = symbol_dtype(self.order)
        if self.symtab is None:
            return np.zeros(0, dtype)
        if any(s.sh_type == SHT.SYMTAB_SHNDX and s.sh_size for s in self.sections):
            raise KlpError("has more than 65,279 sections", where=self.name)
        count = self.symtab.sh_size // dtype.itemsize
        symbols = np.frombuffer(self.data, dtype, count, self.symtab.sh_offset)
        self._check_names(self.strtab, symbols["st_name"])
        places = symbols["st_shndx"]
        bad = (places >= len(self.sections)) & (places < SHN_LORESERVE) | (places == SHN_XINDEX)
        if bad.any():
            index = int(np.argmax(bad))
            raise self._broken(f"symbol {index} is in section {places[index]}, which is not there")
        return symbols

    @cached_property
    def strtab(self) -> bytes:
        """The names of the symbols."""
        if self.symtab is None:
            return b""
        return bytes(self.contents(self.sections[self.symtab.sh_link]))

    def _check_symbol(self, index: int) -> None:
        if not 0 <= index < len(self.symbols):
            raise self._broken(f"names symbol {index}, and has {len(self.symbols)}")

    def symbol_name(self, index: int) -> str:
        """Read a symbol's name by its index.

        :raises KlpError: when the table has no such index.
        """
        self._check_symbol(index)
        return string_at(self.strtab, int(self.symbols[index]["st_name"]))

    def symbol(self, index: int) -> Symbol:
        """Read a symbol by its index.

        :raises KlpError: when the table has no such index.
        """
        self._check_symbol(index)
        row = self.symbols[index].tolist()
        return Symbol(index, string_at(self.strtab, row[0]), *row[1:])

    def symbols_named(self, *names: str) -> npt.NDArray[np.int64]:
        """Find the indexes of symbols by name, ascending, without a list of all names."""
        starts: list[int] = []
        self._names_asked += len(names)
        for name in names:
            text = name.encode(errors="surrogateescape") + b"\0"
            if self._names_asked > _MANY_NAMES:
                starts += self._starts_by_name.get(text[:-1], ())
                continue
            at = self.strtab.find(text)
            while at >= 0:  # the linker lets a name end in another one
                starts.append(at)
                at = self.strtab.find(text, at + 1)
        order, places = self._by_name_place
        wanted = np.array(sorted({*starts}), places.dtype)
        firsts, lasts = np.searchsorted(places, wanted), np.searchsorted(places, wanted, "right")
        found = [order[i:j] for i, j in zip(firsts.tolist(), lasts.tolist(), strict=True)]
        return np.sort(np.concatenate([np.zeros(0, np.int64), *found]))

    @cached_property
    def _by_name_place(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.uint32]]:
        """The symbols' indexes by where their names stand, and these places."""
        places = np.ascontiguousarray(self.symbols["st_name"])
        order = np.argsort(places, kind="stable").astype(np.int64)
        return order, places[order]

    @cached_property
    def _starts_by_name(self) -> dict[bytes, list[int]]:
        """Where each symbol's name stands: once, or more often."""
        found: dict[bytes, list[int]] = defaultdict(list)
        for start in np.unique(self.symbols["st_name"]).tolist():
            end = self.strtab.find(b"\0", start, start + _NAME_MAX)
            if end >= 0:
                found[self.strtab[start:end]].append(start)
        return dict(found)

    @cached_property
    def symbol_list(self) -> tuple[Symbol, ...]:
        """All symbols as records: for objects, not for a whole kernel."""
        names = self.strtab
        return tuple(
            Symbol(i, string_at(names, row[0]), *row[1:])
            for i, row in enumerate(self.symbols.tolist())
        )

    def relocations(self, section: Section) -> Table:
        """Read the records of an SHT_RELA section, shape (n,).

        :raises KlpError: for another kind of section, entries of a wrong size, or
            records that name a symbol or a place that is not there.
        """
        dtype = rela_dtype(self.order)
        if section.sh_type != SHT.RELA or section.sh_entsize not in (0, dtype.itemsize):
            raise KlpError(
                f"section {section.index} ({section.name}) does not hold relocations with addends",
                where=self.name,
                why="Livepatch works with SHT_RELA only.",
            )
        if section.sh_size % dtype.itemsize:
            raise self._broken(f"section {section.index} ({section.name}) ends in half a record")
        count = section.sh_size // dtype.itemsize
        rows = np.frombuffer(self.data, dtype, count, section.sh_offset)
        if self.e_type == ET.REL and count:
            self._check_records(section, rows)
        return rows

    def _check_records(self, section: Section, rows: Table) -> None:
        where = f"section {section.index} ({section.name})"
        if self.symtab is None or section.sh_link != self.symtab.index:
            raise self._broken(f"{where} does not use the symbol table")
        symbol, place = int(rows["r_sym"].max()), int(rows["r_offset"].max())
        if symbol >= len(self.symbols):
            raise self._broken(f"{where} names symbol {symbol}, and there are {len(self.symbols)}")
        target = self.sections[section.sh_info]
        if target.sh_flags & SHF.COMPRESSED:  # places are of what is not compressed
            return
        size = target.sh_size
        if place > size:
            raise self._broken(f"{where} changes offset {place:#x} of a section of {size:#x} bytes")

    @cached_property
    def relocation_sections(self) -> tuple[Section, ...]:
        """All SHT_RELA sections, in order."""
        return tuple(s for s in self.sections if s.sh_type == SHT.RELA)
