"""Many names at once, as one block of bytes: a name on each line.

A kernel has some hundred thousand names; a Python string for each would cost
more than reading them.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]
Numbers = npt.NDArray[np.int64]

_LINE_END = 0x0A


@dataclass(frozen=True, eq=False)
class Lines:
    """Names, a line end after each.

    :ivar text: the names.
    :ivar lengths: length of each in bytes, without its line end, shape (n,).
    """

    text: bytes
    lengths: Numbers

    @classmethod
    def of(cls, text: bytes) -> Lines:
        """:param text: whole lines."""
        ends = np.flatnonzero(np.frombuffer(text, np.uint8) == _LINE_END)
        return cls(text, np.diff(ends, prepend=-1) - 1)

    @classmethod
    def gather(cls, source: Bytes, starts: Numbers, lengths: Numbers) -> Lines:
        """Copy pieces out of a block.

        :param source: the block, shape (m,).
        :param starts: where each piece begins, shape (n,).
        :param lengths: its length in bytes, shape (n,).
        :raises ValueError: when a piece holds a line end.
        """
        if len(starts) == 0:
            return cls(b"", lengths)
        ends = np.cumsum(lengths + 1)
        shift = (starts - (ends - lengths - 1)).astype(np.int32)
        places = np.repeat(shift, lengths + 1)
        places += np.arange(len(places), dtype=np.int32)
        # The byte after the last piece may lie outside; a line end replaces it.
        text = source.take(places, mode="clip")
        text[ends - 1] = _LINE_END
        if np.count_nonzero(text == _LINE_END) != len(ends):
            raise ValueError("a name holds a line end")
        return cls(text.tobytes(), lengths)

    @classmethod
    def of_strings(cls, table: Bytes, starts: Numbers) -> Lines:
        """Copy zero-terminated strings out of string tables.

        :param table: the tables; the last byte is zero.
        :param starts: where each string begins, shape (n,).
        :raises ValueError: when a string holds a line end.
        """
        zeros = np.flatnonzero(table == 0)
        return cls.gather(table, starts, zeros[np.searchsorted(zeros, starts)] - starts)

    def __len__(self) -> int:
        return len(self.lengths)

    @cached_property
    def starts(self) -> Numbers:
        """Where each name begins in `text`, shape (n,)."""
        found: Numbers = np.cumsum(self.lengths + 1) - self.lengths - 1
        return found

    def take(self, rows: Numbers) -> Lines:
        """The names of these rows, in their order."""
        block = np.frombuffer(self.text, np.uint8)
        return Lines.gather(block, self.starts[rows], self.lengths[rows])

    def cut(self, counts: Numbers) -> list[bytes]:
        """The text in pieces of so many lines each."""
        sizes = np.concatenate([[0], np.cumsum(self.lengths + 1)])
        ends = sizes[np.cumsum(counts)].tolist()
        return [self.text[a:b] for a, b in zip([0, *ends], ends, strict=False)]

    def hashes(self) -> npt.NDArray[np.uint32]:
        """What the index finds each name by, shape (n,)."""
        names = self.text.split(b"\n")[:-1]
        return np.fromiter(map(hash_of, names), np.uint32, len(names))


#: CRC-32: fast, and the same on every machine.  The index compares names as well.
hash_of = zlib.crc32
