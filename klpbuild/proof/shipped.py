"""Read the shipped binary: vmlinux by address, modules by section.

A place is one number: the address in vmlinux; in a module the section's index in the
high bits and the offset in it in the low ones, so that differences within a section
are what they are in vmlinux.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from klpbuild.arch import by_machine
from klpbuild.arch.base import Part
from klpbuild.distro import parts
from klpbuild.elf.constants import ET, SHF, SHN_ABS, SHN_LORESERVE, SHT, STB
from klpbuild.elf.reader import ElfFile, Section
from klpbuild.errors import KlpError
from klpbuild.files.records import while_unchanged
from klpbuild.kernel.lacking import how_to_get
from klpbuild.kernel.ofmachine import check_machine
from klpbuild.kernel.tree import Kernel

SECTION_SHIFT = 40
_MASK = (1 << 64) - 1
_ADDRESS = 8


@dataclass(frozen=True, slots=True)
class ShippedSymbol:
    """A symbol of the shipped binary.

    :ivar index: its index in the symbol table.
    :ivar place: where it stands.
    :ivar is_global: whether other objects that were linked with it could refer to it.
    """

    index: int
    name: str
    place: int
    size: int
    type: int
    is_global: bool


class Target(NamedTuple):
    """Target of a field of the shipped binary, less the addend.

    :ivar place: of the symbol, None when another object defines it.
    :ivar name: of the symbol, if another object defines it.
    """

    place: int | None
    name: str


class ShippedBinary:
    """vmlinux or a module as the kernel's package has it, with its symbol table."""

    def __init__(self, elf: ElfFile) -> None:
        """Note the file; refuse an architecture whose relocations are not known here."""
        self.elf = elf
        self.arch = by_machine(elf.e_machine, elf.name)
        self.fields = self.arch.fields
        if not self.fields:
            raise KlpError(
                f"is for {self.arch.name}, whose relocations are not known",
                where=elf.name,
                hint="Livepatches for it can be written by hand, not made from a patch.",
            )
        code = self.arch.decoded(elf.name)
        #: The two types of a branch, of which as(1) takes either.
        self._alike = {code.relative, code.branch}
        self.linked = elf.e_type != ET.REL
        self._sections = [
            s for s in elf.sections if s.sh_flags & SHF.ALLOC and s.sh_type != SHT.NOTE
        ]
        self._named: dict[str, list[ShippedSymbol]] = {}

    @classmethod
    @while_unchanged
    def read(cls, path: Path) -> ShippedBinary:
        """Read a binary; the same file is read once.

        :raises KlpError: when it cannot be read.
        """
        return cls(ElfFile.read(path))

    @cached_property
    def places(self) -> npt.NDArray[np.uint64]:
        """The place of every symbol, by index; of an undefined one no place of meaning."""
        values = self.elf.symbols["st_value"].astype(np.uint64)
        if self.linked:
            return values
        sections = self.elf.symbols["st_shndx"].astype(np.uint64)
        return (sections << np.uint64(SECTION_SHIFT)) + values

    def named(self, name: str) -> list[ShippedSymbol]:
        """Find all defined symbols of a name, by index."""
        if name not in self._named:
            places = self.elf.symbols["st_shndx"]
            found = [
                index
                for index in self.elf.symbols_named(name).tolist()
                if 0 < places[index] < SHN_LORESERVE or places[index] == SHN_ABS
            ]
            self._named[name] = [self.symbol(index, name) for index in found] if name else []
        return self._named[name]

    @cached_property
    def imports(self) -> frozenset[str]:
        """Names of the symbols that other objects define."""
        undefined = np.flatnonzero(self.elf.symbols["st_shndx"] == 0).tolist()
        return frozenset(self.elf.symbol_name(index) for index in undefined) - {""}

    def symbol(self, index: int, name: str) -> ShippedSymbol:
        """Read a symbol by its index, with the name that it is known to have."""
        row = self.elf.symbols[index]
        place = int(self.places[index])
        info = int(row["st_info"])
        is_global = info >> 4 != STB.LOCAL
        return ShippedSymbol(index, name, place, int(row["st_size"]), info & 0xF, is_global)

    def section_at(self, place: int) -> tuple[Section, int] | None:
        """Find the section in which a place is, and the offset in it."""
        if not self.linked:
            index, offset = place >> SECTION_SHIFT, place & ((1 << SECTION_SHIFT) - 1)
            if 0 < index < len(self.elf.sections) and offset <= self.elf.sections[index].sh_size:
                return self.elf.sections[index], offset
            return None
        for section in self._sections:
            if section.sh_addr <= place < section.sh_addr + section.sh_size:
                return section, place - section.sh_addr
        return None

    def bytes_at(self, place: int, size: int) -> memoryview | None:
        """Read bytes of the file, None where it has none."""
        found = self.section_at(place)
        if found is None or found[0].sh_type == SHT.NOBITS:
            return None
        section, offset = found
        data = self.elf.contents(section)[offset : offset + size]
        return data if len(data) == size else None

    def target(
        self, place: int, type: int, addend: int, rest: tuple[int, int] | None = None
    ) -> Target | None:
        """Find what the field at a place leads to, if it is relocated as an object says.

        :param type: relocation type in the object.
        :param addend: the object's addend, which is taken off again.
        :param rest: place and type of a field with the rest of the address, if this one has a part.
        :returns: None when the shipped binary has no such relocation there.
        """
        if self.linked:
            return self._linked_target(place, type, addend, rest)
        return self._loaded_target(place, type, addend)

    def _linked_target(
        self, place: int, type: int, addend: int, rest: tuple[int, int] | None
    ) -> Target | None:
        value = self._value(place, type)
        if value is not None and self.fields[type].part is Part.ENTRY:
            entry = self.bytes_at(value - addend, _ADDRESS)
            return Target(int.from_bytes(entry, self.arch.order), "") if entry else None
        if self.fields[type].part in (Part.PAGE, Part.LOW):
            other = None if rest is None else self._value(*rest)
            value = None if value is None or other is None else value + other
        return None if value is None else Target((value - addend) & _MASK, "")

    def _value(self, place: int, type: int) -> int | None:
        field = self.fields[type]
        data = self.bytes_at(place, field.size)
        if data is None:
            return None
        if place in self.relocated and type == self.arch.absolute_64:
            return self.relocated[place]
        base = place - place % field.scale if field.part is Part.PAGE else place
        return field.value(data, self.arch.order) + (base if field.relative else 0)

    @cached_property
    def relocated(self) -> dict[int, int]:
        """The addresses that the linked kernel holds in relocations, by their place."""
        found: dict[int, int] = {}
        for section in self.elf.relocation_sections if self.linked else ():
            rows = self.elf.relocations(section)
            rows = rows[rows["r_type"] == self.arch.relocated] if self.arch.relocated else rows[:0]
            addends = rows["r_addend"].astype(np.uint64)
            found.update(zip(rows["r_offset"].tolist(), addends.tolist(), strict=True))
        return found

    def _loaded_target(self, place: int, type: int, addend: int) -> Target | None:
        index, offset = place >> SECTION_SHIFT, place & ((1 << SECTION_SHIFT) - 1)
        offsets, relocations = self._relocations(index)
        at = int(np.searchsorted(offsets, offset))
        if at == len(offsets) or int(offsets[at]) != offset:
            return None
        row = relocations[at]
        if int(row["r_type"]) != type and {int(row["r_type"]), type} != self._alike:
            return None
        symbol = self.elf.symbols[int(row["r_sym"])]
        if int(symbol["st_shndx"]) == 0:
            name = self.elf.symbol_name(int(row["r_sym"]))
            return Target(None, name) if int(row["r_addend"]) == addend else None
        return Target(int(self.places[int(row["r_sym"])]) + int(row["r_addend"]) - addend, "")

    def _relocations(self, section: int) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.void]]:
        if section not in self._sorted:
            holders = [s for s in self.elf.relocation_sections if s.sh_info == section]
            tables = [self.elf.relocations(holder) for holder in holders]
            rows = np.concatenate(tables) if tables else np.zeros(0, [("r_offset", "<u8")])
            rows = rows[np.argsort(rows["r_offset"], kind="stable")]
            self._sorted[section] = (np.ascontiguousarray(rows["r_offset"]), rows)
        return self._sorted[section]

    @cached_property
    def _sorted(self) -> dict[int, tuple[npt.NDArray[np.uint64], npt.NDArray[np.void]]]:
        return {}


def shipped_file(kernel: Kernel, owner: str) -> Path:
    """Find the file of vmlinux or of a module, with its symbol table.

    :raises KlpError: when it is not at hand, or is for another machine.
    """
    path = kernel.file_of(owner)
    if path is None:
        hint = how_to_get(kernel, parts.Part.DEBUG)
        raise KlpError(f"{owner} is not at hand", where=kernel.name, hint=hint)
    check_machine(path, kernel.arch)
    return path
