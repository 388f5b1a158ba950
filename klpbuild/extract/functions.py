"""Changed functions: which a livepatch can replace, and why not the others."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from klpbuild.extract.case import Case
from klpbuild.extract.objects import Atom
from klpbuild.extract.sections import is_exit, is_init

#: Functions begin with their entry call, behind at most an endbr64 (arch/x86, CET).
_ENTRY_REACH = 16


@dataclass(frozen=True)
class Replaced:
    """The changed functions that go into the livepatch.

    :ivar atoms: changed functions with their parts, each with the reason.
    :ivar changed: those that replace a function of the original.
    """

    atoms: dict[Atom, str] = field(default_factory=dict)
    changed: list[Atom] = field(default_factory=list)


class _Obstacle(Enum):
    """Why ftrace cannot lead a function's callers elsewhere."""

    INIT = (
        "__init code changed",
        "It is in {section}, which is freed once it has run ({difference}).",
        "Leave it out of the patch, or do in a callback what it would do.",
    )
    EXIT = (
        "__exit code changed",
        "It is in {section}, where functions have no entry call ({difference}).",
        "Leave it out of the patch.",
    )
    NO_ENTRY_CALL = (
        "changed, and cannot be livepatched",
        "It is in {section} and has no entry call ({difference}).",
        "Change its callers instead, so that they call a new function.",
    )


def settle_functions(case: Case) -> Replaced:
    """Decide each changed function."""
    _refuse_folded(case)
    result = Replaced()
    stuck: dict[Atom, _Obstacle] = {}
    for atom, difference in case.functions.items():
        section = case.correlation.to_original[atom].section.name
        if is_exit(section) and not case.in_module:
            case.notices.append(f"{case.place(atom)}: changed, and {section} is not in vmlinux")
            continue
        obstacle = _obstacle(case, atom, section)
        if obstacle is not None:
            stuck[atom] = obstacle
            continue
        result.atoms[atom] = f"changed: {difference}"
        if has_entry_call(case, atom):
            result.changed.append(atom)
    for atom in _replaced_with_callers(case, stuck, set(result.atoms)):
        del stuck[atom]
        difference = case.functions[atom]
        result.atoms[atom] = f"changed, and only changed functions call it: {difference}"
    for atom, obstacle in stuck.items():
        what, why, hint = obstacle.value
        section = case.correlation.to_original[atom].section.name
        why = why.format(section=section, difference=case.functions[atom])
        case.refuse(what, atom, why=why, hint=hint)
    return result


def _refuse_folded(case: Case) -> None:
    for atom, difference in case.changes.folded.items():
        names = ", ".join(s.name for s in case.correlation.to_original[atom].symbols)
        case.refuse(
            f"{atom.name} changed, and shares its code with another function",
            atom,
            why="The compiler made identical functions one in only one of the versions, and a"
            f" livepatch replaces all names of an address: {names} ({difference}).",
            hint="Make the functions differ in both versions.",
        )


def _obstacle(case: Case, atom: Atom, section: str) -> _Obstacle | None:
    if is_init(section):
        return _Obstacle.INIT
    if is_exit(section):
        return _Obstacle.EXIT
    if not any(has_entry_call(case, member) for member in case.families[atom]):
        return _Obstacle.NO_ENTRY_CALL
    return None


def has_entry_call(case: Case, atom: Atom) -> bool:
    """Whether the original of a function calls ftrace where it begins."""
    twin = case.twin(atom)
    if twin is None:
        return False
    symbols = case.original.elf.symbol_list
    reach = twin.entry - twin.start + _ENTRY_REACH
    return any(
        symbols[reference.symbol].name == case.arch.entry_symbol
        for reference in case.original.references(twin)
        if reference.offset < reach
    )


def _replaced_with_callers(
    case: Case, stuck: dict[Atom, _Obstacle], replaced: set[Atom]
) -> list[Atom]:
    """Functions without an entry call of which every caller is replaced.

    They come along, as an inlined function does.
    """
    private = {
        atom
        for atom, obstacle in stuck.items()
        if obstacle is _Obstacle.NO_ENTRY_CALL and _is_only_called(case, atom)
    }
    while True:
        left = set()
        for atom in private:
            users = case.users(atom) - {atom}
            if users and users <= replaced | private:
                left.add(atom)
        if left == private:
            return sorted(left, key=lambda atom: atom.index)
        private = left


def _is_only_called(case: Case, atom: Atom) -> bool:
    """Whether a function is local, and nothing holds its address, in both versions."""
    return all(
        not one.is_global
        and all(
            code.is_branch(user, reference)
            for user in users
            for reference in code.references(user)
            if reference.target is one
        )
        for code, one, users in case.both(atom)
    )
