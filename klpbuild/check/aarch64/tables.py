"""Check the tables that arm64's module_finalize() and traps read: arch/arm64/kernel, v7.3."""

from __future__ import annotations

from klpbuild.check import catalogue
from klpbuild.check.entries import COMMON, PAIR, Entry, Layout, Target, called, target_of
from klpbuild.check.instructions import Instruction, word
from klpbuild.check.meanings import (
    bug_layout,
    bugs,
    check_pieces,
    faults,
    formats,
    jump_or_nop,
    jumps,
    parameters,
)
from klpbuild.check.sites import Faults, Model, Tables
from klpbuild.check.subject import Subject
from klpbuild.elf.reader import Section

#: brk 0x800: BUG_BRK_IMM of asm/brk-imm.h.
_BUG = 0xD4210000
_NOP = 0xD503201F
#: ARM64_CB_BIT: a function changes the code, and there is no replacement.
_CALLBACK = 0x8000
#: EX_TYPE_BPF to EX_TYPE_LOAD_UNALIGNED_ZEROPAD of asm/asm-extable.h, with room for more.
_FIXUPS = range(1, 8)


def _layout(subject: Subject, table: Section) -> Layout | None:
    if table.name == ".altinstructions":
        return Layout(12, PAIR, lengths=(10, 11))
    if table.name == "__bug_table":
        return bug_layout(subject, table, formatted=False)
    return COMMON.get(table.name)


def _jumps_to(subject: Subject, target: Target) -> Target | None:
    """Find where b or bl leads: Arm ARM, C4.1.66, unconditional branch (immediate)."""
    code = word(subject.instructions.at(*target.place))
    if code & 0x7C000000 != 0x14000000:
        return None
    row = subject.applied.get(target.section, {}).get(target.offset)
    if row is not None:
        return target_of(subject, row)
    distance = code & 0x03FFFFFF
    return target.moved(4 * (distance - (distance >> 25 << 26)))


def _may_fault(found: Instruction) -> bool:
    """Tell loads, stores and system instructions (caches): Arm ARM, C4.1."""
    code = word(found)
    return code >> 25 & 0b0101 == 0b0100 or code >> 22 == 0b1101010100


def _alternatives(tables: Tables, entry: Entry) -> Faults:
    """Check what __apply_alternatives() has a BUG_ON() for, and that code is whole."""
    old, by = entry.targets
    length, other = entry.data[10:12]
    if not entry.number(8, 2) & _CALLBACK:
        yield from check_pieces(tables, entry, (length, other))
        if length != other:
            yield catalogue.SITE, 10, f"replaces {length} bytes by {other}"
        return
    yield from check_pieces(tables, Entry(0, (old, old), b"", {}, "little"), (length, length))
    if other:
        yield catalogue.SITE, 11, f"has a function and {other} bytes that replace code"
    if by.section or by.offset:  # refused, since it would be no code of the kernel's
        leads = f"leads to {called(tables.subject, by)}"
        yield catalogue.SITE, 4, f"{leads}, which is no function of the kernel"


def _faults(tables: Tables, entry: Entry) -> Faults:
    """Check entries of exceptions: fixup_exception() has a BUG() where a type is none."""
    yield from faults(tables, entry, _may_fault)
    if entry.number(8, 2) not in _FIXUPS:
        yield catalogue.SITE, 8, f"has the type {entry.number(8, 2)}, which is none"


def _jump_labels(tables: Tables, entry: Entry) -> Faults:
    yield from jumps(tables, entry, jump_or_nop(_NOP))


MODEL = Model(
    _layout,
    {
        ".altinstructions": _alternatives,
        "__bug_table": bugs,
        "__ex_table": _faults,
        "__jump_table": _jump_labels,
        "__param": parameters,
        "__trace_printk_fmt": formats,
    },
    _jumps_to,
    "brk",
    lambda found: word(found) == _BUG,
)
