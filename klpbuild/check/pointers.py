"""The pointers in a module's data: relocations that make whole addresses of the module's own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from klpbuild.arch import by_machine
from klpbuild.check.structmodule import THIS_MODULE
from klpbuild.elf.constants import SHF, SHT, STT
from klpbuild.elf.reader import ElfFile

POINTER = 8
_STRING_MAX = 4096

#: Section index and offset.
Place = tuple[int, int]


def after(place: Place, pointers: int) -> Place:
    """The place so many pointers behind another one."""
    return place[0], place[1] + pointers * POINTER


@dataclass(frozen=True)
class Stray:
    """Something in a table that is not one of its fields.

    :ivar what: a number or a kind of relocation.
    """

    place: Place
    what: str


@dataclass(frozen=True)
class Pointers:
    """The 64-bit pointers in the data of a file that lead into the file."""

    elf: ElfFile

    @cached_property
    def targets(self) -> dict[Place, Place]:
        elf = self.elf
        absolute = by_machine(elf.e_machine, elf.name).absolute_64
        found: dict[Place, Place] = {}
        for section in elf.relocation_sections:
            holder = elf.sections[section.sh_info]
            if holder.sh_flags & (SHF.ALLOC | SHF.EXECINSTR) != SHF.ALLOC:
                continue
            rows = elf.relocations(section)
            rows = rows[rows["r_type"] == absolute]
            symbols = elf.symbols[rows["r_sym"]]
            inside = (symbols["st_shndx"] > 0) & (symbols["st_shndx"] < len(elf.sections))
            values = symbols["st_value"].astype(np.int64) + rows["r_addend"]
            columns = (rows["r_offset"], symbols["st_shndx"], values)
            for offset, shndx, value in zip(*(c[inside].tolist() for c in columns), strict=True):
                found[holder.index, offset] = (shndx, value)
        return found

    def names_module(self, place: Place) -> bool:
        """Whether the pointer at a place is THIS_MODULE."""
        target = self.targets.get(place)
        return target is not None and (
            self.elf.sections[target[0]].name == THIS_MODULE and target[1] == 0
        )

    def is_patch(self, place: Place) -> bool:
        """Whether a struct klp_patch begins at a place, as far as pointers tell."""
        objects = self.targets.get(after(place, 1)) if self.names_module(place) else None
        return objects is not None and any(self.is_table(f) for f in self.inside(objects))

    @cached_property
    def extents(self) -> dict[Place, int]:
        """The variables of the file: where they begin, and their sizes."""
        rows = self.elf.symbols
        rows = rows[(rows["st_info"] & 0xF == STT.OBJECT) & (rows["st_size"] > 0)]
        fields = (rows[name].tolist() for name in ("st_shndx", "st_value", "st_size"))
        return {(section, value): size for section, value, size in zip(*fields, strict=True)}

    @cached_property
    def _functions(self) -> dict[Place, str]:
        rows = self.elf.symbols
        numbers = np.flatnonzero((rows["st_info"] & 0xF == STT.FUNC) & (rows["st_shndx"] > 0))
        return {
            (int(rows[n]["st_shndx"]), int(rows[n]["st_value"])): self.elf.symbol_name(n)
            for n in numbers.tolist()
        }

    def function_at(self, place: Place) -> str:
        """The name of the function that begins at a place."""
        return self._functions.get(place, "")

    def inside(self, start: Place) -> list[Place]:
        """The places of the pointers in the variable that begins at a place."""
        section, offset = start
        end = offset + self.extents.get(start, 0)
        return sorted(p for p in self.targets if p[0] == section and offset <= p[1] < end)

    def strays(self, start: Place, known: dict[Place, int]) -> Iterator[Stray]:
        """What the variable at a place holds beside whole pointers and known numbers."""
        section, offset = start
        size = self.extents.get(start, 0)
        data = bytearray(self.elf.contents(self.elf.sections[section])[offset : offset + size])
        for (where, at), width in known.items():
            if where == section and offset <= at < offset + size:
                data[at - offset : at - offset + width] = bytes(width)
        wrong = next((n for n, byte in enumerate(data) if byte), None)
        if wrong is not None:
            yield Stray((section, offset + wrong), f"the number {data[wrong]:#x}")
        for at, kind in self._partial.get(section, ()):
            if offset <= at < offset + size:
                yield Stray((section, at), f"a relocation of type {kind}")

    @cached_property
    def _partial(self) -> dict[int, list[tuple[int, int]]]:
        """Relocations of data that are not whole pointers, by section."""
        found: dict[int, list[tuple[int, int]]] = {}
        machine = by_machine(self.elf.e_machine, self.elf.name)
        for section in self.elf.relocation_sections:
            rows = self.elf.relocations(section)
            rows = rows[(rows["r_type"] != machine.absolute_64) & (rows["r_type"] != machine.none)]
            pairs = zip(rows["r_offset"].tolist(), rows["r_type"].tolist(), strict=True)
            found.setdefault(section.sh_info, []).extend(pairs)
        return found

    def is_astray(self, target: Place) -> bool:
        """Whether a place is outside of its section, or inside of a variable."""
        section, offset = target
        if not 0 <= offset < self.elf.sections[section].sh_size:
            return True
        here = ((at, size) for (held, at), size in self.extents.items() if held == section)
        return any(at < offset < at + size for at, size in here)

    def is_code(self, place: Place) -> bool:
        """Whether the pointer at a place leads to code."""
        target = self.targets.get(place)
        return target is not None and bool(self.elf.sections[target[0]].sh_flags & SHF.EXECINSTR)

    def is_table(self, place: Place) -> bool:
        """Whether the pointer at a place leads to data that is no text."""
        return place in self.targets and not self.is_code(place) and not self.string(place)

    def string(self, place: Place) -> str:
        """The text that the pointer at a place leads to, empty if it leads to none."""
        target = self.targets.get(place)
        if target is None or target[1] < 0:
            return ""
        section = self.elf.sections[target[0]]
        if section.sh_flags & SHF.EXECINSTR or section.sh_type == SHT.NOBITS:
            return ""
        piece = bytes(self.elf.contents(section)[target[1] : target[1] + _STRING_MAX])
        text, end, _ = piece.partition(b"\0")
        return text.decode() if end and text.isascii() and text.decode().isprintable() else ""

    def number(self, place: Place) -> int:
        """The 64-bit number at a place."""
        data = self.elf.contents(self.elf.sections[place[0]])[place[1] : place[1] + POINTER]
        return int.from_bytes(data, "little" if self.elf.order == "<" else "big")
