"""Decide by a table how each undefined reference of a livepatch is resolved.

For hand-written sources the first match wins (docs/relocations.md has the same
table for people):

==  ==========================================================  ================================
 1  annotated with gate, owner and position                     livepatch relocation as written,
                                                                checked
 2  annotated with owner and position                           livepatch relocation
 3  exported by vmlinux                                         ordinary relocation
 4  exported by a module                                        livepatch relocation, so that the
                                                                livepatch can load first
 5  one symbol of that name in vmlinux and the patched modules  livepatch relocation
 6  several                                                     error that lists them
 7  weak, and nowhere defined                                   ordinary: the kernel leaves it 0
 8  nowhere defined, or only in objects that are not patched    error
==  ==========================================================  ================================

Where no annotation names the gate, `klpbuild.resolve.gates` chooses it for each place that
uses the symbol.

Code extracted from a patch comes from one object, its home, and there is nothing
to guess: the linker bound each name once already.

==  ==========================================================  ================================
 A  defined by the home's own object file, not exported by      livepatch relocation to the
    vmlinux, or the address of a function that is replaced      symbol at the proven place
 B  global in the home, which is a module                       livepatch relocation, gate = home
 C  exported by vmlinux, in no namespace                        ordinary relocation
 D  exported by a module                                        livepatch relocation, gate = home
 E  global in vmlinux                                           livepatch relocation, gate
                                                                vmlinux, whatever the home
 F  defined nowhere                                             error
==  ==========================================================  ================================
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import TYPE_CHECKING

from klpbuild.errors import KlpError
from klpbuild.kernel.dependencies import Dependencies
from klpbuild.names import VMLINUX, LivepatchSymbol
from klpbuild.resolve.gates import Gates, Use

if TYPE_CHECKING:
    from collections.abc import Sequence

    from klpbuild.symbols.database import Candidate, SymbolDatabase
    from klpbuild.symbols.symvers import Exports


class Fate(Enum):
    """How a reference is resolved."""

    EXPORTED = "exported"
    LIVEPATCH = "livepatch"
    WEAK = "weak"


@dataclass(frozen=True)
class Annotation:
    """The symbol that is meant, as the author or the extraction of a patch says.

    :ivar symbol: name in its owner.
    :ivar owner: object that defines it.
    :ivar sympos: 0 or the 1-based place among the owner's symbols of the name.
    :ivar gate: object whose loading applies the relocations; None: to be chosen where it is
        used.
    :ivar where: where it is written.
    """

    symbol: str
    owner: str
    sympos: int
    gate: str | None
    where: str


@dataclass(frozen=True)
class Reference:
    """An undefined symbol of the livepatch.

    :ivar name: its name in the object file.
    :ivar where: the first place that uses it, ``object:section+0xoffset``.
    :ivar weak: whether the kernel may leave it 0.
    :ivar annotation: what is said about it, if anything.
    """

    name: str
    where: str
    weak: bool = False
    annotation: Annotation | None = None


@dataclass(frozen=True)
class Place:
    """A place in the shipped binary.

    :ivar section: in a module, the section's name; empty in vmlinux.
    :ivar address: in vmlinux of the link, in a module the offset in the section.
    """

    section: str
    address: int


@dataclass(frozen=True)
class Decision:
    """How a reference is resolved, and why.

    :ivar gate: of a livepatch relocation; empty otherwise, and before it is chosen.
    :ivar target: of a livepatch relocation; None otherwise.
    :ivar unchecked: what of the gate could not be told; empty when all could.
    """

    reference: Reference
    fate: Fate
    why: str
    gate: str = ""
    target: LivepatchSymbol | None = None
    unchecked: str = ""


@dataclass(frozen=True)
class Resolver:
    """Decides references against the symbols of one kernel.

    :ivar database: every symbol of vmlinux and the modules.
    :ivar exports: Module.symvers.
    :ivar patched: the objects that the livepatch has a ``klp_object`` for.
    :ivar dependencies: what the kernel's modules need; by default nothing is known.
    """

    database: SymbolDatabase
    exports: Exports
    patched: frozenset[str]
    dependencies: Dependencies = field(default_factory=Dependencies)

    @property
    def gates(self) -> Gates:
        """The choice of gates for this livepatch."""
        return Gates(self.patched, self.dependencies)

    def place(self, decision: Decision, use: Use) -> Decision:
        """Choose or check the gate of a decision for the places of a use.

        :raises KlpError: when no gate is right there, or the annotated one is not.
        """
        if decision.target is None:
            return decision
        gate = decision.gate
        if gate:
            self.gates.check_use(gate, decision.target, use)
        else:
            gate = self.gates.choose(decision.target, use)
        unchecked = self.gates.unchecked(gate, decision.target, use)
        return replace(decision, gate=gate, unchecked=unchecked)

    def decide(self, reference: Reference) -> Decision:
        """Decide one reference by the table above; `place` chooses the gate.

        :raises KlpError: when there is no answer, or more than one.
        """
        if reference.annotation is not None:
            return self._annotated(reference, reference.annotation)
        export = self.exports.find(reference.name)
        if export is not None and export.owner == VMLINUX:
            return Decision(reference, Fate.EXPORTED, "exported by vmlinux")
        if export is not None:
            return self._exported_by_module(reference, export.owner)
        return self._by_name(reference)

    def decide_extracted(
        self,
        reference: Reference,
        home: str,
        place: Place | None,
        pointer: bool = False,
        *,
        holder: str = "",
    ) -> Decision:
        """Resolve a reference of code that was extracted from an object of the kernel.

        :param home: the object that the code is from: vmlinux or a module.
        :param place: where the symbol stands in the holder, when an object file of the patch
            defines it; None for symbols of other files.
        :param pointer: whether it is the address of a function that is replaced.
        :param holder: the object that has it at the place; empty for the home.
        :raises KlpError: when there is no answer.
        """
        export = self.exports.find(reference.name)
        plain = (
            export is not None and export.owner == VMLINUX and not export.namespace and not pointer
        )
        if place is not None:
            holder = holder or home
            found = self._at(reference, holder, place)
            if plain and holder == VMLINUX and found.kind.isupper():
                return Decision(reference, Fate.EXPORTED, "exported by vmlinux")
            if holder not in (home, VMLINUX):
                return self._of_dependency(reference, home, found)
            return self._livepatch(reference, holder, found, f"at its place in {holder}")
        bound = self.linked(home, reference.name)
        if bound is not None and home != VMLINUX:
            return self._livepatch(reference, home, bound, f"global in {home}")
        if plain:
            return Decision(reference, Fate.EXPORTED, "exported by vmlinux")
        if export is not None and export.owner != VMLINUX and home != VMLINUX:
            bound = self.linked(export.owner, reference.name)
            if bound is not None:
                return self._of_dependency(reference, home, bound)
        bound = self.linked(VMLINUX, reference.name)
        if bound is not None:
            return self._livepatch(reference, VMLINUX, bound, "global in vmlinux")
        if reference.weak and not self.database.candidates(reference.name):
            return Decision(reference, Fate.WEAK, "weak, and defined nowhere")
        raise KlpError(
            f"symbol {reference.name!r} is not in this kernel where {home} could use it",
            where=reference.where,
            hint=_listing("It is defined by:", self.database.candidates(reference.name))
            if self.database.candidates(reference.name)
            else "The patch needs another one that brings it.",
        )

    def owner(self, name: str, home: str) -> str:
        """Find the object that defines a global symbol used in ``home``; empty if none does."""
        if self.linked(home, name) is not None:
            return home
        export = self.exports.find(name)
        if export is not None:
            return export.owner
        return VMLINUX if self.linked(VMLINUX, name) is not None else ""

    def at(self, name: str, where: str, home: str, place: Place | None) -> Candidate:
        """Find the symbol of an object at a place; without a place the only one of its name.

        :raises KlpError: when there is none.
        """
        if place is None:
            found = self.database.in_object(home, name)
            if len(found) == 1:
                return found[0]
            raise KlpError(
                f"{name} was not found in the shipped {home}",
                where=where,
                why=f"{home} has {len(found)} symbols of this name.",
            )
        return self._at(Reference(name, where), home, place)

    def _at(self, reference: Reference, home: str, place: Place) -> Candidate:
        found = self.database.in_object(home, reference.name)
        same = [c for c in found if c.address == place.address and place.section in ("", c.section)]
        if len(same) == 1:
            return same[0]
        raise KlpError(
            f"symbol {reference.name!r} is not in {home} where it was found",
            where=reference.where,
            why=f"Expected at {place.section}+0x{place.address:x}; kallsyms leaves it out, "
            "or symbols.klp is of another kernel.",
            hint=_listing("Known:", found) if found else "",
        )

    def linked(self, owner: str, name: str) -> Candidate | None:
        """Find the symbol that the linker would bind a name to in an object."""
        bound = [c for c in self.database.in_object(owner, name) if c.kind.isupper()]
        return bound[0] if len(bound) == 1 else None

    def _livepatch(self, reference: Reference, gate: str, found: Candidate, why: str) -> Decision:
        _check_stable([found], reference.where)
        target = LivepatchSymbol(found.object, found.symbol, found.sympos)
        return Decision(reference, Fate.LIVEPATCH, why, gate, target)

    def _of_dependency(self, reference: Reference, home: str, found: Candidate) -> Decision:
        if self.dependencies.needs(home, found.object) is False:
            raise KlpError(
                f"symbol {reference.name!r} is of module {found.object}, "
                f"on which {home} does not depend",
                where=reference.where,
                why=f"{found.object} need not be loaded."
                if home == VMLINUX
                else f"When {home} loads, {found.object} need not be there: the kernel would "
                f"refuse {home}, or the livepatch.",
                hint="A livepatch cannot add a dependency. What is exported with "
                "EXPORT_SYMBOL_GPL can be asked for while running: symbol_get().",
            )
        return self._livepatch(reference, home, found, f"exported by module {found.object}")

    def _annotated(self, reference: Reference, annotation: Annotation) -> Decision:
        target = LivepatchSymbol(annotation.owner, annotation.symbol, annotation.sympos)
        self._check_position(annotation)
        if annotation.gate is not None:
            self.gates.check(annotation.gate, target, annotation.where)
        return Decision(reference, Fate.LIVEPATCH, "annotated", annotation.gate or "", target)

    def _check_position(self, annotation: Annotation) -> None:
        """Check that the annotation names a symbol that is there."""
        name = f"{annotation.owner}:{annotation.symbol}"
        if annotation.owner in self.patched - set(self.database.objects):
            return  # a module that may come later: only the author knows what it has
        if annotation.owner not in self.database.objects:
            raise KlpError(
                f"object {annotation.owner!r} of symbol {annotation.symbol!r} "
                "is not in this kernel",
                where=annotation.where,
                hint=_nearest("Did you mean", annotation.owner, self.database.objects),
            )
        found = self.database.in_object(annotation.owner, annotation.symbol)
        if not found:
            elsewhere = self.database.candidates(annotation.symbol)
            raise KlpError(
                f"annotated symbol {name} does not exist",
                where=annotation.where,
                hint=_listing("It is defined elsewhere:", elsewhere)
                if elsewhere
                else "Compare with symbols.klp: GCC may have renamed or inlined it.",
            )
        if annotation.sympos == 0 and len(found) > 1:
            raise KlpError(
                f"position 0 of {name} means that it is unique, and there are {len(found)}",
                where=annotation.where,
                hint=_listing("Take one of:", found),
            )
        if annotation.sympos > len(found):
            raise KlpError(
                f"position {annotation.sympos} of {name} does not exist: there are {len(found)}",
                where=annotation.where,
                hint=_listing("Positions begin at 1:", found),
            )
        _check_stable([found[max(annotation.sympos, 1) - 1]], annotation.where)

    def _exported_by_module(self, reference: Reference, owner: str) -> Decision:
        found = self.database.in_object(owner, reference.name)
        if not found:
            raise KlpError(
                f"symbol {reference.name!r} is exported by {owner}, "
                "whose symbols are not in symbols.klp",
                where=reference.where,
                hint="Module.symvers and symbols.klp are of different kernels: make both again.",
            )
        # An exported symbol is global; a static namesake only moves its position.
        bound = [c for c in found if c.kind.isupper()] if len(found) > 1 else list(found)
        if len(bound) != 1:
            raise self._ambiguous(reference, found)
        return self._livepatch(reference, "", bound[0], f"exported by module {owner}")

    def _by_name(self, reference: Reference) -> Decision:
        everywhere = self.database.candidates(reference.name)
        reachable = self.patched | {VMLINUX}
        found = [c for c in everywhere if c.object in reachable]
        if len(found) == 1:
            return self._livepatch(reference, "", found[0], f"only one in {found[0].object}")
        if len(found) > 1:
            raise self._ambiguous(reference, found)
        if reference.weak and not everywhere:
            return Decision(reference, Fate.WEAK, "weak, and defined nowhere")
        if everywhere:
            owners = sorted({c.object for c in everywhere})
            named = [f"{gate}, {owner}" for owner in owners for gate in self.gates.of_owner(owner)]
            raise KlpError(
                f"symbol {reference.name!r} is defined only by modules "
                f"that this livepatch does not patch: {', '.join(owners)}",
                where=reference.where,
                hint=f"To use it, write KLP_RELOC_SYMBOL({named[0]}, {reference.name})."
                if named
                else "No patched module depends on any of them.",
            )
        hint = _nearest("In symbols.klp there is", reference.name, self._similar(reference.name))
        for unknown in sorted(self.patched - set(self.database.objects)):
            hint += (
                f"\nIf {unknown} has it, name that module's file by modules=, or write "
                f"KLP_RELOC_SYMBOL({unknown}, {unknown}, {reference.name})."
            )
        raise KlpError(
            f"symbol {reference.name!r} is not defined by vmlinux or any module",
            where=reference.where,
            why="GCC drops functions that it inlines and renames clones (.isra.0, .constprop.0).",
            hint=hint.lstrip(),
        )

    def _similar(self, name: str) -> list[str]:
        clones = (f"{name}.{kind}.{n}" for kind in ("isra", "constprop", "part") for n in range(4))
        return [clone for clone in clones if self.database.candidates(clone)]

    def _ambiguous(self, reference: Reference, found: Sequence[Candidate]) -> KlpError:
        lines = [
            f"struct KLP_MODULE_RELOC({c.object}) relocations_{c.object}[] = "
            f"{{ KLP_SYMPOS({c.symbol}, {c.sympos}) }};"
            for c in found
        ]
        where = [_place(c) for c in found]
        width = max(map(len, where))
        listing = "\n".join(
            f"{place:<{width}}  {line}" for place, line in zip(where, lines, strict=True)
        )
        return KlpError(
            f"symbol {reference.name!r} is ambiguous: there are {len(found)}",
            where=reference.where,
            why="Only the author knows which one is meant.  Paste one of these lines:",
            hint=listing,
        )


def _check_stable(found: Sequence[Candidate], where: str) -> None:
    for candidate in found:
        if candidate.init:
            raise KlpError(
                f"symbol {candidate.symbol!r} of {candidate.object} is in {candidate.section}",
                where=where,
                why=f"That memory is freed once {candidate.object} runs.",
                hint="A livepatch can only use what stays.",
            )
        if candidate.unstable:
            raise KlpError(
                f"symbol {candidate.symbol!r} of {candidate.object} has no fixed position",
                where=where,
                why="Its namesakes in .init sections are counted while the module loads "
                "and not later.",
                hint="Reach it through another symbol.",
            )


def _place(candidate: Candidate) -> str:
    address = "unknown" if candidate.address is None else f"0x{candidate.address:x}"
    return (
        f"{candidate.object} position {candidate.position}, "
        f"{candidate.file or 'file unknown'}, address {address}:"
    )


def _listing(title: str, found: Sequence[Candidate]) -> str:
    return "\n".join([title, *(f"  {_place(c).rstrip(':')}" for c in found)])


def _nearest(title: str, name: str, known: Sequence[str]) -> str:
    near = list(known) if name not in known and len(known) < 8 else []
    near = difflib.get_close_matches(name, list(known), 3, 0.6) or near
    return f"{title} {', '.join(near)}?" if near else ""
