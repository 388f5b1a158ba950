"""The database of all symbols of a kernel, by name: symbols.klp and the index beside it."""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from klpbuild.errors import KlpError, Problems
from klpbuild.files.records import while_unchanged
from klpbuild.files.whole import write_file
from klpbuild.names import index_path
from klpbuild.symbols.index import Buffer, Index, build, locked
from klpbuild.symbols.lines import Bytes, Lines, Numbers
from klpbuild.symbols.table import NUMBER_MAX, ROW, Flag, ObjectSymbols, Rows

#: The first line of a symbols.klp; more may follow on the line.
MAGIC = b"klp-convert-symbol-data.0.1"

_UNKNOWN = "?"


@dataclass(frozen=True)
class Candidate:
    """One symbol that a name can stand for.

    :ivar object: ``vmlinux`` or the module's name.
    :ivar symbol: its name.
    :ivar position: its 1-based place among the object's symbols of this name.
    :ivar count: how many there are.
    :ivar address: in vmlinux of the link, in a module the offset in `section`; None
        when not known.
    :ivar kind: the letter that nm prints, upper case for a global symbol; ``?`` when
        not known.
    :ivar file: name of its source file without directories; None when not known.
    :ivar section: name of its section; empty when not known.
    :ivar init: whether its memory is freed once its object runs.
    :ivar unstable: whether the kernel counts another position, or does not hold the
        symbol, once the module runs: symbols of ``.init`` sections count only
        while a module is loading.
    :ivar exported_by: its object, when Module.symvers says so; None when it does not or
        was not at hand.
    """

    object: str
    symbol: str
    position: int
    count: int
    address: int | None = None
    kind: str = _UNKNOWN
    file: str | None = None
    section: str = ""
    init: bool = False
    unstable: bool = False
    exported_by: str | None = None

    @property
    def sympos(self) -> int:
        """The position as a livepatch symbol's name has it: 0 says that it is unique."""
        return 0 if self.count == 1 else self.position


class SymbolDatabase:
    """Every symbol of vmlinux and of the modules.

    :ivar objects: the objects' names, in the order of symbols.klp.
    """

    def __init__(self, index: Index) -> None:
        self._index = index
        self._labels: dict[int, tuple[list[str], list[str]]] = {}
        self.objects: tuple[str, ...] = tuple(o.name for o in index.objects)

    @classmethod
    @while_unchanged
    def read(cls, path: Path) -> SymbolDatabase:
        """Open a symbols.klp, with its index if that belongs to it.

        Otherwise an index is made from the text and left beside it where that is
        possible; addresses, kinds and files are then not known.

        :raises KlpError: when it is not a symbols.klp, with the lines at fault.
        """
        with suppress(KlpError, ValueError):  # there is none, or of another text
            return cls(_mapped(path))
        with locked(path):
            with suppress(KlpError, ValueError):  # another process has written it meanwhile
                return cls(_mapped(path))
            text = _map(path)
            data = build(text, *parse(bytes(text), str(path)))
            with suppress(KlpError):  # a read-only directory: next time it is made again
                write_file(index_path(path), data)
        return cls(Index(data, text))

    def candidates(self, name: str) -> tuple[Candidate, ...]:
        """Return all symbols of a name, vmlinux' first, then by module and position."""
        return self._candidates(name, self._index.find(name))

    def in_object(self, object: str, name: str) -> tuple[Candidate, ...]:
        """Return the symbols of a name in one object, by position; none for an unknown object."""
        number = self._index.object_numbers.get(object)
        if number is None:
            return ()
        first, end = self._index.row_range(number)
        return self._candidates(name, [r for r in self._index.find(name) if first <= r < end])

    def symbols(self, object: str) -> ObjectSymbols:
        """Return all symbols of an object, in the order in which the kernel counts them.

        :raises KeyError: when there is no such object.
        """
        return self._index.symbols(self._index.object_numbers[object])

    def rows(self, object: str) -> Rows:
        """Return the rows of `symbols`, without the names, which take longest.

        :raises KeyError: when there is no such object.
        """
        first, end = self._index.row_range(self._index.object_numbers[object])
        return self._index.rows[first:end]

    def name(self, object: str, number: int) -> str:
        """Read the name of one row of `rows`.

        :raises KeyError: when there is no such object.
        """
        first, _ = self._index.row_range(self._index.object_numbers[object])
        return self._index.name(first + number).decode(errors="surrogateescape")

    def section_names(self, object: str) -> list[str]:
        """List the sections that rows number; none when they are not known."""
        return self._labels_of(self._index.object_numbers[object])[0]

    def addressed(self, object: str) -> bool:
        """Tell whether the addresses of an object's symbols are known."""
        return self._index.objects[self._index.object_numbers[object]].addressed

    def names(self, *objects: str) -> frozenset[str]:
        """Collect the names of all symbols of objects; of every object when none is named."""
        texts = (self.symbols(name).names for name in objects or self.objects)
        return frozenset(
            line for text in texts for line in text.decode(errors="surrogateescape").split("\n")
        )

    def _candidates(self, name: str, rows: Sequence[int]) -> tuple[Candidate, ...]:
        by_object: dict[int, list[int]] = {}
        for row in rows:
            by_object.setdefault(self._index.object_of(row), []).append(row)
        return tuple(
            candidate
            for number, alike in by_object.items()
            for candidate in self._in_object(name, number, alike)
        )

    def _in_object(self, name: str, number: int, rows: Sequence[int]) -> list[Candidate]:
        found = self._index.objects[number]
        sections, files = self._labels_of(number)
        candidates = []
        live = 0
        for position, row in enumerate(rows, start=1):
            fields = self._index.rows[row]
            flags = int(fields["flags"])
            live += bool(flags & Flag.LIVE)
            section, file = int(fields["section"]), int(fields["file"])
            candidates.append(
                Candidate(
                    found.name,
                    name,
                    position,
                    len(rows),
                    int(fields["address"]) if found.addressed else None,
                    fields["kind"].decode(errors="replace") if found.addressed else _UNKNOWN,
                    files[file - 1] if 0 < file <= len(files) else None,
                    sections[section] if section < len(sections) else "",
                    bool(flags & Flag.INIT),
                    found.addressed and not (flags & Flag.LIVE and live == position),
                    found.name if flags & Flag.EXPORTED else None,
                )
            )
        return candidates

    def _labels_of(self, number: int) -> tuple[list[str], list[str]]:
        if number not in self._labels:
            sections, files = (
                part.decode(errors="surrogateescape").split("\n")[:-1]
                for part in self._index.labels(number)
            )
            self._labels[number] = sections, files
        return self._labels[number]


def has_index(path: Path) -> bool:
    """Tell whether a symbols.klp has a whole index beside it that belongs to it."""
    with suppress(KlpError, ValueError):
        _mapped(path)
        return True
    return False


def _mapped(path: Path) -> Index:
    """Map a symbols.klp and its index into memory.

    :raises KlpError: when a file cannot be read.
    :raises ValueError: when the index does not belong to the text.
    """
    text = _map(path)
    return Index(_map(index_path(path)), text)


def _map(path: Path) -> Buffer:
    """Map a file into memory.

    :raises KlpError: when it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    except OSError as error:
        raise KlpError(f"cannot be read: {error.strerror}", where=str(path)) from error
    except ValueError as error:  # mmap refuses an empty file
        raise KlpError(
            "is empty",
            where=str(path),
            why=f"The first line of a symbols.klp is {MAGIC.decode()}.",
            hint="Make it again.",
        ) from error


def parse(text: bytes, where: str) -> tuple[list[ObjectSymbols], Numbers]:
    """Read a symbols.klp without its index, as whoever wrote it.

    What follows a blank in a line is left out: some versions of klp-convert write a
    type there.

    :returns: the objects, and where each name begins in the text.
    :raises KlpError: with every line at fault.
    """
    if not text.startswith(MAGIC):
        raise KlpError(
            "is not a symbols.klp",
            where=f"{where}:1",
            why=f"The first line of a symbols.klp is {MAGIC.decode()}.",
        )
    try:
        text.decode()
    except UnicodeDecodeError as error:
        line = text.count(b"\n", 0, error.start) + 1
        raise KlpError("is not UTF-8", where=f"{where}:{line}") from error

    data = np.frombuffer(text, np.uint8)
    starts, lengths = _fields(data)
    is_object = (data.take(starts, mode="clip") == ord("*")) & (lengths > 0)
    is_symbol = ~is_object & (lengths > 0)
    is_object[0] = is_symbol[0] = False
    _check_lines(text, starts, lengths, is_object, is_symbol, where)

    symbols = np.flatnonzero(is_symbol)
    try:
        names = Lines.gather(data, starts[symbols], lengths[symbols])
    except ValueError as error:
        line = text.count(b"\n", 0, text.find(b"\0")) + 1
        raise KlpError(f"is broken: {error}", where=f"{where}:{line}") from error
    rows = np.zeros(len(symbols), ROW)
    rows["hash"], rows["length"], rows["kind"] = names.hashes(), names.lengths, _UNKNOWN
    rows["flags"] = Flag.LIVE
    headings = np.flatnonzero(is_object)
    firsts = np.searchsorted(symbols, headings)
    parts = np.split(rows, firsts)[1:]
    lines = names.cut(np.diff(firsts, append=len(symbols)))
    objects = [
        ObjectSymbols(_heading(text, starts, lengths, line), part, its_names, addressed=False)
        for line, part, its_names in zip(headings.tolist(), parts, lines, strict=True)
    ]
    return objects, starts[symbols]


def _fields(data: Bytes) -> tuple[Numbers, Numbers]:
    """Find where each line begins, and how long it is up to the first blank."""
    ends = np.flatnonzero(data == ord("\n"))
    if data[-1] != ord("\n"):
        ends = np.append(ends, len(data))
    starts = np.concatenate([[0], ends[:-1] + 1])
    blanks = np.flatnonzero((data == ord(" ")) | (data == ord("\t")) | (data == ord("\r")))
    # Backwards, so that the first blank of a line is the one that stays.
    ends[np.searchsorted(ends, blanks[::-1])] = blanks[::-1]
    return starts, ends - starts


def _heading(text: bytes, starts: Numbers, lengths: Numbers, line: int) -> str:
    name = text[starts[line] + 1 : starts[line] + lengths[line]].decode()
    return name.replace("-", "_")


def _check_lines(
    text: bytes,
    starts: Numbers,
    lengths: Numbers,
    is_object: np.ndarray[tuple[int], np.dtype[np.bool_]],
    is_symbol: np.ndarray[tuple[int], np.dtype[np.bool_]],
    where: str,
) -> None:
    problems = Problems()
    headings = np.flatnonzero(is_object)
    before = np.flatnonzero(is_symbol[: headings[0] if len(headings) else None])
    if len(before):
        problems.add(
            "a symbol stands before the first object",
            where=f"{where}:{before[0] + 1}",
            why="A line '*vmlinux' or '*<module>' says whose symbols follow.",
        )
    seen: dict[str, int] = {}
    for line in headings.tolist():
        name = _heading(text, starts, lengths, line)
        if not name:
            problems.add("an object has no name", where=f"{where}:{line + 1}")
        elif name in seen:
            problems.add(
                f"object {name} is listed twice",
                where=f"{where}:{line + 1}",
                why=f"It is listed in line {seen[name] + 1} too, so positions cannot be counted.",
            )
        seen.setdefault(name, line)
    for line in np.flatnonzero(lengths > NUMBER_MAX).tolist():
        problems.add("a name is too long", where=f"{where}:{line + 1}")
    problems.check()
