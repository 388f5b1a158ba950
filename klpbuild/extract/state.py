"""Match variables that a patch renames with those of the running kernel; refuse ambiguous ones.

A livepatch works on the state that the kernel has.  A variable whose name is new may be
one that the kernel has under another: it is when both have one type, size, memory and
initial value, and code uses both alike; else it is refused if it could be.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Sequence

from klpbuild.elf.vartypes import VariableType
from klpbuild.extract.correlate import Doubt
from klpbuild.extract.names import base_name
from klpbuild.extract.once import is_of_once, settle_once
from klpbuild.extract.sections import Memory
from klpbuild.extract.variable import (
    Variable,
    Version,
    held,
    likeness,
    listed,
    same_content,
    used_alike,
)
from klpbuild.reach import reached

_ARRAY = re.compile(r"(?:\[\d*\])+$")
_INTEGER = r"(?:(?:long |short |signed |unsigned )*(?:int|char)|_Bool|enum \S*)(?: : \d+)?"
#: A number, one in a structure of its own, as atomic_t, and what code uses as one.
_NUMBER = re.compile(
    rf"{_INTEGER}|struct {{{_INTEGER} \w+(?: : \d+)?}}"
    r"|struct (?:static_key(?:_true|_false)?|percpu_counter)"
)
_POINTER = re.compile(r".*\*")


def is_number(text: str) -> bool:
    """Tell whether a type is a number, or a structure of one."""
    return _NUMBER.fullmatch(text) is not None


#: A lock: old and new code keep each other out by it until the transition ends.
_LOCK = re.compile(
    r"struct (?:(?:raw_)?spinlock|mutex|rw_semaphore|semaphore"
    r"|{struct (?:qrwlock|seqcount_spinlock) .*})"
)
#: What nobody misses.
_NO_STATE = re.compile(r"struct (?:ratelimit_state|lock_class_key)")


def settle_renamed(old: Version, new: Version, accepted: Collection[str] = ()) -> None:
    """Pair variables of an object that have another name, or that other functions use.

    What may be the kernel's, and is not for sure, becomes ambiguous.

    :param accepted: names of variables that are the kernel's if they can be.
    """
    _part_reordered(old, new)
    gone, come = ([v for v in each.written() if not is_of_once(v.atom)] for each in (old, new))
    pending = list(choose(gone, come))
    number = len(pending) + 1
    while len(pending) < number:  # the content of one may refer to another
        number = len(pending)
        doubtful, pending = pending, []
        for variable, olds, rivals in doubtful:
            why = several(olds, rivals)
            fits = not why and _hold_the_same(olds[0], variable)
            if not fits or base_name(variable.name) not in accepted:
                why = why or difference(olds[0], variable, [old], [new])
            if why:
                doubt = Doubt(variable.told, names(olds), why, fits)
                new.correlation.ambiguous[variable.atom] = doubt
                pending.append((variable, olds, rivals))
            else:
                new.correlation.ambiguous.pop(variable.atom, None)
                new.correlation.rename(olds[0].atom, variable.atom)
    settle_once(old, new)
    _pair_constants(old.constants(), new.constants())


def _hold_the_same(old: Variable, new: Variable) -> bool:
    """Tell whether two variables are alike, but for their names and types."""
    alike = len(old.atom) == len(new.atom) and old.memory is new.memory
    return alike and same_content(old, new)


def _part_reordered(old: Version, new: Version) -> None:
    """Take twins apart that have one name in one function, if code uses them as it used others.

    The patch may have added one and taken another away, or changed their order.
    """
    for pairs in new.correlation.ordered:
        olds = [Variable(old, original) for original, _ in pairs]
        news = [Variable(new, patched) for _, patched in pairs]
        alike = [[likeness(one, other, olds, news) for other in news] for one in olds]
        told_by_code = not any(is_of_once(original) for original, _ in pairs)
        if told_by_code and any(max(row) > row[place] for place, row in enumerate(alike)):
            for original, patched in pairs:
                new.correlation.part(original, patched)


def _pair_constants(gone: Sequence[Variable], come: Sequence[Variable]) -> None:
    """Pair constants of one content: the kernel's may be held and compared by its address."""
    for new in come:
        olds = [old for old in gone if same_content(old, new)]
        if len(olds) == 1 and [o for o in come if same_content(olds[0], o)] == [new]:
            new.version.correlation.rename(olds[0].atom, new.atom)


def several(olds: Sequence[Variable], rivals: Sequence[Variable]) -> str:
    """Explain why of several variables none is surely the kernel's, empty for one of each."""
    if len(olds) == len(rivals) == 1:
        return ""
    return (
        f"Of the kernel's {names(olds)} and the patch's {names(rivals)} it cannot be told"
        " which is which."
    )


def names(variables: Sequence[Variable]) -> str:
    """Join the names of variables, for messages."""
    return " and ".join(sorted(variable.told for variable in variables))


def named_alike(old: Variable, new: Variable) -> bool:
    """Tell whether two variables have one name in the source."""
    return base_name(old.name) == base_name(new.name)


def may_be(old: Variable, new: Variable, related: bool | None = None) -> bool:
    """Tell whether a new variable may be one of the kernel's, to judge by what both hold.

    An array may have grown.  If the same code uses both, the new one may hold in another way
    what the kernel's does: numbers, a pointer or a structure, for itself or as a member.

    :param related: whether the same code uses both, where they are in different objects.
    """
    related = _share_code(old, new) if related is None else related
    if (old.memory is Memory.PER_CPU) is not (new.memory is Memory.PER_CPU) and not related:
        return False
    before, after = old.type, new.type
    if not before.text or not after.text:
        return len(old.atom) == len(new.atom)
    if _ARRAY.sub("", before.text) == _ARRAY.sub("", after.text):
        return True
    if not related:
        return False
    if _holds(after, before, base_name(old.name)) or _holds(before, after, base_name(new.name)):
        return True
    texts = before.text, after.text
    if any(map(_NO_STATE.fullmatch, texts)):
        return False
    if any(map(_LOCK.fullmatch, texts)):
        return all(map(_LOCK.fullmatch, texts))
    # A pointer may become the head of a list, a structure another one; no number a structure.
    return _are_numbers(before) is _are_numbers(after) or any(map(_POINTER.fullmatch, texts))


def _share_code(old: Variable, new: Variable) -> bool:
    """Tell whether code that used the one may use the other: the same, or what moved out of it.

    A function that is gone may have another name now.
    """
    before, after = old.version, new.version
    if not old.users | new.users:
        return False
    gone, come = old.users - after.functions, new.users - before.functions
    return bool(gone and come) or may_take_over(old.users, new.users, [before], [after])


def _are_numbers(type: VariableType) -> bool:
    """Tell whether a variable holds numbers only: one, an array of them, or a structure."""
    members = type.members.values() or (type.text,)
    return bool(_NUMBER.fullmatch(_ARRAY.sub("", type.text))) or all(
        _NUMBER.fullmatch(_ARRAY.sub("", member)) for member in members
    )


def _holds(structure: VariableType, variable: VariableType, name: str) -> bool:
    """Tell whether a variable may have become a member of a structure.

    Many structures have some number: one counts if it has the variable's name, or if the
    structure has none, as it was made for this.
    """
    if _LOCK.fullmatch(structure.text):
        return False  # the members are its own
    if structure.members.get(name) == variable.text:
        return True
    telling = not _NUMBER.fullmatch(variable.text) or structure.text.startswith("struct {")
    return telling and variable.text in structure.members.values()


def choose(
    gone: Sequence[Variable],
    come: Sequence[Variable],
    may: Callable[[Variable, Variable], bool] = may_be,
) -> Iterator[tuple[Variable, list[Variable], list[Variable]]]:
    """Find new variables that may be the kernel's, by name first and else by type.

    :param may: whether a new variable may be one of the kernel's.
    :returns: a new variable, those of the kernel that it may be, and the new ones that may be
        one of these.
    """
    left_gone, left_come = list(gone), list(come)
    for same_name in (True, False):
        found = {}
        for new in left_come:
            alike = [o for o in left_gone if named_alike(o, new)] if same_name else left_gone
            if olds := [old for old in alike if may(old, new)]:
                found[new] = olds
        for new, olds in found.items():
            rivals = [other for other in found if set(found[other]) & set(olds)]
            yield new, olds, rivals
        left_come = [new for new in left_come if new not in found]
        left_gone = [old for old in left_gone if not any(old in olds for olds in found.values())]


def difference(
    old: Variable, new: Variable, before: Sequence[Version], after: Sequence[Version]
) -> str:
    """Explain why a new variable is not the kernel's for sure, empty if it is.

    :param before: the versions of the objects at hand that the kernel has.
    :param after: those that the patch makes of them.
    """
    if old.type.text != new.type.text:
        return f"The type was {old.type.text} and is {new.type.text}."
    if len(old.atom) != len(new.atom):
        return f"It had {len(old.atom)} bytes and has {len(new.atom)}."
    if old.memory is not new.memory:
        return f"It was in {old.atom.section.name} and is in {new.atom.section.name}."
    if not same_content(old, new):
        return "The initial values differ."
    if not (old.users or new.users or held(new)):
        return "Other objects use it, and code of this one does not tell what it is."
    if not is_related(old.users, new.users, before, after):
        return f"Other functions use it: {listed(new.users)} instead of {listed(old.users)}."
    if not named_alike(old, new) and not used_alike(old, new):
        return f"Code uses it in another way: {listed(old.users | new.users)}."
    return ""


def is_related(
    old: frozenset[str],
    new: frozenset[str],
    before: Sequence[Version],
    after: Sequence[Version],
) -> bool:
    """Tell whether code may have taken a variable along.

    A function uses it in both versions; or one that used it calls a new one that does, as
    when it was split; or one that is gone was called by one that does now, as when it is
    inlined.
    """
    were = {name for version in before for name in version.functions}
    are = {name for version in after for name in version.functions}
    return bool(
        old & new
        or not old | new  # other variables hold it
        or _reached(old, after, are - were) & new
        or _reached(new, before, were - are) & old
    )


def may_take_over(
    old: frozenset[str],
    new: frozenset[str],
    before: Sequence[Version],
    after: Sequence[Version],
) -> bool:
    """Tell whether code may have taken a variable along, also to a function that was there.

    It called that one before, or calls it now.
    """
    return (
        is_related(old, new, before, after)
        or any(new & version.calls.get(name, frozenset()) for version in after for name in old)
        or any(old & version.calls.get(name, frozenset()) for version in before for name in new)
    )


def _reached(start: frozenset[str], versions: Sequence[Version], among: set[str]) -> set[str]:
    """Collect the functions among some that a few reach through calls of these."""
    none = frozenset[str]()
    calls = [version.calls for version in versions]
    return set(reached(start, lambda name: {f for c in calls for f in c.get(name, none) & among}))
