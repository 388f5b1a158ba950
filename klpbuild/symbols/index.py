"""The index beside symbols.klp: from a name to its places in constant time.

The file is mapped into memory, and little of it is touched.  It belongs to one
symbols.klp, whose digest it holds, and is checked as a whole when it is opened:
a damaged one would give wrong positions, and those crash machines.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import zlib
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from klpbuild.symbols.exported import ExportedNames
from klpbuild.symbols.lines import Lines, Numbers, hash_of
from klpbuild.symbols.table import ROW, Flag, ObjectSymbols, Rows, joined

#: Bytes of a file, mapped or not.
Buffer = bytes | memoryview

MAGIC = b"klpbuild-symbol-index-2\n"
_ALIGNMENT = 8
_HASH_BITS = 32
#: The bit in which ``t`` differs from ``T``.
_LOWER_CASE = 0x20
#: Rows in a bucket, about.
_BUCKET_ROWS = 4
#: Numbers of two bytes are sorted in linear time.
_BUCKET_BITS_MAX = 16


def digest_of(text: Buffer) -> str:
    """Compute the digest by which an index knows its symbols.klp."""
    return hashlib.sha256(text).hexdigest()


@contextmanager
def locked(symbols_klp: Path) -> Iterator[None]:
    """Hold a lock while symbols.klp and its index are replaced together.

    The lock is on their directory, so that no file of it is left.  Readers need none:
    they see by the digest that the two do not belong together.
    """
    with ExitStack() as stack:
        # A file system without locks, or no directory: whoever writes will say so.
        with suppress(OSError):
            directory = os.open(symbols_klp.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            stack.callback(os.close, directory)
            fcntl.flock(directory, fcntl.LOCK_EX)
        yield


@dataclass(frozen=True)
class IndexedObject:
    """An object in the index.

    :ivar name: of the object.
    :ivar first_row: where its symbols begin in `Index.rows`.
    :ivar labels_at: where its section names and then its source files begin.
    :ivar sections_size: bytes of its section names.
    :ivar files_size: bytes of its source files.
    :ivar addressed: whether addresses and kinds are known.
    """

    name: str
    first_row: int
    labels_at: int
    sections_size: int
    files_size: int
    addressed: bool


class Index:
    """Every symbol of a symbols.klp, found by name.

    :ivar objects: in the order of symbols.klp.
    :ivar rows: all symbols in the order of symbols.klp, dtype
        `klpbuild.symbols.table.ROW`, shape (n,).
    """

    def __init__(self, data: Buffer, text: Buffer) -> None:
        """Read an index and check it.

        :param data: what `build` made.
        :param text: the symbols.klp that it belongs to.
        :raises ValueError: when it is damaged, of another version or of another text.
        """
        try:
            self._read(memoryview(data), text)
        except (LookupError, TypeError, ArithmeticError, RecursionError) as error:
            raise ValueError("is damaged") from error

    def _read(self, view: memoryview, text: Buffer) -> None:
        body = view[len(MAGIC) + 4 :]
        if bytes(view[: len(MAGIC)]) != MAGIC:
            raise ValueError("is not an index of this version")
        if int.from_bytes(view[len(MAGIC) :][:4], "little") != zlib.crc32(body):
            raise ValueError("is damaged")
        size = int.from_bytes(body[:4], "little")
        header: dict[str, Any] = json.loads(bytes(body[4 : 4 + size]))
        if header["digest"] != digest_of(text):
            raise ValueError("belongs to another symbols.klp")
        self.text = text
        self.objects = tuple(IndexedObject(*fields) for fields in header["objects"])

        at = len(MAGIC) + 8 + size
        parts: list[npt.NDArray[Any]] = []
        for dtype, count in zip(_DTYPES, header["counts"], strict=True):
            parts.append(np.frombuffer(view, dtype, count, at))
            at += _padded(count * dtype.itemsize)
        self.rows: Rows = parts[0]
        self._name_at, self._order, self._buckets, self._labels = parts[1:]
        self._check()
        self._shift = _HASH_BITS - (len(self._buckets) - 1).bit_length() + 1
        self._first_rows = [o.first_row for o in self.objects]

    def _check(self) -> None:
        """Check that every number in the index leads to a place inside the file.

        :raises ValueError: when a number leads out of the file.
        """
        rows, buckets = len(self.rows), self._buckets.astype(np.int64)
        ends = self._name_at.astype(np.int64) + self.rows["length"]
        firsts = [0, *(o.first_row for o in self.objects), rows]
        labels = [(o.labels_at, o.sections_size, o.files_size) for o in self.objects]
        if (
            any(type(o.name) is not str for o in self.objects)
            or {type(number) for number in (*firsts, *chain.from_iterable(labels))} != {int}
            or firsts != sorted(firsts)
            or any(min(sizes) < 0 or sum(sizes) > len(self._labels) for sizes in labels)
            or not len(self._name_at) == len(self._order) == rows
            or (rows and int(self._order.max()) >= rows)
            or int(ends.max(initial=0)) > len(self.text)
            or len(buckets) < 2
            or (len(buckets) - 1) & (len(buckets) - 2)
            or (np.diff(buckets, prepend=0, append=rows) < 0).any()
        ):
            raise ValueError("has a number that leads nowhere")

    def find(self, name: str) -> list[int]:
        """Find the rows of a name in all objects, in order."""
        encoded = name.encode(errors="surrogateescape")
        number = hash_of(encoded)
        bucket = number >> self._shift
        rows = self._order[self._buckets[bucket] : self._buckets[bucket + 1]]
        return [
            row
            for row in rows[self.rows["hash"][rows] == number].tolist()
            if self.name(row) == encoded
        ]

    def name(self, row: int) -> bytes:
        """Read the name of a row."""
        at = int(self._name_at[row])
        return bytes(self.text[at : at + int(self.rows["length"][row])])

    def object_of(self, row: int) -> int:
        """Find the number of the object that a row is in."""
        return bisect_right(self._first_rows, row) - 1

    @cached_property
    def object_numbers(self) -> dict[str, int]:
        """The number of each object by its name."""
        return {o.name: number for number, o in enumerate(self.objects)}

    def row_range(self, number: int) -> tuple[int, int]:
        """Return the first row of an object and of the next one."""
        end = self.objects[number + 1].first_row if number + 1 < len(self.objects) else None
        return self.objects[number].first_row, len(self.rows) if end is None else end

    def labels(self, number: int) -> tuple[bytes, bytes]:
        """Return the section names and the source files of an object, a line each."""
        found = self.objects[number]
        middle = found.labels_at + found.sections_size
        labels = self._labels
        return (
            labels[found.labels_at : middle].tobytes(),
            labels[middle : middle + found.files_size].tobytes(),
        )

    def symbols(self, number: int) -> ObjectSymbols:
        """Return all symbols of an object."""
        first, end = self.row_range(number)
        rows = self.rows[first:end]
        names = Lines.gather(
            np.frombuffer(self.text, np.uint8),
            self._name_at[first:end].astype(np.int64),
            rows["length"].astype(np.int64),
        )
        found = self.objects[number]
        return ObjectSymbols(
            found.name, rows, names.text, *self.labels(number), addressed=found.addressed
        )


_U4 = np.dtype("<u4")
_DTYPES: tuple[np.dtype[Any], ...] = (ROW, _U4, _U4, _U4, np.dtype("u1"))


def build(
    text: Buffer,
    objects: Sequence[ObjectSymbols],
    name_at: Numbers,
    exported: ExportedNames | None = None,
) -> bytes:
    """Build the index of a symbols.klp.

    :param text: the symbols.klp.
    :param objects: its objects in its order.
    :param name_at: where each symbol's name begins in the text, shape (n,).
    :param exported: what Module.symvers says, if it is at hand.
    """
    rows = joined(o.rows for o in objects)
    order, buckets = _buckets(rows["hash"])
    if exported is not None:
        marked = _exported_rows(exported, text, objects, rows, name_at, order, buckets)
        rows["flags"][marked] |= np.uint8(Flag.EXPORTED)
    labels = [part for o in objects for part in (o.section_names, o.file_names)]
    described = []
    first_row = labels_at = 0
    for symbols in objects:
        sizes = len(symbols.section_names), len(symbols.file_names)
        # The fields of an IndexedObject.
        described.append((symbols.object, first_row, labels_at, *sizes, symbols.addressed))
        first_row += len(symbols)
        labels_at += sum(sizes)

    parts: list[npt.NDArray[Any]] = [
        rows,
        name_at,
        order,
        buckets,
        np.frombuffer(b"".join(labels), np.uint8),
    ]
    header = {
        "digest": digest_of(text),
        "counts": [len(part) for part in parts],
        "objects": described,
    }
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-(len(MAGIC) + 8 + len(encoded)) % _ALIGNMENT)
    body = [len(encoded).to_bytes(4, "little"), encoded]
    for part, dtype in zip(parts, _DTYPES, strict=True):
        data = part.astype(dtype, copy=False).tobytes()
        body += [data, bytes(_padded(len(data)) - len(data))]
    checksum = 0
    for piece in body:
        checksum = zlib.crc32(piece, checksum)
    return b"".join([MAGIC, checksum.to_bytes(4, "little"), *body])


def _buckets(
    hashes: npt.NDArray[np.uint32],
) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint32]]:
    """Sort row numbers by hash, and find where each bucket of equal leading bits begins."""
    bits = min(max(len(hashes) // _BUCKET_ROWS, 1).bit_length(), _BUCKET_BITS_MAX)
    numbers = (hashes >> np.uint32(_HASH_BITS - bits)).astype(np.uint16)
    firsts = np.zeros((1 << bits) + 1, np.uint32)
    np.cumsum(np.bincount(numbers, minlength=1 << bits), out=firsts[1:])
    # Stable, so that the rows of a bucket stay in order.
    return np.argsort(numbers, kind="stable").astype(np.uint32), firsts


def _exported_rows(
    exported: ExportedNames,
    text: Buffer,
    objects: Sequence[ObjectSymbols],
    rows: Rows,
    name_at: Numbers,
    order: npt.NDArray[np.uint32],
    buckets: npt.NDArray[np.uint32],
) -> Numbers:
    """Find the rows that are exported: the owner's global symbols of these names."""
    hashes = exported.names.hashes()
    bucket = hashes >> np.uint32(_HASH_BITS - (len(buckets) - 1).bit_length() + 1)
    first = buckets[bucket].astype(np.int64)
    counts = buckets[bucket + 1] - first
    export = np.repeat(np.arange(len(first)), counts)
    places = np.repeat(first - np.cumsum(counts) + counts, counts) + np.arange(len(export))
    found = order[places].astype(np.int64)
    same = rows["hash"][found] == hashes[export]
    found, export = found[same], export[same]

    numbers = {o.object: number for number, o in enumerate(objects)}
    owners = np.array([numbers.get(owner, -1) for owner in exported.owners], np.int64)
    ends = np.cumsum([len(o) for o in objects])
    is_global = rows["kind"][found].view(np.uint8) & _LOWER_CASE == 0
    same = is_global & (rows["length"][found] == exported.names.lengths[export])
    same &= np.searchsorted(ends, found, "right") == owners[export]
    found, export = found[same], export[same]

    lengths = exported.names.lengths[export]
    names = Lines.gather(np.frombuffer(text, np.uint8), name_at[found], lengths)
    wanted = exported.names.take(export)
    differ = np.flatnonzero(names.words != wanted.words)
    return np.delete(found, np.searchsorted(names.first_words, differ, "right") - 1)


def _padded(size: int) -> int:
    return size + -size % _ALIGNMENT
