"""x86-64: its record, and a decoder of its instructions."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from typing import TYPE_CHECKING

from klpbuild.arch.base import MCOUNT, Architecture, Branch, Field, Instructions, Qemu
from klpbuild.elf.constants import EM

if TYPE_CHECKING:
    import capstone

#: Relocations of psABI x86-64 that occur in kernel objects.
R_64, R_PC32, R_PLT32, R_32, R_32S, R_PC64 = 1, 2, 4, 10, 11, 24
_R_16, _R_PC16, _R_8, _R_PC8 = 12, 13, 14, 15

_RIP = re.compile(r"\[rip (?:([+-]) (\w+))?\]")
_INDEXED = re.compile(r"\[(?!rip)[a-z]")
_CALL_NEAR, _JMP_NEAR = 0xE8, 0xE9


@lru_cache(maxsize=1)
def _disassembler() -> capstone.Cs:
    import capstone

    disassembler = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
    disassembler.skipdata = True
    return disassembler


def _displacement(instruction: bytes) -> int:
    """Find the offset of an instruction's displacement, 0 if it has none."""
    import capstone

    disassembler = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
    disassembler.detail = True
    for found in disassembler.disasm(instruction, 0):
        return int(found.disp_offset)
    return 0


class X86Instructions(Instructions):
    """The instructions of x86-64, as gcc and clang make them for the kernel."""

    relative, branch, branch_types = R_PC32, R_PLT32, frozenset({R_PLT32})
    counted, behind, to_end = frozenset({R_PC32, R_PLT32}), 4, True
    based = frozenset({R_32S})
    landing = (bytes.fromhex("f30f1efa"),)  # endbr64
    has_objtool = registers = True
    leaves = frozenset({"jmp"})
    #: with ``-mfunction-return=thunk-extern``
    return_thunk = "__x86_return_thunk"

    def decode(self, code: bytes) -> Iterator[tuple[int, int, str, str]]:
        """Decode offset, length, mnemonic and operands of each instruction, from byte 0 on."""
        yield from _disassembler().disasm_lite(code, 0)

    def branches(self, code: bytes) -> list[Branch]:
        """Find the direct jumps and calls in a piece of code, in order."""
        found = []
        for offset, size, mnemonic, operands in self.decode(code):
            name = mnemonic.split()[-1]
            if operands.startswith("0x") and (name == "call" or name.startswith("j")):
                target = int(operands, 16)
                target -= (target & 1 << 63) << 1  # capstone wraps what lies before offset 0
                found.append(Branch(offset, offset + size, target, size == 2))
        return found

    def is_branch_field(self, code: bytes | memoryview, offset: int) -> bool:
        """Tell whether the 4 bytes at an offset are the displacement of a direct branch.

        The ModRM byte before a RIP-relative displacement has mod 0 and r/m 5, which no
        opcode of a direct branch (e8, e9, 0f 80 to 0f 8f) has.
        """
        if offset >= 1 and code[offset - 1] in (_CALL_NEAR, _JMP_NEAR):
            return True
        return offset >= 2 and code[offset - 2] == 0x0F and code[offset - 1] & 0xF0 == 0x80

    def leading(self, code: bytes, start: int, place: int) -> list[int]:
        """Find the fields that lead to a function, counted from their end or as an address."""
        import numpy as np  # takes longer than a build in which nothing is to be done

        sites, data = [], np.frombuffer(code, np.uint8)
        for shift in range(4):
            fields = data[shift : shift + (len(data) - shift) // 4 * 4].view("<i4")
            at = np.arange(len(fields), dtype=np.int64) * 4 + shift
            found = (at + 4 + fields == place - start) | (fields.view("<u4") == place & 0xFFFFFFFF)
            sites += at[found].tolist()
        return sites

    def aim(self, step: tuple[int, int, str, str], code: bytes) -> int | None:
        """Compute the offset that a decoded instruction without relocation names."""
        offset, size, mnemonic, operands = step
        distance = _RIP.search(operands)
        if distance is not None:
            return offset + size + int((distance[1] or "") + (distance[2] or "0"), 0)
        name = mnemonic.split()[-1]
        if (name == "call" or name.startswith("j")) and operands[:1].isdigit():
            target = int(operands, 0)
            return target - ((target & 1 << 63) << 1)  # capstone wraps what lies before offset 0
        return None

    def is_beside(self, type: int, operands: str, at_end: bool) -> bool:
        """Tell whether a field may be the address of a table that an index is added to."""
        immediate = at_end and operands.endswith(", 0")
        return type in self.based and bool(_INDEXED.search(operands)) and not immediate

    def is_call_field(self, code: bytes, offset: int) -> bool:
        """Tell whether the 4 bytes at an offset are the displacement of a call."""
        return offset >= 1 and code[offset - 1] == _CALL_NEAR

    def as_load(self, code: bytes, field: int) -> bytes | None:
        """Make a load from memory of the instruction with a 64-bit constant at an offset.

        ``movabs $constant, %reg`` becomes ``mov variable(%rip), %reg`` of the same length; its
        displacement is one byte behind the field.  None for another instruction.
        """
        if field < 2 or code[field - 2] not in (0x48, 0x49) or code[field - 1] & 0xF8 != 0xB8:
            return None
        register = code[field - 1] & 7
        rex = 0x4C if code[field - 2] & 1 else 0x48
        return bytes([rex, 0x8B, 0x05 | register << 3, 0, 0, 0, 0, 0x0F, 0x1F, 0x00])

    def is_memory_operand(self, code: bytes, field: int) -> bool:
        """Tell whether the field at an offset is the address of memory that is accessed.

        Not so for ``lea`` and immediates: these take the address itself.
        """
        for offset, size, mnemonic, _ in self.decode(code):
            if offset <= field < offset + size:
                if mnemonic == "lea":
                    return False
                return _displacement(code[offset : offset + size]) == field - offset
        return False

    def returns(self, code: bytes, thunks: frozenset[int], calls_out: frozenset[int]) -> bool:
        """Tell whether a function may return to its caller.

        :param thunks: offsets of displacements that lead to the return thunk.
        :param calls_out: offsets of displacements that lead to other functions which return.
        """
        for offset, size, mnemonic, operands in self.decode(code):
            name = mnemonic.split()[-1]
            if name.startswith(("ret", "iret", "sysret", "sysexit")):
                return True
            if name == "jmp" and not operands.startswith("0x"):
                return True
            if name.startswith("j") and offset + size - 4 in thunks | calls_out:
                return True
        return False


X86_64 = Architecture(
    name="x86_64",
    kernel_name="x86",
    debian_name="amd64",
    rpm_name="x86_64",
    machine=EM.X86_64,
    big_endian=False,
    options=("X86_64",),
    ftrace_flags=("-pg", "-mfentry"),
    entry_sections=MCOUNT,
    entry_symbol="__fentry__",
    absolute_64=R_64,
    entry_opcode=1,
    # The first instruction, or the second after endbr64 of 4 bytes (FTRACE_MCOUNT_MAX_OFFSET).
    entry_offsets=frozenset({0, 4}),
    entry_farthest=4,
    # psABI x86-64, 4.4
    fields={
        R_64: Field(8, False, False),
        R_PC32: Field(4, True, True, behind=4),
        R_PLT32: Field(4, True, True, behind=4),
        R_32: Field(4, False, False),
        R_32S: Field(4, False, True),
        _R_16: Field(2, False, False),
        _R_PC16: Field(2, True, True, behind=2),
        _R_8: Field(1, False, False),
        _R_PC8: Field(1, True, True, behind=1),
        R_PC64: Field(8, True, True, behind=8),
    },
    instructions=X86Instructions(),
    qemu=Qemu(
        program="qemu-system-x86_64",
        package="qemu-system-x86",
        # Without PKU and five-level paging: with them QEMU 7.2's emulation makes Linux 6.12
        # panic before it runs init.
        emulated_cpu="max,-pku,-la57",
        devices=("-nodefaults", "-no-user-config", "-display", "none"),
        console="ttyS0",
        channel="/dev/ttyS1",
        # On a busy computer the timer that is checked against a delay loop seems not to work,
        # and the kernel panics ("IO-APIC + timer doesn't work!"); on KVM it skips the check.
        parameters=("no_timer_check",),
    ),
)
