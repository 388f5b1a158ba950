"""Read the files that went into each compile unit: the headers of DWARF 5 line tables.

Only the headers are read (DWARF 5, section 6.2.4): they name the unit's own source
and every file that its debug information mentions, and a whole kernel's take seconds.
"""

from __future__ import annotations

import posixpath
from dataclasses import dataclass
from struct import unpack_from
from typing import Literal

import numpy as np
import numpy.typing as npt

from klpbuild.elf.constants import ET
from klpbuild.elf.reader import ElfFile, Section
from klpbuild.elf.tables import string_at
from klpbuild.errors import KlpError, broken

_PATH, _DIRECTORY = 1, 2  # DW_LNCT_path, DW_LNCT_directory_index
_LINE_STRP, _STRP, _UDATA, _DATA1, _DATA2, _DATA16 = 0x1F, 0x0E, 0x0F, 0x0B, 0x05, 0x1E
_FIXED_SIZES = {_LINE_STRP: 4, _STRP: 4, _DATA1: 1, _DATA2: 2, _DATA16: 16}
_LEB_BITS_MAX = 70


@dataclass(frozen=True)
class LineUnit:
    """A compile unit.

    :ivar source: the file that was compiled.
    :ivar files: that file and all others.
    :ivar object: what kbuild calls the object, as far as is known.
    """

    source: str
    files: tuple[str, ...]
    object: str


def line_units(elf: ElfFile) -> list[LineUnit]:
    """List the compile units of an object with debug information, in its order.

    Names are as the compiler was given them, made plain (``a/../b.c`` is ``b.c``).  An object
    is called like its source, not made plain: kbuild makes ``a/../b.o`` by the rules of ``a``.

    Units of Rust, which are of DWARF 4 beside C's, are left out: no patch of C changes them.

    :raises KlpError: when the debug information is damaged or not DWARF 5.
    """
    section = elf.section(".debug_line")
    if section is None:
        return []
    with broken("has broken debug information", elf.name):
        return _line_units(elf, section)


def _line_units(elf: ElfFile, section: Section) -> list[LineUnit]:
    data = _relocated(elf, section.index)
    strings = {
        form: bytes(elf.uncompressed(found)) if (found := elf.section(name)) else b""
        for form, name in ((_LINE_STRP, ".debug_line_str"), (_STRP, ".debug_str"))
    }
    names: dict[int, str] = {}
    paths: dict[int, str] = {}
    units, offset = [], 0
    while offset + 4 < len(data):
        (length,) = unpack_from(f"{elf.order}I", data, offset)
        if offset + 4 + length > len(data):
            raise ValueError("a line table ends behind its section")
        if _is_rust(data, offset, offset + 4 + length, elf.order):
            offset += 4 + length
            continue
        header = _Header(data, offset, elf)
        keys = header.keys()
        for key in np.unique(keys).tolist():
            if key not in paths:
                parts = key >> 32, key & 0xFFFFFFFF
                for part in parts:
                    if part not in names:
                        names[part] = string_at(strings[header.string_form], part)
                paths[key] = posixpath.normpath(posixpath.join(names[parts[0]], names[parts[1]]))
        files = [paths[key] for key in keys.tolist()]
        if files:
            own = int(keys[0])
            given = posixpath.join(names[own >> 32], names[own & 0xFFFFFFFF])
            name = f"{posixpath.splitext(given)[0]}.o"
            units.append(LineUnit(files[0], tuple(dict.fromkeys(files)), name))
        offset += 4 + length
    return units


def _relocated(elf: ElfFile, index: int) -> bytes:
    """Read a section's bytes, with the 32-bit fields of a relocatable file filled in."""
    data = np.frombuffer(elf.uncompressed(elf.sections[index]), np.uint8).copy()
    if elf.e_type != ET.REL:
        return data.tobytes()
    for section in elf.relocation_sections:
        if section.sh_info != index:
            continue
        relocations = elf.relocations(section)
        short = relocations[relocations["r_type"] == _absolute_32(elf.e_machine)]
        values = elf.symbols["st_value"][short["r_sym"]] + short["r_addend"].astype(np.uint64)
        fields = values.astype(f"{elf.order}u4").view(np.uint8).reshape(-1, 4)
        data[short["r_offset"].astype(np.int64)[:, None] + np.arange(4)] = fields
    return data.tobytes()


def _absolute_32(machine: int) -> int:
    """Return the type of 32-bit offsets in debug sections: R_X86_64_32, R_AARCH64_ABS32, ..."""
    return {62: 10, 183: 258, 21: 1, 22: 4, 243: 1, 258: 1}[machine]


def _is_rust(data: bytes, offset: int, end: int, order: str) -> bool:
    """Tell whether a line table before DWARF 5 names only Rust's files.

    DWARF 4, section 6.2.4: directories, then files, as strings.
    """
    (version,) = unpack_from(f"{order}H", data, offset + 4)
    if version not in (2, 3, 4):
        return False
    opcode_base = offset + (15 if version == 4 else 14)
    at = opcode_base + data[opcode_base]
    while at < end and data[at]:
        at = data.index(0, at) + 1
    names = []
    at += 1
    while at < end and data[at]:
        behind = data.index(0, at)
        names.append(data[at:behind])
        at = behind + 1
        for _ in range(3):  # directory, time and length, as LEB128
            while data[at] & 0x80:
                at += 1
            at += 1
    return all(name.endswith(b".rs") for name in names)


class _Header:
    """File names in the header of one line table."""

    def __init__(self, data: bytes, offset: int, elf: ElfFile) -> None:
        (version,) = unpack_from(f"{elf.order}H", data, offset + 4)
        if version != 5:
            raise KlpError(
                f"has debug information of DWARF {version}",
                where=elf.name,
                why="Which files a compile unit is made of is read from DWARF 5.",
            )
        self._data, self._where, self._order = data, elf.name, elf.order
        opcode_base = data[offset + 17]
        self._at = offset + 17 + opcode_base
        self.string_form = _LINE_STRP
        self._directories, _ = self._entries()
        self._names, self._indexes = self._entries()

    def keys(self) -> npt.NDArray[np.uint64]:
        """Combine each file's string offsets: directory (high half) and name (low half)."""
        directories = self._directories[self._indexes]
        return (directories << np.uint64(32)) | self._names

    def _leb(self) -> int:
        value = shift = 0
        while True:
            byte = self._data[self._at]
            self._at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
            shift += 7
            if shift > _LEB_BITS_MAX:
                raise ValueError("a number has too many bytes")

    def _entries(self) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.int64]]:
        """Read string offsets and directory indexes of an entry table."""
        formats = []
        count = self._data[self._at]
        self._at += 1
        for _ in range(count):
            formats.append((self._leb(), self._leb()))
        for kind, form in formats:
            if kind == _PATH and form in (_LINE_STRP, _STRP):
                self.string_form = form
            elif kind == _PATH or form not in (*_FIXED_SIZES, _UDATA):
                raise KlpError(f"has a line table of unknown form {form:#x}", where=self._where)
        length = self._leb()
        if length > len(self._data):
            raise ValueError("a table has more entries than bytes")
        order: Literal["little", "big"] = "little" if self._order == "<" else "big"
        names = np.zeros(length, np.uint64)
        indexes = np.zeros(length, np.int64)
        if [form for _, form in formats] == [_LINE_STRP, _UDATA] and self._all_short(length):
            table = np.frombuffer(
                self._data, [("n", f"{self._order}u4"), ("d", "u1")], length, self._at
            )
            self._at += 5 * length
            return table["n"].astype(np.uint64), table["d"].astype(np.int64)
        for i in range(length):
            for kind, form in formats:
                if form == _UDATA:
                    value = self._leb()
                else:
                    size = _FIXED_SIZES[form]
                    value = int.from_bytes(self._data[self._at : self._at + size], order)
                    self._at += size
                if kind == _PATH:
                    names[i] = value
                elif kind == _DIRECTORY:
                    indexes[i] = value
        return names, indexes

    def _all_short(self, length: int) -> bool:
        """Tell whether each directory index takes one byte."""
        if self._at + 5 * length > len(self._data):
            return False
        return bool(np.all(np.frombuffer(self._data, np.uint8, 5 * length, self._at)[4::5] < 0x80))
