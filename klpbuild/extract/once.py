"""Match what tells that something was done once: the flag and the static key of DO_ONCE().

They belong to what is done, not to a place in the code: with those of another DO_ONCE() code
would take a secret for initialised that is not, or initialise once more one that is in use.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass, field

from klpbuild.extract.atoms import Atom, Reference
from klpbuild.extract.correlate import Doubt
from klpbuild.extract.names import base_name, source_name
from klpbuild.extract.sections import SectionKind
from klpbuild.extract.variable import Variable, Version, listed, meaning

#: As include/linux/once.h has them: Linux commit a48e42920ff3 ("net: introduce new macro
#: net_get_random_once"), v3.13.
_FLAG, _KEY = "___done", "___once_key"
#: What it calls before and behind what is done.
_CALL = re.compile(r"__do_once_(?:\w+_)?(start|done)")
#: What says nothing: these calls, and the module, which the last one keeps until the key is off.
_NO_AIM = re.compile(rf"{_CALL.pattern}|__this_module")


@dataclass
class _Once:
    """What is done once.

    :ivar data: the variables that it is done with.
    :ivar others: what it refers to besides: functions.
    :ivar names: the names of both, for messages.
    """

    data: set[Hashable] = field(default_factory=set)
    others: set[Hashable] = field(default_factory=set)
    names: set[str] = field(default_factory=set, compare=False)

    def add(self, version: Version, user: Atom, reference: Reference) -> None:
        """Note what code refers to."""
        target, undefined = reference.target, version.code.undefined(reference)
        if isinstance(target, Atom):
            is_data, name = target.kind is SectionKind.DATA, base_name(target.name)
            if is_of_once(target) or source_name(target.name) == source_name(user.name):
                return
        elif undefined is not None and not _NO_AIM.fullmatch(undefined.name):
            is_data, name = not version.code.is_branch(user, reference), undefined.name
        else:
            return
        self.names.add(name)
        (self.data if is_data else self.others).add(meaning(version, reference, user))

    def may_be(self, other: _Once) -> bool:
        """Tell whether both do something with the same variable, or do the same without any."""
        if self.data or other.data:
            return bool(self.data & other.data)
        return bool(self.others & other.others)


#: By flag and key; by one alone where code does not tell what belongs to it.
_Found = dict[tuple[Atom, ...], _Once]


def settle_once(old: Version, new: Version) -> None:
    """Pair flags and keys of those that do the same; what cannot be told becomes ambiguous.

    What does something else, with other variables, has a flag and a key of its own.
    """
    found = new.correlation
    olds, news = _read(old), _read(new)
    gone, come = dict(olds), dict(news)
    for flags, once in news.items():
        twins = tuple(found.to_original[flag] for flag in flags if flag in found.to_original)
        if gone.get(twins) == once:
            del gone[twins], come[flags]
            continue
        for flag in flags:
            if flag in found.to_original:
                found.part(found.to_original[flag], flag)
    for flags, once in come.items():
        same = [befores for befores, former in gone.items() if former == once]
        if len(same) == list(come.values()).count(once) == 1 and len(same[0]) == len(flags):
            for before, after in zip(same[0], flags, strict=True):
                found.pair(before, after)
            continue
        for befores, former in olds.items():
            if former.may_be(once):
                names = [listed(frozenset(each.names)) for each in (once, former)]
                found.ambiguous[flags[-1]] = Doubt(
                    Variable(new, flags[-1]).told,
                    Variable(old, befores[-1]).told,
                    f"What is done once refers to {names[0]}, and did to {names[1]}.",
                    hint="Leave what is done once as it is; what is new needs its own variables.",
                )


def _read(version: Version) -> _Found:
    """Find what is done once: by the code between the calls before and behind it."""
    found: _Found = defaultdict(_Once)
    code = [atom for atom in version.code.atoms if atom.kind is SectionKind.CODE]
    for atom in code:
        for references in _between(version, atom):
            flags = _flags(references)
            if [_kind(flag) for flag in flags] == [_FLAG, _KEY]:
                for reference in references:
                    found[flags].add(version, atom, reference)
    known = {flag for flags in found for flag in flags}
    for atom in code:
        for flag in _flags(version.code.references(atom)):
            for reference in version.code.references(atom) if flag not in known else ():
                found[(flag,)].add(version, atom, reference)
    return found


def _between(version: Version, atom: Atom) -> Iterator[list[Reference]]:
    """List the references of code between each two calls."""
    inside: list[Reference] | None = None
    for reference in version.code.references(atom):
        undefined = version.code.undefined(reference)
        call = _CALL.fullmatch(undefined.name) if undefined is not None else None
        if call is None:
            if inside is not None:
                inside.append(reference)
        elif call[1] == "done" and inside is not None:
            yield inside
            inside = None
        else:
            inside = []


def _flags(references: Iterable[Reference]) -> tuple[Atom, ...]:
    """List the flags and keys that code refers to, the flags first."""
    targets = {r.target for r in references if isinstance(r.target, Atom)}
    return tuple(sorted(filter(is_of_once, targets), key=lambda t: (_kind(t), t.index)))


def _kind(atom: Atom) -> str:
    """Return its name, without the function that clang puts before it."""
    return base_name(atom.name).rpartition(".")[2]


def is_of_once(atom: Atom) -> bool:
    """Tell whether a variable is a flag or a key of DO_ONCE()."""
    return _kind(atom) in (_FLAG, _KEY)
