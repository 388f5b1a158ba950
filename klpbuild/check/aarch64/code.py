"""Find what the instructions of arm64 refer to (Arm Architecture Reference Manual, C4.1)."""

from __future__ import annotations

from collections.abc import Iterator

from klpbuild.check.memory import Code
from klpbuild.check.refer import Referring, Use, signed

#: Registers that a function keeps (AAPCS64, 6.1.1).
_KEPT = range(19, 30)
_MASK = 2**64 - 1


def referring(code: Code) -> Iterator[Referring]:
    """Decode a function: branches, adr, and what stands at an offset from the page of an adrp.

    Which page a register has is known from the last adrp before, branches left aside.
    """
    pages: dict[int, int] = {}
    for offset in range(0, len(code.data) - 3, 4):
        word = int.from_bytes(code.data[offset : offset + 4], "little")
        here, (_, aim) = code.address + offset, code.aims.get(offset, (0, None))
        register, base, place = word & 31, word >> 5 & 31, word >> 10 & 0xFFF
        kept, use, target = 0xFFFFFFFF, None, None
        if word & 0x7C000000 == 0x14000000:  # b, bl
            kept, use = 0xFC000000, Use.CALL if word >> 31 else Use.JUMP
            target = here + 4 * signed(word & 0x3FFFFFF, 26) if aim is None else aim
            if use is Use.CALL:
                pages = {each: page for each, page in pages.items() if each in _KEPT}
        elif word & 0x1F000000 == 0x10000000:  # adr, adrp
            kept, number = 0x9F00001F, signed((word >> 5 & 0x7FFFF) << 2 | word >> 29 & 3, 21)
            pages.pop(register, None)
            if word >> 31:
                pages[register] = (here >> 12) + number << 12
            else:
                use, target = Use.DATA, here + number if aim is None else aim
        else:
            is_sum, is_access = word & 0xFFC00000 == 0x91000000, word & 0x3B000000 == 0x39000000
            if aim is None and base in pages and (is_sum or is_access):
                target = pages[base] + (place << (0 if is_sum else _scale(word)))
            elif is_sum or is_access:
                target = aim
            if target is not None:
                kept, use = 0xFFC003FF, Use.DATA
            for written in (register, place & 31, base if word >> 25 & 5 == 4 else register):
                if not is_access or written == register:
                    pages.pop(written, None)
        target = None if target is None else target & _MASK
        yield Referring(offset, (word & kept).to_bytes(4, "little"), use, target)


def _scale(word: int) -> int:
    """Find by how many bits the offset of an access is shifted: 4 for registers of 16 bytes."""
    return 4 if word >> 26 & 1 and word >> 23 & 1 else word >> 30
