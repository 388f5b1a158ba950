"""Find the instructions of a module's code; those of x86-64 are disassembled."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING

from klpbuild.elf.constants import EM, STT
from klpbuild.elf.reader import ElfFile

if TYPE_CHECKING:
    import capstone


#: The last byte of a little-endian word of the primary opcode 1.
_PREFIXES = (b"\4", b"\5", b"\6", b"\7")


@dataclass(frozen=True)
class Instruction:
    """An instruction.

    :ivar offset: in its section.
    :ivar name: its mnemonic, with prefixes, as a disassembler writes it; empty for other machines
        than x86-64.
    :ivar operands: likewise; for other machines its bytes.
    """

    offset: int
    size: int
    name: str
    operands: str

    def __str__(self) -> str:
        return f"{self.name} {self.operands}".strip()

    @property
    def end(self) -> int:
        """Offset of what follows it."""
        return self.offset + self.size


def word(found: Instruction | None) -> int:
    """Read the first 4 bytes of an arm64 or ppc64le instruction as a number; 0 without one."""
    return int.from_bytes(bytes.fromhex(found.operands)[:4], "little") if found else 0


@dataclass(frozen=True)
class Fields:
    """Offsets of an instruction's address and number, in bytes from its beginning; 0 for none."""

    displacement: int
    immediate: int


@dataclass
class Instructions:
    """The instructions of a file, section by section as they are asked for."""

    elf: ElfFile
    _sections: dict[int, dict[int, Instruction]] = field(default_factory=dict)

    def of(self, section: int) -> dict[int, Instruction]:
        """Disassemble a section: its instructions by their offsets, in order.

        Each function is disassembled from its beginning, and what lies between functions from
        where the one before ends.
        """
        if section not in self._sections:
            self._sections[section] = self._disassemble(section)
        return self._sections[section]

    def at(self, section: int, offset: int) -> Instruction | None:
        """Find the instruction that begins at an offset."""
        return self.of(section).get(offset)

    def fields(self, section: int, found: Instruction) -> Fields:
        """Find where the parts of an instruction stand."""
        data = self.elf.contents(self.elf.sections[section])[found.offset : found.end]
        for decoded in self._detailed.disasm(bytes(data), 0):
            return Fields(decoded.disp_offset, decoded.imm_offset)
        return Fields(0, 0)

    @cached_property
    def _detailed(self) -> capstone.Cs:
        import capstone

        engine = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
        engine.detail = True
        return engine

    def _disassemble(self, section: int) -> dict[int, Instruction]:
        decode = self._mnemonics if self.elf.e_machine == EM.X86_64 else self._lengths
        data = bytes(self.elf.contents(self.elf.sections[section]))
        starts = [0, *self._starts.get(section, ()), len(data)]
        found = {}
        for start, end in pairwise(starts):
            for each in decode(data[start:end], start):
                found[each.offset] = each
        return found

    def _lengths(self, code: bytes, start: int) -> Iterator[Instruction]:
        """Find where instructions begin: s390's first two bits say it, others have 4 bytes.

        ppc64le's have 8 with the prefix of Power10.
        """
        machine = self.elf.e_machine
        at = 0
        while at < len(code):
            size = (2, 4, 4, 6)[code[at] >> 6] if machine == EM.S390 else 4
            size += 4 * (machine == EM.PPC64 and code[at + 3 : at + 4] in _PREFIXES)
            if at + size <= len(code):
                yield Instruction(start + at, size, "", code[at : at + size].hex())
            at += size

    def _mnemonics(self, code: bytes, start: int) -> Iterator[Instruction]:
        import capstone

        engine = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
        engine.skipdata = True
        for each in engine.disasm_lite(code, start):
            yield Instruction(*each)

    @cached_property
    def _starts(self) -> dict[int, list[int]]:
        """Where the functions of each section begin, in order."""
        rows = self.elf.symbols
        rows = rows[(rows["st_info"] & 0xF == STT.FUNC) & (rows["st_size"] > 0)]
        found: dict[int, set[int]] = {}
        columns = (rows[name].tolist() for name in ("st_shndx", "st_value"))
        for section, value in zip(*columns, strict=True):
            found.setdefault(section, set()).add(value)
        return {section: sorted(values) for section, values in found.items()}
