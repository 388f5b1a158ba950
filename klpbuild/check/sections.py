"""Check sections that must be loaded, writable or executable because the kernel relies on it."""

from __future__ import annotations

import numpy as np

from klpbuild.check import catalogue
from klpbuild.check.rule import Effect
from klpbuild.check.structmodule import THIS_MODULE
from klpbuild.check.subject import Subject, is_relocated, place
from klpbuild.elf.constants import SHF, SHT, STT
from klpbuild.elf.reader import Section
from klpbuild.names import SECTION_PREFIX

#: Sections that the kernel or the module writes to; others of these names, with more behind.
_WRITTEN = (
    "__jump_table", ".static_call_sites", "__bug_table", THIS_MODULE, "__tracepoints", "__dyndbg",
    "_ftrace_events",
)  # fmt: skip
_DATA = (".data", ".bss")
_PERCPU = ".data..percpu"
_NO_CONTENTS = (".bss", ".sbss", _PERCPU)
#: Since this version a module without its files in sysfs is refused (kernel/module/sysfs.c).
_SYSFS_MUST = (6, 12)
#: Tables that the module loader and its notifiers find by their names.
TABLES = frozenset({
    "__jump_table", "__bug_table", "__ex_table", "__param", "__mcount_loc", "__tracepoints_ptrs",
    ".altinstructions", ".static_call_sites", ".parainstructions", ".orc_unwind_ip", ".orc_unwind",
    ".return_sites", ".retpoline_sites", ".call_sites", ".ibt_endbr_seal", ".smp_locks",
    "_ftrace_events", "__trace_printk_fmt", "__ksymtab", "__ksymtab_gpl",
})  # fmt: skip


def check_sections(subject: Subject) -> None:
    """Check each section by its purpose."""
    names: set[str] = set()
    shown: set[str] = set()
    strings = subject.elf.symtab.sh_link if subject.elf.symtab else 0
    for section in subject.elf.sections[1:]:
        if section.sh_flags & SHF.ALLOC and section.sh_size:
            _check_loaded(subject, section)
        if section.name in TABLES and section.name in names and section.sh_size:
            what = f"there are two sections {section.name}, and one is read"
            subject.find(catalogue.ROLE, what, section.name)
        names.add(section.name)
        # layout_symtab() has the symbols' names loaded, too.
        if (is_relocated(section) or section.index == strings) and section.sh_size:
            if section.name in shown:
                _same_name(subject, section.name)
            shown.add(section.name)
        _check_relocations(subject, section)
    _check_functions(subject)
    _check_extents(subject)


def _same_name(subject: Subject, name: str) -> None:
    is_warned = subject.version is not None and subject.version < _SYSFS_MUST
    effect = Effect.WARNED if is_warned else None
    what = f"there are two sections {name} in memory"
    subject.find(catalogue.SAME_NAME, what, name, effect, section=name)


def _check_loaded(subject: Subject, section: Section) -> None:
    written = section.name in _WRITTEN or section.name.startswith(_DATA)
    if written and not section.sh_flags & SHF.WRITE:
        what = f"section {section.name} is not writable"
        subject.find(catalogue.ROLE, what, section.name)
    held = subject.elf.data[section.sh_offset : section.sh_offset + section.sh_size]
    named = section.name.startswith(_NO_CONTENTS)
    if section.sh_type == SHT.NOBITS and not named and any(bytes(held)):
        what = f"section {section.name} has no contents"
        subject.find(catalogue.ROLE, what, section.name)


def _check_relocations(subject: Subject, section: Section) -> None:
    """Check that what is called relocations is applied, and leads into memory."""
    sections = subject.elf.sections
    called = section.name.startswith((".rela.", ".rela_")) and not section.sh_flags & SHF.ALLOC
    called |= section.name.startswith(SECTION_PREFIX)
    called &= sections[section.sh_info % len(sections)].name not in TABLES
    if called and section.sh_type not in (SHT.RELA, SHT.REL) and section.sh_size:
        what = f"section {section.name} is of type {section.sh_type}: nobody applies it"
        subject.find(catalogue.ROLE, what, section.name)
    if section.sh_type != SHT.RELA or not is_relocated(sections[section.sh_info]):
        return
    for offset, row in subject.applied.get(section.sh_info, {}).items():
        symbol = subject.elf.symbols[row.symbol]
        held = sections[int(symbol["st_shndx"])] if symbol["st_shndx"] < len(sections) else None
        if held is not None and held.index and not _is_kept(held):
            what = f"a relocation leads to {held.name}, which is not kept in memory"
            subject.find(catalogue.ROLE, what, place(sections[section.sh_info], offset))


def _is_kept(section: Section) -> bool:
    return is_relocated(section) or section.name == _PERCPU


def _check_functions(subject: Subject) -> None:
    rows = subject.elf.symbols
    sections = subject.elf.sections
    here = (rows["st_info"] & 0xF == STT.FUNC) & (rows["st_shndx"] > 0)
    for number in np.unique(rows["st_shndx"][here & (rows["st_shndx"] < len(sections))]).tolist():
        section = sections[number]
        word = "" if section.sh_flags & SHF.EXECINSTR else "cannot be executed"
        word = word if section.sh_flags & SHF.ALLOC else "is not loaded"
        if word:
            what = f"section {section.name} has functions, and {word}"
            subject.find(catalogue.ROLE, what, section.name)


def _check_extents(subject: Subject) -> None:
    """Check that no function or variable that something refers to ends behind its section."""
    rows = subject.elf.symbols
    sections = subject.elf.sections
    applied = (found for at, found in subject.applied.items() if is_relocated(sections[at]))
    used = {row.symbol for found in applied for row in found.values()}
    led_to = {int(rows[number]["st_shndx"]) for number in used if number < len(rows)}
    named = np.isin(rows["st_info"] & 0xF, (STT.OBJECT, STT.FUNC)) & (rows["st_size"] > 0)
    for number in np.unique(rows["st_shndx"][named & (rows["st_shndx"] < len(sections))]).tolist():
        section = sections[number]
        if not section.sh_flags & SHF.ALLOC or number not in led_to:
            continue
        here = rows[named & (rows["st_shndx"] == number)]
        ends = here["st_value"] + here["st_size"]
        if (ends > section.sh_size).any():
            what = f"section {section.name} of {section.sh_size} bytes has a symbol up to"
            subject.find(catalogue.ROLE, f"{what} {int(ends.max()):#x}", section.name)
