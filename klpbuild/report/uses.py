"""Find which function and variable of a livepatch uses what, in its finished file."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from klpbuild.check.code import disassemble
from klpbuild.check.memory import Code
from klpbuild.check.subject import is_livepatch_section
from klpbuild.elf.constants import EM, SHF, SHN_LIVEPATCH, SHN_UNDEF, STT
from klpbuild.elf.reader import ElfFile
from klpbuild.names import LivepatchSection, LivepatchSymbol
from klpbuild.reach import reached

#: Relocations of x86-64 that count from the end of their field or instruction.
_RELATIVE = frozenset({2, 4, 9, 41, 42})  # PC32, PLT32, GOTPCREL, GOTPCRELX, REX_GOTPCRELX
#: Sections whose code klpbuild or the kernel's build makes for the module itself.
_PLUMBING = (".init", ".exit", ".gnu.linkonce.this_module")
_PADDING = ("__pfx_", "__cfi_")

Place = tuple[int, int]


@dataclass(frozen=True)
class Own:
    """A function or variable of the livepatch.

    :ivar name: its symbol; the one that the tables name where it has several.
    :ivar place: index of its section, and its offset there.
    :ivar size: in bytes.
    """

    name: str
    place: Place
    size: int
    is_function: bool


@dataclass(frozen=True, order=True)
class External:
    """A symbol of another object.

    :ivar owner: the object; empty for an ordinary reference.
    :ivar sympos: its position; 0 for an ordinary reference.
    :ivar gate: the object whose loading applies the relocations; empty for an ordinary one.
    """

    symbol: str
    owner: str = ""
    sympos: int = 0
    gate: str = ""


@dataclass(frozen=True)
class Use:
    """A use: an own function or variable refers to something, so many times."""

    user: Own
    used: Own | External
    count: int


class Uses:
    """The references within a module and out of it."""

    def __init__(self, elf: ElfFile, prefer: frozenset[str] = frozenset()) -> None:
        """Note the module.

        :param prefer: the names of symbols to take where several are at one place.
        """
        self.elf = elf
        self.prefer = prefer

    @cached_property
    def own(self) -> tuple[Own, ...]:
        """The module's functions and variables, in the order of its sections, no plumbing."""
        found: dict[Place, Own] = {}
        for symbol in self.elf.symbol_list:
            known = symbol.type in (STT.FUNC, STT.OBJECT) and symbol.is_defined
            if not known or symbol.name.startswith(_PADDING):
                continue
            section = self.elf.sections[symbol.st_shndx]
            if not section.sh_flags & SHF.ALLOC or section.name.startswith(_PLUMBING):
                continue
            place = (symbol.st_shndx, symbol.st_value)
            if place not in found or symbol.name in self.prefer:
                size, is_function = symbol.st_size, symbol.type == STT.FUNC
                found[place] = Own(symbol.name, place, size, is_function)
        return tuple(found[place] for place in sorted(found))

    @cached_property
    def by_name(self) -> dict[str, Own]:
        """The functions and variables of the module, by name."""
        return {own.name: own for own in self.own}

    @cached_property
    def _starts(self) -> list[Place]:
        return [own.place for own in self.own]

    def at(self, section: int, offset: int) -> Own | None:
        """Find the function or variable at a place."""
        number = bisect_right(self._starts, (section, offset)) - 1
        if number < 0:
            return None
        own = self.own[number]
        start = own.place[1]
        inside = own.place[0] == section and start <= offset < max(start + own.size, start + 1)
        return own if inside else None

    @cached_property
    def all(self) -> tuple[Use, ...]:
        """Every use, each pair once."""
        found: Counter[tuple[Own, Own | External]] = Counter()
        for user, used in (*self._relocated(), *self._resolved()):
            if user != used:
                found[user, used] += 1
        return tuple(Use(user, used, count) for (user, used), count in found.items())

    def reached(self) -> tuple[Use, ...]:
        """Select the uses by functions, and by what they reach; not those by the tables."""
        by_user: dict[Own, list[Own]] = defaultdict(list)
        for use in self.all:
            if isinstance(use.used, Own):
                by_user[use.user].append(use.used)
        users = reached((own for own in self.own if own.is_function), by_user.__getitem__)
        return tuple(use for use in self.all if use.user in users)

    def _relocated(self) -> Iterator[tuple[Own, Own | External]]:
        for section in self.elf.relocation_sections:
            if section.sh_info >= len(self.elf.sections):
                continue
            target = self.elf.sections[section.sh_info]
            if not target.sh_flags & SHF.ALLOC:
                continue
            parsed = LivepatchSection.parse(section.name) if is_livepatch_section(section) else None
            gate = parsed.gate if parsed else ""
            for offset, kind, index, addend in self.elf.relocations(section).tolist():
                user = self.at(target.index, offset)
                if user is None:
                    continue
                shift = addend
                if self.elf.e_machine == EM.X86_64 and kind in _RELATIVE:
                    shift += self._end(user, offset) - offset
                used = self._used(index, shift, gate)
                if used is not None:
                    yield user, used

    def _used(self, index: int, shift: int, gate: str) -> Own | External | None:
        symbol = self.elf.symbol(index)
        if symbol.st_shndx == SHN_LIVEPATCH:
            known = LivepatchSymbol.parse(symbol.name)
            if known is None:
                return External(symbol.name, gate=gate)
            return External(known.symbol, known.owner, known.sympos, gate)
        if symbol.st_shndx == SHN_UNDEF:
            return External(symbol.name) if symbol.name else None
        if not symbol.is_defined:
            return None
        if symbol.type == STT.SECTION:
            return self.at(symbol.st_shndx, symbol.st_value + shift)
        return self.at(symbol.st_shndx, symbol.st_value)

    def _resolved(self) -> Iterator[tuple[Own, Own]]:
        """Find calls and jumps within a section, which the assembler resolved."""
        if self.elf.e_machine != EM.X86_64:
            return
        for own in self.own:
            if not own.is_function:
                continue
            for instruction, end in self._instructions(own):
                begin = own.place[1] + instruction[0]
                target = instruction[1]
                if target is None or self._is_relocated(own.place[0], begin, end):
                    continue
                used = self.at(own.place[0], target)
                if used is not None and used.is_function:
                    yield own, used

    def _instructions(self, own: Own) -> list[tuple[tuple[int, int | None], int]]:
        """Decode a function: offset and target of each instruction, and its end in the section."""
        if own not in self._decoded:
            section = self.elf.sections[own.place[0]]
            start = own.place[1]
            data = bytes(self.elf.contents(section)[start : start + own.size])
            code = Code("", own.name, start, data)
            decoded = [(i.offset, i.target if i.use else None) for i in disassemble(code, hex)]
            ends = [*(start + offset for offset, _ in decoded[1:]), start + own.size]
            self._decoded[own] = list(zip(decoded, ends, strict=False))  # data has no instruction
        return self._decoded[own]

    @cached_property
    def _decoded(self) -> dict[Own, list[tuple[tuple[int, int | None], int]]]:
        return {}

    def _end(self, user: Own, offset: int) -> int:
        """Find the end of the instruction that a field belongs to; of the field in data."""
        if user.is_function and self.elf.sections[user.place[0]].sh_flags & SHF.EXECINSTR:
            ends = [end for _, end in self._instructions(user)]
            number = bisect_right(ends, offset)
            if number < len(ends):
                return ends[number]
        return offset + 4

    def _is_relocated(self, section: int, begin: int, end: int) -> bool:
        places = self._relocated_places.get(section, [])
        return bisect_right(places, end - 1) > bisect_right(places, begin - 1)

    @cached_property
    def _relocated_places(self) -> dict[int, list[int]]:
        found: dict[int, list[int]] = {}
        for section in self.elf.relocation_sections:
            offsets = self.elf.relocations(section)["r_offset"].tolist()
            found.setdefault(section.sh_info, []).extend(offsets)
        return {index: sorted(offsets) for index, offsets in found.items()}
