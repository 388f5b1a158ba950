"""Describe variables of one version of an object: what they hold, and how code uses them."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from functools import cached_property
from itertools import takewhile
from operator import eq

from klpbuild.elf.vartypes import VariableType
from klpbuild.extract.atoms import Atom, Literal, Reference
from klpbuild.extract.correlate import Correlation
from klpbuild.extract.names import base_name, source_name, static_number
from klpbuild.extract.objects import CodeObject
from klpbuild.extract.sections import Memory, SectionKind, holds_variables, memory_of
from klpbuild.extract.special import Tables

_REGISTER = re.compile(
    r"\b(?:r\d+[bwd]?|[re]?(?:[abcd]x|[sd]i|[sb]p)|[abcd][hl]|(?:[sd]i|[sb]p)l)\b"
)

#: The keys of the static calls of tracepoints.
_OF_TRACEPOINTS = "__SCK__tp_func_"

#: The types of variables by their symbols.
Types = Callable[[], Mapping[str, VariableType]]

#: The type of a variable of which nobody knows it.
UNKNOWN = VariableType("")


def no_types() -> Mapping[str, VariableType]:
    """Return no types, where those of variables are not known."""
    return {}


@dataclass(frozen=True, eq=False)
class Version:
    """An object before or after the patch.

    :ivar correlation: both versions.
    :ivar is_patched: whether it is the patched one.
    :ivar tables: its tables.
    :ivar types: the types of its variables.
    """

    correlation: Correlation
    is_patched: bool
    tables: Tables
    types: Types = no_types

    @property
    def code(self) -> CodeObject:
        found = self.correlation
        return found.patched if self.is_patched else found.original

    def written(self) -> list[Variable]:
        """List its variables that code may write, and that the other version does not have."""
        return [v for v in self._alone() if v.memory is not Memory.READ_ONLY]

    def constants(self) -> list[Variable]:
        """List its constants that the other version does not have."""
        return [v for v in self._alone() if v.memory is Memory.READ_ONLY]

    def _alone(self) -> list[Variable]:
        found = self.correlation
        twins = found.to_original if self.is_patched else found.to_patched
        known = {*twins, *(found.departed.values() if not self.is_patched else ())}
        return [
            Variable(self, atom)
            for atom in self.code.atoms
            if atom not in known
            and atom.symbols
            and atom.kind is SectionKind.DATA
            and len(atom)
            and _holds_state(atom)
            and not (self.is_patched and found.origins(atom))
            and not (not self.is_patched and atom.name in found.ties.left)
        ]

    @property
    def functions(self) -> frozenset[str]:
        """Its functions by their names in the source."""
        found = self.correlation
        return found.functions_after if self.is_patched else found.functions_before

    @cached_property
    def calls(self) -> Mapping[str, frozenset[str]]:
        """The functions that each function refers to, by their names in the source."""
        found: dict[str, set[str]] = defaultdict(set)
        for atom in self.code.atoms:
            if atom.is_function:
                for reference in self.code.references(atom):
                    target = reference.target
                    if isinstance(target, Atom) and target.is_function:
                        found[source_name(atom.name)].add(source_name(target.name))
                    elif (symbol := self.code.undefined(reference)) is not None:
                        found[source_name(atom.name)].add(symbol.name)
        return {name: frozenset(names) for name, names in found.items()}

    @cached_property
    def users(self) -> Mapping[Atom | str, frozenset[str]]:
        """The functions that use each atom, and each name of another object.

        By their names in the source.
        """
        found: dict[Atom | str, set[str]] = defaultdict(set)
        for atom in self.code.atoms:
            if atom.kind is not SectionKind.CODE:
                continue
            entries = (r for entry in self.tables.of(atom) for r in entry.references)
            for reference in (*self.code.references(atom), *entries):
                undefined = self.code.undefined(reference)
                if isinstance(reference.target, Atom):
                    found[reference.target].add(source_name(atom.name))
                elif undefined is not None:
                    found[undefined.name].add(source_name(atom.name))
        return {aim: frozenset(names) for aim, names in found.items()}


def _holds_state(atom: Atom) -> bool:
    """Tell whether a variable may hold state: not those that macros make for a place in code."""
    name = atom.section.name
    if not holds_variables(name) or name.startswith("__"):  # __dyndbg, __tracepoints
        return False
    return not atom.is_special_static and not atom.name.startswith(_OF_TRACEPOINTS)


@dataclass(frozen=True, eq=False)
class Variable:
    """A variable of one version of an object."""

    version: Version
    atom: Atom

    @property
    def name(self) -> str:
        return self.atom.name

    @property
    def memory(self) -> Memory:
        return memory_of(self.atom.section)

    @property
    def holds_state(self) -> bool:
        """Whether code may write it, and finds there what it wrote."""
        data = self.atom.kind is SectionKind.DATA and bool(self.atom.symbols)
        return data and self.memory is not Memory.READ_ONLY and _holds_state(self.atom)

    @cached_property
    def type(self) -> VariableType:
        """Its type; `UNKNOWN` when nobody knows it."""
        types = self.version.types()
        return next((types[s.name] for s in self.atom.symbols if s.name in types), UNKNOWN)

    @property
    def users(self) -> frozenset[str]:
        """The functions that use it, by their names in the source."""
        return self.version.users.get(self.atom, frozenset())

    @property
    def told(self) -> str:
        """Its name for messages: of a function's static variables several have one name."""
        if static_number(self.name) is None:
            return self.name
        return f"{base_name(self.name)} (in {listed(self.users)})"


def listed(users: frozenset[str]) -> str:
    """Join names of functions, for messages."""
    return ", ".join(sorted(users)[:3]) or "none"


def same_content(old: Variable, new: Variable) -> bool:
    """Tell whether two variables begin with the same content, references included."""
    before, after = old.version, new.version
    olds, news = before.code.references(old.atom), after.code.references(new.atom)
    if before.code.contents(old.atom) != after.code.contents(new.atom) or len(olds) != len(news):
        return False
    return all(
        (one.offset, one.type, one.addend) == (other.offset, other.type, other.addend)
        and meaning(before, one, old.atom) == meaning(after, other, new.atom)
        for one, other in zip(olds, news, strict=True)
    )


def used_alike(old: Variable, new: Variable) -> bool:
    """Tell whether code and other variables use two variables in the same way.

    In the code that uses them, one version beside the other, each instruction with the old
    variable has its counterpart with the new one.
    """
    if held(old) != held(new):
        return False
    common = old.users & new.users
    pairs = [({name}, {name}) for name in sorted(common)]
    pairs.append((set(old.users - common), set(new.users - common)))
    return all(_align(_steps(old, was), _steps(new, now)) for was, now in pairs)


def held(variable: Variable) -> Counter[Hashable]:
    """Count how often, and how, other variables and tables of code refer to a variable."""
    version, found = variable.version, Counter[Hashable]()
    for atom in version.code.atoms:
        held = version.code.references(atom) if atom.kind is SectionKind.DATA else ()
        entries = [(e.section.name, r) for e in version.tables.of(atom) for r in e.references]
        for name, reference in [*(("", r) for r in held if atom is not variable.atom), *entries]:
            if reference.target is variable.atom:
                found[name, reference.offset, reference.addend] += 1
    return found


#: How many instructions from a use on tell what it is for.
_FOLLOWING = 6


def likeness(
    old: Variable, new: Variable, olds: Sequence[Variable], news: Sequence[Variable]
) -> int:
    """Count the instructions that are the same from two variables' uses on, to the first other.

    :param olds: variables of the old version, and
    :param news: of the new one, of which it is not known which is which.
    """
    befores, afters = _uses(old, olds), _uses(new, news)
    return sum(max((_same(one, other) for other in afters), default=0) for one in befores)


def _same(one: Sequence[Hashable], other: Sequence[Hashable]) -> int:
    return sum(1 for _ in takewhile(bool, map(eq, one, other)))


def _uses(variable: Variable, group: Sequence[Variable]) -> list[list[Hashable]]:
    """List the instructions from each use of a variable on; those of a group are one."""
    steps = _steps(variable, set(variable.users), {v.atom for v in group})
    words = [word for _, word in steps]
    return [words[at : at + _FOLLOWING] for at, (uses, _) in enumerate(steps) if uses]


_Step = tuple[bool, Hashable]


def _steps(variable: Variable, users: set[str], group: Collection[Atom] = ()) -> list[_Step]:
    """Decode functions without register names, and note which instructions use a variable."""
    version, found = variable.version, list[_Step]()
    for atom in version.code.atoms:
        if atom.kind is not SectionKind.CODE or source_name(atom.name) not in users:
            continue
        references = list(version.code.references(atom))
        for offset, size, mnemonic, operands in version.code.instructions.decode(
            version.code.contents(atom)
        ):
            aims = [r for r in references if offset <= r.offset < offset + size]
            uses = any(r.target is variable.atom for r in aims)
            words = "" if operands.startswith("0x") else _REGISTER.sub("%", operands)
            aim = tuple(
                (
                    "itself" if r.target in group else meaning(version, r, variable.atom),
                    r.addend,
                )
                for r in aims
            )
            found.append((uses, (mnemonic, words, aim)))
    return found


def _align(old: list[_Step], new: list[_Step]) -> bool:
    """Tell whether the uses in two pieces of code stand side by side."""
    matched = sum(
        uses
        for block in SequenceMatcher(None, old, new, autojunk=False).get_matching_blocks()
        for uses, _ in old[block.a : block.a + block.size]
    )
    return matched == sum(uses for uses, _ in old) == sum(uses for uses, _ in new)


def meaning(version: Version, reference: Reference, itself: Atom) -> Hashable:
    """Identify what a reference leads to in the running kernel, to compare it between objects."""
    target, found = reference.target, version.correlation
    if isinstance(target, Literal):
        return target.content
    if target is itself:
        return "itself"
    if target is not None and (not target.symbols or target.is_special_static):
        return version.code.contents(target)
    if target is None:
        name = version.code.elf.symbol_list[reference.symbol].name
        origin = found.ties.bound.get(name) if version.is_patched else None
        if origin is None or not origin.is_local or origin.symbol is None:
            return name
        return origin.part, origin.symbol.index
    if version.is_patched:
        twin = found.to_original.get(target)
        for origin in found.origins(target):
            if origin.is_local and origin.symbol is not None:
                return origin.part, origin.symbol.index
            return origin.name
        if twin is None:
            return target
        target = twin
    if target.is_global:
        return target.name
    return found.number, target.symbols[0].index
