"""A list of many names as one block of bytes: a name on each line.

A kernel has some hundred thousand names; a Python string for each would cost
more than reading them.  They are copied, compared and hashed eight bytes at a
time.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]
Numbers = npt.NDArray[np.int64]
Words = npt.NDArray[np.uint64]

_LINE_END = 0x0A
_WORD = 8
_ONE, _BYTE, _END = np.uint64(1), np.uint64(8), np.uint64(_LINE_END)


@dataclass(frozen=True, eq=False)
class Lines:
    """Names, a line end after each.

    :ivar text: the names.
    :ivar lengths: length of each in bytes, without its line end, shape (n,).
    :ivar words: each name with its line end, filled up with zero bytes to whole
        words, little endian.
    """

    text: bytes
    lengths: Numbers
    words: Words

    @classmethod
    def of(cls, text: bytes) -> Lines:
        """Split a text into names.

        :param text: whole lines.
        :raises ValueError: when a name holds a zero byte.
        """
        block = np.frombuffer(text, np.uint8)
        ends = np.flatnonzero(block == _LINE_END)
        lengths = np.diff(ends, prepend=-1) - 1
        return cls.gather(block, ends - lengths, lengths)

    @classmethod
    def gather(cls, source: Bytes, starts: Numbers, lengths: Numbers) -> Lines:
        """Copy pieces out of a block.

        :param source: the block, shape (m,).
        :param starts: where each piece begins, shape (n,).
        :param lengths: its length in bytes, shape (n,).
        :raises ValueError: when a piece holds a line end or a zero byte.
        """
        counts = _word_counts(lengths)
        ends = np.cumsum(counts)
        places = np.repeat(starts - (ends - counts) * _WORD, counts)
        places += np.arange(0, len(places) * _WORD, _WORD)
        padded = np.concatenate([source, np.zeros(_WORD, np.uint8)])
        at_any_byte: Words = np.ndarray((len(source) + 1,), "<u8", padded.data, strides=(1,))
        words = at_any_byte[places]
        last = ends - 1
        bits = (lengths % _WORD).astype(np.uint64) * _BYTE
        words[last] = words[last] & ((_ONE << bits) - _ONE) | _END << bits
        return cls._of_words(words, lengths)

    @classmethod
    def of_strings(cls, table: Bytes, starts: Numbers) -> Lines:
        """Copy zero-terminated strings out of string tables.

        :param table: the tables; the last byte is zero.
        :param starts: where each string begins, shape (n,).
        :raises ValueError: when a string holds a line end.
        """
        zeros = np.flatnonzero(table == 0)
        return cls.gather(table, starts, zeros[np.searchsorted(zeros, starts)] - starts)

    @classmethod
    def _of_words(cls, words: Words, lengths: Numbers) -> Lines:
        text = words.tobytes().translate(None, b"\0")
        if len(text) != int(lengths.sum()) + len(lengths):
            raise ValueError("a name holds a zero byte")
        if np.count_nonzero(np.frombuffer(text, np.uint8) == _LINE_END) != len(lengths):
            raise ValueError("a name holds a line end")
        return cls(text, lengths, words)

    def __len__(self) -> int:
        return len(self.lengths)

    @cached_property
    def starts(self) -> Numbers:
        """Where each name begins in `text`, shape (n,)."""
        found: Numbers = np.cumsum(self.lengths + 1) - self.lengths - 1
        return found

    @cached_property
    def first_words(self) -> Numbers:
        """Where each name begins in `words`, shape (n,)."""
        counts = _word_counts(self.lengths)
        found: Numbers = np.cumsum(counts) - counts
        return found

    def take(self, rows: Numbers) -> Lines:
        """Select the names of these rows, in their order."""
        lengths = self.lengths[rows]
        counts = _word_counts(lengths)
        places = np.repeat(self.first_words[rows] - np.cumsum(counts) + counts, counts)
        places += np.arange(len(places))
        return self._of_words(self.words[places], lengths)

    def beginning_with(self, prefix: bytes) -> Numbers:
        """Find the rows of names with a prefix.

        :param prefix: ends with a line end if it is a whole name.
        """
        rows: Numbers = np.flatnonzero(_begin_with(self._heads, prefix[:_WORD]))
        for start in range(_WORD, len(prefix), _WORD):
            # There is another word: the line end is yet to come.
            words = self.words[self.first_words[rows] + start // _WORD]
            rows = rows[_begin_with(words, prefix[start : start + _WORD])]
        return rows

    @cached_property
    def _heads(self) -> Words:
        """The first word of each name, shape (n,)."""
        return self.words[self.first_words]

    def cut(self, counts: Numbers) -> list[bytes]:
        """Cut the text into pieces of so many lines each."""
        sizes = np.concatenate([[0], np.cumsum(self.lengths + 1)])
        ends = sizes[np.cumsum(counts)].tolist()
        return [self.text[a:b] for a, b in zip([0, *ends], ends, strict=False)]

    def hashes(self) -> npt.NDArray[np.uint32]:
        """Hash each name with `hash_of`, shape (n,)."""
        if not len(self):
            return np.zeros(0, np.uint32)
        mixed = self.words * np.uint64(_FACTOR)
        mixed ^= mixed >> np.uint64(_SHIFT)
        mixed *= np.uint64(_FACTOR)
        return (np.add.reduceat(mixed, self.first_words) >> np.uint64(32)).astype(np.uint32)


#: An odd number near 2**64 divided by the golden ratio (Knuth, The Art of Computer
#: Programming, 6.4): multiplication spreads each bit over the higher ones.
_FACTOR = 0x9E3779B97F4A7C15
_SHIFT = 29
_MASK = 2**64 - 1


def hash_of(name: bytes) -> int:
    """Hash a name for the index: 32 bits, the same on every machine.

    The sum of its mixed words; the index compares names as well.
    """
    line = name + b"\n"
    total = 0
    for start in range(0, len(line), _WORD):
        mixed = int.from_bytes(line[start : start + _WORD], "little") * _FACTOR & _MASK
        total += (mixed ^ mixed >> _SHIFT) * _FACTOR
    return (total & _MASK) >> 32


def _begin_with(words: Words, part: bytes) -> npt.NDArray[np.bool_]:
    mask = np.uint64(2 ** (8 * len(part)) - 1)
    found: npt.NDArray[np.bool_] = words & mask == np.uint64(int.from_bytes(part, "little"))
    return found


def _word_counts(lengths: Numbers) -> Numbers:
    """Compute how many words each name takes with its line end."""
    return lengths // _WORD + 1
