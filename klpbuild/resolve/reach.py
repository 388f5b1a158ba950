"""Find which entries of a linked livepatch reach each place of it (call and data flow).

The kernel enters a livepatch through its tables: a replacement runs with the object whose
function it replaces, a callback with the object that has it.  From there calls, jumps and
addresses lead on, in code and in data.  What the module loader and sysfs enter (init, exit,
parameters) runs with no object.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from klpbuild.arch import by_machine
from klpbuild.elf.constants import SHF, STT
from klpbuild.elf.reader import ElfFile

#: Section index and offset.
Place = tuple[int, int]

#: Sections that the kernel reads by itself: their pointers are entries of the livepatch's own.
_OWN_ENTRIES = re.compile(
    r"\.gnu\.linkonce\.this_module|__param|\.init_array|\.ctors|_{2,3}ksymtab.*"
    r"|__tracepoints_ptrs|_ftrace_events|\.kunit_test_suites"
)
#: Tables whose entries begin with a place in the code and another one where it goes on: behind
#: a static branch, after a fault, in the code that replaces it.  How many relocations one has.
_ALTERNATIVES = ".altinstructions"
_GOING_ON = {"__jump_table": 3, "__ex_table": 2, _ALTERNATIVES: 2}
#: What the kernel copies from here, to each place as much as the place's entry says.
_REPLACEMENTS = ".altinstr_replacement"


@dataclass(frozen=True, order=True)
class Entry:
    """A function of the livepatch that the kernel calls.

    :ivar object: the object with which it runs; empty for the livepatch's own init, exit
        and parameters, which run with none.
    :ivar name: its symbol.
    """

    object: str
    name: str


@dataclass(frozen=True)
class Pointer:
    """A pointer through which the kernel enters the livepatch.

    :ivar place: where the pointer is, in a table.
    :ivar target: where it leads.
    """

    entry: Entry
    place: Place
    target: Place


class Reach:
    """Reachability of each function and variable of a module from its entries."""

    def __init__(self, elf: ElfFile, pointers: Sequence[Pointer]) -> None:
        """Note the module; nothing is followed before it is asked for.

        :param elf: a linked module, converted or not.
        :param pointers: what its tables say; they are followed for their objects alone.
        """
        self._elf = elf
        self._code = by_machine(elf.e_machine, elf.name).instructions
        self._pointers = pointers
        self._cut = {pointer.place for pointer in pointers}
        self._edges: dict[Place, list[Place]] = {}

    @property
    def traced(self) -> bool:
        """Whether the instructions of the module's machine can be followed."""
        return self._code is not None

    def entries(self, section: int, offset: int) -> tuple[Entry, ...]:
        """List the entries that reach a place, one for each object, sorted; none for dead code.

        :raises KlpError: when relocations are broken.
        """
        return self._reached.get(self._piece(section, offset), ())

    def name(self, section: int, offset: int) -> str:
        """Name the function or variable at a place; empty when it has none."""
        return self._names.get(self._piece(section, offset), "")

    @cached_property
    def _reached(self) -> dict[Place, tuple[Entry, ...]]:
        found: dict[Place, dict[str, Entry]] = {}
        tables = ((pointer.entry, pointer.target) for pointer in self._pointers)
        for entry, target in (*tables, *self._entered_by_itself()):
            waiting = [self._piece(*target)]
            while waiting:
                piece = waiting.pop()
                known = found.setdefault(piece, {})
                if entry.object not in known:
                    known[entry.object] = entry
                    waiting += self._followed(piece)
        return {piece: tuple(sorted(known.values())) for piece, known in found.items()}

    def _entered_by_itself(self) -> Iterator[tuple[Entry, Place]]:
        for section in self._elf.sections:
            if section.index not in self._bounds or not _OWN_ENTRIES.fullmatch(section.name):
                continue
            rows = self._records.get(section.index, ())
            targets = [target for row in rows for target in self._referred(row, 0)]
            starts = [(section.index, start) for start in self._bounds[section.index]]
            for target in (*targets, *starts):
                yield Entry("", self.name(*target) or section.name), target

    # Pieces: functions, variables and what stands between them, known by where they begin.

    @cached_property
    def _bounds(self) -> dict[int, list[int]]:
        """Where the functions and variables of each section that is in memory begin."""
        elf, symbols = self._elf, self._elf.symbols
        kinds = symbols["st_info"] & 0xF
        found = {}
        for section in elf.sections:
            if not section.sh_flags & SHF.ALLOC:
                continue
            here = (symbols["st_shndx"] == section.index) & (kinds != STT.SECTION)
            starts = symbols["st_value"][here].astype(np.int64)
            ends = starts + symbols["st_size"][here].astype(np.int64)
            order = np.lexsort((ends, starts))
            starts, ends = starts[order], ends[order]
            # What lies in another symbol is a part of it.
            before = np.maximum.accumulate(np.concatenate([[0], ends]))[:-1]
            outer = starts >= before
            last = np.maximum.accumulate(ends) if len(ends) else ends
            closed = last[np.flatnonzero(np.append(outer[1:], True))] if len(ends) else ends
            found[section.index] = sorted({0, *starts[outer].tolist(), *closed.tolist()})
        self._cut_nameless(found)
        return found

    def _cut_nameless(self, bounds: dict[int, list[int]]) -> None:
        """Begin a piece wherever tables and code lead into code that has no symbols.

        Replacements and the code of ``.altinstr_aux`` are of many functions.
        """
        elf = self._elf
        executable = {i for i in bounds if elf.sections[i].sh_flags & SHF.EXECINSTR}
        # A label of assembly may have no size: what begins there is a whole all the same.
        labels = elf.symbols["st_info"] & 0xF != STT.SECTION
        named = set(elf.symbols["st_shndx"][labels].tolist())
        nameless = sorted(executable - named)
        starts: dict[int, set[int]] = {index: {0} for index in nameless}
        for section in elf.relocation_sections if nameless else ():
            in_code = section.sh_info in executable
            if section.sh_info not in bounds:
                continue
            table = elf.relocations(section)
            owners = elf.symbols["st_shndx"][table["r_sym"]]
            for row in table[np.isin(owners, nameless)]:
                symbol = elf.symbol(int(row["r_sym"]))
                copied = elf.sections[symbol.st_shndx].name == _REPLACEMENTS
                # Other tables, as of calls, lead amid what is copied as a whole.
                if copied and elf.sections[section.sh_info].name != _ALTERNATIVES:
                    continue
                counted = in_code and self._code and int(row["r_type"]) in self._code.counted
                behind = self._code.behind if self._code and counted else 0
                starts[symbol.st_shndx].add(symbol.st_value + int(row["r_addend"]) + behind)
        for index, found in starts.items():
            size = elf.sections[index].sh_size
            bounds[index] = sorted(start for start in found if 0 <= start < size)

    def _piece(self, section: int, offset: int) -> Place:
        bounds = self._bounds.get(section, [0])
        return section, bounds[max(bisect_right(bounds, offset) - 1, 0)]

    def _end(self, piece: Place) -> int:
        bounds = self._bounds[piece[0]]
        number = bisect_right(bounds, piece[1])
        size = self._elf.sections[piece[0]].sh_size
        return bounds[number] if number < len(bounds) else size

    @cached_property
    def _names(self) -> dict[Place, str]:
        found: dict[Place, str] = {}
        for symbol in self._elf.symbol_list:
            if symbol.is_defined and symbol.name and symbol.type in (STT.FUNC, STT.OBJECT):
                found.setdefault((symbol.st_shndx, symbol.st_value), symbol.name)
        return found

    # References from a piece.

    @cached_property
    def _records(self) -> dict[int, list[tuple[int, int, int, int]]]:
        """The relocations of each section that is in memory: offset, type, symbol, addend."""
        found: dict[int, list[tuple[int, int, int, int]]] = {}
        for section in self._elf.relocation_sections:
            if section.sh_info in self._bounds:
                table = self._elf.relocations(section)
                columns = (table[f"r_{n}"].tolist() for n in ("offset", "type", "sym", "addend"))
                found.setdefault(section.sh_info, []).extend(zip(*columns, strict=True))
        return {index: sorted(rows) for index, rows in found.items()}

    def _followed(self, piece: Place) -> list[Place]:
        if piece not in self._edges:
            section = self._elf.sections[piece[0]]
            follow = self._from_code if section.sh_flags & SHF.EXECINSTR else self._from_data
            own = _OWN_ENTRIES.fullmatch(section.name)  # its pointers are entries
            targets = () if own else follow(piece)
            pieces = {self._piece(*target) for target in targets}
            self._edges[piece] = [*sorted(pieces), *self._elsewhere.get(piece, ())]
        return self._edges[piece]

    def _rows(self, piece: Place) -> list[tuple[int, int, int, int]]:
        rows = self._records.get(piece[0], [])
        first = bisect_left(rows, (piece[1],))
        return rows[first : bisect_left(rows, (self._end(piece),))]

    def _from_data(self, piece: Place) -> Iterator[Place]:
        for row in self._rows(piece):
            if (piece[0], row[0]) not in self._cut:
                yield from self._referred(row, 0)

    def _from_code(self, piece: Place) -> Iterator[Place]:
        index, start = piece
        end, size = self._end(piece), self._elf.sections[index].sh_size
        is_copied = self._elf.sections[index].name == _REPLACEMENTS
        code = bytes(self._elf.contents(self._elf.sections[index])[start:end])
        rows, instructions = deque(self._rows(piece)), self._code
        assert instructions is not None  # see `traced`
        mnemonic = ""
        for step in instructions.decode(code):
            offset, length, mnemonic, operands = step
            behind = start + offset + length
            resolved = not rows or rows[0][0] >= behind
            while rows and rows[0][0] < behind:
                row = rows.popleft()
                counts = behind - row[0] if instructions.to_end else instructions.behind
                for target in self._referred(row, counts):
                    yield target
                    if instructions.is_beside(row[1], operands, row[0] + 4 == behind):
                        # table[i - 1]: the address may lie before the table.
                        yield target[0], self._end(self._piece(*target))
            if resolved and (target_offset := instructions.aim(step, code)) is not None:
                yield index, start + target_offset
        leaves = mnemonic in instructions.leaves
        if piece not in self._names and end < size and not (leaves or is_copied):
            yield index, end  # code of which only the beginning is known may run on

    def _referred(self, row: tuple[int, int, int, int], behind: int) -> Iterator[Place]:
        """Find the place in the module that a relocation leads to, if it leads to one.

        :param behind: distance from its field to what the processor counts from.
        """
        symbol = self._elf.symbol(row[2])
        if symbol.is_defined and symbol.st_shndx in self._bounds:
            shift = row[3] + (behind if self._code and row[1] in self._code.counted else 0)
            yield symbol.st_shndx, symbol.st_value + (0 if symbol.st_size else shift)

    @cached_property
    def _elsewhere(self) -> dict[Place, list[Place]]:
        """Continuations of code by the module's tables: static branches, faults, alternatives."""
        found: dict[Place, list[Place]] = {}
        for section in self._elf.sections:
            count = _GOING_ON.get(section.name, 0)
            rows = self._records.get(section.index, []) if count else []
            for start, to in zip(rows[::count], rows[1::count], strict=False) if count else ():
                pieces = [self._piece(*t) for row in (start, to) for t in self._referred(row, 0)]
                found.setdefault(pieces[0], []).extend(pieces[1:])
        return found
