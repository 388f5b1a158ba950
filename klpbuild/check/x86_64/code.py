"""Find instructions that need an entry in a table."""

from __future__ import annotations

from klpbuild.check import catalogue
from klpbuild.check.sites import Tables
from klpbuild.check.subject import Subject, place
from klpbuild.elf.constants import SHF, SHT
from klpbuild.elf.reader import Section

_THUNK = "__x86_return_thunk"
_STAC, _CLAC = b"\x0f\x01\xcb", b"\x0f\x01\xca"
#: First kernel that warns when a return thunk is used that it did not replace.
_WARNS = (6, 9)


def check_code(subject: Subject, tables: Tables) -> None:
    """Check each section of code that is loaded."""
    _check_user_access(subject, tables)
    wanted = SHF.ALLOC | SHF.EXECINSTR
    if subject.version is not None and subject.version < _WARNS:
        return
    for section in subject.elf.sections:
        if section.sh_flags & wanted == wanted and section.sh_type != SHT.NOBITS:
            _check_returns(subject, tables, section)


def _check_user_access(subject: Subject, tables: Tables) -> None:
    """Check that accesses to user memory, between stac and clac, are in ``__ex_table``."""
    known = tables.listed.get("__ex_table", set())
    closed = {a.site.place for a in tables.alternatives if tables.replacement(a) == _CLAC}
    for opened in tables.alternatives:
        section, at = opened.site.place
        if tables.replacement(opened) != _STAC or not section:
            continue
        instructions = subject.instructions.of(section)
        at += opened.length
        while (found := instructions.get(at)) and (section, at) not in closed | known:
            if found.name == "call":
                break
            at = found.end
        if (section, at) in closed:
            what = "no entry of __ex_table is for an access to the user's memory"
            where = place(subject.elf.sections[section], opened.site.offset)
            subject.find(catalogue.UNLISTED, what, where)


def _check_returns(subject: Subject, tables: Tables, section: Section) -> None:
    known = tables.listed.get(".return_sites", set())
    for row in subject.applied.get(section.index, {}).values():
        if subject.elf.symbol_name(row.symbol) != _THUNK:
            continue
        jump = row.offset - 1
        # clang puts a prefix of one byte before it (-mindirect-branch-cs-prefix).
        if subject.instructions.at(section.index, jump) is None:
            jump -= 1
        if (section.index, jump) not in known:
            what = f"a jump to {_THUNK} is in no entry of .return_sites"
            subject.find(catalogue.UNLISTED, what, place(section, jump))
