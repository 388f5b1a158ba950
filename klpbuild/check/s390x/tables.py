"""Check the tables that s390 reads as it loads a module and at traps: arch/s390/kernel, to v7.3."""

from __future__ import annotations

import re

from klpbuild.check import catalogue
from klpbuild.check.entries import COMMON, PAIR, Entry, Layout, Target, called, target_of
from klpbuild.check.meanings import (
    bug_layout,
    bugs,
    check_pieces,
    faults,
    formats,
    jumps,
    parameters,
    site,
)
from klpbuild.check.sites import Faults, Model, Tables
from klpbuild.check.subject import Subject
from klpbuild.elf.reader import Section

#: mc 0,0: asm/bug.h.
_MONITOR_CALL = "af000000"
#: brcl 0,target and brcl 15,target: jump_label_make_nop(), jump_label_make_branch().
_NOP, _JUMP = b"\xc0\x04", b"\xc0\xf4"
_THUNK = "__s390_indirect_jump_r"
_EXPOLINES = (
    ".s390_indirect_branches", ".s390_indirect_call", ".s390_indirect_jump", ".s390_return_mem",
    ".s390_return_reg",
)  # fmt: skip
#: EX_TYPE_FIXUP to EX_TYPE_FPC of asm/asm-extable.h; newer kernels have some more.
_FIXUPS = range(1, 16)
#: ALT_CTX_ALL, and the types that __apply_alternatives() knows (v6.12), with room for more.
_CONTEXTS, _TYPES_MAX = range(1, 4), 7


def _layout(subject: Subject, table: Section) -> Layout | None:
    """Lay out a table; the length of alternatives follows from their relocations."""
    rows = len(subject.applied.get(table.index, {})) or 1
    if table.name == ".altinstructions":
        # One with a length of the replacement (12), of the code alone (11), with a context (13).
        size = max(11, min(2 * table.sh_size // rows, 13))
        return Layout(size, PAIR, lengths=(10, 10 + (size == 12)) if size < 13 else (12, 12))
    if table.name == "__bug_table":
        return bug_layout(subject, table)
    return Layout(4) if table.name in _EXPOLINES else COMMON.get(table.name)


def _jumps_to(subject: Subject, target: Target) -> Target | None:
    """Find where brcl or brasl leads, whatever its mask."""
    found = subject.instructions.at(*target.place)
    if found is None or not re.match("c0.[45]", found.operands):
        return None
    row = subject.applied.get(target.section, {}).get(found.offset + 2)
    if row is not None:
        return target_of(subject, row).moved(-2)
    distance = int.from_bytes(bytes.fromhex(found.operands[4:]), "big", signed=True)
    return target.moved(2 * distance)


def _alternatives(tables: Tables, entry: Entry) -> Faults:
    lengths = entry.data[10:12] if len(entry.data) == 12 else entry.data[-1:] * 2
    yield from check_pieces(tables, entry, (lengths[0], lengths[1]))
    if not lengths[0] or lengths[0] % 2 or lengths[1] > lengths[0]:
        yield catalogue.SITE, 10, f"replaces {lengths[0]} bytes by {lengths[1]}"
    feature = entry.number(8, 4)
    known = feature >> 28 in _CONTEXTS and feature >> 20 & 0xFF <= _TYPES_MAX
    if len(entry.data) == 13 and not known:
        yield catalogue.SITE, 8, f"is for the feature {feature:#x}, which is none"


def _faults(tables: Tables, entry: Entry) -> Faults:
    """Check entries of exceptions: fixup_exception() panics where a type is none.

    Where an instruction is completed before the interruption, the next one's address is saved.
    """
    yield from faults(tables, entry, lambda found: True)
    if entry.number(8, 2) not in _FIXUPS:
        yield catalogue.SITE, 8, f"has the type {entry.number(8, 2)}, which is none"


def _led(tables: Tables, entry: Entry) -> tuple[bool, Target | None] | None:
    """Read a jump label, which leads to its target as a nop, too: jump_label_bug() panics."""
    shown = tables.code(entry.targets[0])
    if shown[:2] not in (_NOP, _JUMP):
        return None
    return shown[:2] == _JUMP, tables.jumps_to(entry.targets[0])


def _jump_labels(tables: Tables, entry: Entry) -> Faults:
    yield from jumps(tables, entry, _led)


def _expolines(tables: Tables, entry: Entry) -> Faults:
    """Check a branch to a thunk: __nospec_revert() passes over another one."""
    code = entry.targets[0]
    led = tables.jumps_to(code)
    yield from site(tables, code, lambda _: led is not None, "which is no brcl or brasl")
    if led is not None and not tables.name_of(led).startswith(_THUNK):
        what = f"leads to {called(tables.subject, code)}, which does not branch to {_THUNK}*"
        yield catalogue.NO_EFFECT, 0, what


MODEL = Model(
    _layout,
    {
        ".altinstructions": _alternatives,
        "__bug_table": bugs,
        "__ex_table": _faults,
        "__jump_table": _jump_labels,
        "__param": parameters,
        "__trace_printk_fmt": formats,
        **dict.fromkeys(_EXPOLINES, _expolines),
    },
    _jumps_to,
    "mc",
    lambda found: found.operands == _MONITOR_CALL,
)
