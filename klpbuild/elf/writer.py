"""Change and write relocatable ELF64 files: the only writer in klpbuild.

Sections and symbols keep their indexes: what is new goes to the end, what is
dropped is neutralised.  Other tools renumber and get it wrong for SHF_LINK_ORDER
and groups.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from klpbuild.elf.constants import ET, SHN_LORESERVE, SHT, STB
from klpbuild.elf.reader import ElfFile
from klpbuild.elf.tables import (
    EHDR_SIZE,
    Table,
    ehdr_dtype,
    rela_dtype,
    section_dtype,
    symbol_dtype,
)
from klpbuild.errors import KlpError
from klpbuild.files.whole import write_file

#: Alignment counts in memory; in the file a page is enough, whatever a header says.
_FILE_ALIGN_MAX = 4096


@dataclass
class WritableSection:
    """A section to write.

    :ivar data: its bytes; for SHT_NOBITS empty, and `nobits_size` counts.
    """

    name: str
    sh_type: int
    sh_flags: int = 0
    sh_link: int = 0
    sh_info: int = 0
    sh_addralign: int = 1
    sh_entsize: int = 0
    sh_addr: int = 0
    data: bytes | memoryview = b""
    nobits_size: int = 0

    @property
    def sh_size(self) -> int:
        return self.nobits_size if self.sh_type == SHT.NOBITS else len(self.data)


@dataclass
class _Strings:
    """A string table that only grows; a string that it has is not added again."""

    data: bytearray = field(default_factory=lambda: bytearray(b"\0"))

    @cached_property
    def offsets(self) -> dict[bytes, int]:
        found: dict[bytes, int] = {}
        offset = 0
        for text in bytes(self.data[:-1]).split(b"\0"):
            found.setdefault(text, offset)
            offset += len(text) + 1
        return found

    def add(self, text: str) -> int:
        encoded = text.encode(errors="surrogateescape")
        if encoded not in self.offsets:
            self.offsets[encoded] = len(self.data)
            self.data += encoded + b"\0"
        return self.offsets[encoded]


class ElfObject:
    """A relocatable ELF64 object that can be changed and written.

    :ivar sections: all sections in order, the null section first.  The contents of
        the symbol table and of its names are made from `symbols` when written.
    :ivar symbols: the symbol table, dtype `symbol_dtype`, shape (n,).  Change its
        fields in place; add with `add_symbol`.
    """

    def __init__(
        self, machine: int, order: str = "<", flags: int = 0, e_ident: bytes = b""
    ) -> None:
        """Make an empty object: null section, ``.symtab``, ``.strtab`` and ``.shstrtab``."""
        self.order = order
        self.e_machine = machine
        self.e_flags = flags
        data = 1 if order == "<" else 2
        self.e_ident = e_ident or b"\x7fELF" + bytes([2, data, 1]) + bytes(9)
        self.sections = [
            WritableSection("", SHT.NULL, sh_addralign=0),
            WritableSection(".symtab", SHT.SYMTAB, 0, 2, 1, 8, 24),
            WritableSection(".strtab", SHT.STRTAB),
            WritableSection(".shstrtab", SHT.STRTAB),
        ]
        self._symtab, self._strtab, self._shstrtab = 1, 2, 3
        self.symbols: Table = np.zeros(1, symbol_dtype(order))
        self._added: list[tuple[int, int, int, int, int, int]] = []
        self._strings = _Strings()

    @classmethod
    def from_elf(cls, elf: ElfFile) -> ElfObject:
        """Copy a relocatable file, to be changed.

        :raises KlpError: when it is not relocatable, or its symbol table or its
            section names are missing or out of order.
        """
        if elf.e_type != ET.REL:
            raise KlpError("is not a relocatable object", where=elf.name)
        if elf.symtab is None:
            raise KlpError(
                "has no symbol table", where=elf.name, hint="Use the file before it was stripped."
            )
        if elf.sections[elf.shstrndx].sh_type != SHT.STRTAB:
            raise KlpError("has no section names", where=elf.name)
        if not _locals_first(elf.symbols):
            raise KlpError("has a local symbol after a global one", where=elf.name)
        copy = cls(elf.e_machine, elf.order, elf.e_flags, bytes(elf.data[:16]))
        copy.sections = [
            WritableSection(
                s.name,
                s.sh_type,
                s.sh_flags,
                s.sh_link,
                s.sh_info,
                s.sh_addralign,
                s.sh_entsize,
                s.sh_addr,
                elf.contents(s),
                s.sh_size if s.sh_type == SHT.NOBITS else 0,
            )
            for s in elf.sections
        ]
        copy._symtab = elf.symtab.index
        copy._strtab = elf.symtab.sh_link
        copy._shstrtab = elf.shstrndx
        copy.symbols = elf.symbols.copy()
        copy._strings = _Strings(bytearray(elf.strtab or b"\0"))
        return copy

    def add_section(self, section: WritableSection) -> int:
        """Append a section and return its index."""
        self.sections.append(section)
        return len(self.sections) - 1

    def add_symbol(
        self,
        name: str,
        *,
        bind: int,
        type: int,
        st_shndx: int,
        st_value: int = 0,
        st_size: int = 0,
        st_other: int = 0,
    ) -> int:
        """Append a symbol and return its index.  Local symbols come before all others."""
        info = bind << 4 | type
        self._added.append((self._strings.add(name), info, st_other, st_shndx, st_value, st_size))
        return len(self.symbols) + len(self._added) - 1

    def rename_symbol(self, index: int, name: str) -> None:
        """Rename a symbol of `symbols`; the old bytes stay in the table."""
        self.symbols[index]["st_name"] = self._strings.add(name)

    def set_relocations(self, section: int, relocations: Table) -> None:
        """Replace the records of an SHT_RELA section by its index.

        :param relocations: dtype `rela_dtype` of either byte order, shape (n,).
        """
        rows = np.zeros(len(relocations), rela_dtype(self.order))
        for name in rows.dtype.names or ():
            rows[name] = relocations[name]
        self.sections[section].data = rows.tobytes()

    def add_relocations(self, name: str, target: int, relocations: Table, flags: int = 0) -> int:
        """Append an SHT_RELA section for the section with index ``target``."""
        dtype = rela_dtype(self.order)
        section = WritableSection(name, SHT.RELA, flags, self._symtab, target, 8, dtype.itemsize)
        index = self.add_section(section)
        self.set_relocations(index, relocations)
        return index

    def _settle_symbols(self) -> None:
        dtype = symbol_dtype(self.order)
        if self._added:
            self.symbols = np.concatenate([self.symbols, np.array(self._added, dtype)])
            self._added = []
        if not _locals_first(self.symbols):
            raise ValueError("a local symbol stands after a global one")
        table = self.sections[self._symtab]
        table.sh_info = int(_is_local(self.symbols).sum())
        table.data = self.symbols.astype(dtype).tobytes()
        self.sections[self._strtab].data = bytes(self._strings.data)

    def to_bytes(self) -> bytes:
        """Serialise the file: the same object gives the same bytes.

        :raises KlpError: when it has more sections than a symbol can name.
        """
        if len(self.sections) >= SHN_LORESERVE:
            raise KlpError("has more than 65,279 sections")
        shared = self._shstrtab == self._strtab
        names = self._strings if shared else _Strings()
        name_offsets = [names.add(s.name) for s in self.sections]
        self.sections[self._shstrtab].data = bytes(names.data)
        self._settle_symbols()

        out = bytearray(EHDR_SIZE)
        headers = np.zeros(len(self.sections), section_dtype(self.order))
        for row, section, name in zip(headers, self.sections, name_offsets, strict=True):
            offset = 0
            if section.sh_type != SHT.NULL:
                out += bytes(-len(out) % min(max(section.sh_addralign, 1), _FILE_ALIGN_MAX))
                offset = len(out)
                out += section.data
            row["sh_name"], row["sh_type"], row["sh_flags"] = (
                name,
                section.sh_type,
                section.sh_flags,
            )
            row["sh_addr"], row["sh_offset"] = section.sh_addr, offset
            row["sh_size"], row["sh_link"] = section.sh_size, section.sh_link
            row["sh_info"], row["sh_addralign"] = section.sh_info, section.sh_addralign
            row["sh_entsize"] = section.sh_entsize
        out += bytes(-len(out) % 8)

        header = np.zeros(1, ehdr_dtype(self.order))
        header["e_ident"] = np.void(self.e_ident)
        header["e_type"], header["e_machine"], header["e_version"] = ET.REL, self.e_machine, 1
        header["e_shoff"], header["e_flags"] = len(out), self.e_flags
        header["e_ehsize"], header["e_shentsize"] = EHDR_SIZE, headers.itemsize
        header["e_shnum"], header["e_shstrndx"] = len(self.sections), self._shstrtab
        out[:EHDR_SIZE] = header.tobytes()
        return bytes(out + headers.tobytes())

    def write(self, path: Path) -> None:
        """Write the file aside and rename it, so that no half of it is ever seen."""
        write_file(path, self.to_bytes())


def _is_local(symbols: Table) -> npt.NDArray[np.bool_]:
    return np.asarray((symbols["st_info"] >> 4) == STB.LOCAL)


def _locals_first(symbols: Table) -> bool:
    local = _is_local(symbols)
    return bool(local[: int(local.sum())].all())
