"""What extraction must know of x86-64 instructions: lengths, branches, no-operations."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import capstone

#: Relocations of psABI x86-64 that occur in kernel objects.
R_64, R_PC32, R_PLT32, R_32, R_32S, R_PC64 = 1, 2, 4, 10, 11, 24
PC_RELATIVE = frozenset({R_PC32, R_PLT32})

#: ``__x86_return_thunk``: what a return jumps to with ``-mfunction-return=thunk-extern``.
RETURN_THUNK = "__x86_return_thunk"

CALL_NEAR, _JMP_NEAR = 0xE8, 0xE9


@dataclass(frozen=True)
class Branch:
    """A direct jump or call.

    :ivar start: offset of the instruction.
    :ivar end: offset behind it.
    :ivar target: offset that it goes to, before relocation.
    :ivar is_call: whether it is a call.
    """

    start: int
    end: int
    target: int
    is_call: bool

    @property
    def field(self) -> int:
        """Offset of its displacement, which is 1 byte wide in a short jump, else 4."""
        return self.end - (1 if self.is_short else 4)

    @property
    def is_short(self) -> bool:
        return self.end - self.start == 2


@lru_cache(maxsize=1)
def _disassembler() -> capstone.Cs:
    import capstone

    disassembler = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
    disassembler.skipdata = True
    return disassembler


def instructions(code: bytes) -> Iterator[tuple[int, int, str, str]]:
    """Offset, length, mnemonic and operands of each instruction, from the first byte on."""
    yield from _disassembler().disasm_lite(code, 0)


def instruction_ends(code: bytes) -> np.ndarray:
    """Offsets behind each instruction, ascending, shape (n,)."""
    return np.array([offset + size for offset, size, _, _ in instructions(code)], dtype=np.int64)


def branches(code: bytes) -> list[Branch]:
    """The direct jumps and calls of a piece of code, in order."""
    found = []
    for offset, size, mnemonic, operands in instructions(code):
        name = mnemonic.split()[-1]
        if operands.startswith("0x") and (name == "call" or name.startswith("j")):
            target = int(operands, 16)
            target -= (target & 1 << 63) << 1  # capstone wraps what lies before offset 0
            found.append(Branch(offset, offset + size, target, name == "call"))
    return found


def is_branch_field(code: bytes | memoryview, offset: int) -> bool:
    """Whether the 4 bytes at an offset are the displacement of a direct branch.

    The ModRM byte before a RIP-relative displacement has mod 0 and r/m 5, which no
    opcode of a direct branch (e8, e9, 0f 80 to 0f 8f) has.
    """
    if offset >= 1 and code[offset - 1] in (CALL_NEAR, _JMP_NEAR):
        return True
    return offset >= 2 and code[offset - 2] == 0x0F and code[offset - 1] & 0xF0 == 0x80


def as_load(code: bytes, field: int) -> bytes | None:
    """An instruction that loads from memory the 64-bit constant of the one with this field.

    ``movabs $constant, %reg`` becomes ``mov variable(%rip), %reg`` of the same length; its
    displacement is one byte behind the field.  None for another instruction.
    """
    if field < 2 or code[field - 2] not in (0x48, 0x49) or code[field - 1] & 0xF8 != 0xB8:
        return None
    register = code[field - 1] & 7
    rex = 0x4C if code[field - 2] & 1 else 0x48
    return bytes([rex, 0x8B, 0x05 | register << 3, 0, 0, 0, 0, 0x0F, 0x1F, 0x00])


def mnemonic_at(code: bytes, field: int) -> str:
    """Mnemonic of the instruction that has a field at an offset."""
    for offset, size, mnemonic, _ in instructions(code):
        if offset <= field < offset + size:
            return mnemonic
    return ""


def is_memory_operand(code: bytes, field: int) -> bool:
    """Whether the field at an offset is the address of memory that an instruction accesses.

    Not so for ``lea`` and immediates: these take the address itself.
    """
    for offset, size, mnemonic, _ in instructions(code):
        if offset <= field < offset + size:
            if mnemonic == "lea":
                return False
            return _displacement(code[offset : offset + size]) == field - offset
    return False


def _displacement(instruction: bytes) -> int:
    """Offset of an instruction's displacement, 0 if it has none."""
    import capstone

    disassembler = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
    disassembler.detail = True
    for found in disassembler.disasm(instruction, 0):
        return int(found.disp_offset)
    return 0


def returns(code: bytes, thunks: frozenset[int], calls_out: frozenset[int]) -> bool:
    """Whether a function may come back to its caller.

    :param thunks: offsets of displacements that lead to the return thunk.
    :param calls_out: offsets of displacements that lead to other functions which return.
    """
    for offset, size, mnemonic, operands in instructions(code):
        name = mnemonic.split()[-1]
        if name.startswith(("ret", "iret", "sysret", "sysexit")):
            return True
        if name == "jmp" and not operands.startswith("0x"):
            return True
        if name.startswith("j") and (offset + size - 4 in thunks or offset + size - 4 in calls_out):
            return True
    return False
