"""The symbol tables of many ELF files, read with as few bytes as will do.

A debug package's modules are a gigabyte of which symbols are one hundredth:
only headers, symbol tables and names are read, at their offsets.  A file that
looks wrong goes to `klpbuild.elf.reader.ElfFile`, which says what is wrong.
"""

from __future__ import annotations

import hashlib
import os
import struct
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from klpbuild.elf.constants import ET, SHT
from klpbuild.elf.reader import ElfFile
from klpbuild.elf.tables import EHDR_SIZE, section_dtype, symbol_dtype
from klpbuild.errors import KlpError, reading

_SECTION = {order: section_dtype(order) for order in "<>"}
_SECTION_SIZE = _SECTION["<"].itemsize
_ORDERS = {b"\x7fELF\x02\x01": "<", b"\x7fELF\x02\x02": ">"}
#: Of the ELF header: type, offset, size and number of section headers, section of their names.
_HEADER = {order: struct.Struct(order + "16xH22xQ10xHHH") for order in "<>"}
#: Of a section header: offset and size in the file.
_PLACE = {order: struct.Struct(order + "24xQQ") for order in "<>"}
_SYMBOL_SIZE = symbol_dtype("<").itemsize

#: Size, times and inode of a file: as long as they stay, it was not written to.
FileState = tuple[int, int, int, int]


def state_of(status: os.stat_result) -> FileState:
    """Pick the fields of `os.stat` that change when a file is written."""
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino


@dataclass(frozen=True)
class SymbolTables:
    """The sections of an ELF file that hold its symbols.

    :ivar path: the file.
    :ivar order: ``"<"`` or ``">"``.
    :ivar linked: whether addresses are final, as in vmlinux and not in a module.
    :ivar sections: the section headers.
    :ivar section_names: their string table, ending with a zero.
    :ivar symbols: the symbol table.
    :ivar strings: its string table, ending with a zero.
    :ivar modinfo: the contents of ``.modinfo``.
    :ivar state: of the file, from before it was read.
    """

    path: Path
    order: str
    linked: bool
    sections: bytes
    section_names: bytes
    symbols: bytes
    strings: bytes
    modinfo: bytes
    state: FileState

    @property
    def livepatch(self) -> bool:
        """Whether the module is marked as a livepatch (MODULE_INFO(livepatch, "Y"))."""
        return b"livepatch=Y" in self.modinfo and b"livepatch=Y" in self.modinfo.split(b"\0")

    @cached_property
    def digest(self) -> str:
        """A digest that changes when the symbols do."""
        parts = (self.sections, self.section_names, self.symbols, self.strings, self.modinfo)
        sizes = ",".join(str(len(part)) for part in parts)
        digest = hashlib.sha256(f"{self.order}{self.linked},{sizes}\n".encode())
        for part in parts:
            digest.update(part)
        return digest.hexdigest()


class _UnusualError(Exception):
    """The file is not what `_tables` expects."""


def read_tables(path: Path) -> SymbolTables:
    """Read a vmlinux or a module.

    :raises KlpError: when it cannot be read, is not a whole ELF64 file or has no
        symbol table.
    """
    with reading(path):
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return _tables(path, file)
    except (_UnusualError, OSError):
        raise _explanation(ElfFile.read(path)) from None
    finally:
        os.close(file)


def _tables(path: Path, file: int) -> SymbolTables:
    status = os.fstat(file)
    end = status.st_size

    def read(offset: int, size: int) -> bytes:
        if offset + size > end:
            raise _UnusualError
        return os.pread(file, size, offset)

    header = read(0, EHDR_SIZE)
    order = _ORDERS.get(header[:6])
    if order is None:
        raise _UnusualError
    kind, offset, entry_size, count, names_index = _HEADER[order].unpack(header)
    headers = read(offset, count * _SECTION_SIZE)
    if entry_size != _SECTION_SIZE:
        raise _UnusualError
    table = np.frombuffer(headers, _SECTION[order])

    def contents(index: int) -> bytes:
        if index >= count:
            raise _UnusualError
        return read(*_PLACE[order].unpack_from(headers, index * _SECTION_SIZE))

    types = table["sh_type"].tolist()
    if SHT.SYMTAB not in types:
        raise _UnusualError
    symtab = types.index(SHT.SYMTAB)
    symbols = contents(symtab)
    if table["sh_entsize"][symtab] != _SYMBOL_SIZE:
        raise _UnusualError
    if len(symbols) % _SYMBOL_SIZE or len(symbols) <= _SYMBOL_SIZE:
        raise _UnusualError
    section_names = contents(names_index) + b"\0"
    modinfo = section_names.find(b".modinfo\0")
    places = table["sh_name"].tolist()
    return SymbolTables(
        path,
        order,
        kind != ET.REL,
        headers,
        section_names,
        symbols,
        contents(int(table["sh_link"][symtab])) + b"\0",
        contents(places.index(modinfo)) if modinfo in places else b"",
        state_of(status),
    )


def _explanation(elf: ElfFile) -> KlpError:
    """Explain why `_tables` could not use a file.

    :raises KlpError: by the reader, when it finds the reason.
    """
    if len(elf.symbols) <= 1:
        return KlpError(
            "has no symbols",
            where=elf.name,
            why="Only the symbol table tells what a name in the kernel stands for.",
            hint="Use the file before it was stripped: the build tree's or the debug package's.",
        )
    return KlpError("is not laid out as a kernel object is", where=elf.name)
