"""Find functions in which kernel threads may stay, from the names that an object refers to.

`klpbuild.kernel.threads` reads the shipped code to know it.  Where the registers of a machine's
instructions are not followed, whatever may be such a function counts as one.
"""

from __future__ import annotations

from collections.abc import Iterator

from klpbuild.extract.atoms import Atom
from klpbuild.extract.objects import CodeObject
from klpbuild.extract.sections import SectionKind
from klpbuild.kernel.threads import ASKS, ENDLESS, SERVERS, SLEEPS, STARTERS
from klpbuild.reach import reached

_WAITS = {*ENDLESS, *SLEEPS}


def may_stay(code: CodeObject, name: str) -> str:
    """Explain how a kernel thread may come to stay in a function; empty when none does.

    :param code: the original object of the function's source file.
    """
    function = next((a for a in code.atoms if a.is_function and a.name == name), None)
    if name in _WAITS and "schedule" in name:
        return "all that wait do so in it"
    if function is None:
        return ""
    below = _reached(code, {function})
    if asked := _names(code, below) & set(ASKS):
        return f"it may be asked by {min(asked)}() whether its thread is to end"
    begins = {s for s in (*STARTERS, *SERVERS) if any(code.elf.symbols_named(s).tolist())}
    if not begins or not _names(code, below) & _WAITS:
        return ""
    given = {atom for atom in code.atoms if atom.is_function and atom.is_global}
    for user in code.atoms:
        if user.kind in (SectionKind.CODE, SectionKind.DATA):
            given.update(
                reference.target
                for reference in code.references(user)
                if isinstance(reference.target, Atom)
                and reference.target.is_function
                and not (user.kind is SectionKind.CODE and code.is_branch(user, reference))
            )
    if function in _reached(code, given):
        return f"its file starts threads by {min(begins)}(), and it sleeps"
    return ""


def _reached(code: CodeObject, start: set[Atom]) -> set[Atom]:
    """Follow calls from functions to others of their file."""

    def called(atom: Atom) -> Iterator[Atom]:
        for reference in code.references(atom):
            if isinstance(reference.target, Atom) and reference.target.is_function:
                yield reference.target

    return set(reached(start, called))


def _names(code: CodeObject, atoms: set[Atom]) -> set[str]:
    symbols = code.elf.symbol_list
    return {symbols[r.symbol].name for atom in atoms for r in code.references(atom)}
