"""Read the pointers in a module's data: relocations that write whole addresses in the module."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from klpbuild.arch import by_machine
from klpbuild.check.structmodule import THIS_MODULE
from klpbuild.elf.constants import SHF, SHT, STT
from klpbuild.elf.reader import ElfFile

POINTER = 8
_STRING_MAX = 4096

#: Section index and offset.
Place = tuple[int, int]


def after(place: Place, pointers: int) -> Place:
    """Return the place so many pointers behind another one."""
    return place[0], place[1] + pointers * POINTER


@dataclass(frozen=True)
class Stray:
    """A number or relocation in a table that is none of its fields.

    :ivar what: a number or a kind of relocation.
    :ivar harmless: whether the kernel writes over it without a look.
    """

    place: Place
    what: str
    harmless: bool = False


@dataclass(frozen=True)
class Pointers:
    """The 64-bit pointers in the data of a file that lead into the file."""

    elf: ElfFile

    @cached_property
    def targets(self) -> dict[Place, Place]:
        elf = self.elf
        absolute = by_machine(elf.e_machine, elf.name).absolute_64
        found: dict[Place, Place] = {}
        for section in elf.relocation_sections:
            holder = elf.sections[section.sh_info]
            if not holder.sh_flags & SHF.ALLOC or self.holds_code(holder.index):
                continue
            rows = elf.relocations(section)
            rows = rows[rows["r_type"] == absolute]
            symbols = elf.symbols[rows["r_sym"]]
            inside = (symbols["st_shndx"] > 0) & (symbols["st_shndx"] < len(elf.sections))
            values = symbols["st_value"].astype(np.int64) + rows["r_addend"]
            columns = (rows["r_offset"], symbols["st_shndx"], values)
            for offset, shndx, value in zip(*(c[inside].tolist() for c in columns), strict=True):
                found[holder.index, offset] = (shndx, value)
        return found

    def names_module(self, place: Place) -> bool:
        """Tell whether the pointer at a place is THIS_MODULE."""
        target = self.targets.get(place)
        return target is not None and (
            self.elf.sections[target[0]].name == THIS_MODULE and target[1] == 0
        )

    def is_patch(self, place: Place) -> bool:
        """Tell whether a struct klp_patch begins at a place, to judge by pointers."""
        objects = self.targets.get(after(place, 1)) if self.names_module(place) else None
        return objects is not None and any(self.is_table(f) for f in self.inside(objects))

    @cached_property
    def extents(self) -> dict[Place, int]:
        """The variables of the file: start to size."""
        rows = self.elf.symbols
        rows = rows[(rows["st_info"] & 0xF == STT.OBJECT) & (rows["st_size"] > 0)]
        fields = (rows[name].tolist() for name in ("st_shndx", "st_value", "st_size"))
        return {(section, value): size for section, value, size in zip(*fields, strict=True)}

    @cached_property
    def _functions(self) -> dict[Place, str]:
        rows = self.elf.symbols
        kinds = rows["st_info"] & 0xF
        inside = (rows["st_shndx"] > 0) & (rows["st_shndx"] < len(self.elf.sections))
        found: dict[Place, str] = {}
        for kind in (STT.NOTYPE, STT.FUNC):  # the kernel does not look at types
            for n in np.flatnonzero((kinds == kind) & inside).tolist():
                place = int(rows[n]["st_shndx"]), int(rows[n]["st_value"])
                if self.elf.sections[place[0]].sh_flags & SHF.EXECINSTR:
                    found[place] = self.elf.symbol_name(n)  # a global name comes last
        return found

    def function_at(self, place: Place) -> str:
        """Name the function that begins at a place."""
        return self._functions.get(place, "")

    def inside(self, start: Place) -> list[Place]:
        """List the places of the pointers in the variable that begins at a place."""
        section, offset = start
        end = offset + self.extents.get(start, 0)
        return sorted(p for p in self.targets if p[0] == section and offset <= p[1] < end)

    def strays(
        self,
        start: Place,
        size: int,
        number: int,
        overwritten: Collection[int],
        pointers: Collection[int],
    ) -> Iterator[Stray]:
        """Find what some bytes at a place hold beside whole pointers and known numbers.

        :param number: where a 64-bit number may be, in pointers from the place.
        :param overwritten: offsets of bytes that the kernel does not read before it writes them.
        :param pointers: where pointers may be, in pointers from the place.
        """
        section, offset = start
        data = bytearray(self.elf.contents(self.elf.sections[section])[offset : offset + size])
        data[number * POINTER : (number + 1) * POINTER] = bytes(POINTER)
        wrong = [n for n, byte in enumerate(data) if byte]
        wrong.sort(key=lambda n: n in overwritten)
        for at in wrong[:1]:
            stray = Stray((section, offset + at), f"the number {data[at]:#x}")
            yield replace(stray, harmless=at in overwritten)
        for at, kind in self._partial.get(section, ()):
            if offset <= at < offset + size:
                yield Stray((section, at), f"a relocation of type {kind}")
        places = {after(start, n) for n in pointers}
        for place in self.targets.keys() - places:
            if place[0] == section and offset <= place[1] < offset + size:
                harmless = all(place[1] - offset + n in overwritten for n in range(POINTER))
                yield Stray(place, "an address where none belongs", harmless)

    @cached_property
    def _partial(self) -> dict[int, list[tuple[int, int]]]:
        """Relocations of data that are not whole pointers, by section."""
        found: dict[int, list[tuple[int, int]]] = {}
        machine = by_machine(self.elf.e_machine, self.elf.name)
        for section in self.elf.relocation_sections:
            rows = self.elf.relocations(section)
            rows = rows[(rows["r_type"] != machine.absolute_64) & (rows["r_type"] != machine.none)]
            pairs = zip(rows["r_offset"].tolist(), rows["r_type"].tolist(), strict=True)
            found.setdefault(section.sh_info, []).extend(pairs)
        return found

    def is_code(self, place: Place) -> bool:
        """Tell whether the pointer at a place leads to code."""
        target = self.targets.get(place)
        return target is not None and self.holds_code(target[0])

    @cached_property
    def _with_functions(self) -> frozenset[int]:
        return frozenset(section for section, _ in self._functions)

    def holds_code(self, section: int) -> bool:
        """Tell whether a section has functions: the flag alone makes no code of data."""
        return section in self._with_functions

    def begins_entry(self, place: Place) -> bool:
        """Tell whether a pointer is the first of an entry: a name, or one without any before it."""
        if self.string(place):
            return True
        before = after(place, -1) in self.targets
        return not before and (self.is_table(place) or self.is_code(place))

    def is_table(self, place: Place) -> bool:
        """Tell whether the pointer at a place leads to data that is no text."""
        return place in self.targets and not self.is_code(place) and not self.string(place)

    def string(self, place: Place) -> str:
        """Read the text that the pointer at a place leads to, empty if it leads to none."""
        target = self.targets.get(place)
        if target is None or target[1] < 0:
            return ""
        section = self.elf.sections[target[0]]
        if self.holds_code(section.index) or section.sh_type == SHT.NOBITS:
            return ""
        piece = bytes(self.elf.contents(section)[target[1] : target[1] + _STRING_MAX])
        text, end, _ = piece.partition(b"\0")
        return text.decode() if end and text.isascii() and text.decode().isprintable() else ""

    def number(self, place: Place) -> int:
        """Read the 64-bit number at a place."""
        data = self.elf.contents(self.elf.sections[place[0]])[place[1] : place[1] + POINTER]
        return int.from_bytes(data, "little" if self.elf.order == "<" else "big")

    @cached_property
    def _named(self) -> dict[Place, str]:
        """The functions and variables by their places; where several are, the first one."""
        found: dict[Place, str] = {}
        for symbol in self.elf.symbol_list:
            if symbol.type in (STT.NOTYPE, STT.OBJECT, STT.FUNC) and symbol.is_defined:
                found.setdefault((symbol.st_shndx, symbol.st_value), symbol.name)
        return found

    @cached_property
    def bodies(self) -> dict[int, list[tuple[int, int]]]:
        """Start and end of the functions of each section, in order, by the symbols."""
        rows = self.elf.symbols
        rows = rows[(rows["st_info"] & 0xF == STT.FUNC) & (rows["st_size"] > 0)]
        found: dict[int, set[tuple[int, int]]] = {}
        columns = (rows[name].tolist() for name in ("st_shndx", "st_value", "st_size"))
        for section, start, size in zip(*columns, strict=True):
            found.setdefault(section, set()).add((start, start + size))
        return {section: sorted(ranges) for section, ranges in found.items()}

    def begins_function(self, place: Place) -> bool:
        """Tell whether a function begins at a place, by the symbols that have a size."""
        return self._start_of(place) == place[1]

    def in_function(self, place: Place) -> bool:
        """Tell whether a place is in a function, by the symbols."""
        return self._start_of(place) is not None

    def function_of(self, place: Place) -> str:
        """Name the function that a place is in; empty when none is known."""
        start = self._start_of(place)
        return "" if start is None else self.function_at((place[0], start))

    def _start_of(self, place: Place) -> int | None:
        ranges = self.bodies.get(place[0], [])
        number = bisect_right(ranges, (place[1], 1 << 63)) - 1
        return ranges[number][0] if number >= 0 and place[1] < ranges[number][1] else None

    @cached_property
    def names(self) -> frozenset[str]:
        """The names of its functions."""
        rows = self.elf.symbols
        numbers = np.flatnonzero((rows["st_info"] & 0xF == STT.FUNC) & (rows["st_shndx"] > 0))
        return frozenset(self.elf.symbol_name(n) for n in numbers.tolist())

    def begins_code(self, place: Place) -> bool:
        """Tell whether a function or a label of assembly begins at a place, by the symbols."""
        return place in self._functions

    @cached_property
    def has_locals(self) -> bool:
        """Whether there are symbols of static functions and variables: strip takes them off."""
        info = self.elf.symbols["st_info"]
        return bool(np.isin(info, (STT.FUNC, STT.OBJECT)).any())  # of binding STB_LOCAL, 0

    def name_at(self, place: Place) -> str:
        """Name the function or variable that begins at a place, empty without one."""
        return self._named.get(place, "")

    def variable_at(self, place: Place) -> tuple[int, int]:
        """Return offset and size of the variable that a place is in; no size when there is none."""
        rows = self.elf.symbols
        rows = rows[(rows["st_shndx"] == place[0]) & (rows["st_info"] & 0xF == STT.OBJECT)]
        for start, size in zip(rows["st_value"].tolist(), rows["st_size"].tolist(), strict=True):
            if start <= place[1] < start + size:
                return start, size
        return place[1], 0

    def is_text(self, place: Place, *, is_format: bool = False) -> bool:
        """Tell whether a text begins at a place: printable bytes up to a zero, behind another one.

        A variable may also begin there.

        :param is_format: whether it is one of printk, which may be empty and end its line.
        """
        section = self.elf.sections[place[0]]
        if not place[0] or not section.sh_flags & SHF.ALLOC or self.holds_code(place[0]):
            return False
        data = bytes(self.elf.contents(section))
        if not 0 <= place[1] < len(data):
            return False
        if place[1] and data[place[1] - 1] and place not in self.extents:
            return False
        text, end, _ = data[place[1] :].partition(b"\0")
        if is_format:
            text = text.translate(None, b"\n\t\x01") or b"%"
        return bool(end and text) and text.isascii() and text.decode().isprintable()
