"""Break a good livepatch in one place."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from klpbuild.elf.constants import SHF, SHT, STB, STT
from klpbuild.elf.reader import ElfFile
from klpbuild.elf.tables import Table, ehdr_dtype, rela_dtype, section_dtype
from klpbuild.elf.writer import ElfObject, WritableSection

R_NONE, R_64 = 0, 1


class Editor:
    """A module's sections, symbols and relocations, by name."""

    def __init__(self, data: bytes) -> None:
        self._elf = ElfFile(data, "good.ko")
        self.object = ElfObject.from_elf(self._elf)

    def section(self, name: str) -> WritableSection:
        return self.object.sections[self.number(name)]

    def number(self, name: str) -> int:
        names = [s.name for s in self.object.sections]
        return names.index(name)

    def symbol(self, name: str) -> int:
        return next(s.index for s in self._elf.symbol_list if s.name == name)

    def rename(self, symbol: str, name: str) -> None:
        self.object.rename_symbol(self.symbol(symbol), name)

    def replace(self, section: str, old: bytes, new: bytes) -> None:
        found = self.section(section)
        data = bytes(found.data)
        assert old in data and len(old) == len(new), (section, old, new)
        found.data = data.replace(old, new, 1)

    def poke(self, section: str, offset: int, data: bytes) -> None:
        found = self.section(section)
        changed = bytearray(found.data)
        changed[offset : offset + len(data)] = data
        found.data = bytes(changed)

    def rows(self, section: str) -> Table:
        return np.frombuffer(bytes(self.section(section).data), rela_dtype(self._elf.order)).copy()

    def set_rows(self, section: str, rows: Table) -> None:
        self.object.set_relocations(self.number(section), rows)

    def row_at(self, section: str, symbol: str, offset: int) -> int:
        """The number of the relocation that a variable holds at an offset."""
        start = int(self.object.symbols[self.symbol(symbol)]["st_value"]) + offset
        return int(np.flatnonzero(self.rows(section)["r_offset"] == start)[0])

    def change_row(self, section: str, number: int, **fields: int) -> None:
        rows = self.rows(section)
        for name, value in fields.items():
            rows[number][name] = value
        self.set_rows(section, rows)

    def add_data(self, name: str, data: bytes) -> int:
        """A new variable in a section of its own; its symbol's index."""
        flags = SHF.WRITE | SHF.ALLOC
        section = WritableSection(f".data.{name}", SHT.PROGBITS, flags, sh_addralign=8, data=data)
        index = self.object.add_section(section)
        return self.object.add_symbol(
            name, bind=STB.GLOBAL, type=STT.OBJECT, st_shndx=index, st_size=len(data)
        )

    def point(self, variable: str, offset: int, text: str) -> None:
        """Let the pointer in a variable lead to another text."""
        symbol = self.add_data("text", text.encode() + b"\0")
        number = self.row_at(".rela.data", variable, offset)
        self.change_row(".rela.data", number, r_sym=symbol, r_addend=0)

    def twice(self, variable: str, holder: str, offset: int) -> None:
        """Let an array have its first entry twice."""
        size = int(self.object.symbols[self.symbol(variable)]["st_size"])
        start = int(self.object.symbols[self.symbol(variable)]["st_value"])
        entry = size // 2
        old = bytes(self.section(".data").data)[start : start + entry]
        symbol = self.add_data("twice", old * 2 + bytes(entry))
        rows = self.rows(".rela.data")
        inside = rows[(rows["r_offset"] >= start) & (rows["r_offset"] < start + entry)].copy()
        inside["r_offset"] -= start
        again = inside.copy()
        again["r_offset"] += entry
        data = next(i for i, s in enumerate(self.object.sections) if s.name == ".data.twice")
        both = np.concatenate([inside, again])
        self.object.add_relocations(".rela.data.twice", data, both, SHF.INFO_LINK)
        number = self.row_at(".rela.data", holder, offset)
        self.change_row(".rela.data", number, r_sym=symbol, r_addend=0)

    def data(self) -> bytes:
        return self.object.to_bytes()


Edit = Callable[[Editor], None]


def edited(edit: Edit) -> Callable[[bytes], bytes]:
    """What `edit` makes of a file."""

    def apply(data: bytes) -> bytes:
        editor = Editor(data)
        edit(editor)
        return editor.data()

    return apply


def header(**fields: int) -> Callable[[bytes], bytes]:
    """The file with other fields in its ELF header."""

    def apply(data: bytes) -> bytes:
        changed = bytearray(data)
        table = np.frombuffer(changed, ehdr_dtype("<"), 1)
        for name, value in fields.items():
            table[0][name] = value
        return bytes(changed)

    return apply


def section_header(number: int, **fields: int) -> Callable[[bytes], bytes]:
    """The file with other fields in a section header."""

    def apply(data: bytes) -> bytes:
        changed = bytearray(data)
        (start,) = struct.unpack_from("<Q", changed, 40)
        (count,) = struct.unpack_from("<H", changed, 60)
        table = np.frombuffer(changed, section_dtype("<"), count, start)
        for name, value in fields.items():
            table[number][name] = value
        return bytes(changed)

    return apply


@dataclass(frozen=True)
class Broken:
    """A livepatch that breaks one rule.

    :ivar rule: its identifier.
    :ivar base: the good livepatch that it is made from.
    :ivar change: what is done to that file.
    :ivar not_tried: why it is not loaded into a real kernel; empty when it is.
    :ivar also: other rules that it cannot help breaking.
    :ivar late: when the kernel refuses it: ``button`` for when that module is loaded,
        ``button again`` for when it is loaded a second time.
    :ivar fresh: whether the kernel says it once only.
    :ivar dies: what the kernel's log says when the module kills it.
    :ivar uses: a file of the guest whose reading runs what is broken; empty when loading does.
    :ivar stays: whether it cannot be unloaded.
    :ivar before: modules of the kernel to load first.
    :ivar waits: whether its transition does not end.
    """

    rule: str
    base: str
    change: Callable[[bytes], bytes]
    not_tried: str = ""
    also: frozenset[str] = frozenset()
    late: str = ""
    fresh: bool = False
    dies: str = ""
    uses: str = ""
    stays: bool = False
    before: tuple[str, ...] = ()
    waits: bool = False
