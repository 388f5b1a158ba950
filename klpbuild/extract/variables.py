"""Copy a changed constant if its address is never observed; refuse other changed variables.

A livepatch replaces functions.  A variable that the kernel uses stays the kernel's, with
the content and the layout that it has.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection

from klpbuild.extract.atoms import Atom
from klpbuild.extract.case import Case
from klpbuild.extract.escape import Paths, passes_on
from klpbuild.extract.names import base_name
from klpbuild.extract.objects import CodeObject
from klpbuild.extract.sections import (
    Memory,
    SectionKind,
    holds_variables,
    is_exit,
    is_init,
    memory_of,
)
from klpbuild.extract.special import Tables
from klpbuild.extract.words import why_not_written

_HINT = "Change it from a callback of the livepatch, or keep the new state in shadow variables."

#: Memory of variables that code writes.
_STATE = (Memory.ORDINARY, Memory.PER_CPU)

_SYSCALL_DATA = re.compile(r"(?:types_|args_|__syscall_meta_)_(\w+)")

_ACCEPT = (
    "\nIf code may see its new content at any time, and keep what it took before, accept it:\n"
    '--accept-data {name}, or accept_data = ["{name}"] in livepatch.toml.'
)


def settle_variables(case: Case) -> set[Atom]:
    """Decide for each changed variable whether the livepatch has a copy; refuse the others.

    A changed constant may become a copy when only functions of this object use it, which
    then count as changed, and these take its content, or pass on its address while it
    holds no function's.  Tables of functions whose address is passed on
    (``inode->i_fop``) are compared and kept by the kernel: they are refused.

    :returns: the constants of which the livepatch has its own copy.
    """
    _refuse_replaced_constants(case)
    copies = set()
    for atom, difference in case.changes.data.items():
        if call := _described_call(case, atom):
            told = f"{case.where}: the trace events of system call {call} stay the kernel's"
            if told not in case.notices:
                case.notices.append(told)
            continue
        obstacle = _obstacle(case, atom)
        if obstacle:
            hint = _HINT
            if not why_not_written(case.correlation, atom):
                name = base_name(atom.name)
                if {name, atom.name} & set(case.accepted_data):
                    case.written.append(atom)
                    case.notices.append(
                        f"{case.place(atom)}: {difference}: accepted; written before the"
                        " transition, and restored after the livepatch is disabled"
                    )
                    continue
                hint += _ACCEPT.format(name=name)
            is_startup = all(is_init(one.section.name) for _, one, _ in case.both(atom))
            refuse = case.refuse_startup if is_startup else case.refuse
            refuse(f"data {atom.name} changed: {difference}", atom, why=obstacle, hint=hint)
            continue
        copies.add(atom)
        if not case.patched.instructions.registers:
            case.notices.append(
                f"{case.place(atom)}: the livepatch has its own; whether code compares its address"
                f" is not followed on {case.arch.name}"
            )
        for user in case.users(atom):
            for member in case.families.get(user, ()):
                if case.twin(member) is not None:
                    case.functions.setdefault(member, f"uses the changed constant {atom.name}")
    return copies


def _described_call(case: Case, atom: Atom) -> str:
    """Name the system call of which a variable holds types or names of parameters, for tracing.

    SYSCALL_METADATA of include/linux/syscalls.h; empty for another variable.
    """
    match = _SYSCALL_DATA.fullmatch(atom.name)
    if match is None or not any(
        one.section.name == "__syscalls_metadata" and one.name.endswith(f"_meta__{match[1]}")
        for one in case.original.atoms
    ):
        return ""
    return match[1]


def _refuse_replaced_constants(case: Case) -> None:
    """Refuse constants that have another name, or are a function's own, as changed ones are.

    ``inode->i_fop`` and the like keep the former table of functions, as they keep one whose
    content changes; and code may compare what is stored with the new one.
    """
    twins = case.correlation.to_patched
    new = [a for a in case.patched.atoms if _is_constant(a) and case.twin(a) is None]
    for gone in case.original.atoms if new else ():
        if gone in twins or not _is_constant(gone):
            continue
        users = sorted(case.users_original[gone], key=lambda a: a.index)
        giving = [user for user in users if _passes_on_if_code(case.original, user, gone)]
        for user in (user for user in users if user in twins and giving):
            heirs = [one for one in new if twins[user] in case.users_patched[one]]
            tables = [
                one.name
                for one in heirs
                if _has_functions(case.patched, one)
                and _passes_on_if_code(case.patched, twins[user], one)
            ]
            compared = [one.name for one in heirs if _compares(case.patched, twins[user], one)]
            if tables and user in giving and _has_functions(case.original, gone):
                why = f"{user.name} passed it on, and {' or '.join(tables)} now: who has it goes on"
                why += " with its functions."
            elif compared:
                why = f"{giving[0].name} passed it on, and {user.name} compares {compared[0]} now."
            else:
                continue
            kept = any(base_name(one.name) == base_name(gone.name) for one in heirs)
            case.refuse(
                f"{gone.name} {'changes' if kept else 'is gone'}, and the running kernel may have"
                " stored its address",
                gone,
                why=why,
                hint="Keep its name and its content, or give callbacks what to write to it.",
            )
            break


def _is_constant(atom: Atom) -> bool:
    is_read_only = atom.kind is SectionKind.DATA and memory_of(atom.section) is Memory.READ_ONLY
    return is_read_only and bool(atom.symbols) and not atom.is_special_static


def _passes_on_if_code(code: CodeObject, user: Atom, atom: Atom) -> bool:
    return user.is_function and _passes_on(code, user, atom)


def notice_own_state(case: Case, included: Collection[Atom]) -> None:
    """Note new variables that hold state: each version of the livepatch has its own."""
    for atom in sorted(included, key=lambda a: a.index):
        is_state = atom.kind is SectionKind.DATA and memory_of(atom.section) in _STATE
        if is_state and case.correlation.is_new(atom) and not atom.is_special_static:
            case.notices.append(
                f"{case.place(atom)}: is new, and holds state:"
                " each version of the livepatch has its own"
            )


def _obstacle(case: Case, atom: Atom) -> str:
    """Explain why a changed variable cannot be replaced by a copy, empty if it can."""
    for _, one, _ in case.both(atom):
        section = one.section.name
        if is_init(section) or is_exit(section):
            return "It is used while the kernel or the module starts or ends, and not in between."
        if one.is_writable:
            return "The running kernel has its own, and a livepatch replaces functions only."
        if not holds_variables(section):
            return f"The kernel collects the entries of {section}."
        if one.is_global:
            return "Other objects of the kernel use it too."
    for code, one, users in case.both(atom):
        for user in sorted(users, key=lambda a: a.index):
            if not user.is_function:
                return f"{user.name} refers to it, and the running kernel has its own."
            if _has_functions(code, one) and _passes_on(code, user, one):
                return f"It holds addresses of functions, and {user.name} may pass on its own."
    for user in sorted(case.users_patched[atom], key=lambda a: a.index):
        if _compares(case.patched, user, atom):
            return f"{user.name} compares its address, which the running kernel may have stored."
    return ""


def _has_functions(code: CodeObject, atom: Atom) -> bool:
    """Tell whether a variable holds addresses of functions, or of what may be functions."""
    return any(
        code.undefined(reference) is not None
        or (isinstance(reference.target, Atom) and reference.target.kind is SectionKind.CODE)
        for reference in code.references(atom)
    )


def _passes_on(code: CodeObject, user: Atom, atom: Atom) -> bool:
    """Tell whether code may let others see a variable's address, and not only its content."""
    if not code.instructions.registers:
        return True  # nobody follows its registers
    taken = _taken(code, user, atom)
    if not taken:
        return False
    known = paths(code, user, taken)
    aims = {aim for each in known.entries.values() for aim in each}
    return passes_on(known.instructions, known.code, taken, known.relocated, aims)


def _compares(code: CodeObject, user: Atom, atom: Atom) -> bool:
    """Tell whether code may compare a variable's address with one that the kernel has stored.

    Where nobody follows registers, a notice says so.
    """
    taken = _taken(code, user, atom) if user.is_function and code.instructions.registers else []
    return bool(taken) and paths(code, user, taken).compares()


def _taken(code: CodeObject, user: Atom, atom: Atom) -> list[int]:
    """List the fields of code that are a variable's address, not accesses to what is there."""
    return [
        reference.offset
        for reference in code.references(user)
        if reference.target is atom and not code.is_memory_operand(user, reference)
    ]


def paths(code: CodeObject, user: Atom, taken: Collection[int]) -> Paths:
    """Describe the ways through a function, and where it takes an address."""
    entries: dict[int, list[int]] = defaultdict(list)
    for entry in Tables(code).of(user):
        # The first field of an entry is the place that the entry is about.
        for aim in entry.references[1:]:
            if aim.target is user:
                entries[entry.place - user.start].append(user.entry + aim.addend - user.start)
    relocated = [reference.offset for reference in code.references(user)]
    return Paths(code.instructions, code.contents(user), taken, relocated, entries)
