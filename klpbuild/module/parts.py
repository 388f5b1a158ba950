"""Merge the descriptions of a livepatch's parts: objects, functions, callbacks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from klpbuild.errors import Problems
from klpbuild.module.accepted import Accepted
from klpbuild.module.livepatch import Function, Livepatch, PatchedObject


def merged(whole: Livepatch, parts: Sequence[Livepatch]) -> Livepatch:
    """Merge a livepatch with its parts.

    :param whole: what it says itself, and its own C files.
    :raises KlpError: for functions that two of them replace.
    """
    every = (whole, *parts)
    return replace(
        whole,
        sources=tuple(source for each in every for source in each.sources),
        objects=merged_objects(patched for each in every for patched in each.objects),
        references=tuple(dict.fromkeys(r for each in every for r in each.references)),
        accepted=merged_accepted(each.accepted for each in every),
        skip=tuple(skipped for each in every for skipped in each.skip),
        states=tuple(state for each in every for state in each.states),
        calls=tuple(each.name for each in parts if each.has_list),
    )


def merged_objects(objects: Iterable[PatchedObject]) -> tuple[PatchedObject, ...]:
    """Merge the objects of several parts, with the callbacks of all parts in their order.

    :raises KlpError: for functions that two of them replace.
    """
    problems = Problems()
    found: dict[str, PatchedObject] = {}
    for patched in objects:
        known = found.get(patched.name)
        if known is None:
            found[patched.name] = patched
            continue
        there = {_key(function): function for function in known.functions}
        for function in patched.functions:
            other = there.get(_key(function))
            if other and not function.condition and not other.condition:
                problems.add(
                    f"function {function.old!r} of {patched.name!r} is replaced by two parts",
                    where=function.where,
                    why=f"The other one: {other.where}.",
                    hint="Make one replacement of both, and take the other one away.",
                )
        found[patched.name] = replace(
            known,
            functions=(*known.functions, *patched.functions),
            words=(*known.words, *patched.words),
            further=(*known.further, *patched.all_callbacks),
        )
    problems.check()
    return tuple(found.values())


def merged_accepted(each: Iterable[Accepted]) -> Accepted:
    """Merge what several parts accept."""
    every = tuple(each)
    return Accepted(
        tuple(dict.fromkeys(name for a in every for name in a.layouts)),
        tuple(dict.fromkeys(name for a in every for name in a.threads)),
        tuple(dict.fromkeys(name for a in every for name in a.data)),
    )


def _key(function: Function) -> tuple[str, int]:
    return function.old, function.sympos or 1
