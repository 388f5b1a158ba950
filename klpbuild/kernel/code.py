"""Decode functions of a shipped vmlinux or module: their calls and loops.

A place is one number: the address in vmlinux, which is negative as a signed one; in a module
the section's index in the high bits and the offset in it in the low ones, and for what another
object defines the negative index of its symbol.  Only x86-64 is known.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Collection, Iterable, Iterator
from functools import cached_property

import numpy as np
import numpy.typing as npt

from klpbuild.arch import by_machine
from klpbuild.elf.constants import ET, SHF, SHN_LORESERVE, SHT, STB, STT
from klpbuild.elf.reader import ElfFile, Section
from klpbuild.kernel.flow import (
    KEPT,
    MOVES,
    NUMBER,
    SCRATCH,
    Body,
    Call,
    Instruction,
    Registers,
    is_branch,
    loops,
    works,
)

_SECTION_SHIFT = 40
#: Prefix of thunks that jump to a register's address (arch/x86/lib/retpoline.S).
_THUNK = "__x86_indirect_thunk_"
#: Functions that end the task.
_EXITS = (
    "__module_put_and_kthread_exit", "complete_and_exit", "do_exit", "do_group_exit",
    "kthread_complete_and_exit", "kthread_exit", "module_put_and_exit",
)  # fmt: skip
#: Others that do not return; the compiler puts nothing behind their calls.
_DEAD_ENDS = ("__fortify_panic", "__stack_chk_fail", "make_task_dead", "panic")

_Numbers = npt.NDArray[np.int64]
_IMMEDIATE = re.compile(r", (-?0x[0-9a-f]+)$")
_RELATIVE = re.compile(r"\[rip ([+-]) (0x[0-9a-f]+)\]$")


class Code:
    """The functions of a binary.

    :ivar is_linked: whether it is vmlinux, not a module.
    """

    def __init__(self, elf: ElfFile) -> None:
        """Index the functions; refuse another architecture."""
        self._architecture = by_machine(elf.e_machine, elf.name)
        self._code = self._architecture.decoded(elf.name)
        self._elf = elf
        self.is_linked = elf.e_type != ET.REL
        self._sections = [s for s in elf.sections if s.sh_flags & SHF.EXECINSTR]
        self._bodies: dict[int, Body] = {}

    def place(self, section: str, offset: int) -> int:
        """Return the place of an address in vmlinux, or of an offset in a module's section."""
        if self.is_linked:
            return _signed(offset)
        found = self._elf.section(section)
        return offset + ((found.index if found else 0) << _SECTION_SHIFT)

    @cached_property
    def _places(self) -> _Numbers:
        """The place of every symbol, by index."""
        rows = self._elf.symbols
        sections = rows["st_shndx"].astype(np.int64)
        values = rows["st_value"].astype(np.int64)
        if not self.is_linked:
            values = values + (sections << _SECTION_SHIFT)
        indexes = np.arange(len(rows), dtype=np.int64)
        return np.where(sections == 0, -indexes, values)

    @cached_property
    def _functions(self) -> tuple[_Numbers, _Numbers]:
        """The starts of functions, ascending, and the indexes of their symbols."""
        rows = self._elf.symbols
        known = (rows["st_info"] & 0xF == STT.FUNC) & (rows["st_size"] > 0)
        known &= (rows["st_shndx"] != 0) & (rows["st_shndx"] < SHN_LORESERVE)
        indexes = np.flatnonzero(known)
        places, first = np.unique(self._places[indexes], return_index=True)
        return places, indexes[first]

    @property
    def functions(self) -> list[int]:
        """The starts of its functions, ascending."""
        found: list[int] = self._functions[0].tolist()
        return found

    def named(self, names: Iterable[str]) -> frozenset[int]:
        """Find the places of symbols by their names, here or in other objects."""
        return frozenset(self._places[self._elf.symbols_named(*names)].tolist())

    def name(self, place: int) -> str:
        """Name the function that starts at a place; empty when there is none."""
        index = self._index(place)
        if index is None and place < 0 and not self.is_linked:
            index = -place
        return "" if index is None else self._elf.symbol_name(index)

    def defines(self, place: int) -> bool:
        """Tell whether a function of this binary starts at a place."""
        return self._index(place) is not None

    def _index(self, place: int) -> int | None:
        """Find the symbol of the function that starts at a place."""
        places, indexes = self._functions
        at = int(np.searchsorted(places, place))
        return int(indexes[at]) if at < len(places) and places[at] == place else None

    def is_local(self, place: int) -> bool:
        """Tell whether only its own source file can call a function by its name."""
        at = int(np.searchsorted(self._locals, place))
        return at < len(self._locals) and bool(self._locals[at] == place)

    @cached_property
    def _locals(self) -> _Numbers:
        """The starts of functions without a global name, ascending."""
        is_global = self._elf.symbols["st_info"] >> 4 != STB.LOCAL
        return np.setdiff1d(self._functions[0], self._places[is_global])

    def is_exported(self, place: int) -> bool:
        """Tell whether modules can call a function by its name."""
        return bool(self.named([f"__ksymtab_{self.name(place)}"]))

    def _holding(self, sites: _Numbers) -> _Numbers:
        """Find the functions that contain places, by their starts; -1 for none."""
        places, indexes = self._functions
        if not len(places):
            return np.full(len(sites), -1)
        at = np.searchsorted(places, sites, side="right") - 1
        sizes = self._elf.symbols["st_size"][indexes[at]].astype(np.int64)
        return np.where((at >= 0) & (sites < places[at] + sizes), places[at], -1)

    def callers(self, targets: Collection[int]) -> frozenset[int]:
        """Find the functions that call one of these by name, or jump there."""
        called, sites = self._branches
        found = sites[np.isin(called, np.array(sorted(targets), dtype=np.int64))]
        holding = frozenset(self._holding(found).tolist()) - {-1}
        wanted = frozenset(targets)
        return frozenset(h for h in holding if not wanted.isdisjoint(self.body(h).targets))

    @cached_property
    def _branches(self) -> tuple[_Numbers, _Numbers]:
        """Calls and jumps that may lead to functions: target and place of each."""
        called, sites = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
        for section in self._sections:
            start = _signed(section.sh_addr)
            if not self.is_linked:
                start = section.index << _SECTION_SHIFT
            _, rows = self._relocations(section.index)
            rows = rows[np.isin(rows["r_type"], list(self._code.counted))]
            offsets: _Numbers = rows["r_offset"].astype(np.int64)
            targets = self._places[rows["r_sym"]]
            inside = targets + rows["r_addend"].astype(np.int64) + 4
            called.append(np.where(targets < 0, targets, inside))
            sites.append(offsets + start)
            ends, targets = _branches(self._elf.contents(section))
            known = np.isin(targets + start, self._functions[0]) & ~np.isin(ends - 4, offsets)
            called.append(targets[known] + start)
            sites.append(ends[known] - 1 + start)
        return np.concatenate(called), np.concatenate(sites)

    def is_work(self, place: int) -> bool:
        """Tell whether a function is that of a work item, by the code and data that name it."""
        named: list[_Numbers] = []
        for section in self._elf.sections:
            if not section.sh_flags & SHF.ALLOC or section.sh_type == SHT.NOBITS:
                continue
            is_code = bool(section.sh_flags & SHF.EXECINSTR)
            sites = self._naming(section, place, 4 if is_code else 8)
            if not is_code and any(self._is_item(section, int(site)) for site in sites):
                return True
            start = _signed(section.sh_addr) if self.is_linked else section.index << _SECTION_SHIFT
            named += [sites + start] if is_code else []
        holding = self._holding(np.concatenate(named)).tolist() if named else []
        return any(place in self.body(each).works for each in {*holding} - {-1})

    def _naming(self, section: Section, place: int, size: int) -> _Numbers:
        """Find the offsets in a section at which the address of a function stands."""
        if self.is_linked:
            wanted = (place % (1 << 8 * size)).to_bytes(size, "little")
            data = self._elf.contents(section)
            found = [match.start() for match in re.finditer(re.escape(wanted), data)]
            return np.array(found, dtype=np.int64)
        _, rows = self._relocations(section.index)
        aims = self._places[rows["r_sym"]] + rows["r_addend"].astype(np.int64)
        offsets: _Numbers = rows["r_offset"][aims == place].astype(np.int64)
        return offsets

    def _is_item(self, section: Section, at: int) -> bool:
        """Tell whether a pointer is the function of a static work item, whose list is empty.

        DECLARE_WORK() of include/linux/workqueue.h.
        """
        start = _signed(section.sh_addr) if self.is_linked else section.index << _SECTION_SHIFT
        return all(at - 8 * n in self._naming(section, start + at - 16, 8).tolist() for n in (1, 2))

    def _relocations(self, section: int) -> tuple[list[int], npt.NDArray[np.void]]:
        """Read offsets, ascending, and records; none for vmlinux, where they are applied."""
        if section not in self._sorted:
            holders = [
                s
                for s in self._elf.relocation_sections
                if s.sh_info == section and not self.is_linked
            ]
            tables = [self._elf.relocations(holder) for holder in holders]
            empty = np.zeros(0, [(n, "<u8") for n in ("r_offset", "r_type", "r_sym", "r_addend")])
            rows = np.concatenate(tables) if tables else empty
            rows = rows[np.argsort(rows["r_offset"], kind="stable")]
            self._sorted[section] = (rows["r_offset"].tolist(), rows)
        return self._sorted[section]

    @cached_property
    def _sorted(self) -> dict[int, tuple[list[int], npt.NDArray[np.void]]]:
        return {}

    # -- one function

    def body(self, place: int) -> Body:
        """Decode the function that starts at a place; empty when there is none."""
        if place not in self._bodies:
            found = list(self._instructions(place))
            calls = tuple(self._calls(found))
            again = tuple(loops(found, self._dead_ends))
            taken = frozenset(i.address for i in found if i.address is not None)
            given = self._returns(found), again, works(found)
            self._bodies[place] = Body(calls, taken, *given)
        return self._bodies[place]

    def _bytes(self, place: int) -> bytes:
        index = self._index(place)
        if index is None:
            return b""
        row = self._elf.symbols[index]
        section = self._elf.sections[int(row["st_shndx"])]
        start = int(row["st_value"]) - (section.sh_addr if self.is_linked else 0)
        return bytes(self._elf.contents(section)[start : start + int(row["st_size"])])

    def _instructions(self, place: int) -> Iterator[Instruction]:
        for offset, size, mnemonic, operands in self._code.decode(self._bytes(place)):
            at = place + offset
            named = self._relocated(at, size)
            target = address = None
            if NUMBER.fullmatch(operands) and is_branch(mnemonic):
                moved = int(operands, 16)
                if named is None and moved == offset + size:
                    continue  # an entry call of a module, which ftrace fills
                target = named if named is not None else place + _signed(moved)
            elif mnemonic == "lea" or (mnemonic in MOVES and "[" not in operands.split(", ")[-1]):
                address = named if not self.is_linked else self._loaded(at + size, operands)
                if address is not None and not self.name(address):
                    address = None
            yield Instruction(at, mnemonic.split()[-1], operands, target, address)

    def _loaded(self, end: int, operands: str) -> int | None:
        """Parse the address that an instruction of vmlinux loads."""
        if match := _IMMEDIATE.search(operands):
            return _signed(int(match[1], 16))
        if match := _RELATIVE.search(operands):
            return end + int(match[1] + match[2], 16)
        return None

    def _relocated(self, place: int, size: int) -> int | None:
        """Find where the relocated field of a module's instruction leads."""
        if self.is_linked:
            return None
        section, start = place >> _SECTION_SHIFT, place & ((1 << _SECTION_SHIFT) - 1)
        offsets, rows = self._relocations(section)
        for number in range(bisect_left(offsets, start), bisect_left(offsets, start + size)):
            offset, kind, symbol, addend = rows[number].tolist()
            target = int(self._places[symbol])
            if kind == self._architecture.none:
                continue
            if target < 0:
                return target
            relative = kind in self._code.counted
            return target + int(addend) + (start + size - offset if relative else 0)
        return None

    def _calls(self, code: list[Instruction]) -> Iterator[Call]:
        """Track arguments through the registers, from the first instruction to the last."""
        ends = (code[0].offset, code[-1].offset) if code else (0, 0)
        registers = Registers()
        for number, each in enumerate(code):
            target = each.target
            away = target is not None and not ends[0] <= target <= ends[1]
            if each.mnemonic == "call" or (away and is_branch(each.mnemonic)):
                pointer = each.operands if target is None else self._thunks.get(target, "")
                if pointer:
                    target = None
                of_argument = registers.is_field(pointer)
                yield Call(number, target, registers.given(), registers.third, of_argument)
            if target not in self._entry_calls:  # these keep all registers
                registers.follow(each)

    def _returns(self, code: list[Instruction]) -> bool:
        inside = {each.offset for each in code}
        away = {i.target for i in code if i.mnemonic == "jmp" and i.target not in inside}
        cold = {t for t in away if t is not None and self.name(t).endswith(".cold")}
        exits = self._exits & {each.target for each in code}
        rets = any(each.mnemonic.startswith(("ret", "iret")) for each in code)
        return rets or bool(away - cold) or bool(exits)

    @cached_property
    def _entry_calls(self) -> frozenset[int]:
        return self.named([self._architecture.entry_symbol])

    @cached_property
    def _thunks(self) -> dict[int, str]:
        """The register whose pointer each retpoline thunk follows."""
        return {place: name for name in SCRATCH + KEPT for place in self.named([_THUNK + name])}

    @cached_property
    def _exits(self) -> frozenset[int]:
        return self.named(_EXITS)

    @cached_property
    def _dead_ends(self) -> frozenset[int]:
        return self._exits | self.named(_DEAD_ENDS)


def _signed(value: int) -> int:
    """Convert a 64-bit number to a signed one."""
    return value - (value >> 63 << 64)


def _branches(code: memoryview) -> tuple[_Numbers, _Numbers]:
    """Find all that looks like a direct call or jump: where each ends, and where it leads."""
    data = np.frombuffer(bytes(code) + bytes(4), np.uint8)
    first, second = data[:-5], data[1:-4]
    near = np.flatnonzero((first == 0xE8) | (first == 0xE9)) + 1
    conditional = np.flatnonzero((first == 0x0F) & (second & 0xF0 == 0x80)) + 2
    fields = np.concatenate((near, conditional))
    moves = np.zeros(len(fields), np.int64)
    for byte in range(4):
        moves |= data[fields + byte].astype(np.int64) << 8 * byte
    moves = np.where(moves >= 1 << 31, moves - (1 << 32), moves)
    short = np.flatnonzero((first == 0xEB) | (first & 0xF0 == 0x70)) + 1
    ends = np.concatenate((fields + 4, short + 1))
    return ends, ends + np.concatenate((moves, data[short].astype(np.int8)))
