"""Check what only a model of x86-64's module loader can tell."""

from __future__ import annotations

from klpbuild.check import catalogue
from klpbuild.check.subject import Subject
from klpbuild.check.x86_64.code import check_code
from klpbuild.check.x86_64.flow import check_flow
from klpbuild.check.x86_64.keys import Keys
from klpbuild.check.x86_64.meanings import MEANINGS
from klpbuild.check.x86_64.places import check_places
from klpbuild.check.x86_64.references import check_references
from klpbuild.check.x86_64.tables import Tables
from klpbuild.check.x86_64.unwind import Unwind
from klpbuild.elf.constants import EM


def check_x86_64(subject: Subject) -> None:
    """Check the tables about code, and that what needs an entry has one."""
    if subject.elf.e_machine != EM.X86_64:
        return
    check_places(subject)
    tables = Tables(subject, Keys(subject), {})
    for table in subject.elf.sections:
        with subject.guarded(catalogue.BROKEN):
            if table.name in MEANINGS:
                tables.check(table, MEANINGS[table.name])
    with subject.guarded(catalogue.BROKEN):
        check_code(subject, tables)
        check_references(subject, tables)
        check_flow(tables)
        Unwind(tables).check()
