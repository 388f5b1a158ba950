"""The symbols of one object in kallsyms order, as numpy rows and blocks of names."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntFlag
from functools import cached_property

import numpy as np
import numpy.typing as npt

from klpbuild.symbols.lines import Numbers

_MAGIC = b"klpbuild-symbols-3\n\0"
_HEADER = struct.Struct("<20sIQQQI")
_CHECKSUM = struct.Struct("<I")


class Flag(IntFlag):
    """How long a symbol stays, and whether it is exported.

    INIT: it lies in memory that is freed once its object runs.
    LIVE: kallsyms still holds it then.  A module's other symbols count only
    while the module is loading (kernel/module/kallsyms.c, is_core_symbol).
    EXPORTED: Module.symvers says that its object exports it.
    """

    INIT = 1
    LIVE = 2
    EXPORTED = 4


def _checksum(key: str, data: bytes) -> int:
    """Compute the CRC32 of a fragment's key and all its bytes: one changed bit is always found."""
    return zlib.crc32(data, zlib.crc32(key.encode()))


#: One symbol.  ``length`` is its name's, in bytes; ``section`` counts the lines of
#: `ObjectSymbols.section_names` from 0; ``file`` those of `file_names` from 1, 0 is
#: unknown; ``kind`` is the letter that nm prints.
ROW = np.dtype(
    [
        ("address", "<u8"),
        ("hash", "<u4"),
        ("section", "<u2"),
        ("file", "<u2"),
        ("length", "<u2"),
        ("kind", "S1"),
        ("flags", "u1"),
    ]
)

Rows = npt.NDArray[np.void]


def joined(parts: Iterable[Rows]) -> Rows:
    """Join the rows of objects in a copy; numpy's own concatenate compares types each time."""
    return np.frombuffer(bytearray().join(part.tobytes() for part in parts), ROW)


#: Largest number in a row's ``section`` and ``file``.
NUMBER_MAX = 0xFFFF


@dataclass(frozen=True, eq=False)
class ObjectSymbols:
    """The symbols of one object, in the order in which the kernel counts them.

    :ivar object: ``vmlinux`` or the module's name.
    :ivar rows: dtype `ROW`, shape (n,).
    :ivar names: n lines.
    :ivar section_names: a line for each section of the file; empty when not known.
    :ivar file_names: a line for each source file, without directories.
    :ivar addressed: whether addresses and kinds are known.  In vmlinux they are
        the link's, in a module offsets in the section.
    :ivar livepatch: whether the module is a livepatch: its symbols are nobody's target.
    """

    object: str
    rows: Rows
    names: bytes
    section_names: bytes = b""
    file_names: bytes = b""
    addressed: bool = True
    livepatch: bool = False

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def name_starts(self) -> Numbers:
        """Where each name begins in `names`, shape (n,)."""
        lengths = self.rows["length"].astype(np.int64) + 1
        starts: Numbers = np.cumsum(lengths) - lengths
        return starts

    @cached_property
    def name_list(self) -> list[str]:
        """All names: for tests and reports."""
        return self.names.decode(errors="surrogateescape").split("\n")[:-1]

    def to_bytes(self, key: str) -> bytes:
        """Serialise the symbols without their object's name, for a cache.

        :param key: what they are kept under; the checksum covers it.
        """
        flags = int(self.addressed) | int(self.livepatch) << 1
        body = b"".join((self.rows.tobytes(), self.names, self.section_names, self.file_names))
        sizes = len(self.rows), len(self.names), len(self.section_names), len(self.file_names)
        data = _HEADER.pack(_MAGIC, *sizes, flags) + body
        return data + _CHECKSUM.pack(_checksum(key, data))

    @classmethod
    def from_bytes(cls, object: str, key: str, data: bytes) -> ObjectSymbols:
        """Parse what `to_bytes` made.

        :raises ValueError: when it is damaged, kept under another key or of another version.
        """
        if len(data) < _HEADER.size + _CHECKSUM.size:
            raise ValueError("cut off")
        (checksum,) = _CHECKSUM.unpack_from(data, len(data) - _CHECKSUM.size)
        data = data[: -_CHECKSUM.size]
        magic, count, names, sections, _, flags = _HEADER.unpack_from(data)
        if magic != _MAGIC or checksum != _checksum(key, data):
            raise ValueError("damaged, or not what was kept under this key")
        at = _HEADER.size + count * ROW.itemsize
        rows = np.frombuffer(data, ROW, count, _HEADER.size)
        section_names = data[at + names : at + names + sections]
        return cls(
            object,
            rows,
            data[at : at + names],
            section_names,
            data[at + names + sections :],
            bool(flags & 1),
            bool(flags & 2),
        )
