"""Resolve what the instructions of a function refer to once they are in memory."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from klpbuild.check.aarch64 import code as aarch64
from klpbuild.check.memory import Code
from klpbuild.check.refer import Use
from klpbuild.check.s390x import code as s390x
from klpbuild.elf.constants import EM

if TYPE_CHECKING:
    import capstone
    from capstone import x86 as x86_64

#: The upper 2 GiB: the kernel and its modules.
_HIGH = 0xFFFFFFFF80000000
_MASK = 2**64 - 1
_PADDING = frozenset({"int3", "nop"})
#: Instructions that may have an address; the others need not be decoded in detail.
_MAY_REFER = re.compile(r"\bj|\bcall|\bloop|\bxbegin|rip|gs:|0x[0-9a-f]{5}")
#: Finds what instructions refer to, by ``e_machine``; x86-64's are disassembled here.
_OTHERS = {EM.AARCH64: aarch64.referring, EM.S390: s390x.referring}
#: Machines whose code is understood.
MACHINES = frozenset({EM.X86_64, *_OTHERS})


@dataclass(frozen=True)
class Instruction:
    """An instruction.

    :ivar offset: from the start of its function.
    :ivar plain: as a disassembler writes it, without the name of `target`, which comes last.
    :ivar shape: the same without the address that it refers to.
    :ivar use: how it refers to `target`.
    :ivar target: an address outside of the function; None when there is none.
    :ivar name_of: what to call that address.
    """

    offset: int
    plain: str
    shape: str
    use: Use | None = None
    target: int | None = None
    name_of: Callable[[int], str] = field(default=hex, repr=False, compare=False)

    @cached_property
    def text(self) -> str:
        """The instruction with a name for the address, which takes longer to find than the rest."""
        return self.plain if self.target is None else self.plain + self.name_of(self.target)


def disassemble(code: Code, name_of: Callable[[int], str] = hex) -> tuple[Instruction, ...]:
    """Disassemble a function, of x86-64 without the padding behind it.

    :param name_of: what to call an address.
    """
    import capstone

    if code.machine != EM.X86_64:
        return tuple(_of_others(code, name_of))
    plain = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
    engine = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
    engine.detail = True
    found = []
    for address, size, mnemonic, operands in plain.disasm_lite(code.data, code.address):
        offset = address - code.address
        text = f"{mnemonic} {operands}".strip()
        if _MAY_REFER.search(text):
            (decoded,) = engine.disasm(code.data[offset : offset + size], address)
            found.append(_instruction(plain, code, decoded, name_of))
        else:
            found.append(Instruction(offset, text, text))
    while found and found[-1].plain.split(" ")[0] in _PADDING:
        found.pop()
    return tuple(found)


def _of_others(code: Code, name_of: Callable[[int], str]) -> Iterator[Instruction]:
    import capstone

    kinds = {
        EM.AARCH64: (capstone.CS_ARCH_ARM64, capstone.CS_MODE_LITTLE_ENDIAN),
        EM.S390: (capstone.CS_ARCH_SYSZ, capstone.CS_MODE_BIG_ENDIAN),
    }
    engine = capstone.Cs(*kinds[EM(code.machine)])
    for each in _OTHERS[EM(code.machine)](code):
        words = [f"{name} {operands}" for *_, name, operands in engine.disasm_lite(each.blank, 0)]
        shape = (words or [each.blank.hex()])[0].strip()
        if each.target is None or 0 <= each.target - code.address < len(code.data):
            yield Instruction(each.offset, shape, shape)
        else:
            yield Instruction(each.offset, f"{shape}  # ", shape, each.use, each.target, name_of)


def addresses(code: bytes, start: int) -> Iterator[tuple[int, bool]]:
    """Find every address in x86-64 code, and whether a register is added to it.

    :param start: the address of the code.
    """
    import capstone
    from capstone import x86 as x86_64

    engine = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
    engine.detail = engine.skipdata = True
    for decoded in engine.disasm(code, start):
        for operand in decoded.operands if decoded.id else ():
            if operand.type == x86_64.X86_OP_IMM:
                yield operand.imm & _MASK, False
            elif operand.type == x86_64.X86_OP_MEM:
                memory = operand.mem
                if memory.base == x86_64.X86_REG_RIP:
                    yield (decoded.address + decoded.size + memory.disp) & _MASK, False
                else:
                    yield memory.disp & _MASK, bool(memory.base or memory.index)


def goes_on(code: bytes) -> bool:
    """Tell whether x86-64 code may run on behind its last instruction."""
    import capstone

    engine = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
    engine.skipdata = True
    steps = list(engine.disasm_lite(code, 0))
    return not steps or steps[-1][2] != "jmp"


def _instruction(
    plain: capstone.Cs, code: Code, decoded: capstone.CsInsn, name_of: Callable[[int], str]
) -> Instruction:
    offset = decoded.address - code.address
    referred = _target(decoded)
    if referred is None:
        text = f"{decoded.mnemonic} {decoded.op_str}".strip()
        return Instruction(offset, text, text)
    use, target, at, width = referred
    blank = bytearray(decoded.bytes)
    blank[at : at + width] = bytes(width)
    if use is Use.DATA:
        words = (f"{name} {rest}" for *_, name, rest in plain.disasm_lite(bytes(blank), 0))
        shape = " ".join(words).strip()
        return Instruction(offset, f"{shape}  # ", shape, use, target, name_of)
    if code.address <= target < code.address + len(code.data):
        label = f"{decoded.mnemonic} +{target - code.address:#x}"
        return Instruction(offset, label, decoded.mnemonic)
    shape = decoded.mnemonic
    return Instruction(offset, f"{shape} ", shape, use, target, name_of)


def _target(decoded: capstone.CsInsn) -> tuple[Use, int, int, int] | None:
    """Find which address an instruction refers to, how, and where in it the address stands."""
    import capstone
    from capstone import x86 as x86_64

    call = capstone.CS_GRP_CALL in decoded.groups
    branch = call or capstone.CS_GRP_JUMP in decoded.groups
    for operand in decoded.operands:
        if operand.type == x86_64.X86_OP_MEM:
            address = _memory(decoded, operand.mem)
            if address is not None:
                return Use.DATA, address, decoded.disp_offset, decoded.disp_size
        elif operand.type == x86_64.X86_OP_IMM:
            address = operand.imm & _MASK
            if branch:
                use = Use.CALL if call else Use.JUMP
                return use, address, decoded.imm_offset, decoded.imm_size
            if address >= _HIGH and decoded.imm_size >= 4 and operand.imm < -(1 << 20):
                return Use.DATA, address, decoded.imm_offset, decoded.imm_size
    return None


def _memory(decoded: capstone.CsInsn, memory: x86_64.X86OpMem) -> int | None:
    """Compute the address in a memory operand; of a per-CPU variable its offset."""
    from capstone import x86 as x86_64

    shift = int(memory.disp)
    if memory.base == x86_64.X86_REG_RIP:
        return int(decoded.address + decoded.size + shift) & _MASK
    if decoded.disp_size == 4 and (shift & _MASK) >= _HIGH and shift < -(1 << 20):
        return shift & _MASK
    alone = not memory.base and not memory.index
    if memory.segment == x86_64.X86_REG_GS and alone and shift:
        return shift & _MASK
    return None
