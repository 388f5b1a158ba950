"""Check the ORC tables: where the stack is at each instruction (asm/orc_types.h of x86).

What they say may only change where an instruction moves the stack pointer or saves %rbp, and
must be the same at both ends of a jump.  So an entry that is damaged or missing shows.
"""

from __future__ import annotations

import re
import struct
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import NamedTuple

from klpbuild.check import catalogue
from klpbuild.check.entries import Entry, Layout, Target, entries
from klpbuild.check.instructions import Instruction
from klpbuild.check.sites import Tables
from klpbuild.check.subject import place
from klpbuild.check.x86_64.branches import is_branch
from klpbuild.elf.constants import SHF, SHT
from klpbuild.elf.reader import Section

_STATE = struct.Struct("<hhBB")
_UNDEFINED = 0
#: Bytes between the stack pointer and the frame above where a function begins: its return address.
_AT_ENTRY = 8
_NUMBER = re.compile(r"(?:rsp, )?(-?)(?:0x)?([0-9a-f]+)$")
_LEA = re.compile(r"rsp, \[rsp ([+-]) (?:0x)?([0-9a-f]+)\]$")
_ENDS = ("jmp", "ret", "ud2", "int3", "hlt", "call", "iretq", "ud1")


class State(NamedTuple):
    """An entry of ``.orc_unwind``: how to find the frame above and its %rbp."""

    sp_offset: int
    bp_offset: int
    registers: int
    kind: int

    @property
    def sp_register(self) -> int:
        return self.registers & 0xF

    @property
    def bp(self) -> tuple[int, int]:
        return self.registers >> 4, self.bp_offset


class Registers(NamedTuple):
    """Numbers of registers in ``.orc_unwind``."""

    sp: int
    previous_sp: int


#: ORC_REG_SP and ORC_REG_PREV_SP, in v5.16 to v6.12 and as they were numbered anew before v7.3.
_NUMBERINGS = (Registers(5, 1), Registers(3, 8))


@dataclass
class Unwind:
    """The unwind tables of one module."""

    tables: Tables

    @cached_property
    def _states(self) -> dict[int, tuple[list[int], list[State]]]:
        """Section to the offsets of its entries in order, and their states."""
        subject = self.tables.subject
        places, states = (subject.elf.section(n) for n in (".orc_unwind_ip", ".orc_unwind"))
        if places is None or states is None:
            return {}
        data = bytes(subject.elf.contents(states))
        found: dict[int, list[tuple[int, bool, State]]] = {}
        for entry in entries(subject, places, Layout(4)):
            at = 6 * entry.offset // 4
            if isinstance(entry, Entry) and at + 6 <= len(data):
                state = State(*_STATE.unpack_from(data, at))
                section, offset = entry.targets[0].place
                # orc_sort_cmp() puts what ends a section before what begins one.
                found.setdefault(section, []).append((offset, bool(state.registers), state))
        return {
            section: ([o for o, *_ in rows], [state for *_, state in rows])
            for section, rows in ((s, sorted(r)) for s, r in found.items())
        }

    @cached_property
    def _numbers(self) -> Registers:
        """The numbering that most states at the beginning of functions have.

        Both use a register there that the other one has for none of these.
        """
        entries = Counter(
            state.registers
            for _, states in self._states.values()
            for state in states
            if state.sp_offset == _AT_ENTRY
        )
        return max(_NUMBERINGS, key=lambda numbers: entries[numbers.sp])

    def at(self, section: int, offset: int) -> State | None:
        """Look up the state at an instruction; None when the tables have none."""
        offsets, states = self._states.get(section, ([], []))
        number = bisect_right(offsets, offset) - 1
        return states[number] if number >= 0 else None

    def check(self) -> None:
        """Find where the stated stack changes without a reason."""
        subject = self.tables.subject
        if not self._sizes_fit():
            return
        wanted = SHF.ALLOC | SHF.EXECINSTR
        for section in subject.elf.sections:
            known = section.index in self._states and section.sh_type != SHT.NOBITS
            if section.sh_flags & wanted == wanted and known:
                for offset, what in self._faults(section):
                    subject.find(catalogue.UNWIND, what, place(section, offset))

    def _sizes_fit(self) -> bool:
        """Check the sizes that unwind_module_init() wants."""
        subject = self.tables.subject
        places, states = (subject.elf.section(n) for n in (".orc_unwind_ip", ".orc_unwind"))
        sizes = [section.sh_size if section else 0 for section in (places, states)]
        if states is not None and not (
            states.sh_flags & SHF.ALLOC and states.sh_type != SHT.NOBITS
        ):
            subject.find(catalogue.UNWIND, ".orc_unwind is not loaded")
            return False
        if sizes[0] % 4 or sizes[1] % 6 or sizes[0] // 4 != sizes[1] // 6:
            what = f"has {sizes[0]} bytes of .orc_unwind_ip for {sizes[1]} of .orc_unwind"
            subject.find(catalogue.UNWIND, what)
            return False
        return True

    def _faults(self, section: Section) -> Iterator[tuple[int, str]]:
        if section.name.startswith(_NOT_RUN):
            return
        replaced = self.tables.replaced.get(section.index, [])
        ended = True
        for found, after in pairwise(self.tables.subject.instructions.of(section.index).values()):
            here, there = (self.at(section.index, i.offset) for i in (found, after))
            if self._begins_function(section, found) and not self._is_entry(here):
                yield found.offset, "unwind data do not begin with a function"
            padding = found.name.split()[-1] in _PADDING
            if ended and padding:
                continue
            ended = found.name.split()[-1] in _ENDS
            known = self.tables.subject.pointers.in_function((section.index, found.offset))
            if here is None or not known:
                continue
            span = next((s for s in replaced if s[0] <= found.offset < s[1]), None)
            if span is not None:
                if span[1] == found.end == after.offset and self._changes_over(section, span):
                    yield after.offset, f"unwind data change behind {found}"
                continue
            if not ended and after.offset == found.end and not self._follows(found, here, there):
                yield after.offset, f"unwind data change behind {found}"
            led = self.tables.jumps_to(Target(section.index, found.offset))
            inside = is_branch(found) and found.name != "call" and led is not None and led.section
            if led is not None and inside and self.at(*led.place) != here:
                yield found.offset, f"unwind data change at {found}"

    def _changes_over(self, section: Section, span: tuple[int, int]) -> bool:
        """Tell whether the stack is elsewhere behind code that the kernel may replace.

        Inside, the data are those of all that may stand there, such as ``pushf; pop``; behind it
        they are those that its own instructions lead to (objtool's validate_branch).
        """
        known = self.tables.subject.instructions.of(section.index)
        inside = [known[offset] for offset in range(*span) if offset in known]
        moves = [_moves(each) for each in inside]
        ends = {each.name.split()[-1] for each in inside} & {*_ENDS} - {"call"}
        before, behind = (self.at(section.index, offset) for offset in span)
        if ends or None in moves or before is None or behind is None:
            return False
        moved = sum(move or 0 for move in moves)
        return (behind.sp_register, behind.kind) == (before.sp_register, before.kind) and (
            behind.sp_offset != before.sp_offset + moved
        )

    def _begins_function(self, section: Section, found: Instruction) -> bool:
        """Tell whether a function begins here: labels of assembly have no type, as for objtool."""
        pointers, at = self.tables.subject.pointers, (section.index, found.offset)
        return pointers.begins_function(at) and _COLD not in pointers.function_at(at)

    def _is_entry(self, state: State | None) -> bool:
        at_entry = (_AT_ENTRY, self._numbers.sp)
        return state is not None and (state.sp_offset, state.registers) == at_entry

    def _follows(self, found: Instruction, here: State, there: State | None) -> bool:
        """Tell whether the state behind an instruction can follow from the one before it."""
        sp, previous_sp = self._numbers
        moved = _moves(found)
        if moved is None or there is None:
            return there is not None
        if here.kind != there.kind:
            return False
        if sp not in (here.sp_register, there.sp_register):
            return here == there or moved != 0 or "rbp" in found.operands
        if here.sp_register != there.sp_register:
            return "rbp" in found.operands or "rsp" in found.operands
        if there.sp_offset != here.sp_offset + moved:
            return False
        if found.operands == "rbp" and found.name in ("push", "pop"):
            saved = (previous_sp, -there.sp_offset)
            return there.bp in (here.bp, saved if found.name == "push" else (_UNDEFINED, 0))
        return there.bp == here.bp


#: Parts of functions that the compiler moved away begin in the middle.
_COLD = ".cold"
_PADDING = ("nop", "int3")
#: Code that runs elsewhere, or never in place.
_NOT_RUN = (".altinstr_replacement",)


def _moves(found: Instruction) -> int | None:
    """Compute how many bytes an instruction takes on the stack; None when that is not known."""
    if found.name in ("push", "pushfq"):
        return 8
    if found.name in ("pop", "popfq"):
        return -8
    if found.name in ("add", "sub") and found.operands.startswith("rsp, "):
        number = _NUMBER.match(found.operands)
        if number is None:
            return None
        size = int(number[2], 16) * (-1 if number[1] else 1)
        return size if found.name == "sub" else -size
    if found.name == "lea" and (number := _LEA.match(found.operands)):
        return int(number[2], 16) * (1 if number[1] == "-" else -1)
    written = found.operands.split(",")[0]
    return None if written in ("rsp", "esp") or found.name in ("leave", "enter") else 0
