"""Find what the instructions of s390x refer to (Principles of Operation, formats RIL-b and -c)."""

from __future__ import annotations

from collections.abc import Iterator

from klpbuild.check.memory import Code
from klpbuild.check.refer import Referring, Use, signed

#: By the second half-byte of c0: larl, brcl and brasl; c4 and c6 load, store and compare.
_C0 = {0: Use.DATA, 4: Use.JUMP, 5: Use.CALL}

_GOTENT = 26


def referring(code: Code) -> Iterator[Referring]:
    """Decode a function: the instructions that name an address by its distance in half-words."""
    offset, data = 0, code.data
    while offset < len(data):
        size = (2, 4, 4, 6)[data[offset] >> 6]  # its first two bits say it
        blank, use, target = data[offset : offset + size], None, None
        if len(blank) == 6:
            use = _C0.get(blank[1] & 15) if blank[0] == 0xC0 else None
            use = Use.DATA if blank[0] in (0xC4, 0xC6) else use
        if use is not None:
            kind, aim = code.aims.get(offset + 2, (0, None))
            distance = 2 * signed(int.from_bytes(blank[2:], "big"), 32)
            # A relocation counts from its field, which is 2 bytes behind.
            target = code.address + offset + distance if aim is None else aim - 2
            blank = blank[:2] + bytes(4)
            if kind == _GOTENT and blank[0] == 0xC4:  # lgrl, which the linker makes a larl of
                blank = bytes((0xC0, blank[1] & 0xF0)) + bytes(4)
        yield Referring(offset, blank, use, target)
        offset += size
