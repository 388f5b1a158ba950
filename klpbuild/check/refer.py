"""Describe how an instruction refers to an address."""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple


class Use(Enum):
    """How an instruction refers to an address."""

    CALL = "call"
    JUMP = "jump"
    DATA = "data"


class Referring(NamedTuple):
    """An instruction of another machine than x86-64.

    :ivar offset: from the start of its function.
    :ivar blank: its bytes without what tells the address.
    :ivar target: the address that it refers to; None where it refers to none.
    """

    offset: int
    blank: bytes
    use: Use | None = None
    target: int | None = None


def signed(value: int, bits: int) -> int:
    """Convert a field of an instruction to a signed number."""
    return (value ^ 1 << bits - 1) - (1 << bits - 1)
