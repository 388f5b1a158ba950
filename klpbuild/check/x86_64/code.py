"""Find instructions that need an entry in a table."""

from __future__ import annotations

from klpbuild.check import catalogue
from klpbuild.check.subject import Subject, place
from klpbuild.check.x86_64.entries import target_of
from klpbuild.check.x86_64.tables import Tables
from klpbuild.elf.constants import SHF, SHT
from klpbuild.elf.reader import Section

_THUNK = "__x86_return_thunk"
#: Table of the traps in clang's checks of indirect calls; module.lds.S gives it the second name.
_CFI = (".kcfi_traps", "__kcfi_traps")
#: KVM's own assembly has ud2 instructions there that nothing reports.
_ASSEMBLY = ".noinstr.text"
_REPLACEMENTS = ".altinstr_replacement"
_STAC, _CLAC = b"\x0f\x01\xcb", b"\x0f\x01\xca"
#: First kernel that warns when a return thunk is used that it did not replace.
_WARNS = (6, 9)


def check_code(subject: Subject, tables: Tables) -> None:
    """Check each section of code that is loaded."""
    _check_user_access(subject, tables)
    wanted = SHF.ALLOC | SHF.EXECINSTR
    for section in subject.elf.sections:
        if section.sh_flags & wanted == wanted and section.sh_type != SHT.NOBITS:
            if section.name == _REPLACEMENTS:
                _check_replacements(subject, tables, section)
            if section.name != _ASSEMBLY:
                _check_bugs(subject, tables, section)
            if subject.version is None or subject.version >= _WARNS:
                _check_returns(subject, tables, section)


def _check_bugs(subject: Subject, tables: Tables, section: Section) -> None:
    """Check that each ud2, which BUG() and WARN() are, has an entry in ``__bug_table``.

    Behind a BUG() the compiler may put another one, which nobody comes to, and one alone where
    it knows that nobody comes.
    """
    known = tables.listed.get("__bug_table", set()) | tables.listed.get("__ex_table", set())
    for table in subject.elf.sections:
        if table.name in _CFI:
            rows = subject.applied.get(table.index, {}).values()
            known |= {target_of(subject, row).place for row in rows}
    behind, bodies = False, subject.pointers.bodies.get(section.index, [])
    for found in subject.instructions.of(section.index).values():
        listed = (section.index, found.offset) in known
        alone = (found.offset, found.end) in bodies
        if found.name == "ud2" and not (listed or behind or alone):
            what = "a ud2 is in no entry of __bug_table"
            subject.find(catalogue.UNLISTED, what, place(section, found.offset))
        behind = found.name == "ud2" and listed


def _check_replacements(subject: Subject, tables: Tables, section: Section) -> None:
    """Check that each replacement is that of an entry of ``.altinstructions``."""
    here = [a for a in tables.alternatives if a.by and a.replacement.section == section.index]
    at = 0
    for start, length in sorted((a.replacement.offset, a.by) for a in here):
        if start > at:
            break
        at = max(at, start + length)
    if at < section.sh_size:
        what = f"{section.name}+{at:#x} is in no entry of .altinstructions"
        subject.find(catalogue.UNLISTED, what, place(section, at))


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
