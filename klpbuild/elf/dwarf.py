"""Read single compile units of DWARF 4 and 5: a kernel has 160 MB of it, a unit 60 KB.

`.debug_aranges` (DWARF 5, section 6.1.2) leads from an address to its unit; of a unit's
entries only those attributes are decoded that are asked for.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from struct import error as struct_error
from struct import unpack_from
from typing import Literal

import numpy as np

from klpbuild.elf.abbreviations import (
    IMPLICIT,
    Abbreviation,
    Form,
    read_abbreviations,
    sleb,
    uleb,
)
from klpbuild.elf.constants import ET
from klpbuild.elf.debugfields import WIDTHS, relocate
from klpbuild.elf.reader import ElfFile
from klpbuild.elf.tables import string_at
from klpbuild.errors import KlpError, broken

#: Sizes of forms in bytes (DWARF 5, section 7.5.6), for 8-byte addresses and 4-byte offsets.
_SIZES = {
    0x01: 8, 0x05: 2, 0x06: 4, 0x07: 8, 0x0B: 1, 0x0C: 1, 0x0E: 4, 0x10: 4, 0x11: 1, 0x12: 2,
    0x13: 4, 0x14: 8, 0x17: 4, 0x19: 0, 0x1D: 4, 0x1E: 16, 0x1F: 4, 0x20: 8, 0x21: 0, 0x24: 8,
    0x25: 1, 0x26: 2, 0x27: 3, 0x28: 4, 0x29: 1, 0x2A: 2, 0x2B: 3, 0x2C: 4,
}  # fmt: skip
_STRING, _STRP, _LINE_STRP = 0x08, 0x0E, 0x1F
_NUMBERS = frozenset({0x0D, 0x0F, 0x15, 0x1A, 0x1B, 0x22, 0x23})  # (s|u)data and indexes
#: Forms that number what is in .debug_str_offsets and .debug_addr: clang writes them.
_STRX, _ADDRX = frozenset({0x1A, *range(0x25, 0x29)}), frozenset({0x1B, *range(0x29, 0x2D)})
_BLOCKS = {0x0A: 1, 0x03: 2, 0x04: 4}
_LENGTHS = frozenset({0x09, 0x18})  # block, exprloc
_SDATA = 0x0D
_DIRECTORY, _PATH = 2, 1  # DW_LNCT_directory_index, DW_LNCT_path
_STMT_LIST, _UNIT, _STR_OFFSETS_BASE, _ADDR_BASE = 0x10, 0x11, 0x72, 0x73
#: Types, and what is inside of C's: members, enumerators, ranges, parameters.  Most entries of a
#: unit are of types in headers, and a type tells where the next entry beside it is.
_TYPES = frozenset({0x01, 0x04, 0x13, 0x15, 0x17})
_IN_TYPES = _TYPES | {0x05, 0x0D, 0x18, 0x21, 0x28}
_SIBLING = 0x01
_BESIDE = frozenset({_SIBLING})
_BROKEN = "has broken debug information"


@dataclass(frozen=True)
class Entry:
    """A debugging information entry.

    :ivar offset: in ``.debug_info``, by which others refer to it.
    :ivar depth: 0 for the unit itself.
    :ivar values: attribute to number (references as offsets in ``.debug_info``, expressions as
        the place where they begin there) or text.
    """

    offset: int
    tag: int
    depth: int
    values: dict[int, int | str]


class Dwarf:
    """The debug information of a file."""

    def __init__(self, elf: ElfFile) -> None:
        """Note the file; refuse one without debug information."""
        self.elf = elf
        if not self._has(".debug_info") or not self._has(".debug_abbrev"):
            raise KlpError("has no debug information", where=elf.name)

    def _has(self, name: str) -> bool:
        section = self.elf.section(name)
        return section is not None and section.sh_size > 0

    def _data(self, name: str) -> memoryview:
        """Read a section and relocate it: ld leaves that to the reader of a relocatable file."""
        section = self.elf.section(name) if self._has(name) else None
        if section is None:
            return memoryview(b"")
        if self.elf.e_type != ET.REL:
            return self.elf.uncompressed(section)
        data = bytearray(self.elf.uncompressed(section))
        relocate(self.elf, section, data)
        return memoryview(data)

    @cached_property
    def info(self) -> memoryview:
        """``.debug_info``; of a relocatable file only its units that were asked for are relocated.

        A module's has fifty units, and a relocation for each fifth byte.
        """
        section = self.elf.section(".debug_info")
        assert section is not None
        data = self.elf.uncompressed(section)
        return data if self.elf.e_type != ET.REL else memoryview(bytearray(data))

    def _relocate_unit(self, start: int, end: int) -> None:
        section = self.elf.section(".debug_info")
        if self.elf.e_type == ET.REL and section is not None:
            relocate(self.elf, section, self.info, start, end)

    @cached_property
    def _strings(self) -> dict[int, bytes | memoryview]:
        return {_STRP: self._data(".debug_str"), _LINE_STRP: self._data(".debug_line_str")}

    def mentions(self, name: str) -> bool:
        """Tell whether a string may be in it; one shorter than an offset need not be in a table."""
        text = name.encode() + b"\0"
        return len(text) <= 4 or b"\0" + text in bytes(self._strings[_STRP])

    def unit_at(self, address: int, section: int = 0) -> Unit | None:
        """Read the compile unit whose code has an address; None when none has.

        :raises KlpError: as `unit_offset` and `Unit`.
        """
        offset = self.unit_offset(address, section)
        return None if offset is None else Unit(self, offset)

    def unit_offset(self, address: int, section: int = 0) -> int | None:
        """Find the compile unit whose code has an address; None when none has.

        :param section: in a relocatable file the section that `address` counts from.
        :returns: where it begins in ``.debug_info``, in bytes.
        :raises KlpError: when ``.debug_aranges`` is missing or broken.
        """
        if not self._has(".debug_aranges"):
            raise KlpError("has no table of addresses (.debug_aranges)", where=self.elf.name)
        for start, length, unit, place in self._ranges:
            if start <= address < start + length and place == section:
                return unit
        return None

    def addresses(self) -> dict[int, tuple[int, int]]:
        """Map the addresses in ``.debug_info`` of a relocatable file to section and offset."""
        found: dict[int, tuple[int, int]] = {}
        for relocations in self.elf.relocation_sections:
            if self.elf.sections[relocations.sh_info].name == ".debug_info":
                rows = self.elf.relocations(relocations)
                kinds = [k for (m, k), n in WIDTHS.items() if (m, n) == (self.elf.e_machine, 8)]
                for offset, _, symbol, addend in rows[np.isin(rows["r_type"], kinds)].tolist():
                    aim = self.elf.symbol(symbol)
                    found[offset] = aim.st_shndx, aim.st_value + addend
        return found

    @cached_property
    def _ranges(self) -> tuple[tuple[int, int, int, int], ...]:
        """Address, length, offset of the unit and the section of each range of code."""
        data = self._data(".debug_aranges")
        places = self._range_sections
        found: list[tuple[int, int, int, int]] = []
        at = 0
        while at + 12 <= len(data):
            length, _, unit = unpack_from(f"{self.elf.order}IHI", data, at)
            end = min(at + 4 + length, len(data))
            at += 16  # two sizes and the padding to a pair of addresses
            fields = np.frombuffer(data[at : at + (end - at) // 16 * 16], f"{self.elf.order}u8")
            pairs = fields.reshape(-1, 2)
            for number, (start, size) in enumerate(pairs.tolist()):
                if size:
                    found.append((start, size, unit, places.get(at + 16 * number, 0)))
            at = end
        return tuple(found)

    @cached_property
    def _range_sections(self) -> dict[int, int]:
        """In a relocatable file the section of each address, by its offset in the table."""
        found: dict[int, int] = {}
        if self.elf.e_type == ET.REL:
            for relocations in self.elf.relocation_sections:
                if self.elf.sections[relocations.sh_info].name == ".debug_aranges":
                    for offset, _, symbol, _ in self.elf.relocations(relocations).tolist():
                        found[offset] = self.elf.symbol(symbol).st_shndx
        return found

    def text(self, form: int, offset: int) -> str:
        """Read a string of a string table."""
        table = self._strings[form]
        end = min(offset + 4096, len(table))
        return string_at(bytes(table[offset:end]), 0)

    @cached_property
    def abbrev(self) -> memoryview:
        """The bytes of ``.debug_abbrev``."""
        return self._data(".debug_abbrev")

    @cached_property
    def _indexed(self) -> tuple[memoryview, memoryview]:
        return self._data(".debug_str_offsets"), self._data(".debug_addr")

    @cached_property
    def lines(self) -> memoryview:
        """The bytes of ``.debug_line``."""
        return self._data(".debug_line")


class Unit:
    """A compile unit.

    :ivar offset: where it begins in ``.debug_info``.
    """

    def __init__(self, dwarf: Dwarf, offset: int) -> None:
        """Read the unit's header; refuse what is not DWARF 4 or 5, or is broken."""
        self._dwarf, self.offset = dwarf, offset
        self._listed: dict[bool, tuple[dict[int, frozenset[int]], tuple[Entry, ...]]] = {}
        data, order = dwarf.info, dwarf.elf.order
        self._order: Literal["little", "big"] = "big" if order == ">" else "little"
        with broken(_BROKEN, dwarf.elf.name):
            length, self._version = unpack_from(f"{order}IH", data, offset)
            dwarf._relocate_unit(offset, offset + 4 + length)
            if self._version == 5:
                _, width, abbreviations = unpack_from(f"{order}BBI", data, offset + 6)
                self._first = offset + 12
            else:
                abbreviations, width = unpack_from(f"{order}IB", data, offset + 6)
                self._first = offset + 11
            if self._version not in (4, 5) or width != 8 or length >= 0xFFFFFFF0:
                what = f"has debug information of DWARF {self._version}"
                raise KlpError(what, where=dwarf.elf.name)
            self._abbreviations = read_abbreviations(dwarf.abbrev, abbreviations)
        self._end = min(offset + 4 + length, len(data))

    @property
    def is_big_endian(self) -> bool:
        """Tell whether bits are counted from the most significant one."""
        return self._order == "big"

    def entries(self, wanted: dict[int, frozenset[int]]) -> Iterator[Entry]:
        """Walk through the entries of the unit in order, and decode what is asked for.

        :param wanted: tag to its attributes; entries of other tags are passed over.
        :raises KlpError: when the unit is broken.
        """
        with broken(_BROKEN, self._dwarf.elf.name):
            yield from self._entries(wanted)

    def listed(
        self, wanted: dict[int, frozenset[int]], outermost: bool = False
    ) -> tuple[Entry, ...]:
        """List what `entries` gives, kept until others are asked for.

        :param outermost: whether to leave out what is inside of other entries, where these tell
            how long they are.
        :raises KlpError: when the unit is broken.
        """
        if outermost not in self._listed or self._listed[outermost][0] != wanted:
            with broken(_BROKEN, self._dwarf.elf.name):
                self._listed[outermost] = wanted, tuple(self._entries(wanted, outermost))
        return self._listed[outermost][1]

    def _entries(
        self, wanted: dict[int, frozenset[int]], outermost: bool = False
    ) -> Iterator[Entry]:
        data, at, depth = self._dwarf.info, self._first, 0
        passed = _TYPES if wanted.keys().isdisjoint(_IN_TYPES) else frozenset[int]()
        plans = {
            code: _plan(
                each,
                wanted.get(each.tag, frozenset())
                | (_BESIDE if outermost or each.tag in passed else frozenset()),
            )
            for code, each in self._abbreviations.items()
        }
        while at < self._end:
            start = at
            code = data[at]
            at += 1
            if code > 0x7F:
                code, at = uleb(data, start)
            if not code:
                depth -= 1
                continue
            abbreviation = self._abbreviations[code]
            values: dict[int, int | str] = {}
            for skip, attribute, form in plans[code]:
                at += skip
                if form is None:
                    continue
                if attribute:
                    value, at = self._value(data, at, form)
                    values[attribute] = self._meant(form[0], value)
                elif data[at] > 0x7F:
                    _, at = self._value(data, at, form)
                elif form[0] in _LENGTHS:
                    at += 1 + data[at]
                elif form[0] in _NUMBERS:
                    at += 1
                else:
                    _, at = self._value(data, at, form)
            if abbreviation.tag in wanted:
                yield Entry(start, abbreviation.tag, depth, values)
            beside = values.get(_SIBLING)
            if beside is not None and (outermost or abbreviation.tag in passed):
                if not isinstance(beside, int) or beside <= at:
                    raise ValueError("an entry's sibling stands before it")
                at = beside
                continue
            depth += abbreviation.children

    def _meant(self, form: int, value: int | str) -> int | str:
        """Look an indexed string or address up (DWARF 5, sections 7.26 and 7.27)."""
        if not isinstance(value, int) or form not in _STRX | _ADDRX:
            return value
        table, width = (0, 4) if form in _STRX else (1, 8)
        at = self._bases[table] + width * value
        found = int.from_bytes(self._dwarf._indexed[table][at : at + width], self._order)
        return found if table else self._dwarf.text(_STRP, found)

    @cached_property
    def _bases(self) -> tuple[int, int]:
        """Where the unit's own entries begin in the two tables."""
        wanted = frozenset({_STR_OFFSETS_BASE, _ADDR_BASE})
        values = next(self._entries({_UNIT: wanted})).values
        return int(values.get(_STR_OFFSETS_BASE, 8)), int(values.get(_ADDR_BASE, 8))

    def _value(self, data: memoryview, at: int, form: Form) -> tuple[int | str, int]:
        kind, implicit = form
        if kind in (_STRP, _LINE_STRP):
            offset = int.from_bytes(data[at : at + 4], self._order)
            return self._dwarf.text(kind, offset), at + 4
        if kind in _SIZES:
            if kind == IMPLICIT:
                return implicit, at
            size = _SIZES[kind]
            number = int.from_bytes(data[at : at + size], self._order) if size else 1
            if 0x11 <= kind <= 0x14:
                number += self.offset
            return number, at + size
        if kind in _NUMBERS:
            return sleb(data, at) if kind == _SDATA else uleb(data, at)
        if kind == _STRING:
            end = at + bytes(data[at : at + 64]).find(0)
            if end < at:
                end = at + bytes(data[at : at + 4096]).index(0)
            return string_at(bytes(data[at:end]), 0), end + 1
        if kind in _BLOCKS:
            width = _BLOCKS[kind]
            return 0, at + width + int.from_bytes(data[at : at + width], self._order)
        if kind in _LENGTHS:
            length, at = uleb(data, at)
            return at, at + length
        raise ValueError(f"form {kind:#x}")

    def file_names(self) -> tuple[str, ...]:
        """Read the files that DW_AT_call_file numbers; empty when their table cannot be read."""
        try:
            unit = next(self._entries({_UNIT: frozenset({_STMT_LIST})}))
            start = unit.values.get(_STMT_LIST)
            return self._files(start) if isinstance(start, int) else ()
        except (LookupError, ValueError, OverflowError, StopIteration, struct_error):
            return ()

    def _files(self, start: int) -> tuple[str, ...]:
        data = self._dwarf.lines
        _, version = unpack_from(f"{self._dwarf.elf.order}IH", data, start)
        if version < 5:
            return self._old_files(data, start, version)
        at = start + 12 + 6  # lengths, version, sizes; five bytes and opcode_base
        opcodes = data[at - 1]
        at += opcodes - 1
        directories, at = self._names(data, at)
        files, _ = self._names(data, at)
        return tuple(_joined([name for name, _ in directories], *each) for each in files)

    def _names(self, data: memoryview, at: int) -> tuple[list[tuple[str, int]], int]:
        """Read a table of names with their directories (DWARF 5, section 6.2.4.1)."""
        count, at = data[at], at + 1
        formats: list[tuple[int, int]] = []
        for _ in range(count):
            content, at = uleb(data, at)
            form, at = uleb(data, at)
            formats.append((content, form))
        number, at = uleb(data, at)
        found: list[tuple[str, int]] = []
        for _ in range(min(number, len(data))):
            name, directory = "", 0
            for content, form in formats:
                value, at = self._value(data, at, (form, 0))
                if content == _PATH:
                    name = str(value)
                elif content == _DIRECTORY:
                    directory = int(value)
            found.append((name, directory))
        return found, at

    def _old_files(self, data: memoryview, start: int, version: int) -> tuple[str, ...]:
        """Read the file table of DWARF 2 to 4: numbered from 1, directory 0 is the compiler's.

        An assembler may write it as DWARF 3 where the compiler wrote DWARF 5.
        """
        at = start + 10 + (6 if version == 4 else 5)
        at += data[at - 1] - 1
        directories = [""]
        while data[at]:
            name, at = self._value(data, at, (_STRING, 0))
            directories.append(str(name))
        at += 1
        files = [""]
        while data[at]:
            name, at = self._value(data, at, (_STRING, 0))
            directory, at = uleb(data, at)
            _, at = uleb(data, at)
            _, at = uleb(data, at)
            files.append(_joined(directories, str(name), directory))
        return tuple(files)


def _joined(directories: list[str], name: str, directory: int) -> str:
    if name.startswith("/") or not directory or directory >= len(directories):
        return name
    return f"{directories[directory]}/{name}"


_Plan = tuple[tuple[int, int, Form | None], ...]


def _plan(abbreviation: Abbreviation, wanted: frozenset[int]) -> _Plan:
    """Plan how to step through an entry: bytes to skip, then an attribute to keep or pass over."""
    steps: list[tuple[int, int, Form | None]] = []
    skip = 0
    for attribute, form in abbreviation.forms:
        if attribute not in wanted and form[0] in _SIZES:
            skip += _SIZES[form[0]]
        else:
            steps.append((skip, attribute if attribute in wanted else 0, form))
            skip = 0
    return (*steps, (skip, 0, None))
