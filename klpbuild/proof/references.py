"""Find where the running kernel has each undefined symbol of an extracted object."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from klpbuild.elf.constants import SHN_UNDEF
from klpbuild.elf.reader import ElfFile
from klpbuild.elf.writer import ElfObject
from klpbuild.errors import KlpError, Problems
from klpbuild.extract.landing import no_landing, sealed_places
from klpbuild.extract.result import Extraction
from klpbuild.names import VMLINUX, AnnotatedSymbol
from klpbuild.proof.fidelity import Fidelity
from klpbuild.proof.shipped import SECTION_SHIFT
from klpbuild.resolve.fate import Decision, Fate, Place, Resolver
from klpbuild.resolve.fate import Reference as Undefined


@dataclass(frozen=True)
class Home:
    """The object of the kernel that extracted code is from.

    :ivar owner: ``vmlinux`` or the module.
    :ivar shipped: its file.
    :ivar fidelity: where the symbols of the compiled object are in it.
    :ivar where: what messages call the object.
    """

    owner: str
    shipped: ElfFile
    fidelity: Fidelity
    where: str

    @cached_property
    def sealed(self) -> frozenset[Place]:
        """The functions of the object that cannot be called by their address."""
        return sealed_places(self.shipped)

    def is_sealed(self, decision: Decision, resolver: Resolver) -> bool:
        """Tell whether a reference leads to a function that cannot be called by its address."""
        target = decision.target
        if target is None or target.owner != self.owner or not self.sealed:
            return False
        candidates = resolver.database.in_object(target.owner, target.symbol)
        return any(
            c.position == max(target.sympos, 1)
            and c.address is not None
            and Place(c.section if self.owner != VMLINUX else "", c.address) in self.sealed
            for c in candidates
        )

    def place(self, name: str) -> Place | None:
        """Find where a symbol of the compiled object stands in the shipped binary."""
        found = self.fidelity.find(name)
        if found is None:
            return None
        if self.owner == VMLINUX:
            return Place("", found.place)
        section = self.shipped.sections[found.place >> SECTION_SHIFT]
        return Place(section.name, found.place & ((1 << SECTION_SHIFT) - 1))


@dataclass(frozen=True)
class OwnNames:
    """The global functions and variables that a livepatch brings, for several of its objects.

    :ivar owners: the object of the kernel that each is added to, by name.
    """

    owners: Mapping[str, str]

    @classmethod
    def collect(
        cls, brought: Iterable[tuple[str, str, Iterable[str]]], resolver: Resolver
    ) -> OwnNames:
        """Collect the names.

        :param brought: objects of the kernel, what messages call their parts, and new globals.
        :raises KlpError: for names that mean something else to other code of the livepatch: a
            module of the kernel has its names for itself, and a livepatch is one module.
        """
        problems = Problems()
        owners: dict[str, str] = {}
        for owner, where, names in brought:
            for name in names:
                export = resolver.exports.find(name)
                other = owners.setdefault(name, owner)
                if other == owner and export is not None:
                    other = export.owner
                if other != owner:
                    problems.add(
                        f"{name} is new in {owner}, and {other} has one of this name, too",
                        where=f"{where}:{name}",
                        why="A livepatch is one module, and would mix them up.",
                        hint="Give the new one another name.",
                    )
        problems.check()
        return cls(owners)

    def bind(self, name: str, owner: str, resolver: Resolver) -> bool:
        """Tell whether code of an object means with a name what the livepatch brings."""
        holder = self.owners.get(name)
        return holder is not None and (holder == owner or not resolver.owner(name, owner))


def decide_references(
    extraction: Extraction,
    home: Home,
    resolver: Resolver,
    own: OwnNames,
    home_of: Callable[[int], Home],
) -> dict[str, Decision]:
    """Resolve every reference of an extracted object, by its symbol in that object.

    :param own: what the livepatch brings: references to it are bound by the linker and left
        out here.
    :param home_of: the home of another object of the patch, by its number.
    :raises KlpError: with all that cannot be decided.
    """
    problems = Problems()
    decisions = {}
    for reference in extraction.references:
        is_free = reference.origin is None and not reference.is_defined
        if is_free and own.bind(reference.name, home.owner, resolver):
            continue
        origin = reference.origin
        defined_in = home if origin is None or origin.part is None else home_of(origin.part)
        with problems.collect():
            place = None
            # A global name is what the linker made of it: a weak definition of this
            # object may have given way to another object's.
            if reference.is_defined and reference.is_local:
                place = defined_in.place(reference.name)
                if place is None:
                    raise KlpError(
                        f"{reference.name} was not found in the shipped {defined_in.owner}",
                        where=defined_in.where,
                        why="The compiled source has it; the shipped binary was linked "
                        "from something else, or does not tell it from others.",
                    )
            decision = resolver.decide_extracted(
                Undefined(reference.name, home.where),
                home.owner,
                place,
                reference.is_function_pointer,
                holder=defined_in.owner,
            )
            if reference.is_address and defined_in.is_sealed(decision, resolver):
                raise no_landing(reference.name, home.where)
            decisions[reference.symbol] = decision
    problems.check()
    return decisions


def name_references(
    elf: ElfFile, decisions: Mapping[str, Decision], late: LateNames | None = None
) -> ElfObject:
    """Write decisions into the names of an object's symbols, for the converter.

    To be done after objtool, which knows some functions by their names.

    :param late: takes the names that can wait until after the link.
    """
    out = ElfObject.from_elf(elf)
    for symbol in elf.symbol_list:
        decision = decisions.get(symbol.name)
        if decision is None or symbol.st_shndx != SHN_UNDEF:
            continue
        name = decision.reference.name
        if decision.fate is Fate.LIVEPATCH and decision.target is not None:
            target = decision.target
            name = AnnotatedSymbol(
                decision.gate, target.owner, target.symbol, target.sympos
            ).format()
        if late is not None and symbol.name == decision.reference.name:
            name = late.keep(symbol.name, name)
        if name != symbol.name:
            out.rename_symbol(symbol.index, name)
    return out


@dataclass(frozen=True)
class LateNames:
    """Annotations that wait until objtool has read the linked module.

    objtool knows functions that do not return, and some others, by their names, and an
    annotation hides these.  Where it reads the module and not each object, symbols are
    annotated after the link.

    :ivar taken: whether a name means something else to modpost or the linker.
    :ivar names: annotations by plain names; grows.
    """

    taken: Callable[[str], bool]
    names: dict[str, str] = field(default_factory=dict)

    def keep(self, plain: str, name: str) -> str:
        """Choose the name that a symbol has for the link: its plain one if it can."""
        if self.taken(plain) or self.names.setdefault(plain, name) != name:
            return name
        return plain


def rename_undefined(elf: ElfFile, names: Mapping[str, str]) -> ElfObject:
    """Rename undefined symbols of an object.

    :raises ValueError: when the object defines one of them itself.
    """
    out = ElfObject.from_elf(elf)
    if defined := [
        s.name for s in elf.symbol_list if s.st_shndx and not s.is_local and s.name in names
    ]:
        raise ValueError(f"{elf.name} defines {defined}")
    for symbol in elf.symbol_list:
        if symbol.st_shndx == SHN_UNDEF and symbol.name in names:
            out.rename_symbol(symbol.index, names[symbol.name])
    return out
