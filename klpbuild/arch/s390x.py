"""s390x: its record, and what is known of its instructions."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import TYPE_CHECKING

from klpbuild.arch.base import MCOUNT, Architecture, Branch, Field, Instructions, Part, Qemu
from klpbuild.elf.constants import EM

if TYPE_CHECKING:
    import capstone

#: Relocations of the s390x ELF ABI supplement that occur in kernel objects.
_R_8, _R_16, _R_32, R_PC32, _R_PC16, R_PC16DBL, R_PLT16DBL = 1, 3, 4, 5, 16, 17, 18
R_PC32DBL, R_PLT32DBL, R_64, R_PC64, R_GOTENT = 19, 20, 22, 23, 26

#: Opcodes, with their extension, of direct branches with a displacement of 32 bits, and of 16
#: (Principles of Operation, formats RIL, RI, RSI and RIE).
_BRCL, _BRASL, _LARL, _BRCTH, _BRAS = 0xC04, 0xC05, 0xC00, 0xCC6, 0xA75
_LONG = frozenset({_BRCL, _BRASL, _BRCTH})
_SHORT = frozenset({0xA74, _BRAS, 0xA76, 0xA77})
_SHORT_INDEXED = frozenset({0x84, 0x85})
_SHORT_COMPARED = frozenset({0x44, 0x45, 0x64, 0x65, 0x76, 0x77, 0x7C, 0x7D, 0x7E, 0x7F})
#: Loads, stores, compares and the like of what a displacement of 32 bits leads to.
_OF_MEMORY = frozenset({0xC4, 0xC6})


def _length(code: bytes, offset: int) -> int:
    """Tell an instruction's length by its first two bits."""
    return (2, 4, 4, 6)[code[offset] >> 6]


@lru_cache(maxsize=1)
def _disassembler() -> capstone.Cs:
    import capstone

    return capstone.Cs(capstone.CS_ARCH_SYSZ, capstone.CS_MODE_BIG_ENDIAN)


def _displacement(code: bytes, offset: int, size: int) -> tuple[int, bool] | None:
    """Find what an instruction's displacement leads to, and whether 16 bits hold it."""
    opcode = code[offset] << 4 | code[offset + 1] & 0xF
    if size == 6 and (opcode in _LONG or opcode == _LARL or code[offset] in _OF_MEMORY):
        short, end = False, offset + 6
    elif (size == 4 and (opcode in _SHORT or code[offset] in _SHORT_INDEXED)) or (
        size == 6 and code[offset] == 0xEC and code[offset + 5] in _SHORT_COMPARED
    ):
        short, end = True, offset + 4
    else:
        return None
    return offset + 2 * int.from_bytes(code[offset + 2 : end], "big", signed=True), short


class S390Instructions(Instructions):
    """The instructions of s390x, as gcc makes them for the kernel."""

    relative, branch = R_PC32DBL, R_PLT32DBL
    # gcc takes addresses of functions by R_390_PLT32DBL, too (larl %r1,f@PLT).
    branch_types = frozenset({R_PC16DBL, R_PLT16DBL})
    # A displacement stands 2 bytes behind the start of its instruction, which it counts from.
    counted, behind = branch_types | {R_PC32DBL, R_PLT32DBL, R_GOTENT}, -2
    based = frozenset({R_PC32DBL, R_GOTENT})

    def decode(self, code: bytes) -> Iterator[tuple[int, int, str, str]]:
        """Decode offset, length, mnemonic and operands of each instruction, from byte 0 on."""
        offset = 0
        while offset < len(code):
            for step in _disassembler().disasm_lite(code[offset:], offset):
                if step[0] + step[1] > len(code) or step[1] != _length(code, step[0]):
                    break
                yield step
                offset = step[0] + step[1]
            if offset < len(code):  # one that capstone does not know
                size = min(_length(code, offset), len(code) - offset)
                yield offset, size, ".insn", code[offset : offset + size].hex()
                offset += size

    def branches(self, code: bytes) -> list[Branch]:
        """Find the direct jumps and calls in a piece of code, in order.

        ``brcl 0`` never jumps: it is an entry call that ftrace has not filled, or a static branch.
        """
        branches, offset = [], 0
        while offset + 2 <= len(code):
            size = _length(code, offset)
            opcode = code[offset] << 4 | code[offset + 1] & 0xF
            found = _displacement(code, offset, size) if offset + size <= len(code) else None
            jumps = opcode != _BRCL or code[offset + 1] >> 4
            if found is not None and jumps and (found[1] or opcode in _LONG):
                branches.append(Branch(offset, offset + size, *found))
            offset += size
        return branches

    def is_branch_field(self, code: bytes | memoryview, offset: int) -> bool:
        """Tell whether the 4 bytes at an offset are the displacement of a direct branch."""
        return offset >= 2 and code[offset - 2] << 4 | code[offset - 1] & 0xF in _LONG

    def is_call_field(self, code: bytes, offset: int) -> bool:
        """Tell whether the 4 bytes at an offset are the displacement of a call."""
        return offset >= 2 and code[offset - 2] << 4 | code[offset - 1] & 0xF == _BRASL

    def leading(self, code: bytes, start: int, place: int) -> list[int]:
        """Find the fields of 32 bits that lead to a function, counted from 2 bytes before."""
        import numpy as np  # takes longer than a build in which nothing is to be done

        sites, data = [], np.frombuffer(code, np.uint8)
        for shift in (0, 2):
            fields = data[shift : shift + (len(data) - shift) // 4 * 4].view(">i4").astype(np.int64)
            at = np.arange(len(fields), dtype=np.int64) * 4 + shift
            sites += at[at - 2 + 2 * fields == place - start].tolist()
        return sites

    def aim(self, step: tuple[int, int, str, str], code: bytes) -> int | None:
        """Compute the offset that a decoded instruction without relocation names."""
        offset, size, _, _ = step
        found = _displacement(code, offset, size) if offset + size <= len(code) else None
        return found[0] if found is not None else None


S390X = Architecture(
    name="s390x",
    kernel_name="s390",
    debian_name="s390x",
    rpm_name="s390x",
    machine=EM.S390,
    big_endian=True,
    options=("S390",),
    ftrace_flags=("-pg", "-mfentry", "-mnop-mcount", "-mrecord-mcount"),
    entry_sections=MCOUNT,
    entry_symbol="__fentry__",
    absolute_64=R_64,
    fields={
        _R_8: Field(1, False, False),
        _R_16: Field(2, False, False),
        _R_32: Field(4, False, False),
        R_64: Field(8, False, False),
        _R_PC16: Field(2, True, True),
        R_PC32: Field(4, True, True),
        R_PC64: Field(8, True, True),
        R_PC16DBL: Field(2, True, True, behind=-2, scale=2),
        R_PLT16DBL: Field(2, True, True, behind=-2, scale=2),
        R_PC32DBL: Field(4, True, True, behind=-2, scale=2),
        R_PLT32DBL: Field(4, True, True, behind=-2, scale=2),
        R_GOTENT: Field(4, True, True, behind=-2, scale=2, part=Part.ENTRY),
    },
    instructions=S390Instructions(),
    # Modules may be farther from the kernel's data than a displacement reaches, or than QEMU 7.2
    # computes (2 GiB): it is to be taken from the GOT, as what other files define.
    section_flags=("-fno-section-anchors", "-mno-pic-data-is-text-relative"),
    qemu=Qemu(
        program="qemu-system-s390x",
        package="qemu-system-misc",
        emulated_cpu="max",
        devices=("-M", "s390-ccw-virtio", "-nodefaults", "-display", "none"),
        console="ttysclp0",
        channel="/dev/hvc0",
        # The only serial port that passes bytes on as they are is the console's.
        results=("-device", "virtio-serial-ccw", "-device", "virtconsole,chardev=results"),
    ),
)
