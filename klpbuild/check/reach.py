"""Find which replacements, callbacks, init and exit functions reach code of a livepatch.

The module is laid out as in memory, and every place that leads into it gets its address.
From each function that the kernel enters, addresses are followed: those that instructions
jump to, call, load or use, and those in the data that they lead to.  Code of x86-64 is
disassembled; what that of other machines leads to, relocations and direct branches say.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterator
from functools import cached_property

from klpbuild.check.code import addresses, goes_on
from klpbuild.check.entries import Target
from klpbuild.check.loader import Loader
from klpbuild.check.memory import FIRST, ROOM, TYPES, Loaded, apply_relocations
from klpbuild.check.patched import Patched
from klpbuild.check.subject import Relocation, Subject
from klpbuild.elf.constants import SHF, STT

#: Stands for every address outside of the module.
_ELSEWHERE = 0xFFFFFFFF81000000
#: Sections with pointers to what the kernel enters by itself, whatever is patched.
_ENTERED = re.compile(
    r"\.gnu\.linkonce\.this_module|__param|\.init_array|\.ctors|_{2,3}ksymtab.*"
    r"|__tracepoints_ptrs|_ftrace_events|\.kunit_test_suites"
)
#: ppc64le's code takes addresses from there.
_POINTERS = ".toc"
#: Addresses in an entry of the tables that lead from a place in the code to another one: taken
#: branches of static keys, what follows a fault, replaced code.
_REPLACED = ".altinstructions"
_CONTINUED = {"__jump_table": 3, "__ex_table": 2, _REPLACED: 2}
#: Holds code that the kernel writes over other code (arch/x86/kernel/alternative.c), in which
#: each entry of ``.altinstructions`` has its own bytes.
_WRITTEN_OVER = ".altinstr_replacement"
#: Code of x86-64 counts a 32-bit field at the end of an instruction from behind it.
_FIELD = 4


class Reach:
    """Reachability of each place of a module from its replacements and callbacks."""

    def __init__(
        self, subject: Subject, patched: tuple[Patched, ...], loader: Loader | None = None
    ) -> None:
        """Lay out the module, and relocate it if it is x86-64's.

        :param loader: the model of another machine.
        :raises KlpError: when relocations or symbols are broken.
        """
        self._subject = subject
        self._elf = elf = subject.elf
        self._patched = patched
        #: What is added to an addend, by the types that the kernel applies.
        self._ahead = dict.fromkeys(TYPES, 0)
        if loader is not None:
            self._ahead = {number: kind.ahead for number, kind in loader.kinds.items()}
        self._module = Loaded("", elf, FIRST)
        for section in elf.relocation_sections:
            if section.sh_info in self._module.contents:
                rows = elf.relocations(section)
                apply_relocations(self._module, section.sh_info, rows, self._address)
        self._branches = self._led(loader) if loader else {}

    def users(self, section: int, offset: int) -> dict[str, str]:
        """Find the objects with which a place is used, each with a function that leads there.

        The empty name stands for the module itself: init, exit and parameters.
        """
        return self._reached.get(self._start(self._module.addresses[section] + offset), {})

    def name(self, section: int, offset: int) -> str:
        """Name the function or variable at a place; empty when it has no name."""
        return self._names.get(self._start(self._module.addresses[section] + offset), "")

    def _address(self, symbol: int) -> int:
        found = self._elf.symbol(symbol)
        start = self._module.addresses.get(found.st_shndx)
        return _ELSEWHERE if start is None else start + found.st_value

    @cached_property
    def _reached(self) -> dict[int, dict[str, str]]:
        found: dict[int, dict[str, str]] = defaultdict(dict)
        for owner, entered in self._entered():
            name, waiting = self._names.get(entered, ""), [entered]
            while waiting:
                start = self._start(waiting.pop())
                if owner not in found[start]:
                    found[start][owner] = name
                    waiting += self._next(start)
        return found

    def _entered(self) -> Iterator[tuple[str, int]]:
        """List each object, and where the kernel enters code that runs with it."""
        for patched in self._patched:
            for section, offset in patched.entries:
                at = self._module.addresses.get(section, 0) + offset
                yield from ((patched.object, target) for _, target in self._pointers(at, at + 1))
        for index, start in self._module.addresses.items():
            found = self._elf.sections[index]
            if _ENTERED.fullmatch(found.name):
                end = start + found.sh_size
                yield from (("", target) for _, target in self._pointers(start, end))
                yield from (("", at) for at in self._starts if start <= at < end)

    # Functions, variables and what stands between them, known by the address of their beginning.

    @cached_property
    def _names(self) -> dict[int, str]:
        kinds = (STT.FUNC, STT.OBJECT)
        symbols = [s for s in self._elf.symbol_list if s.type in kinds and s.name]
        return {self._address(s.index): s.name for s in symbols}

    @cached_property
    def _starts(self) -> list[int]:
        found, inside = {FIRST}, 0
        for begin, end in sorted(self._extents()):
            if begin >= inside:
                found |= {begin, inside}
            inside = max(inside, end)
        return sorted(found | {inside})

    def _extents(self) -> Iterator[tuple[int, int]]:
        """List where each symbol and section begins and ends."""
        ends = {
            index: start + self._elf.sections[index].sh_size
            for index, start in self._module.addresses.items()
        }
        yield from ((start, start) for start in self._module.addresses.values())
        yield from ((at, at) for at in self._led_to())
        for index, start in self._module.addresses.items():
            if self._elf.sections[index].name == _POINTERS:
                yield from ((at, at + 8) for at in range(start, ends[index], 8))
        for symbol in self._elf.symbol_list:
            if symbol.st_shndx in ends and symbol.type != STT.SECTION:
                start, end = self._address(symbol.index), ends[symbol.st_shndx]
                yield min(start, end), min(start + symbol.st_size, end)

    def _led_to(self) -> Iterator[int]:
        """List the places in code without symbols that code or tables lead to."""
        owned = {s.st_shndx for s in self._elf.symbol_list if s.type != STT.SECTION}
        code = {index for index, _, _ in self._code}
        nameless = [(at, at + len(text), i) for i, at, text in self._code if i not in owned]
        for index in self._module.addresses if nameless else ():
            shift = _FIELD if index in code and not self._branches else 0
            for _, target in self._written(index):
                for start, end, section in nameless:
                    copied = self._elf.sections[section].name == _WRITTEN_OVER
                    # Other tables, as of calls, lead amid what is copied as a whole.
                    begins = not copied or self._elf.sections[index].name == _REPLACED
                    if start <= target + shift < end and begins:
                        yield target + shift

    def _start(self, address: int) -> int:
        return self._starts[max(bisect_right(self._starts, address) - 1, 0)]

    def _end(self, start: int) -> int:
        number = bisect_right(self._starts, start)
        return self._starts[number] if number < len(self._starts) else start

    # References of these pieces.

    def _next(self, start: int) -> Iterator[int]:
        """Find the addresses in the module that a function or variable leads to."""
        end = self._end(start)
        for index, base, code in self._code:
            if base <= start < base + len(code):
                if self._branches:
                    yield from (t for at, t in self._branches[index] if start <= at < end)
                else:
                    yield from self._in_code(bytes(code[start - base : end - base]), start)
                yield from self._going_on.get(start, ())
                nameless = start not in self._names and end < base + len(code)
                if nameless and self._runs_on(index, bytes(code[start - base : end - base])):
                    yield end
        yield from (t for at, t in self._pointers(start, end) if at not in self._tables)

    def _runs_on(self, section: int, code: bytes) -> bool:
        """Tell whether code of which only the beginning is known may run on behind its end."""
        if self._elf.sections[section].name == _WRITTEN_OVER:
            return False
        return bool(self._branches) or goes_on(code)

    def _in_code(self, code: bytes, start: int) -> Iterator[int]:
        for target, indexed in addresses(code, start):
            if FIRST <= target < FIRST + ROOM:
                yield target
                if indexed:  # table[i - 1] has an address before the table
                    yield self._end(self._start(target))

    def _led(self, loader: Loader) -> dict[int, list[tuple[int, int]]]:
        """Places in the code of another machine, and where each leads, by section."""
        found = {index: self._written(index, in_code=True) for index, _, _ in self._code}
        for index, base, _ in self._code:
            for at in self._subject.instructions.of(index):
                led = loader.tables.jumps_to(self._subject, Target(index, at))
                if led is not None and led.section in self._module.addresses:
                    target = self._module.addresses[led.section] + led.offset
                    found[index].append((base + at, target))
        return found

    @cached_property
    def _code(self) -> list[tuple[int, int, bytearray]]:
        placed = self._module.addresses.items()
        executable = {i for i, _ in placed if self._elf.sections[i].sh_flags & SHF.EXECINSTR}
        return [(i, start, self._module.contents[i]) for i, start in placed if i in executable]

    @cached_property
    def _tables(self) -> set[int]:
        """Addresses of the tables' pointers to what the kernel enters."""
        places = {place for patched in self._patched for place in patched.entries}
        for index in self._module.addresses:
            if _ENTERED.fullmatch(self._elf.sections[index].name):
                places |= {(index, row.offset) for row in self._relocated[index]}
        return {self._module.addresses.get(section, 0) + offset for section, offset in places}

    def _pointers(self, first: int, end: int) -> list[tuple[int, int]]:
        """List the pointers in data from one address to another: place and target."""
        return self._data[bisect_left(self._data, (first,)) : bisect_left(self._data, (end,))]

    @cached_property
    def _data(self) -> list[tuple[int, int]]:
        places = self._module.addresses.items()
        code = {index for index, _ in places if self._elf.sections[index].sh_flags & SHF.EXECINSTR}
        found = [pair for index, _ in places if index not in code for pair in self._written(index)]
        return [(at, target) for at, target in sorted(found) if FIRST <= target < FIRST + ROOM]

    def _written(self, index: int, *, in_code: bool = False) -> list[tuple[int, int]]:
        """List what relocations write into a section: place, and the address that is meant.

        :param in_code: leaves out data without a name: code may add to the address of a section
            what leads to any variable of it (section anchors).
        """
        start, ahead = self._module.addresses[index], self._ahead
        in_code |= self._elf.sections[index].name == _POINTERS
        return sorted(
            (start + row.offset, self._address(row.symbol) + row.addend + ahead[row.kind])
            for row in self._relocated[index]
            if row.kind in ahead and not (in_code and self._is_anchor(row.symbol))
        )

    def _is_anchor(self, index: int) -> bool:
        symbol = self._elf.symbol(index)
        if not symbol.is_defined or symbol.type in (STT.OBJECT, STT.FUNC):
            return False
        section = self._elf.sections[symbol.st_shndx]
        return not section.sh_flags & SHF.EXECINSTR and section.name != _POINTERS

    @cached_property
    def _relocated(self) -> dict[int, list[Relocation]]:
        """The relocations of each section."""
        found: dict[int, list[Relocation]] = defaultdict(list)
        for section in self._elf.relocation_sections:
            rows = self._elf.relocations(section).tolist()
            found[section.sh_info] += map(Relocation._make, rows)
        return found

    @cached_property
    def _going_on(self) -> dict[int, list[int]]:
        """Continuations of code by the tables, by where it begins: see `_CONTINUED`."""
        found: dict[int, list[int]] = defaultdict(list)
        for index in self._module.addresses:
            count = _CONTINUED.get(self._elf.sections[index].name)
            targets = [target for _, target in self._written(index)] if count else []
            for old, new in zip(targets[::count], targets[1::count], strict=False):
                if FIRST <= new < FIRST + ROOM:
                    found[self._start(old)].append(new)
        return found
