"""Callbacks of a livepatch that source patches make, and new code that nothing runs."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from klpbuild.errors import Problems
from klpbuild.extract.result import Extraction
from klpbuild.module.livepatch import PatchedObject
from klpbuild.names import VMLINUX
from klpbuild.patch.pair import ObjectPair


def check_callbacks(
    asked: Sequence[PatchedObject], extractions: Sequence[tuple[ObjectPair, Extraction]]
) -> None:
    """Check that each callback is a new function in a file of its object, or of vmlinux.

    Code of another module has references that are resolved when that module is loaded,
    which it need not be when the kernel calls the callback.

    :raises KlpError: with all callbacks that are not there, or in a file of another module.
    """
    problems = Problems()
    homes = {
        included.name: pair
        for pair, extraction in extractions
        for included in extraction.included
        if included.section.startswith(".text") and included.name in extraction.globals
    }
    for patched in asked:
        for name in patched.callbacks.values():
            home = homes.get(name)
            if home is None:
                near = difflib.get_close_matches(name, homes, 1)
                problems.add(
                    f"callback {name!r} of {patched.name!r} is not a global function "
                    "that the patches add",
                    where=patched.where,
                    why="The compiler leaves out a static function that nothing calls.",
                    hint=f"Did you mean {near[0]!r}?"
                    if near
                    else f"Add it to a file of {patched.name}, without static or __init.",
                )
            elif home.owner not in (VMLINUX, patched.name):
                problems.add(
                    f"callback {name!r} of {patched.name!r} is in {home.source}, "
                    f"a file of {home.owner}",
                    where=patched.where,
                    why=f"{home.owner} need not be loaded when the kernel calls it.",
                    hint=f"Add it to a file of {patched.name}.",
                )
    problems.check()


def without_idle(
    extractions: Sequence[tuple[ObjectPair, Extraction]], called: frozenset[str]
) -> tuple[list[tuple[ObjectPair, Extraction]], list[str]]:
    """The extractions without those of modules in which nothing runs, and a note of each.

    The livepatch has no ``struct klp_object`` for such a module, so that nothing would
    resolve what its new code refers to.
    """
    running = {VMLINUX, *called, *(pair.owner for pair, e in extractions if e.changed)}
    needed = {r.name for _, e in extractions for r in e.references if not r.is_defined}
    kept, notes = [], []
    for pair, extraction in extractions:
        if pair.owner in running or needed & set(extraction.globals):
            kept.append((pair, extraction))
        else:
            new = ", ".join(extraction.globals[:5])
            notes.append(f"{pair.source}: nothing that runs calls what is new: {new}; left out")
    return kept, notes
