"""Check livepatch relocations as klp_apply_section_relocs() of kernel/livepatch/core.c does."""

from __future__ import annotations

import re

import numpy as np

from klpbuild.check import catalogue
from klpbuild.check.rule import Effect
from klpbuild.check.subject import Subject, is_livepatch_section, is_relocated, place
from klpbuild.elf.constants import SHF, SHN_LIVEPATCH, SHT, STT
from klpbuild.elf.reader import Section
from klpbuild.elf.tables import Table
from klpbuild.names import (
    SECTION_PREFIX,
    VMLINUX,
    LivepatchSection,
    LivepatchSymbol,
    symbol_name_max,
)
from klpbuild.symbols.database import Candidate, SymbolDatabase

#: Tables that are read when the livepatch loads, before any module's relocations.
_READ_AT_ONCE = (
    "__jump_table", ".static_call_sites", ".static_call_tramp_key", "__tracepoints_ptrs",
    ".altinstructions", ".parainstructions", ".smp_locks", ".retpoline_sites", ".return_sites",
    ".call_sites", ".ibt_endbr_seal", ".cfi_sites", "__mcount_loc", ".orc_unwind_ip",
    ".altinstr_replacement", "__ex_table", "__patchable_function_entries", ".init_array", ".ctors",
)  # fmt: skip


_VARIABLES = re.compile(r"\.(?:data|rodata|bss)(?:\.|$)")
#: Code and data of a module's start and end, and what may use them (__ref).
_STARTS = (".init", ".exit", ".ref.")
_MODULE_NAME = re.compile(r"\w+", re.ASCII)


def check_relocations(subject: Subject) -> None:
    """Check every livepatch section and every use of a livepatch symbol."""
    gates = {p.object for p in subject.patched} if subject.patched is not None else None
    for section, target in subject.relocation_sections:
        with subject.guarded(catalogue.BROKEN):
            rows = subject.elf.relocations(section)
            if is_livepatch_section(section):
                _check_section(subject, section, target, rows, gates)
            elif section.name.startswith(SECTION_PREFIX):
                what = f"section {section.name} has no flag SHF_RELA_LIVEPATCH"
                subject.find(catalogue.FLAG_LOST, what, section.name)
            elif is_relocated(target):
                _check_ordinary(subject, section, target, rows)
    _check_flagged(subject, gates)
    sections = subject.elf.sections
    for section in sections:
        if section.sh_type == SHT.REL and is_relocated(sections[section.sh_info]):
            what = f"section {section.name} has relocations without addends"
            subject.find(catalogue.REL, what, section.name)
    for section in subject.elf.sections:
        if section.name.startswith(".klp.arch."):
            what = f"section {section.name} is not read"
            subject.find(catalogue.ARCH_SECTION, what, section.name)


def _check_flagged(subject: Subject, gates: set[str] | None) -> None:
    """Check all sections with SHF_RELA_LIVEPATCH: the kernel goes by that flag alone."""
    sections = subject.elf.sections
    for section in sections:
        if not is_livepatch_section(section) or section.sh_type == SHT.RELA:
            continue
        name = LivepatchSection.parse(section.name)
        if name is None:
            _bad_name(subject, section, gates)
        elif section.sh_size:
            what = f"section {section.name} is of type {section.sh_type}, and read as relocations"
            subject.find(catalogue.BROKEN, what, section.name)


def _bad_name(subject: Subject, section: Section, gates: set[str] | None) -> None:
    """Report a section name that the kernel cannot parse.

    It reads the name when the livepatch loads, if the target is in memory, and with each other
    object.
    """
    sections = subject.elf.sections
    target = sections[section.sh_info] if section.sh_info < len(sections) else sections[0]
    effect = Effect.REFUSED
    if not is_relocated(target):
        effect = Effect.LATE if gates is None or gates - {VMLINUX} else Effect.ACCEPTED
    what = f"section {section.index} is called {section.name!r}"
    rule = catalogue.LENIENT if effect is Effect.ACCEPTED else catalogue.SECTION_FORMAT
    subject.find(rule, what, section.name, effect, section=section.name)


def _check_freed(subject: Subject, target: Section, rows: Table) -> None:
    """Check that code and variables that stay do not use the module's own start."""
    stays = subject.pointers.holds_code(target.index) or _VARIABLES.match(target.name)
    if not stays or target.name.startswith(_STARTS):
        return
    sections = subject.elf.sections
    freed = [s.index for s in sections if s.name.startswith(".init") and s.sh_flags & SHF.ALLOC]
    symbols = subject.elf.symbols[rows["r_sym"]]
    for row in rows[np.isin(symbols["st_shndx"], freed) & (rows["r_type"] != 0)]:
        section = sections[subject.elf.symbol(int(row["r_sym"])).st_shndx]
        what = f"{target.name} uses {section.name} of the livepatch itself"
        subject.find(catalogue.FREED_SYMBOL, what, place(target, int(row["r_offset"])))


def _check_ordinary(subject: Subject, section: Section, target: Section, rows: Table) -> None:
    _check_freed(subject, target, rows)
    symbols = subject.elf.symbols[rows["r_sym"]]
    for row in rows[(symbols["st_info"] & 0xF == STT.FILE) & (rows["r_type"] != 0)]:
        name = subject.elf.symbol_name(int(row["r_sym"]))
        what = f"{section.name} leads to {name}, the name of a source file"
        subject.find(catalogue.BROKEN, what, place(target, int(row["r_offset"]), name))
    for number in np.flatnonzero(symbols["st_shndx"] == SHN_LIVEPATCH).tolist():
        name = subject.elf.symbol_name(int(rows[number]["r_sym"]))
        what = f"{section.name} uses the livepatch symbol {name}"
        where = place(target, int(rows[number]["r_offset"]), name)
        subject.find(catalogue.ORDINARY_USE, what, where)


def _check_section(
    subject: Subject, section: Section, target: Section, rows: Table, gates: set[str] | None
) -> None:
    name = LivepatchSection.parse(section.name)
    if name is None:
        _bad_name(subject, section, gates)
        return
    late = name.gate != VMLINUX
    _check_placement(subject, section, target, late)
    if gates is not None and late and name.gate not in gates and len(rows):
        what = f"nothing of {name.gate} is patched, so {section.name} is never applied"
        subject.find(catalogue.GATE_WITHOUT_OBJECT, what, section.name, object=name.gate)
    if late and gates is None:
        why = "its tables are made at run time"
        subject.not_checked(catalogue.GATE_WITHOUT_OBJECT, why, section.name)
    if late and target.name in _READ_AT_ONCE and len(rows):
        what = f"{target.name} has relocations that wait for {name.gate}"
        subject.find(catalogue.LATE_SPECIAL, what, section.name)
    for index, offset in _first_uses(rows):
        _check_symbol(subject, name.gate, index, place(target, offset))


def _check_placement(subject: Subject, section: Section, target: Section, late: bool) -> None:
    if not section.sh_flags & SHF.ALLOC:
        what = f"section {section.name} has no flag SHF_ALLOC"
        subject.find(catalogue.UNALLOCATED, what, section.name)
    if not is_relocated(target):
        what = f"{section.name} changes {target.name}, which is not loaded"
        subject.find(catalogue.TARGET_UNALLOCATED, what, section.name)
    elif late and target.name.startswith(".init"):
        what = f"{section.name} changes {target.name}, which is freed before"
        subject.find(catalogue.TARGET_FREED, what, section.name)


def _first_uses(rows: Table) -> list[tuple[int, int]]:
    """Find each symbol's index and the offset of its first use, in the file's order."""
    _, first = np.unique(rows["r_sym"], return_index=True)
    return [(int(rows[n]["r_sym"]), int(rows[n]["r_offset"])) for n in np.sort(first).tolist()]


def _check_symbol(subject: Subject, gate: str, index: int, at: str) -> None:
    symbol = subject.elf.symbol(index)
    effect = Effect.REFUSED if gate == VMLINUX else Effect.LATE
    where = f"{at}:{symbol.name}" if symbol.name else at
    if symbol.st_shndx != SHN_LIVEPATCH:
        what = f"symbol {index} ({symbol.name or 'without a name'}) is not SHN_LIVEPATCH"
        subject.find(catalogue.NOT_LIVEPATCH_SYMBOL, what, where, effect, symbol=symbol.name)
        return
    version = subject.version
    known = LivepatchSymbol.parse(symbol.name, symbol_name_max(version or (6, 1)))
    if known is None:
        what = f"symbol {index} is called {symbol.name!r}"
        subject.find(catalogue.SYMBOL_FORMAT, what, where, effect, symbol=symbol.name)
        return
    if gate != VMLINUX and known.owner == VMLINUX:
        what = f"{known.symbol} of vmlinux is used in a section of {gate}"
        values = {"symbol": known.symbol}
        subject.find(catalogue.VMLINUX_IN_MODULE, what, where, effect, **values)
    if gate == VMLINUX and known.owner != VMLINUX:
        what = f"{known.symbol} of {known.owner} is used in a section of vmlinux"
        values = {"symbol": known.symbol, "owner": known.owner}
        subject.find(catalogue.MODULE_IN_VMLINUX, what, where, effect, **values)
    if subject.kernel is not None and subject.kernel.database is not None:
        _check_exists(subject, subject.kernel.database, known, where, effect)


def _check_exists(
    subject: Subject,
    database: SymbolDatabase,
    known: LivepatchSymbol,
    where: str,
    effect: Effect,
) -> None:
    found = database.in_object(known.owner, known.symbol)
    object_said = "(null)" if known.owner == VMLINUX else known.owner
    values: dict[str, object] = {
        "symbol": known.symbol,
        "object": object_said,
        "position": known.sympos,
        "count": len(found),
    }
    called = f"{known.symbol} of {known.owner}"
    if known.owner != VMLINUX and not _MODULE_NAME.fullmatch(known.owner):
        what = f"no module can be called {known.owner!r}"
        subject.find(catalogue.SYMBOL_NOT_FOUND, what, where, effect, **values)
    elif known.owner not in database.objects:
        why = f"the symbols of {known.owner} are not at hand"
        subject.not_checked(catalogue.SYMBOL_NOT_FOUND, why, where)
    elif not found:
        what = f"there is no {called}"
        subject.find(catalogue.SYMBOL_NOT_FOUND, what, where, effect, **values)
    elif known.sympos == 0 and len(found) > 1:
        what = f"there are {len(found)} {called}, and the position is 0"
        subject.find(catalogue.AMBIGUOUS, what, where, effect, **values)
    elif known.sympos > len(found):
        what = f"there are {len(found)} {called}, and the position is {known.sympos}"
        values["object"] = known.owner
        subject.find(catalogue.NO_POSITION, what, where, effect, **values)
    else:
        _check_life(subject, found[max(known.sympos - 1, 0)], where)


def _check_life(subject: Subject, found: Candidate, where: str) -> None:
    if found.object == VMLINUX and found.address is None:
        subject.not_checked(catalogue.FREED_SYMBOL, "its address is not known", where)
    elif found.init:
        what = f"{found.symbol} of {found.object} is in {found.section or 'an .init section'}"
        subject.find(catalogue.FREED_SYMBOL, what, where)
    elif found.unstable and found.object != VMLINUX:
        what = f"{found.symbol} of {found.object} has another position once the module runs"
        subject.find(catalogue.POSITION_CHANGES, what, where)
