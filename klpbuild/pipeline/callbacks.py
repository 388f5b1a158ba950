"""Check callbacks of a livepatch that source patches make; drop new code that nothing runs."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence

from klpbuild.errors import Problems, printable
from klpbuild.extract.result import Extraction
from klpbuild.module.livepatch import PatchedObject
from klpbuild.names import VMLINUX
from klpbuild.patch.fix import IdleError
from klpbuild.patch.idle import Idle
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
        for name in patched.called:
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
    extractions: Sequence[tuple[ObjectPair, Extraction]], callbacks: Sequence[PatchedObject]
) -> tuple[list[tuple[ObjectPair, Extraction]], list[str]]:
    """Drop the extractions of which nothing runs, with a note of each.

    What runs are changed functions, callbacks, and the new code that these use.

    :param callbacks: objects whose callbacks are functions that the patches add.
    """
    called = {name for patched in callbacks for name in patched.called}
    waiting = list(extractions)
    running: list[tuple[ObjectPair, Extraction]] = []
    while found := [(p, e) for p, e in waiting if e.changed or e.words or called & set(e.globals)]:
        running += found
        waiting = [each for each in waiting if each not in found]
        called = {r.name for _, e in found for r in e.references if not r.is_defined}
    notes = [
        f"{pair.source}: nothing that runs calls what is new: {', '.join(e.globals[:5])}; left out"
        for pair, e in waiting
    ]
    return [each for each in extractions if each in running], notes


def idle_notes(idle: Mapping[str, Idle]) -> list[str]:
    """Note each patch that changes nothing in this kernel."""
    return [
        f"{printable(name)}: changes nothing in this kernel: {each.why}"
        for name, each in idle.items()
    ]


def nothing_runs(
    where: str, idle: Mapping[str, Idle], new: Sequence[str], notices: Sequence[str] = ()
) -> IdleError:
    """Make the error of patches of which none changes anything.

    :param where: of the first one.
    :param idle: all of them, by name.
    :param new: global functions and variables that they add.
    :param notices: what is remarkable about their objects.
    """
    reasons = [f"{printable(name)}: {each.why}" for name, each in idle.items()]
    what = "the patches change nothing in this kernel"
    if len(idle) == 1:
        (only,) = idle.values()
        reasons, what = [], f"the patch changes nothing in this kernel: {only.why}"
    if new:
        reasons.append(f"Nothing that runs calls what is new: {', '.join(new[:5])}.")
    return IdleError(
        what,
        where=where,
        why="\n".join([*reasons, *notices]),
        hint="There is nothing that a livepatch could replace.",
    )
