"""Read the records that a guest writes to its second serial port.

A record is a line ``WORD NUMBER VALUE SIZE``, SIZE bytes and a newline.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum

from klpbuild.errors import KlpError

_HEADER = re.compile(rb"([a-z]{1,16}) (\d{1,9}) (\d{1,9}) (\d{1,9})")
_HEADER_MAX = 64


class Word(Enum):
    """Kind of a record.

    The number is the step's, but for `READY`, `DONE` and `UNCLEAN`, where it is 0.
    """

    READY = "ready"  #: the guest runs; its release
    BEGIN = "begin"  #: a step begins
    SKIP = "skip"  #: a step is left out
    STATE = "state"  #: what sysfs shows after a step
    FILE = "file"  #: a file that a step fetched, gzip-compressed
    END = "end"  #: a step has ended; its exit status, its output
    DONE = "done"  #: all steps are done
    UNCLEAN = "unclean"  #: a group left a livepatch behind; the rest was not run


@dataclass(frozen=True)
class Record:
    """One record of the channel.

    :ivar number: the step.
    :ivar value: the exit status of an `Word.END`, else 0.
    """

    word: Word
    number: int
    value: int
    payload: bytes = b""

    def format(self) -> bytes:
        """Serialise the record as it goes over the channel."""
        header = f"{self.word.value} {self.number} {self.value} {len(self.payload)}\n"
        return header.encode() + self.payload + b"\n"


class RecordReader:
    """Cuts a stream of bytes into records."""

    def __init__(self) -> None:
        self._pending = bytearray()

    @property
    def pending(self) -> bytes:
        """The bytes of a record that is not whole yet."""
        return bytes(self._pending)

    def feed(self, data: bytes) -> list[Record]:
        """Add what arrived, and return the records that are now whole.

        :raises KlpError: when it is not what the guest's init writes.
        """
        self._pending += data
        records = []
        while (record := self._next()) is not None:
            records.append(record)
        return records

    def _next(self) -> Record | None:
        end = self._pending.find(b"\n", 0, _HEADER_MAX)
        if end < 0:
            if len(self._pending) >= _HEADER_MAX:
                raise self._garbled()
            return None
        header = _HEADER.fullmatch(self._pending, 0, end)
        if header is None or header[1].decode() not in {word.value for word in Word}:
            raise self._garbled()
        size = int(header[4])
        whole = end + 1 + size + 1
        if len(self._pending) < whole:
            return None
        if self._pending[whole - 1] != ord("\n"):
            raise self._garbled()
        record = Record(
            Word(header[1].decode()),
            int(header[2]),
            int(header[3]),
            bytes(self._pending[end + 1 : whole - 1]),
        )
        del self._pending[:whole]
        return record

    def _garbled(self) -> KlpError:
        start = bytes(self._pending[:40])
        return KlpError(
            f"the guest's results are garbled at {start!r}",
            why="Only the guest's init writes to the second serial port.",
            hint="Leave that port alone in the livepatch and in shell steps.",
        )
