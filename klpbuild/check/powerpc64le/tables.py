"""Check the tables that powerpc's module_finalize() and traps read: arch/powerpc, v6.12 to v7.3."""

from __future__ import annotations

from klpbuild.check import catalogue
from klpbuild.check.entries import (
    COMMON,
    PAIR,
    Entry,
    Field,
    Holds,
    Layout,
    Target,
    called,
    target_of,
)
from klpbuild.check.instructions import Instruction, word
from klpbuild.check.meanings import (
    bug_layout,
    bugs,
    faults,
    formats,
    jump_or_nop,
    jumps,
    parameters,
)
from klpbuild.check.sites import Faults, Model, Tables
from klpbuild.check.subject import Subject
from klpbuild.elf.constants import SHF
from klpbuild.elf.reader import Section

_NOP = 0x60000000
#: Primary opcodes of tdi and twi: asm/bug.h. gcc's own trap is tw. Those without a condition never
#: trap: io.h has them behind loads.
_TRAPS, _CONDITION = (2, 3), 0x1F << 21
#: struct fixup_entry: mask, value, and four distances from where the entry begins.
_FEATURES = ("__ftr_fixup", "__mmu_ftr_fixup", "__fw_ftr_fixup")
_DISTANCES = (16, 24, 32, 40)
#: Sections of code that replaces other code; they have no flag of code.
_OTHERS = "__ftr_alt_"
#: Tables of places at which instructions are written: do_barrier_nospec_fixups_range().
_BARRIERS = ("__spec_barrier_fixup", "__lwsync_fixup")
_LAYOUTS = COMMON | {
    "__ex_table": Layout(8, PAIR),
    **dict.fromkeys(
        _FEATURES, Layout(48, tuple(Field(at, Holds.FAR_DISTANCE) for at in _DISTANCES))
    ),
    **dict.fromkeys(_BARRIERS, Layout(8, (Field(0, Holds.FAR_DISTANCE),))),
}


def _layout(subject: Subject, table: Section) -> Layout | None:
    if table.name == "__bug_table":
        return bug_layout(subject, table, formatted=False)
    return _LAYOUTS.get(table.name)


def _jumps_to(subject: Subject, target: Target) -> Target | None:
    """Find where b or bl leads: Power ISA, I-form, without the bit AA."""
    code = word(subject.instructions.at(*target.place))
    if code >> 26 != 18 or code & 2:
        return None
    row = subject.applied.get(target.section, {}).get(target.offset)
    if row is not None:
        return target_of(subject, row)
    distance = code & 0x03FFFFFC
    return target.moved(distance - (distance >> 25 << 26))


def _may_fault(found: Instruction) -> bool:
    """Tell loads and stores: prefixed ones, those with an index and caches, all others."""
    return word(found) >> 26 in (1, 31, *range(32, 64))


def _features(tables: Tables, entry: Entry) -> Faults:
    """Check what patch_feature_section_mask() warns of, and that all of it is code."""
    pieces = [t.moved(-at) for t, at in zip(entry.targets, _DISTANCES, strict=True)]
    lengths = []
    for at, (start, end) in ((16, pieces[:2]), (32, pieces[2:])):
        section = tables.subject.elf.sections[start.section]
        code = section.sh_flags & SHF.EXECINSTR or section.name.startswith(_OTHERS)
        inside = 0 <= start.offset <= end.offset <= section.sh_size
        odd = start.offset % 4 or end.offset % 4
        if start.section != end.section or not code or not inside or odd:
            ends = called(tables.subject, end)
            yield catalogue.SITE, at, f"is for {called(tables.subject, start)} to {ends}: no code"
            return
        lengths.append(end.offset - start.offset)
    if lengths[1] > lengths[0]:
        yield catalogue.SITE, 32, f"replaces {lengths[0]} bytes by {lengths[1]}"


def _barriers(tables: Tables, entry: Entry) -> Faults:
    if astray := tables.astray(entry.targets[0]):
        yield catalogue.SITE, 0, astray


MODEL = Model(
    _layout,
    {
        "__bug_table": bugs,
        "__ex_table": lambda tables, entry: faults(tables, entry, _may_fault),
        "__jump_table": lambda tables, entry: jumps(tables, entry, jump_or_nop(_NOP)),
        "__param": parameters,
        "__trace_printk_fmt": formats,
        **dict.fromkeys(_FEATURES, _features),
        **dict.fromkeys(_BARRIERS, _barriers),
    },
    _jumps_to,
    "twi or tdi",
    lambda found: word(found) >> 26 in _TRAPS and bool(word(found) & _CONDITION),
)
