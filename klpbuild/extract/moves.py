"""Handle functions and variables that a patch moves to another object."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from klpbuild.elf.constants import SHF, STT
from klpbuild.elf.reader import ElfFile, Symbol
from klpbuild.errors import Problems
from klpbuild.extract.correlate import Doubt
from klpbuild.extract.landing import is_landing_place
from klpbuild.extract.linkage import Origin
from klpbuild.extract.names import base_name
from klpbuild.extract.part import Part
from klpbuild.extract.retyped import type_change
from klpbuild.extract.sections import Memory
from klpbuild.extract.state import (
    choose,
    difference,
    may_be,
    may_take_over,
    named_alike,
    names,
    several,
)
from klpbuild.extract.variable import Variable, Version, listed, same_content


def settle_moved(parts: Sequence[Part]) -> None:
    """Bind what moved between the objects of a patch to what the kernel has; refuse the rest.

    :param parts: by number, with the `Ties` that their names tell.
    :raises KlpError: for what moved, and cannot be what the running kernel has.
    """
    problems = Problems()
    for part in parts:
        for name, origins in list(part.ties.moved.items()):
            for origin in origins:
                if origin.part is None:
                    continue
                if part.after[name].is_function:
                    _look_at_landing(part, name, parts[origin.part], origin)
                else:
                    _check_variable(part, name, parts[origin.part], origin, problems)
    _settle_static(parts)
    _look_at_copies(parts, problems)
    _lead_to_renamed(parts)
    problems.check()


def _lead_to_renamed(parts: Sequence[Part]) -> None:
    """Bind uses in other objects to the kernel's variable that is global by a new name."""
    for part in parts:
        new = {
            name: symbol
            for name, symbol in part.after.items()
            if not symbol.is_local and symbol.type == STT.OBJECT and name not in part.before
        }
        for name, symbol in new.items():
            users = [p for p in parts if p.owner == part.owner and name in p.used]
            origin = part.kernel_symbol(symbol) if users else None
            if origin is not None:
                for user in users:
                    user.ties.bound.setdefault(name, origin)


def _look_at_landing(part: Part, name: str, former: Part, origin: Origin) -> None:
    """Record a function that cannot be called by the address that the kernel has of it."""
    assert origin.symbol is not None
    old, new = former.old.code, part.new.code
    is_taken = is_landing_place(new, new.atom_of(part.after[name].index))
    if is_taken and not is_landing_place(old, old.atom_of(origin.symbol.index)):
        part.ties.taken.add(name)


def _check_variable(
    part: Part, name: str, former: Part, origin: Origin, problems: Problems
) -> None:
    assert origin.symbol is not None
    old = Variable(former.old, former.old.code.atom_of(origin.symbol.index))
    new = Variable(part.new, part.new.code.atom_of(part.after[name].index))
    if len(old.atom) != len(new.atom):
        what = f"its size was {len(old.atom)} bytes and is {len(new.atom)}"
    elif old.memory is not new.memory:
        what = f"it was in {old.atom.section.name} and is in {new.atom.section.name}"
    elif not same_content(old, new):
        what = "its initial value differs"
    elif told := type_change(old, new):
        what = (told[:1].lower() + told[1:-1]).replace("\n", " ")
    else:
        return
    if old.memory is new.memory is Memory.READ_ONLY and origin.is_local:
        part.ties.moved.pop(name)  # a constant that only the changed functions know
        former.ties.left.pop(name)
        for other in (former, part):
            other.ties.bound.pop(name, None)
        return
    problems.add(
        f"{name} moves from {former.where}, and changes: {what}",
        where=f"{part.where}:{name}",
        why="The running kernel has its own, with the content and the layout that it has.",
        hint="Move it as it is, or give the new variable another name.",
    )


def _settle_static(parts: Sequence[Part]) -> None:
    """Find the static variables that move with their code; doubtful ones become ambiguous."""
    losing, gaining = [], []
    for part in parts:
        had = _written(part, part.original, part.before)
        has = _written(part, part.patched, part.after)
        losing += [part] if had - has else []
        gaining += [part] if has - had else []
    both = [part for part in parts if part in losing or part in gaining]
    if not losing or not gaining or len(both) == 1:
        return

    def may_have_moved(old: Variable, new: Variable) -> bool:
        return _may_have_moved(old, new, parts)

    gone = [v for p in losing for v in p.old.written()]
    come = [v for p in gaining for v in p.new.written() if v.atom not in p.correlation.ambiguous]
    for new, olds, rivals in choose(gone, come, may_have_moved):
        part, former = (parts[v.version.correlation.number] for v in (new, olds[0]))
        why = several(olds, rivals)
        if not why and part.owner != former.owner:
            why = f"{former.owner} has it, which may be loaded at other times than {part.owner}."
        why = why or difference(olds[0], new, [p.old for p in both], [p.new for p in both])
        if why:
            part.correlation.ambiguous[new.atom] = Doubt(new.told, names(olds), why)
            continue
        part.ties.moved[new.name] = (former.origin(olds[0].atom.symbols[0]),)
        former.ties.left[olds[0].name] = part.where


def _look_at_copies(parts: Sequence[Part], problems: Problems) -> None:
    """Refuse one variable in place of those of several objects, and several in place of one."""
    for part in parts:
        come, gone = part.used - part.was_used, part.was_used - part.used
        if not come | gone:
            continue
        others = [p for p in parts if p.owner == part.owner and p is not part]
        had = _written(part, part.original, part.before)
        has = _written(part, part.patched, part.after)
        new = part.new.written() if has - had else ()
        old = part.old.written() if come and had - has else ()
        for variable in (v for v in new if v.atom not in part.correlation.ambiguous):
            name = base_name(variable.name)
            olds = [v for p in others for v in _namesakes(p.old, name) if v.users & gone]
            if olds or variable.users & part.old.users.get(name, frozenset()):
                kernels = names(olds) or name
                why = f"{listed(variable.users)} used that of another object."
                doubt = Doubt(variable.told, kernels, why)
                part.correlation.ambiguous[variable.atom] = doubt
        for variable in old:
            name = base_name(variable.name)
            for other in others:
                for heir in _namesakes(other.new, name):
                    kept = heir.atom in other.correlation.to_original
                    if kept and (name in come or heir.users & come):
                        _refuse_merged(heir, other, (part, other), problems)


def _namesakes(version: Version, name: str) -> Iterator[Variable]:
    """List the variables of an object that code writes and that have a name in the source."""
    atoms = (atom for atom in version.code.atoms if base_name(atom.name) == name)
    return (v for v in (Variable(version, atom) for atom in atoms) if v.holds_state)


def _refuse_merged(
    heir: Variable, holder: Part, owners: Sequence[Part], problems: Problems
) -> None:
    problems.add(
        f"{heir.told} takes the place of several variables",
        where=f"{holder.where}:{heir.name}",
        why=f"The running kernel has one for each of {' and '.join(p.where for p in owners)}.",
        hint="Leave each its own.  If what the others hold does not matter, keep them declared,"
        " with __used.",
    )


def _written(part: Part, elf: ElfFile, symbols: Mapping[str, Symbol]) -> Counter[str]:
    """Count an object's writable variables by their names without numbers."""
    known = part.ties.moved.keys() | part.ties.left.keys()
    return Counter(
        base_name(name)
        for name, symbol in symbols.items()
        if symbol.type == STT.OBJECT
        and elf.sections[symbol.st_shndx].sh_flags & SHF.WRITE
        and name not in known
    )


def _may_have_moved(old: Variable, new: Variable, parts: Sequence[Part]) -> bool:
    """Tell whether a new variable of one object may be another object's.

    Unless the names say so, a function must have used the one and use the other now, or code
    must have moved: a function that used the old one is gone, or one that uses the new one
    was not there.
    """
    before, after = old.version.correlation, new.version.correlation
    both = [parts[before.number], parts[after.number]]
    users = old.users, new.users
    related = bool(old.users | new.users) and may_take_over(
        *users, [part.old for part in both], [part.new for part in both]
    )
    if before is after or not may_be(old, new, related):
        return False
    return (
        named_alike(old, new)
        or related
        or not old.users <= before.functions_after
        or not new.users <= after.functions_before
        or not _users(old, [p for p in parts if old.name in p.was_used]).isdisjoint(
            _users(new, [p for p in parts if new.name in p.used])
        )
    )


def _users(variable: Variable, others: Sequence[Part]) -> frozenset[str]:
    """List the functions that use a variable, those of other objects included, by their names."""
    found = variable.users
    for part in others if variable.atom.is_global else ():
        version = part.new if variable.version.is_patched else part.old
        found |= version.users.get(variable.name, frozenset())
    return found
