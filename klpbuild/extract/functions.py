"""Decide which changed functions a livepatch can replace, and explain why not the others."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from enum import Enum

from klpbuild.extract.atoms import Atom
from klpbuild.extract.case import Case
from klpbuild.extract.landing import has_own_address
from klpbuild.extract.names import source_name
from klpbuild.extract.objects import CodeObject
from klpbuild.extract.sections import SectionKind, is_exit, is_init

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


#: Limit on functions that are replaced because they call one that cannot be.
CALLERS_MAX = 64


class _Obstacle(Enum):
    """Reason why ftrace cannot redirect a function's callers."""

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
    """Decide for each changed function whether the livepatch replaces it.

    One that has no entry call and that nothing but calls in this object use is taken
    along with its callers, which then count as changed: as if it were inlined.
    """
    _refuse_folded(case)
    _refuse_removed(case)
    result = Replaced()
    pending = list(case.functions)
    for atom in pending:
        difference = case.functions[atom]
        section = case.correlation.to_original[atom].section.name
        if why := _overridden(case, atom):
            case.notices.append(f"{case.place(atom)}: changes nothing: {why}")
            continue
        if is_exit(section) and not case.in_module:
            case.notices.append(f"{case.place(atom)}: changed, and {section} is not in vmlinux")
            continue
        obstacle = _obstacle(case, atom, section)
        callers = _callers(case, atom) if obstacle is _Obstacle.NO_ENTRY_CALL else None
        if callers and len(callers) > CALLERS_MAX:
            case.refuse(
                f"changed, and {len(callers)} functions call it",
                atom,
                why=f"It has no entry call ({difference}).  With one that has none up to"
                f" {CALLERS_MAX} functions are replaced.",
                hint="Change its callers instead, so that they call a new function.",
            )
        elif callers:
            result.atoms[atom] = f"changed, and replaced with its callers: {difference}"
            calls = f"calls {source_name(atom.name)}, which has no entry call and changed"
            for caller in sorted(callers - case.functions.keys(), key=lambda a: a.index):
                case.functions[caller] = calls
                pending.append(caller)
        elif obstacle is not None:
            what, why, hint = obstacle.value
            refuse = case.refuse_startup if obstacle is _Obstacle.INIT else case.refuse
            why = why.format(section=section, difference=difference)
            refuse(what, atom, why=why, hint=hint)
        else:
            result.atoms[atom] = f"changed: {difference}"
            if has_entry_call(case, atom):
                result.changed.append(atom)
    for atom in case.patched.atoms:
        origins = case.correlation.origins(atom)
        if not origins or not atom.is_function:
            continue
        if why := _overridden(case, atom):
            case.notices.append(f"{case.place(atom)}: changes nothing: {why}")
        else:
            result.atoms[atom] = f"changed: it was in {origins[0].where or 'another object'}"
            result.changed.append(atom)
    return result


def _overridden(case: Case, atom: Atom) -> str:
    """Explain why a function never runs, or the one that it is a part of; empty if it does.

    One that has another name, too, runs by that.
    """
    overridden = case.correlation.ties.overridden
    names = {source_name(s.name) for member in case.families[atom] for s in member.symbols}
    return overridden[min(names)] if names <= overridden.keys() else ""


def _refuse_folded(case: Case) -> None:
    for atom, difference in case.changes.folded.items():
        names = ", ".join(s.name for s in case.correlation.to_original[atom].symbols)
        case.refuse(
            f"{atom.name} changed, and shares its code with another function",
            atom,
            why="The compiler made identical functions one in only one of the versions, and a"
            f" livepatch replaces all names of an address: {names} ({difference}).",
            hint="Give the one that changes another name: its callers are replaced, and call that.",
        )


def _refuse_removed(case: Case) -> None:
    """Refuse new functions in the place of ones whose address the running kernel may have stored.

    A work, a timer or a table that has it calls the function as it was: only what keeps its
    name can be replaced.  One that another function is equal to may stay as it was, and that
    of one without successor is told: what has it ends like what has it today.
    A variable that stays is a changed one, and refused or accepted as such.
    """
    twins = case.correlation.to_patched
    for gone in case.changes.removed:
        if is_init(gone.section.name) or is_exit(gone.section.name):
            continue
        users = [
            user
            for user in case.users_original[gone]
            if _hands_on(case.original, user, gone) and (user.is_function or user not in twins)
        ]
        if not users or any(case.changes.are_equal(gone, new) for new in case.changes.new):
            continue
        heirs = [
            new.name
            for new in case.changes.new
            if any(
                _hands_on(case.patched, twins[user], new)
                if user in twins
                else _has_its_place(case, user, gone, new)
                for user in users
            )
        ]
        if not heirs:
            case.notices.append(
                f"{case.place(gone)}: is gone; what has its address from {_listed(users)} goes on"
                " to call it as it was"
            )
            continue
        case.refuse(
            f"{gone.name} is gone, and the running kernel may have stored its address",
            gone,
            why=f"{_listed(users)} handed it on, and {' or '.join(heirs)} now: who has it goes on"
            " to call the function as it was.",
            hint="Keep its name, so that it is replaced.",
        )


def _has_its_place(case: Case, table: Atom, gone: Atom, new: Atom) -> bool:
    """Tell whether a new table has a function where one that is gone with it had another."""
    places = {r.offset for r in case.original.references(table) if r.target is gone}
    return any(
        (other.kind, len(other)) == (table.kind, len(table))
        and case.twin(other) is None
        and any(r.target is new and r.offset in places for r in case.patched.references(other))
        for other in case.users_patched[new]
    )


def _listed(atoms: Iterable[Atom]) -> str:
    """Join names, for messages."""
    return ", ".join(sorted(atom.name for atom in atoms))


def notice_handed_on(case: Case, included: Collection[Atom]) -> None:
    """Note functions whose address in the livepatch other code may store: they go with it."""
    own = [a for a in included if a.is_function and has_own_address(case.correlation, a)]
    for new in (*case.changes.new, *own):
        users = case.users_patched[new] & set(included) if new in included else set()
        by = [user for user in users if _hands_on(case.patched, user, new)]
        if by:
            known = "is new, and" if new in case.changes.new else "had no address before, and"
            case.notices.append(
                f"{case.place(new)}: {known} {_listed(by)} hands its address on: what keeps it"
                " must be gone before the livepatch is unloaded"
            )
        if former := {old for user in by for old in _no_longer_handed_on(case, user)}:
            case.notices.append(
                f"{case.place(new)}: is handed on instead of {_listed(former)}: what has that one's"
                " address goes on to call it"
            )


def _no_longer_handed_on(case: Case, user: Atom) -> set[Atom]:
    """List functions that stay, and whose address an atom handed on before the patch only."""
    twin, twins = case.twin(user), case.correlation.to_patched
    targets = case.original.references(twin) if twin is not None else ()
    functions = {r.target for r in targets if isinstance(r.target, Atom) and r.target.is_function}
    return {
        old
        for old in functions & twins.keys()
        if twin is not None
        and _hands_on(case.original, twin, old)
        and not _hands_on(case.patched, user, twins[old])
    }


def _hands_on(code: CodeObject, user: Atom, function: Atom) -> bool:
    """Tell whether an atom that runs or is used holds a function's address, not to call it."""
    if user is function or user.kind is SectionKind.METADATA or is_exit(user.section.name):
        return False
    return any(
        reference.target is function and not code.is_branch(user, reference)
        for reference in code.references(user)
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
    """Tell whether the original of a function calls ftrace where it begins."""
    twin = case.twin(atom)
    if twin is None:
        return False
    if any(e.section.name in case.arch.entry_sections for e in case.original_tables.of(twin)):
        return True
    symbols = case.original.elf.symbol_list
    reach = twin.entry - twin.start + _ENTRY_REACH
    return any(
        symbols[reference.symbol].name == case.arch.entry_symbol
        for reference in case.original.references(twin)
        if reference.offset < reach
    )


def _callers(case: Case, atom: Atom) -> set[Atom]:
    """List callers to replace with it; empty if anything but direct calls uses it.

    Code without a name, as in ``.altinstr_aux``, calls for the functions that it is about.
    """
    family = {member for member in case.families[atom] if case.twin(member) is not None}
    if not all(_is_only_called(case, member) for member in family):
        return set()
    found: set[Atom] = set()
    pending = list(set().union(*map(case.users, family)) - family)
    for user in pending:
        if is_init(user.section.name) and not case.in_module:
            continue  # it has run
        if user.is_function:
            found |= {member for member in case.families[user] if case.twin(member) is not None}
        elif about := case.users(user) | set(case.patched_tables.about(user)):
            pending += about - family - set(pending)
        else:
            return set()
    return found


def _is_only_called(case: Case, atom: Atom) -> bool:
    """Tell whether a function is local, and nothing holds its address, in both versions."""
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
