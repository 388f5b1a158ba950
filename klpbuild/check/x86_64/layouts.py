"""Lay out the tables of x86-64: arch/x86/include/asm in v5.16 and later."""

from __future__ import annotations

from klpbuild.check.entries import COMMON, PAIR, Field, Holds, Layout
from klpbuild.check.meanings import bug_layout
from klpbuild.check.subject import Subject
from klpbuild.elf.reader import Section

_LAYOUTS = COMMON | {
    ".return_sites": Layout(4),
    ".retpoline_sites": Layout(4),
    ".call_sites": Layout(4),
    ".ibt_endbr_seal": Layout(4),
    ".smp_locks": Layout(4),
    ".orc_unwind_ip": Layout(4),
    ".parainstructions": Layout(16, (Field(0, Holds.ADDRESS),), short=6, lengths=(9, 9)),
    ".static_call_sites": Layout(8, PAIR),
}
_ALTERNATIVES, _BUGS, _FAULTS, _JUMPS = (
    ".altinstructions", "__bug_table", "__ex_table", "__jump_table",
)  # fmt: skip
#: Size of struct alt_instr to where its lengths are.
_LENGTHS = {13: (10, 11), 12: (10, 11), 14: (12, 13)}
#: First kernel whose struct bug_entry has a format (HAVE_ARCH_BUG_FORMAT of x86).
_FORMATTED = (6, 19)


def layout(subject: Subject, table: Section) -> Layout | None:
    """Lay out a table of a kernel; without a version each two relocations are an alternative."""
    version, name = subject.version, table.name
    if name == _ALTERNATIVES:
        if version is None:
            size = 2 * table.sh_size // max(len(subject.applied.get(table.index, {})), 1)
            size = size if size in _LENGTHS else 12
        else:
            # v5.13 took the length of the padding out, v6.3 put flags in.
            size = 14 if version >= (6, 3) else 12 if version >= (5, 13) else 13
        return Layout(size, PAIR, lengths=_LENGTHS[size])
    if name == _BUGS:
        return bug_layout(subject, table, None if version is None else version >= _FORMATTED)
    if version is not None and version < (4, 20) and name == _JUMPS:
        return None  # whole addresses until then
    if version is not None and version < (5, 16) and name == _FAULTS:
        return Layout(12, (*PAIR, Field(8)))  # the third one is the handler
    return _LAYOUTS.get(name)
