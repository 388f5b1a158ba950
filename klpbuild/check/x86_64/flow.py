"""Find unreachable code, which tells that a table's entry that led there is missing."""

from __future__ import annotations

from klpbuild.check import catalogue
from klpbuild.check.entries import Target, target_of
from klpbuild.check.sites import Tables
from klpbuild.check.subject import place
from klpbuild.check.x86_64.branches import is_branch
from klpbuild.elf.constants import SHF, SHT, STT
from klpbuild.elf.reader import Section, Symbol

_CODE = SHF.ALLOC | SHF.EXECINSTR
_ENDS = ("jmp", "ret", "int3")
_JUMP_TABLE = "__jump_table"
#: Section of trampolines, which end in an instruction that marks them.
_TRAMPOLINES = ".static_call.text"
#: Instructions that fill the space between blocks.
_PADDING = ("nop", "int3")


def check_flow(tables: Tables) -> None:
    """Find blocks of functions that nothing falls through, jumps or leads to."""
    subject = tables.subject
    led = _led_to(tables)
    jumps = tables.listed.get(_JUMP_TABLE, set())
    for symbol in subject.elf.symbol_list:
        section = subject.elf.sections[symbol.st_shndx] if symbol.is_defined else None
        if section is None or symbol.type != STT.FUNC or section.sh_type == SHT.NOBITS:
            continue
        if section.name == _TRAMPOLINES:
            continue
        if section.sh_flags & _CODE == _CODE:
            _check_function(tables, section, symbol, led, jumps)


def _check_function(
    tables: Tables,
    section: Section,
    symbol: Symbol,
    led: set[tuple[int, int]],
    jumps: set[tuple[int, int]],
) -> None:
    instructions = tables.subject.instructions.of(section.index)
    at, end, ended = symbol.st_value, symbol.st_value + symbol.st_size, False
    while at < end and (found := instructions.get(at)) is not None:
        here, word = (section.index, at), found.name.split()[-1]
        if ended and here not in led and word not in _PADDING:
            what = f"nothing leads to this code of {symbol.name}, so an entry of a table is missing"
            tables.subject.find(catalogue.UNLISTED, what, place(section, at))
        if not ended or here in led or word not in _PADDING:
            ended = word in _ENDS and here not in jumps
        at = found.end


def _led_to(tables: Tables) -> set[tuple[int, int]]:
    """Collect the places that symbols, branches, pointers and tables lead to."""
    subject = tables.subject
    found = {(s.st_shndx, s.st_value) for s in subject.elf.symbol_list if s.is_defined}
    for section in subject.elf.sections:
        if not section.sh_flags & SHF.ALLOC:
            continue
        rows = subject.applied.get(section.index, {})
        shift = 4 if section.sh_flags & SHF.EXECINSTR else 0
        if section.sh_flags & _CODE == _CODE and section.sh_type != SHT.NOBITS:
            for instruction in subject.instructions.of(section.index).values():
                if is_branch(instruction):
                    led = tables.jumps_to(Target(section.index, instruction.offset))
                    found |= {led.place} if led is not None else set()
        if section.name not in _TABLES_OF_SITES:
            for row in rows.values():
                target = target_of(subject, row)
                found |= {target.place, (target.section, target.offset + shift)}
    for number, ranges in tables.replaced.items():
        found |= {(number, end) for _, end in ranges}
    return found


#: Tables whose entries lead to instructions that something else leads to, too.
_TABLES_OF_SITES = frozenset({
    ".return_sites", ".retpoline_sites", ".call_sites", ".ibt_endbr_seal", ".smp_locks",
    ".orc_unwind_ip", ".static_call_sites", ".parainstructions", "__bug_table", "__mcount_loc",
})  # fmt: skip
