"""Leave out changed ``__init`` code and data that nothing in the livepatch depends on.

It has run, and runs as it was in a module that is loaded later.  The livepatch depends on it
where both use the same state, where it hands one of the livepatch's functions on, and where
it hands on or uses what it did not.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import replace

from klpbuild.elf.constants import SHF
from klpbuild.errors import KlpError
from klpbuild.extract.atoms import Atom, Literal, Reference
from klpbuild.extract.case import Case
from klpbuild.extract.correlate import Identities
from klpbuild.extract.objects import CodeObject
from klpbuild.extract.result import LeftOut
from klpbuild.extract.sections import Memory, SectionKind, is_exit, is_init, memory_of
from klpbuild.extract.special import Tables
from klpbuild.reach import reached

#: State of the kernel's own that compilers and inline functions use everywhere.
_EVERYWHERE = re.compile(
    r"__fentry__|__x86_\w+|__stack_chk\w+|current_task|pcpu_hot|this_cpu_off|__preempt_count"
    r"|const_\w+|pv_ops|jiffies(_64)?|phys_base|page_offset_base|vmalloc_base|vmemmap_base"
    r"|boot_cpu_data|kmalloc_caches|random_kmalloc_seed|nr_cpu_ids|__per_cpu_offset|system\w*_wq"
    r"|__cpu_\w+_mask|cpu_number|__(begin|end)_\w+|_printk|empty_zero_page|static_key_initialized"
)


def settle_startup(
    case: Case, included: Collection[Atom], changed: Collection[Atom], tables: Tables
) -> tuple[LeftOut, ...]:
    """Refuse changed ``__init`` code that included code depends on, leave out the other.

    :param included: what the livepatch takes from the patched object.
    :param changed: those that replace a function of the original.
    :param tables: those of the patched object.
    """
    if len(case.problems) and not changed:
        case.problems.note(KlpError.together(case.startup.values()) if case.startup else None)
    if len(case.problems) or not case.startup:
        return ()
    running = _running(case, included)
    state = _used(case.patched, running, tables) | running
    found = []
    for atom, problem in case.startup.items():
        names: frozenset[str] = frozenset()
        if not _says_otherwise(case, atom):
            (_, old, old_users), (_, new, new_users) = case.both(atom)
            before = _used(case.original, _startup(case.original, old, old_users))
            olds = {_of_patched(case, used) for used in before}
            news = _used(case.patched, _startup(case.patched, new, new_users), tables)
            why = ""
            if shared := (olds | news) & state:
                why = f"What the livepatch runs uses {_listed(shared)}, too."
            elif fresh := news - olds:
                why = f"It uses {_listed(fresh)}, which it did not."
            if why:
                case.problems.note(
                    KlpError.together([replace(problem, why=f"{problem.why}\n{why}")])
                )
                continue
            names = _global_names(olds | news)
        case.notices.append(
            f"{problem.where}: {problem.what}; left out: it has run, and nothing of the livepatch"
            " depends on it"
        )
        found.append(LeftOut(problem, names))
    return tuple(found)


def state_in_use(case: Case, included: Collection[Atom], tables: Tables) -> frozenset[str]:
    """Collect the global names of the state that included code and its callers use."""
    running = _running(case, included)
    return _global_names(running | _used(case.patched, running, tables))


def _running(case: Case, included: Collection[Atom]) -> set[Atom]:
    """Collect included functions, and those that call or are called by them, at any depth."""

    def near(atom: Atom) -> set[Atom]:
        aims = (reference.target for reference in case.patched.references(atom))
        both = {*case.users(atom), *(aim for aim in aims if isinstance(aim, Atom))}
        return {one for one in both if one.is_function and not _is_startup(one)}

    return set(reached((atom for atom in included if atom.is_function), near))


def _startup(code: CodeObject, atom: Atom, users: Collection[Atom]) -> set[Atom]:
    """Collect ``__init`` code, or the users of ``__init`` data, and all that they call."""

    def called(user: Atom) -> Iterator[Atom]:
        for reference in code.references(user):
            aim = reference.target
            if not isinstance(aim, Atom) or not aim.is_function:
                continue
            if _is_startup(aim) or code.is_branch(user, reference):
                yield aim

    starts = [atom] if atom.is_function else [user for user in users if user.is_function]
    return set(reached(starts, called))


def _used(
    code: CodeObject, functions: Collection[Atom], tables: Tables | None = None
) -> set[Atom | str]:
    """Collect the state that functions use, and the functions that they hand on.

    Constants count with what they refer to, variables with themselves and that.
    """
    found: set[Atom | str] = set()
    seen, pending = set(functions), list(functions)
    while pending:
        atom = pending.pop()
        entries = tables.of(atom) if tables is not None else ()
        references = [*code.references(atom), *(r for e in entries for r in e.references)]
        for number, reference in enumerate(references):
            aim, symbol = reference.target, code.undefined(reference)
            is_own = number < len(code.references(atom))
            if is_own and atom.is_function and code.is_branch(atom, reference):
                continue
            if symbol is not None and not _EVERYWHERE.fullmatch(symbol.name):
                found.add(symbol.name)
            if not isinstance(aim, Atom) or aim in seen:
                continue
            if aim.is_function:
                if not _is_startup(aim):
                    found.add(aim)
            elif aim.kind is SectionKind.DATA and not aim.is_special_static:
                seen.add(aim)
                pending.append(aim)
                if memory_of(aim.section) is not Memory.READ_ONLY and not _is_startup(aim):
                    found.add(aim)
    return found - set(functions)


def _is_startup(atom: Atom) -> bool:
    return is_init(atom.section.name) or is_exit(atom.section.name)


def _says_otherwise(case: Case, atom: Atom) -> bool:
    """Tell whether two versions of code differ in nothing but texts, as of messages."""
    (original, old, _), (patched, new, _) = case.both(atom)
    if not atom.is_function or original.contents(old) != patched.contents(new):
        return False
    identities = Identities(case.correlation)
    before, after = (
        [
            (reference.offset, reference.type)
            if _is_text(code, reference)
            else identities.reference(code is patched, reference)
            for reference in code.references(one)
        ]
        for code, one in ((original, old), (patched, new))
    )
    return before == after


def _is_text(code: CodeObject, reference: Reference) -> bool:
    target = reference.target
    return isinstance(target, Literal) and bool(
        code.elf.sections[target.section].sh_flags & SHF.STRINGS
    )


def _of_patched(case: Case, used: Atom | str) -> Atom | str:
    """Map what the original uses to the patched object's version of it."""
    return case.correlation.to_patched.get(used, used) if isinstance(used, Atom) else used


def _global_names(used: Collection[Atom | str]) -> frozenset[str]:
    return frozenset(_name(one) for one in used if isinstance(one, str) or one.is_global)


def _name(used: Atom | str) -> str:
    return used.name if isinstance(used, Atom) else used


def _listed(used: Collection[Atom | str]) -> str:
    names = sorted(map(_name, used))
    return ", ".join(names[:3]) + (f" and {len(names) - 3} others" if len(names) > 3 else "")
