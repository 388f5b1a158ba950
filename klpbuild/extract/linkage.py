"""Bind the names of all objects of a patch as the kernel's linker binds them.

A function or variable that the patch moves to another file, or that it makes global for
another file, is the one that the running kernel has.  One object alone cannot tell.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from klpbuild.elf.constants import STB, STT
from klpbuild.elf.reader import ElfFile, Symbol
from klpbuild.errors import Problems
from klpbuild.extract.sections import (
    SectionKind,
    is_exit,
    is_init,
    is_special_static,
    kind_of,
)
from klpbuild.names import VMLINUX

#: Object and symbol to whether the kernel's global symbol is weak; None if there is none.
KernelSymbol = Callable[[str, str], "bool | None"]


@dataclass(frozen=True)
class Origin:
    """A symbol of the running kernel that the patch defines, or uses, in another object.

    :ivar part: number of the object of the patch whose original defines it; None for an
        object that the patch does not touch.
    :ivar name: its name in the kernel.
    :ivar where: what messages call that object; empty without `part`.
    :ivar symbol: in the symbol table of that original; None without `part`.
    """

    part: int | None
    name: str
    where: str = ""
    symbol: Symbol | None = None

    @property
    def is_local(self) -> bool:
        return self.symbol is not None and self.symbol.is_local


@dataclass
class Ties:
    """Names that an object of the patch shares with the others.

    :ivar moved: symbols that it defines now, each with the kernel's: one, but for a function
        that several objects had.
    :ivar bound: names that it uses now and another object defines, with the kernel's symbol.
    :ivar left: symbols that the kernel has in this object, and what messages call the other
        one that defines them now.
    :ivar overridden: weak functions of which another object has the one that runs, and why.
    :ivar taken: functions of `moved` whose address nothing in the kernel takes, and the patch does.
    """

    moved: dict[str, tuple[Origin, ...]] = field(default_factory=dict)
    bound: dict[str, Origin] = field(default_factory=dict)
    left: dict[str, str] = field(default_factory=dict)
    overridden: dict[str, str] = field(default_factory=dict)
    taken: set[str] = field(default_factory=set)


@dataclass(eq=False, kw_only=True)
class LinkedObject:
    """Symbol names of an object, before and after the patch.

    :ivar number: its place among the patch's objects.
    :ivar owner: vmlinux or the module that it is part of.
    :ivar where: what messages call it, ``source:object``.
    """

    number: int
    owner: str
    where: str
    original: ElfFile
    patched: ElfFile
    ties: Ties = field(default_factory=Ties)

    @cached_property
    def before(self) -> Mapping[str, Symbol]:
        """Its functions and variables by name, as the kernel has them."""
        return self._defined(self.original)

    @cached_property
    def after(self) -> Mapping[str, Symbol]:
        """Its functions and variables by name, as the patch makes them."""
        return self._defined(self.patched)

    @cached_property
    def used(self) -> frozenset[str]:
        """The names that it uses of other objects, with the patch."""
        return _undefined(self.patched)

    @cached_property
    def was_used(self) -> frozenset[str]:
        """The names that it used of other objects."""
        return _undefined(self.original)

    def origin(self, symbol: Symbol) -> Origin:
        """Make the origin of a symbol that this object defined."""
        return Origin(self.number, symbol.name, self.where, symbol)

    def _defined(self, elf: ElfFile) -> dict[str, Symbol]:
        runs = [self._outlives_start(elf, index) for index in range(len(elf.sections))]
        return {
            symbol.name: symbol
            for symbol in elf.symbol_list
            if symbol.is_defined
            and symbol.type in (STT.FUNC, STT.OBJECT)
            and runs[symbol.st_shndx]
            and not (
                symbol.is_local
                and is_special_static(symbol.name, elf.sections[symbol.st_shndx], symbol.st_size)
            )
        }

    def _outlives_start(self, elf: ElfFile, index: int) -> bool:
        section = elf.sections[index]
        if kind_of(section) not in (SectionKind.CODE, SectionKind.DATA):
            return False
        if is_exit(section.name) and self.owner == VMLINUX:
            return False
        return not is_init(section.name)


def _undefined(elf: ElfFile) -> frozenset[str]:
    return frozenset(s.name for s in elf.symbol_list if s.st_shndx == 0 and s.name)


def link(
    objects: Sequence[LinkedObject],
    kernel_symbol: KernelSymbol,
    weak_in: Callable[[str], str] = lambda name: "",
    is_known: Callable[[str, str], bool] = lambda owner, name: False,
) -> None:
    """Match the names that the objects of a patch share, and note them in their `Ties`.

    :param kernel_symbol: whether an object of the kernel has a global symbol of a name,
        None if not, and whether that is weak.
    :param weak_in: the source file that defines a weak function of a name; empty if none does.
    :param is_known: whether code of an object of the kernel can use a global of a name already.
    :raises KlpError: for what moves and cannot be the kernel's.
    """
    problems = Problems()
    by_owner: dict[str, list[LinkedObject]] = defaultdict(list)
    for one in objects:
        by_owner[one.owner].append(one)
    for owner, members in by_owner.items():
        _Owner(owner, members, kernel_symbol, weak_in, problems).bind()
    _refuse_other_owners(by_owner, problems)
    _lead_to_other_owners(objects, is_known)
    problems.check()


def _lead_to_other_owners(
    objects: Sequence[LinkedObject], is_known: Callable[[str, str], bool]
) -> None:
    """Bind names that were static in one object of the kernel and are exported to others now."""
    for holder in objects:
        for name, symbol in holder.after.items():
            old = holder.before.get(name)
            if symbol.is_local or old is None or not old.is_local or old.type != symbol.type:
                continue
            for member in objects:
                known = member.owner == holder.owner or name in member.ties.bound
                if name in member.used and not known and not is_known(member.owner, name):
                    member.ties.bound[name] = holder.origin(old)


def new_globals(objects: Iterable[LinkedObject]) -> dict[str, str]:
    """List the globals that a patch adds to the kernel, each with the object that gets it."""
    return {
        name: member.owner
        for member in objects
        for name, symbol in member.after.items()
        if not symbol.is_local and name not in member.before and name not in member.ties.moved
    }


class _Owner:
    """The objects of a patch that are linked into one object of the kernel."""

    def __init__(
        self,
        name: str,
        members: Sequence[LinkedObject],
        kernel_symbol: KernelSymbol,
        weak_in: Callable[[str], str],
        problems: Problems,
    ) -> None:
        self.name, self.members, self.problems = name, members, problems
        self.kernel_symbol, self.weak_in = kernel_symbol, weak_in

    def bind(self) -> None:
        """Match the names that the members share, and note them in their `Ties`."""
        for member in self.members:
            for symbol in member.before.values():
                weak = symbol.bind == STB.WEAK and symbol.is_function
                if weak and self.kernel_symbol(self.name, symbol.name) is False:
                    why = f"{self.name} has another object's, which is not weak"
                    member.ties.overridden[symbol.name] = why
            for symbol in member.after.values():
                self._give_way(member, symbol)
        definers = _globals((member, member.after) for member in self.members)
        for name, holders in definers.items():
            left = [h for h in holders if name not in h.ties.moved]
            strong = [h for h in left if h.after[name].bind != STB.WEAK]
            for holder in (strong or left)[:1]:
                self._bind(name, holder)
        former = _globals((member, member.before) for member in self.members)
        for name, holders in former.items():
            if name not in definers:
                self._leave(name, [h for h in holders if name not in h.after])

    def _give_way(self, member: LinkedObject, symbol: Symbol) -> None:
        """Drop a new weak function where the kernel has one that the patch does not move."""
        weak = symbol.bind == STB.WEAK and symbol.is_function
        if not weak or symbol.name in member.before:
            return
        known = self.kernel_symbol(self.name, symbol.name)
        if known is False or (known and not any(_gives(m, symbol) for m in self.members)):
            member.ties.moved[symbol.name] = (Origin(None, symbol.name),)
            member.ties.overridden[symbol.name] = f"{self.name} has it already, and it is weak"

    def _bind(self, name: str, holder: LinkedObject) -> None:
        """Find the kernel's symbol of a global that an object defines now."""
        symbol, own = holder.after[name], holder.before.get(name)
        if own is not None:
            if own.is_local and own.type == symbol.type:
                self._lead(name, [], holder.origin(own), holder)
            if name in holder.ties.overridden:
                self._uncover(name, holder)
            return
        olds = [m for m in self.members if m is not holder and _gives(m, symbol)]
        if not olds:
            was_here = any(s.name == name for m in self.members for s in m.original.symbol_list
                           if s.is_defined)  # fmt: skip
            if not was_here and self.kernel_symbol(self.name, name) is not None:
                self._take_over(holder, symbol)
            return
        self._move(name, olds, holder)

    def _uncover(self, name: str, holder: LinkedObject) -> None:
        """Refuse to make a function run that another one overrides: the kernel has not got it."""
        gone = [m for m in self.members if name in m.before and name not in m.after]
        if gone:
            self._refuse_weak(name, gone[0].where, holder.where)
        elif holder.after[name].bind != STB.WEAK:
            self._take_over(holder, holder.after[name])

    def _take_over(self, holder: LinkedObject, symbol: Symbol) -> None:
        """Handle a new definition of what the kernel has outside of the patch."""
        if symbol.is_function and self.kernel_symbol(self.name, symbol.name):
            holder.ties.moved[symbol.name] = (Origin(None, symbol.name),)
            return
        why, hint = "The rest of the running kernel keeps its own variable.", "variable"
        if symbol.is_function:
            why, hint = "Neither is weak, so that the kernel could not be linked.", "function"
        self.problems.add(
            f"{symbol.name} is defined anew, and {self.name} has it already",
            where=f"{holder.where}:{symbol.name}",
            why=why,
            hint=f"Give the new {hint} another name.",
        )

    def _move(self, name: str, olds: Sequence[LinkedObject], holder: LinkedObject) -> None:
        symbol = holder.after[name]
        if not symbol.is_function and len(olds) > 1:
            self.problems.add(
                f"{name} takes the place of several variables",
                where=f"{holder.where}:{name}",
                why=f"The running kernel has one for each of {_places(olds)}.",
                hint="Give the new variable another name.",
            )
            return
        origins = tuple(old.origin(old.before[name]) for old in olds)
        holder.ties.moved[name] = origins
        self._lead(name, olds, origins[0], holder)
        for old in olds:
            old.ties.left[name] = holder.where
            if name in old.after:
                old.ties.overridden[name] = f"the patch adds one to {holder.where}"

    def _lead(
        self, name: str, olds: Sequence[LinkedObject], origin: Origin, holder: LinkedObject
    ) -> None:
        """Bind the uses of a name in other objects to the kernel's symbol."""
        for member in self.members:
            if member is not holder and name in member.used:
                own = member.before.get(name) if member in olds else None
                member.ties.bound[name] = member.origin(own) if own is not None else origin

    def _leave(self, name: str, olds: Sequence[LinkedObject]) -> None:
        """Find where a global of the kernel went that no object defines as a global now."""
        if not olds:
            return
        old = olds[0].before[name]
        found = [
            m for m in self.members
            if name in m.after and name not in m.before and m.after[name].type == old.type
        ]  # fmt: skip
        # Several are copies of an inline function.  A variable may have a namesake.
        if len(found) == 1 and (old.is_function or name in found[0].was_used):
            self._move(name, olds, found[0])
        elif not found and old.is_function and self.kernel_symbol(self.name, name) is False:
            weak = self.weak_in(name)
            if weak:
                self._refuse_weak(name, olds[0].where, weak)

    def _refuse_weak(self, name: str, where: str, weak: str) -> None:
        self.problems.add(
            f"{name} is gone, so that the weak one of {weak} takes its place",
            where=f"{where}:{name}",
            why="The running kernel has not got that one: the linker left it out.",
            hint=f"Let {name} do what the weak one does.",
        )


def _gives(member: LinkedObject, symbol: Symbol) -> bool:
    """Tell whether an object had what another defines now: it was global, or is still used."""
    old = member.before.get(symbol.name)
    if old is None or old.type != symbol.type:
        return False
    return symbol.name in member.used if old.is_local else True


def _globals(
    tables: Iterable[tuple[LinkedObject, Mapping[str, Symbol]]],
) -> dict[str, list[LinkedObject]]:
    found: dict[str, list[LinkedObject]] = defaultdict(list)
    for member, symbols in tables:
        for symbol in symbols.values():
            if not symbol.is_local:
                found[symbol.name].append(member)
    return found


def _places(objects: Iterable[LinkedObject]) -> str:
    return " and ".join(one.where for one in objects)


def _refuse_other_owners(
    by_owner: Mapping[str, Sequence[LinkedObject]], problems: Problems
) -> None:
    """Refuse what moves to another object of the kernel, which may be loaded at other times."""
    for owner, members in by_owner.items():
        after = _globals((m, m.after) for m in members)
        gone = _globals((m, m.before) for m in members).keys() - after.keys() - _OF_MODULES
        for other, others in by_owner.items():
            if other == owner:
                continue
            before = _globals((m, m.before) for m in others)
            come = _globals((m, m.after) for m in others)
            for name in sorted(gone & (come.keys() - before.keys())):
                holder = come[name][0]
                problems.add(
                    f"{name} moves from {owner} to {other}",
                    where=f"{holder.where}:{name}",
                    why=f"What {owner} has of it stays in use, and {other} may be loaded at"
                    " other times.",
                    hint="Leave it where it is, or give the new one another name.",
                )


#: What every module has of its own.
_OF_MODULES = frozenset({"init_module", "cleanup_module"})
