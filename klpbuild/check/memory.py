"""Lay out a livepatch and the objects that it refers to in the kernel's memory.

Everything gets an address; relocations are applied as apply_relocate_add() of
arch/x86/kernel/module.c does.  Of other machines it is only noted where each one leads.
What is read from the result depends on nothing that made the module.
"""

from __future__ import annotations

import struct
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt

from klpbuild.check.kernelside import KernelSide
from klpbuild.elf.constants import EM, SHF, SHN_ABS, SHN_LIVEPATCH, SHN_UNDEF, SHT
from klpbuild.elf.reader import ElfFile
from klpbuild.elf.tables import Table
from klpbuild.errors import KlpError
from klpbuild.names import VMLINUX, LivepatchSymbol

#: Where modules begin (MODULES_VADDR), and the room that each one gets here.
FIRST, ROOM = 0xFFFFFFFFC0000000, 1 << 24
_MASK = 2**64 - 1

#: Relocation type to width, and whether the place's address is taken off.
TYPES = {1: (8, False), 2: (4, True), 4: (4, True), 10: (4, False), 11: (4, False), 24: (8, True)}
_WIDEST = 8
#: Labels of the assembler; arm64's tell code from data.
_LABELS = (".L", "$")


@dataclass(frozen=True)
class Code:
    """The bytes of a function in memory.

    :ivar address: of its first byte.
    :ivar machine: ``e_machine`` of its file.
    :ivar aims: by the offset of a field, its relocation's type and where that leads, addend
        included; empty where relocations are applied.
    """

    object: str
    name: str
    address: int
    data: bytes
    machine: int = EM.X86_64
    aims: Mapping[int, tuple[int, int]] = field(default_factory=dict)


@dataclass
class Loaded:
    """A module in memory.

    :ivar base: where its room begins.
    :ivar addresses: of its sections, by index.
    :ivar contents: of its sections, as the file has them or as `apply_relocations` left them.
    :ivar value_of: the address of a symbol by its index, by which `read` relocates; None
        leaves a place as it is.
    """

    name: str
    elf: ElfFile
    base: int
    addresses: dict[int, int] = field(default_factory=dict)
    contents: dict[int, bytearray] = field(default_factory=dict)
    value_of: Callable[[int], int | None] = lambda _: None

    def __post_init__(self) -> None:
        at = self.base
        for section in self.elf.sections:
            if section.sh_flags & SHF.ALLOC and section.sh_type != SHT.NULL:
                align = min(max(section.sh_addralign, 1), 4096)
                at += -at % align
                self.addresses[section.index] = at
                self.contents[section.index] = bytearray(self.elf.contents(section))
                # The address of an array's end must not be another section's.
                at += section.sh_size + 1
        if at - self.base > ROOM:
            raise KlpError("is too large for a module", where=self.elf.name)

    @cached_property
    def strings(self) -> list[tuple[int, int, int]]:
        """The sections of strings: index, first address and end."""
        return [
            (index, start, start + self.elf.sections[index].sh_size)
            for index, start in self.addresses.items()
            if self.elf.sections[index].sh_flags & SHF.STRINGS
        ]

    @cached_property
    def by_name(self) -> dict[str, int]:
        """Address of the first section of each name."""
        found: dict[str, int] = {}
        for index, address in self.addresses.items():
            found.setdefault(self.elf.sections[index].name, address)
        return found

    @cached_property
    def symbols(self) -> tuple[list[int], list[str]]:
        """Addresses in order, and the names at them."""
        rows = self.elf.symbols
        named = []
        for number in np.flatnonzero(np.isin(rows["st_shndx"], list(self.addresses))).tolist():
            symbol = self.elf.symbol(number)
            if symbol.name and not symbol.name.startswith(_LABELS):
                named.append((self.addresses[symbol.st_shndx] + symbol.st_value, symbol.name))
        named.sort()
        return [address for address, _ in named], [name for _, name in named]

    def function(self, section: int, offset: int, name: str) -> Code:
        """Read the code of a function, up to its symbol's end or the next symbol."""
        rows = self.elf.symbols
        here = (rows["st_shndx"] == section) & (rows["st_value"] == offset)
        size = int(rows["st_size"][here].max(initial=0))
        if not size:
            after = rows["st_value"][(rows["st_shndx"] == section) & (rows["st_value"] > offset)]
            size = int(after.min(initial=self.elf.sections[section].sh_size)) - offset
        data = self.read(section, offset, offset + size)
        address, machine = self.addresses.get(section, 0) + offset, self.elf.e_machine
        aims = {} if machine == EM.X86_64 else self._aims(section, offset, offset + size)
        return Code(self.name, name, address, data, machine, aims)

    def _aims(self, section: int, start: int, end: int) -> dict[int, tuple[int, int]]:
        found = {}
        for rows in self.relocations.get(section, ()):
            inside = (rows["r_offset"] >= start) & (rows["r_offset"] < end)
            for offset, kind, symbol, addend in rows[inside].tolist():
                if (value := self.value_of(symbol)) is not None:
                    found[offset - start] = kind, value + addend & _MASK
        return found

    def read(self, section: int, start: int, end: int) -> bytes:
        """Read a part of a section, relocated: a module has a hundred times as many relocations."""
        if section not in self.contents:
            return b""
        applied = self.elf.e_machine == EM.X86_64
        for rows in self.relocations.get(section, ()) if applied else ():
            inside = (rows["r_offset"] + _WIDEST > start) & (rows["r_offset"] < end)
            apply_relocations(self, section, rows[inside], self.value_of)
        return bytes(self.contents[section][start:end])

    @cached_property
    def relocations(self) -> dict[int, list[Table]]:
        """The relocations that the kernel applies to each section.

        :raises KlpError: when one of them cannot be read.
        """
        found: dict[int, list[Table]] = {}
        for section in self.elf.relocation_sections:
            target = section.sh_info
            if target in self.contents and self.elf.sections[target].sh_type != SHT.NOBITS:
                found.setdefault(target, []).append(self.elf.relocations(section))
        return found


def apply_relocations(
    module: Loaded, target: int, rows: Table, value_of: Callable[[int], int | None]
) -> None:
    """Write the addresses of symbols into a section of a module.

    :param target: the section's index.
    :param value_of: the address of a symbol by its index; None leaves the place as it is.
    """
    data, start = module.contents[target], module.addresses[target]
    for offset, kind, symbol, addend in rows.tolist():
        if kind not in TYPES or (value := value_of(symbol)) is None:
            continue
        width, relative = TYPES[kind]
        if offset + width <= len(data):
            value += addend - (start + offset if relative else 0)
            data[offset : offset + width] = struct.pack("<Q", value & _MASK)[:width]


class Memory:
    """The kernel, the livepatch, and the modules that are asked for."""

    def __init__(self, kernel: KernelSide) -> None:
        """Note the kernel; refuse one whose symbols or their addresses are not at hand."""
        if kernel.database is None:
            raise KlpError(
                "the kernel's symbols are not at hand",
                where=kernel.kernel.name,
                hint="Name a kernel with vmlinux, System.map or a copy of /proc/kallsyms.",
            )
        self.kernel = kernel
        self.database = kernel.database
        self.loaded: dict[str, Loaded] = {}

    def load(self, elf: ElfFile, name: str) -> Loaded:
        """Load a module into memory; what is read of it is relocated as far as possible.

        :raises KlpError: when its relocations are broken.
        """
        module = Loaded(name, elf, FIRST + ROOM * len(self.loaded))
        module.value_of = lambda index: self._value(module, index)
        _ = module.relocations
        self.loaded[name] = module
        return module

    def module(self, name: str) -> Loaded | None:
        """Load a module of the kernel, None when its file is not at hand."""
        if name not in self.loaded:
            path = self.kernel.modules.get(name)
            if path is None:
                return None
            self.load(ElfFile.read(path), name)
        return self.loaded[name]

    def _value(self, module: Loaded, index: int) -> int | None:
        symbol = module.elf.symbol(index)
        if symbol.st_shndx == SHN_LIVEPATCH:
            known = LivepatchSymbol.parse(symbol.name)
            return self.address(known.owner, known.symbol, known.sympos) if known else None
        if symbol.st_shndx == SHN_UNDEF:
            export = self.kernel.exports.find(symbol.name)
            return self.address(export.owner, symbol.name, 0) if export else None
        if symbol.st_shndx == SHN_ABS:
            return symbol.st_value
        start = module.addresses.get(symbol.st_shndx)
        return None if start is None else start + symbol.st_value

    def address(self, owner: str, symbol: str, sympos: int) -> int | None:
        """Look up an address as klp_find_object_symbol() does; None when it finds none."""
        found = self.database.in_object(owner, symbol)
        if not found or (sympos == 0 and len(found) > 1 and owner != VMLINUX):
            return None
        number = max(sympos - 1, 0)
        if number >= len(found) or found[number].address is None:
            return None
        candidate = found[number]
        if owner == VMLINUX:
            return candidate.address
        module = self.module(owner)
        start = module.by_name.get(candidate.section) if module else None
        return None if start is None or candidate.address is None else start + candidate.address

    @cached_property
    def _vmlinux(self) -> tuple[list[int], npt.NDArray[np.intp]]:
        """The addresses of vmlinux' symbols, sorted, and which row each is of."""
        known = self.database.addressed(VMLINUX)
        addresses = self.database.rows(VMLINUX)["address"] if known else np.empty(0, np.uint64)
        order = np.argsort(addresses, kind="stable")
        return addresses[order].tolist(), order

    def owner_of(self, address: int) -> str:
        """Find the object that has an address."""
        number = (address - FIRST) // ROOM
        if address < FIRST or number >= len(self.loaded):
            return VMLINUX
        return list(self.loaded)[number]

    def name_of(self, address: int) -> str:
        """Name an address, ``object:symbol+0xoffset``, from the symbol tables alone."""
        owner = self.owner_of(address)
        is_module = owner != VMLINUX
        addresses = self.loaded[owner].symbols[0] if is_module else self._vmlinux[0]
        number = bisect_right(addresses, address) - 1
        if number < 0:
            return f"{owner}:{address:#x}"
        number = bisect_left(addresses, addresses[number])
        offset = address - addresses[number]
        if is_module:
            name = self.loaded[owner].symbols[1][number]
        else:
            name = self.database.name(VMLINUX, int(self._vmlinux[1][number]))
        return f"{owner}:{name}" + (f"+{offset:#x}" if offset else "")

    def shipped(self, owner: str, symbol: str, sympos: int) -> Code | None:
        """Read the code of a function of the kernel as it is shipped; None when not at hand."""
        address = self.address(owner, symbol, sympos)
        if address is None:
            return None
        if owner != VMLINUX:
            module = self.module(owner)
            if module is None:
                return None
            inside = [i for i, start in module.addresses.items() if start <= address]
            section = max(inside, key=lambda i: module.addresses[i])
            return module.function(section, address - module.addresses[section], symbol)
        return self._shipped_in_vmlinux(address, symbol)

    def _shipped_in_vmlinux(self, address: int, symbol: str) -> Code | None:
        if self.kernel.kernel.vmlinux is None:
            return None
        elf = ElfFile.read(self.kernel.kernel.vmlinux)
        # Symbols of a running kernel are moved (CONFIG_RANDOMIZE_BASE): its code is elsewhere.
        text = elf.section(".text")
        starts = [self.address(VMLINUX, name, 0) for name in ("_text", "_stext")]
        if text is None or text.sh_addr not in starts:
            return None
        addresses, _ = self._vmlinux
        number = bisect_right(addresses, address)
        end = addresses[number] if number < len(addresses) else address
        for section in elf.sections:
            if section.sh_addr <= address < section.sh_addr + section.sh_size and section.sh_addr:
                first = address - section.sh_addr
                data = bytes(elf.contents(section)[first : first + end - address])
                return Code(VMLINUX, symbol, address, data, elf.e_machine)
        return None
