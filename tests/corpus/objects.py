"""Object files, read by other means than klpbuild's own: what stands where, and refers to what."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import capstone
from elftools.elf.constants import SH_FLAGS
from elftools.elf.elffile import ELFFile
from elftools.elf.relocation import RelocationSection
from elftools.elf.sections import SymbolTableSection

#: Bytes of a field, by relocation type of x86-64.
FIELD_SIZE = {1: 8, 2: 4, 4: 4, 10: 4, 11: 4, 24: 8}
_PC_RELATIVE = (2, 4)
_NAMED = ("STT_FUNC", "STT_OBJECT", "STT_NOTYPE")
SHN_LORESERVE = 0xFF00
LIVEPATCH_SYMBOL = re.compile(r"\.klp\.sym\.(?P<owner>[^.]+)\.(?P<name>.+),(?P<position>\d+)$")
_LIVEPATCH_FUNCTION = re.compile(r"\.livepatch\d+$")
_MASK = (1 << 64) - 1


class Thing(NamedTuple):
    """What a reference leads to.

    :ivar name: of the symbol there; of the section when there is none.
    :ivar offset: from the symbol.
    :ivar content: of a string or constant, which then has no name.
    :ivar place: section and offset in this object; None when it is elsewhere.
    """

    name: str
    offset: int
    content: bytes
    place: tuple[int, int] | None


class Piece(NamedTuple):
    """A function or variable: section, first byte, size."""

    section: int
    start: int
    size: int


class Object:
    """An ELF object of x86-64."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb")
        self.elf = ELFFile(self._file)
        self.sections = list(self.elf.iter_sections())
        table = self.elf.get_section_by_name(".symtab")
        assert isinstance(table, SymbolTableSection)
        self.symbols = list(table.iter_symbols())
        self._data: dict[int, bytes] = {}
        self._instructions: dict[Piece, list[tuple[int, int, str, str]]] = {}

    def data(self, section: int) -> bytes:
        if section not in self._data:
            found = self.sections[section]
            is_empty = found["sh_type"] == "SHT_NOBITS"
            self._data[section] = bytes(found["sh_size"]) if is_empty else found.data()
        return self._data[section]

    def _is_here(self, section: int | str) -> bool:
        """Whether a symbol's section index is that of a section."""
        return isinstance(section, int) and section < SHN_LORESERVE

    @cached_property
    def relocations(self) -> dict[int, list[tuple[int, int, int, int]]]:
        """Offset, type, symbol and addend, by section; livepatch relocations too."""
        found: dict[int, list[tuple[int, int, int, int]]] = defaultdict(list)
        for section in self.sections:
            if isinstance(section, RelocationSection):
                for row in section.iter_relocations():
                    symbol, addend = row["r_info_sym"], row["r_addend"]
                    found[section["sh_info"]].append(
                        (row["r_offset"], row["r_info_type"], symbol, addend)
                    )
        return {index: sorted(rows) for index, rows in found.items()}

    @cached_property
    def pieces(self) -> dict[str, Piece]:
        """Named functions and variables; a name that the livepatch gave is another name."""
        return dict(self._named_pieces())

    def _named_pieces(self) -> Iterator[tuple[str, Piece]]:
        """List names and places: static ones of several files may have one name."""
        for symbol in self.symbols:
            is_named = symbol.name and symbol["st_info"]["type"] in _NAMED
            if is_named and self._is_here(symbol["st_shndx"]):
                place = symbol["st_shndx"], symbol["st_value"], symbol["st_size"]
                yield symbol.name, Piece(*place)

    @cached_property
    def _named(self) -> dict[int, tuple[list[int], list[tuple[int, str]]]]:
        """By section: starts, and sizes and names in the same order."""
        rows: dict[int, dict[int, tuple[int, str]]] = defaultdict(dict)
        for name, piece in self._named_pieces():
            if not _LIVEPATCH_FUNCTION.search(name) and not name.startswith(".L"):
                known = rows[piece.section].get(piece.start, (-1, ""))
                rows[piece.section][piece.start] = max(known, (piece.size, name))
        return {
            section: (sorted(found), [found[start] for start in sorted(found)])
            for section, found in rows.items()
        }

    def name_at(self, section: int, offset: int) -> tuple[str, int]:
        """The symbol in which an offset is, and the distance from its start."""
        starts, names = self._named.get(section, ([], []))
        at = bisect_right(starts, offset) - 1
        # the end of an array is its own, too
        if at >= 0 and offset <= starts[at] + names[at][0]:
            return names[at][1], offset - starts[at]
        return self.sections[section].name, offset

    def references(self, piece: Piece) -> dict[int, Thing]:
        """What the fields of a function or variable lead to, by their offsets in it."""
        found = {}
        for offset, kind, symbol, addend in self.relocations.get(piece.section, ()):
            if piece.start <= offset < piece.start + piece.size and kind:
                bias = self._bias(piece, offset) if kind in _PC_RELATIVE else 0
                found[offset - piece.start] = self._thing(symbol, addend + bias)
        for at, target in self._branches(piece).items():
            name, distance = self.name_at(piece.section, target)
            found.setdefault(at, Thing(name, distance, b"", (piece.section, target)))
        return found

    def _code(self, piece: Piece) -> list[tuple[int, int, str, str]]:
        """Start, end, mnemonic and operands of each instruction, by offsets in the section."""
        if not self.sections[piece.section]["sh_flags"] & SH_FLAGS.SHF_EXECINSTR:
            return []
        if piece not in self._instructions:
            code = self.data(piece.section)[piece.start : piece.start + piece.size]
            reader = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
            reader.skipdata = True
            self._instructions[piece] = [
                (at, at + size, name, operands)
                for at, size, name, operands in reader.disasm_lite(code, piece.start)
            ]
        return self._instructions[piece]

    def _bias(self, piece: Piece, offset: int) -> int:
        """What lies between a field and the instruction's end, which PC-relative fields count."""
        code = self._code(piece)
        at = bisect_right(code, offset, key=lambda row: row[0]) - 1
        return code[at][1] - offset if code else 0

    def _branches(self, piece: Piece) -> dict[int, int]:
        """Fields of branches to other functions of the section, which the assembler knows."""
        relocated = {offset for offset, _, _, _ in self.relocations.get(piece.section, ())}
        found = {}
        for start, end, name, operands in self._code(piece):
            is_branch = name.startswith(("j", "call")) and operands.startswith("0x")
            if is_branch and end - start >= 5 and end - 4 not in relocated:
                target = int(operands, 16)
                if not piece.start <= target < piece.start + piece.size:
                    found[end - 4 - piece.start] = target
        return found

    def _thing(self, index: int, offset: int) -> Thing:
        symbol = self.symbols[index]
        section = symbol["st_shndx"]
        if not self._is_here(section):
            match = LIVEPATCH_SYMBOL.match(symbol.name)
            return Thing(match["name"] if match else symbol.name, offset, b"", None)
        at = symbol["st_value"] + offset
        flags = self.sections[section]["sh_flags"]
        if flags & SH_FLAGS.SHF_MERGE:
            data = self.data(section)
            end = at + max(self.sections[section]["sh_entsize"], 1)
            if flags & SH_FLAGS.SHF_STRINGS:
                end = data.index(b"\0", at) + 1
            return Thing("", 0, data[at:end], (section, at))
        name, distance = self.name_at(section, at)
        return Thing(name, distance, b"", (section, at))

    def bytes_of(self, piece: Piece) -> bytes:
        """The bytes, zeros in the place of relocated fields."""
        data = bytearray(self.data(piece.section)[piece.start : piece.start + piece.size])
        for offset, kind, _, _ in self.relocations.get(piece.section, ()):
            if piece.start <= offset < piece.start + piece.size and kind:
                at = offset - piece.start
                data[at : at + FIELD_SIZE[kind]] = bytes(FIELD_SIZE[kind])
        for at in self._branches(piece):
            data[at : at + 4] = bytes(4)
        return bytes(data)

    @cached_property
    def jump_labels(self) -> frozenset[tuple[int, int]]:
        """Section and offset of each instruction that a static key switches."""
        found = set()
        for index, section in enumerate(self.sections):
            if section.name == "__jump_table":
                for offset, _, symbol, addend in self.relocations.get(index, ()):
                    target = self.symbols[symbol]
                    if offset % 16 == 0 and self._is_here(target["st_shndx"]):
                        found.add((target["st_shndx"], target["st_value"] + addend))
        return frozenset(found)
