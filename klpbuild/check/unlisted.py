"""Find instructions that need an entry in a table, on all machines that have such tables."""

from __future__ import annotations

from klpbuild.check import catalogue
from klpbuild.check.entries import target_of
from klpbuild.check.sites import Tables
from klpbuild.check.subject import place
from klpbuild.elf.constants import SHF, SHT
from klpbuild.elf.reader import Section

#: Table of the traps in clang's checks of indirect calls; module.lds.S gives it the second name.
_CFI = (".kcfi_traps", "__kcfi_traps")
#: KVM's own assembly has ud2 instructions there that nothing reports.
_ASSEMBLY = ".noinstr.text"
_REPLACEMENTS = ".altinstr_replacement"


def check_unlisted(tables: Tables) -> None:
    """Check the traps in each section of code that is loaded, and the replacements."""
    wanted = SHF.ALLOC | SHF.EXECINSTR
    for section in tables.subject.elf.sections:
        if section.sh_flags & wanted == wanted and section.sh_type != SHT.NOBITS:
            if section.name == _REPLACEMENTS:
                _check_replacements(tables, section)
            if section.name != _ASSEMBLY:
                _check_bugs(tables, section)


def _check_bugs(tables: Tables, section: Section) -> None:
    """Check that each trap, which BUG() and WARN() are, has an entry in ``__bug_table``.

    Behind a BUG() the compiler may put another one, which nobody comes to, and one alone where
    it knows that nobody comes.
    """
    subject, is_trap = tables.subject, tables.model.is_trap
    known = tables.listed.get("__bug_table", set()) | tables.listed.get("__ex_table", set())
    for table in subject.elf.sections:
        if table.name in _CFI:
            rows = subject.applied.get(table.index, {}).values()
            known |= {target_of(subject, row).place for row in rows}
    behind, bodies = False, subject.pointers.bodies.get(section.index, [])
    for found in subject.instructions.of(section.index).values():
        listed = (section.index, found.offset) in known
        alone = (found.offset, found.end) in bodies
        if is_trap(found) and not (listed or behind or alone):
            what = f"a {tables.model.trap} is in no entry of __bug_table"
            subject.find(catalogue.UNLISTED, what, place(section, found.offset))
        behind = is_trap(found) and listed


def _check_replacements(tables: Tables, section: Section) -> None:
    """Check that each replacement is that of an entry of ``.altinstructions``."""
    subject = tables.subject
    here = [a for a in tables.alternatives if a.by and a.replacement.section == section.index]
    at = 0
    for start, length in sorted((a.replacement.offset, a.by) for a in here):
        if start > at:
            break
        at = max(at, start + length)
    if at < section.sh_size:
        what = f"{section.name}+{at:#x} is in no entry of .altinstructions"
        subject.find(catalogue.UNLISTED, what, place(section, at))
