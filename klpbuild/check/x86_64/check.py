"""Check what only a model of x86-64's module loader can tell."""

from __future__ import annotations

from klpbuild.check import catalogue
from klpbuild.check.sites import Model, Tables
from klpbuild.check.subject import Subject
from klpbuild.check.unlisted import check_unlisted
from klpbuild.check.x86_64.branches import jumps_to
from klpbuild.check.x86_64.code import check_code
from klpbuild.check.x86_64.flow import check_flow
from klpbuild.check.x86_64.layouts import layout
from klpbuild.check.x86_64.meanings import MEANINGS
from klpbuild.check.x86_64.places import check_places
from klpbuild.check.x86_64.references import check_references
from klpbuild.check.x86_64.unwind import Unwind
from klpbuild.elf.constants import EM

_MODEL = Model(layout, MEANINGS, jumps_to, "ud2", lambda found: found.name == "ud2")


def check_x86_64(subject: Subject) -> None:
    """Check the tables about code, and that what needs an entry has one."""
    if subject.elf.e_machine != EM.X86_64:
        return
    check_places(subject)
    tables = Tables(subject, _MODEL)
    tables.check()
    with subject.guarded(catalogue.BROKEN):
        check_unlisted(tables)
        check_code(subject, tables)
        check_references(subject, tables)
        check_flow(tables)
        Unwind(tables).check()
