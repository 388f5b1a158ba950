"""arm64: its record, and what is known of its instructions."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import TYPE_CHECKING

from klpbuild.arch.base import PATCHABLE, Architecture, Branch, Field, Instructions, Part, Qemu
from klpbuild.elf.constants import EM

if TYPE_CHECKING:
    import capstone

#: Relocations of the ELF for the Arm 64-bit Architecture that occur in kernel objects.
R_ABS64, _R_ABS32, R_PREL64, R_PREL32 = 257, 258, 260, 261
_R_LD_PREL_LO19, _R_ADR_PREL_LO21, R_ADR_PREL_PG_HI21, _R_ADR_PREL_PG_HI21_NC = 273, 274, 275, 276
R_ADD_ABS_LO12_NC, _R_TSTBR14, _R_CONDBR19, R_JUMP26, R_CALL26 = 277, 279, 280, 282, 283
#: Loads and stores of a place in a page, by how many bytes they access.
_R_LDST = {1: 278, 2: 284, 4: 285, 8: 286, 16: 299}

#: Displacements of instructions: first bit and width (Arm Architecture Reference Manual, C4).
_ADR, _IMM26, _IMM19, _IMM14, _IMM12 = (
    ((29, 2), (5, 19)), ((0, 26),), ((5, 19),), ((5, 14),), ((10, 12),),
)  # fmt: skip
_JUMP = Field(4, True, True, scale=4, bits=_IMM26)
_SHORT = Field(4, True, True, scale=4, bits=_IMM19)
_TEST = Field(4, True, True, scale=4, bits=_IMM14)
_NEAR = Field(4, True, True, bits=_ADR)
_PAGE = Field(4, True, True, scale=4096, bits=_ADR, part=Part.PAGE)


def _displacement(word: int) -> Field | None:
    """Find the displacement of a branch, or of an instruction that takes a place near itself."""
    if word & 0x7C000000 == 0x14000000:  # b, bl
        return _JUMP
    if word & 0xFF000010 == 0x54000000 or word & 0x7E000000 == 0x34000000:  # b.cond, cbz, cbnz
        return _SHORT
    if word & 0x7E000000 == 0x36000000:  # tbz, tbnz
        return _TEST
    if word & 0x3B000000 == 0x18000000:  # ldr of a literal
        return _SHORT
    return _NEAR if word & 0x9F000000 == 0x10000000 else None  # adr


def _is_branch(word: int) -> bool:
    found = _displacement(word)
    return found in (_JUMP, _TEST) or (found is _SHORT and word & 0x3B000000 != 0x18000000)


@lru_cache(maxsize=1)
def _disassembler() -> capstone.Cs:
    import capstone

    disassembler = capstone.Cs(capstone.CS_ARCH_ARM64, capstone.CS_MODE_LITTLE_ENDIAN)
    disassembler.skipdata = True
    return disassembler


def _word(code: bytes | memoryview, offset: int) -> int:
    return int.from_bytes(code[offset : offset + 4], "little")


class Arm64Instructions(Instructions):
    """The instructions of arm64, as gcc makes them for the kernel."""

    relative, branch = R_PREL32, R_CALL26
    branch_types = frozenset({R_JUMP26, R_CALL26, _R_CONDBR19, _R_TSTBR14})
    # A displacement counts from its own instruction, and is all of it.
    counted, behind = frozenset[int](), 0
    landing = (bytes.fromhex("5f2403d5"), bytes.fromhex("3f2303d5"))  # bti c, paciasp
    landing_note = 0xC0000000  # GNU_PROPERTY_AARCH64_FEATURE_1_AND, with BTI as bit 0
    based = frozenset({R_ADR_PREL_PG_HI21, _R_ADR_PREL_PG_HI21_NC, _R_ADR_PREL_LO21})

    def decode(self, code: bytes) -> Iterator[tuple[int, int, str, str]]:
        """Decode offset, length, mnemonic and operands of each instruction, from byte 0 on."""
        yield from _disassembler().disasm_lite(code, 0)

    def branches(self, code: bytes) -> list[Branch]:
        """Find the direct jumps and calls in a piece of code, in order."""
        branches = []
        for offset in range(0, len(code) - 3, 4):
            word = _word(code, offset)
            found = _displacement(word)
            if found is not None and _is_branch(word):
                target = offset + found.value(code[offset : offset + 4], "little")
                branches.append(Branch(offset, offset + 4, target, found is not _JUMP))
        return branches

    def is_branch_field(self, code: bytes | memoryview, offset: int) -> bool:
        """Tell whether the 4 bytes at an offset are a direct branch."""
        return _is_branch(_word(code, offset))

    def is_call_field(self, code: bytes, offset: int) -> bool:
        """Tell whether the 4 bytes at an offset are a direct call."""
        return _word(code, offset) & 0xFC000000 == 0x94000000

    def leading(self, code: bytes, start: int, place: int) -> list[int]:
        """Find b, bl and adr that lead to a function, and each adrp that leads to its page."""
        import numpy as np  # takes longer than a build in which nothing is to be done

        words = np.frombuffer(code[: len(code) // 4 * 4], "<u4").astype(np.int64)
        at = np.arange(len(words), dtype=np.int64) * 4
        jumps = at + 4 * ((words & 0x3FFFFFF ^ 1 << 25) - (1 << 25))
        number = (words >> 5 & 0x7FFFF) << 2 | words >> 29 & 3
        number = (number ^ 1 << 20) - (1 << 20)
        found = (words & 0x7C000000 == 0x14000000) & (jumps == place - start)
        found |= (words & 0x9F000000 == 0x10000000) & (at + number == place - start)
        page = ((start & 0xFFF) + at >> 12) + number == (place >> 12) - (start >> 12)
        found |= (words & 0x9F000000 == 0x90000000) & page
        return (4 * np.flatnonzero(found)).tolist()

    def aim(self, step: tuple[int, int, str, str], code: bytes) -> int | None:
        """Compute the offset that a decoded instruction without relocation names."""
        data = code[step[0] : step[0] + 4]
        found = _displacement(_word(data, 0)) if len(data) == 4 else None
        return step[0] + found.value(data, "little") if found is not None else None

    def without_aim(self, code: bytes) -> bytes:
        """Take the displacement out of a direct branch that is not short."""
        return (_word(code, 0) & 0xFC000000).to_bytes(4, "little")


ARM64 = Architecture(
    name="aarch64",
    kernel_name="arm64",
    debian_name="arm64",
    rpm_name="aarch64",
    machine=EM.AARCH64,
    big_endian=False,
    options=("ARM64",),
    ftrace_flags=("-fpatchable-function-entry=2",),
    entry_sections=PATCHABLE,
    entry_symbol="",
    absolute_64=R_ABS64,
    # CONFIG_DYNAMIC_FTRACE_WITH_CALL_OPS records the two instructions before the function.
    entry_offsets=frozenset({-8, 0, 4, 8, 12, 16}),
    entry_before=8,
    fields={
        R_ABS64: Field(8, False, False),
        _R_ABS32: Field(4, False, False),
        R_PREL64: Field(8, True, True),
        R_PREL32: Field(4, True, True),
        _R_LD_PREL_LO19: _SHORT,
        _R_ADR_PREL_LO21: _NEAR,
        R_ADR_PREL_PG_HI21: _PAGE,
        _R_ADR_PREL_PG_HI21_NC: _PAGE,
        R_ADD_ABS_LO12_NC: Field(4, False, False, bits=_IMM12, part=Part.LOW),
        _R_TSTBR14: _TEST,
        _R_CONDBR19: _SHORT,
        R_JUMP26: _JUMP,
        R_CALL26: _JUMP,
        **{
            number: Field(4, False, False, scale=size, bits=_IMM12, part=Part.LOW)
            for size, number in _R_LDST.items()
        },
    },
    instructions=Arm64Instructions(),
    section_flags=("-fno-section-anchors",),
    # A shared object points to its own places by these (R_AARCH64_RELATIVE).
    relocated=1027,
    qemu=Qemu(
        program="qemu-system-aarch64",
        package="qemu-system-arm",
        emulated_cpu="max",
        devices=("-M", "virt", "-nodefaults", "-display", "none"),
        console="ttyAMA0",
        channel="/dev/hvc0",
        results=("-device", "virtio-serial-device", "-device", "virtconsole,chardev=results"),
    ),
)
