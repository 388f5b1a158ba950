"""Check the functions that a livepatch replaces against the running kernel's symbols."""

from __future__ import annotations

from collections.abc import Iterable

from klpbuild.errors import KlpError, Problems
from klpbuild.module.livepatch import Function
from klpbuild.symbols.database import Candidate, SymbolDatabase
from klpbuild.symbols.entries import EntryPoints

_CLONES = ("isra.0", "constprop.0", "part.0", "isra.1", "constprop.1")


def check_old_functions(
    functions: Iterable[tuple[str, Function]],
    database: SymbolDatabase,
    entries: EntryPoints,
    problems: Problems,
) -> tuple[str, ...]:
    """Check that each function is there, is the only one of its position, and can be entered.

    The kernel finds it by name and position (kernel/livepatch/core.c,
    klp_find_object_symbol) and redirects it at its ftrace entry (klp_patch_func).

    :param functions: object and function.
    :param problems: takes what the kernel would refuse.
    :returns: what could not be checked, and why.
    """
    unchecked = []
    for owner, function in functions:
        with problems.collect():
            candidate = _candidate(owner, function, database)
            known = entries.has(owner, function.old, function.sympos)
            if candidate.init:
                raise KlpError(
                    f"function {function.old} of {owner} is in {candidate.section}",
                    where=function.where,
                    why=f"That memory is freed once {owner} runs.",
                    hint="There is nothing left to replace.",
                )
            if known is False:
                raise KlpError(
                    f"function {function.old} of {owner} has no ftrace entry in this kernel",
                    where=function.where,
                    why="Livepatch redirects a function at its entry call; "
                    "this one is notrace, or not a function.",
                    hint="Replace the functions that call it.",
                )
            if known is None:
                why = entries.why_unknown(owner, function.old, function.sympos)
                unchecked.append(f"whether {owner}:{function.old} can be traced: {why}")
    return tuple(unchecked)


def _candidate(owner: str, function: Function, database: SymbolDatabase) -> Candidate:
    name = function.old
    if owner not in database.objects:
        raise KlpError(
            f"object {owner!r} is not in this kernel",
            where=function.where,
            hint="It may be built in: then its functions belong to vmlinux.",
        )
    found = database.in_object(owner, name)
    if not found:
        clones = [c for c in (f"{name}.{end}" for end in _CLONES) if database.candidates(c)]
        elsewhere = sorted({c.object for c in database.candidates(name)} - {owner})
        hint = f"In symbols.klp there is {', '.join(clones)}: name that." if clones else ""
        hint = hint or (f"It is in {', '.join(elsewhere)}." if elsewhere else "")
        raise KlpError(
            f"function {name} is not in {owner}",
            where=function.where,
            why="GCC drops functions that it inlines, and renames clones.",
            hint=hint or "Replace the functions that call it.",
        )
    if function.sympos > len(found):
        raise KlpError(
            f"function {name} of {owner} has no position {function.sympos}: there are {len(found)}",
            where=function.where,
            hint=_positions(found),
        )
    if function.sympos == 0 and len(found) > 1:
        raise KlpError(
            f"function {name} of {owner} is ambiguous: there are {len(found)}",
            where=function.where,
            why="Only the author knows which one is meant.  Add one of these:",
            hint=_positions(found),
        )
    return found[max(function.sympos, 1) - 1]


def _positions(found: Iterable[Candidate]) -> str:
    return "\n".join(
        f"sympos = {c.position}  # {c.file or 'file unknown'}, address "
        + ("unknown" if c.address is None else f"0x{c.address:x}")
        for c in found
    )
