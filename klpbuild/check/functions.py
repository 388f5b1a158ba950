"""Check that pointers and branches to code lead to where functions begin."""

from __future__ import annotations

from klpbuild.arch import by_machine
from klpbuild.check import catalogue
from klpbuild.check.entries import Target, called, target_of
from klpbuild.check.subject import Relocation, Subject, place
from klpbuild.elf.constants import EM
from klpbuild.elf.reader import Section

_POINTER, _DATA, _CONSTANTS = 8, (".data", ".rodata", ".bss"), (".rodata", ".data.rel.ro")
#: Instructions that fill the space between functions.
_PADDING = ("nop", "int3")
#: struct static_call_key begins with the function.
_KEY = "__SCK__"
#: Relocation types in tables of a switch: R_390_PC64, R_AARCH64_PREL32, R_PPC64_REL32; x86 has
#: addresses there.
_SWITCHES = {int(EM.S390): (23,), int(EM.AARCH64): (261,), int(EM.PPC64): (26,)}
#: Tables of places in the code; ppc64le's TOC has the places from which tables of a switch count.
_TOC = ".toc"
_PLACES = (".parainstructions", "__mcount_loc", "__patchable_function_entries", _TOC)


def begins(subject: Subject, target: Target) -> bool:
    """Tell whether a function may begin at a place: one does, or none is known to be there."""
    if subject.pointers.begins_code(target.place):
        return True
    found = subject.instructions.at(*target.place)
    padding = found is None or found.name.endswith(_PADDING)
    return not padding and not subject.pointers.in_function(target.place)


def check_pointers(subject: Subject, section: Section, rows: dict[int, Relocation]) -> None:
    """Check that pointers to code lead to functions, or to labels of code that uses their table."""
    whole = by_machine(subject.elf.e_machine).absolute_64
    switches = _SWITCHES.get(subject.elf.e_machine, ())
    users: frozenset[str] | None = None
    for row in rows.values():
        target = target_of(subject, row)
        code = subject.pointers.holds_code(target.section)
        name = subject.pointers.name_at((section.index, row.offset))
        data = bool(target.section) and not code
        if name.startswith(_KEY) and row.kind == whole and data:
            what = f"{name} calls {called(subject, target)}, where no function begins"
            subject.find(catalogue.INSIDE, what, place(section, row.offset))
        aligned = row.kind == whole and not row.offset % _POINTER
        if section.name.startswith(_DATA) and not aligned and row.kind not in switches:
            what = "a relocation of data makes no aligned pointer"
            subject.find(catalogue.MISFIT, what, place(section, row.offset))
        if row.kind != whole or not code or section.name in _PLACES:
            continue
        if begins(subject, target):
            continue
        if users is None:
            users = _users(subject, section)
        if (
            subject.instructions.at(*target.place) is None
            or _function(subject, target) not in users
        ):
            what = f"a pointer leads to {called(subject, target)}, where no function begins"
            subject.find(catalogue.INSIDE, what, place(section, row.offset))


def _users(subject: Subject, section: Section) -> frozenset[str]:
    """Name the functions that use a table of constants, in which a switch has its labels."""
    if not section.name.startswith(_CONSTANTS):
        return frozenset()
    sections = subject.elf.sections
    return frozenset(
        _function(subject, Target(index, row.offset))
        for index, rows in subject.applied.items()
        if subject.pointers.holds_code(index)
        for row in rows.values()
        if sections[target_of(subject, row).section].name in (section.name, _TOC)
    ) - {""}


def _function(subject: Subject, place: Target) -> str:
    """Name the function that a place is in, the cold part of one as the whole."""
    return subject.pointers.function_of(place.place).partition(".cold")[0]


def check_branch(subject: Subject, target: Target, where: str, is_call: bool) -> None:
    """Check that a call leads to a function, and a jump also to an instruction of the module."""
    word = "call" if is_call else "jump"
    if not target.section:
        if target.offset:
            what = f"a {word} leads to {target.symbol} and {target.offset:+#x} bytes"
            subject.find(catalogue.INSIDE, what, where)
        return
    if begins(subject, target):
        return
    if is_call or subject.instructions.at(*target.place) is None:
        begun = "function" if is_call else "instruction"
        what = f"a {word} leads to {called(subject, target)}, where no {begun} begins"
        subject.find(catalogue.INSIDE, what, where)
