"""What a module's code needs: calls that lead to the beginning of functions, entries in tables."""

from __future__ import annotations

import numpy as np

from klpbuild.check import catalogue
from klpbuild.check.subject import Subject, place
from klpbuild.check.x86_64.tables import Tables
from klpbuild.elf.constants import SHF, SHN_LIVEPATCH, SHN_UNDEF, SHT
from klpbuild.elf.reader import Section

_PLT32, _CALL_WIDTH = 4, 4
_THUNK = "__x86_return_thunk"
#: KVM's own assembly has ud2 instructions there that nothing reports.
_ASSEMBLY = ".noinstr.text"
#: The kernel that warns when a return thunk is used that it did not replace.
_WARNS = (6, 9)


def check_code(subject: Subject, tables: Tables) -> None:
    """Check each section of code that is loaded."""
    wanted = SHF.ALLOC | SHF.EXECINSTR
    for section in subject.elf.sections:
        if section.sh_flags & wanted == wanted and section.sh_type != SHT.NOBITS:
            if section.name != _ASSEMBLY:
                _check_bugs(subject, tables, section)
            if subject.version is None or subject.version >= _WARNS:
                _check_returns(subject, tables, section)
    for section, target in subject.relocation_sections:
        if target.sh_flags & wanted == wanted and target.index not in subject.unreadable:
            _check_calls(subject, section, target)


def _check_bugs(subject: Subject, tables: Tables, section: Section) -> None:
    """BUG() and WARN() are a ud2; what it means stands in ``__bug_table``."""
    known = tables.listed.get("__bug_table", set()) | tables.listed.get("__ex_table", set())
    for found in subject.instructions.of(section.index).values():
        if found.name == "ud2" and (section.index, found.offset) not in known:
            what = "a ud2 is in no entry of __bug_table"
            subject.find(catalogue.UNLISTED, what, place(section, found.offset))


def _check_returns(subject: Subject, tables: Tables, section: Section) -> None:
    known = tables.listed.get(".return_sites", set())
    for row in subject.applied.get(section.index, {}).values():
        jump = section.index, row.offset - 1
        if subject.elf.symbol_name(row.symbol) == _THUNK and jump not in known:
            what = f"a jump to {_THUNK} is in no entry of .return_sites"
            subject.find(catalogue.UNLISTED, what, place(section, jump[1]))


def _check_calls(subject: Subject, section: Section, target: Section) -> None:
    rows = subject.elf.relocations(section)
    places = subject.elf.symbols["st_shndx"][rows["r_sym"]]
    foreign = np.isin(places, (SHN_UNDEF, SHN_LIVEPATCH)) & (rows["r_sym"] > 0)
    odd = rows[foreign & (rows["r_type"] == _PLT32) & (rows["r_addend"] != -_CALL_WIDTH)]
    for offset, _, index, addend in odd.tolist():
        name = subject.elf.symbol_name(index)
        what = f"a call leads to {name} and {addend + _CALL_WIDTH:+#x} bytes"
        subject.find(catalogue.INSIDE, what, place(target, offset, name))
