"""Choose the gate of a livepatch relocation: the patched object whose loading applies it.

Two things must hold when the gate loads, or when the livepatch does and finds it loaded:

- the owner of the symbol is there: else the kernel finds no symbol and refuses whichever is
  being loaded (kernel/livepatch/core.c, klp_find_object_symbol);
- the code that has the relocation has not run yet: until then its place holds zeros.
"""

from __future__ import annotations

from dataclasses import dataclass

from klpbuild.errors import KlpError
from klpbuild.kernel.dependencies import Dependencies
from klpbuild.names import VMLINUX, LivepatchSymbol
from klpbuild.resolve.reach import Entry

_INSTEAD = "What is exported with EXPORT_SYMBOL_GPL can be asked for while running: symbol_get()."


@dataclass(frozen=True)
class Use:
    """Places that use one symbol and are reached from the same entries.

    :ivar where: the first of them, ``object:section+0xoffset``.
    :ivar name: the function or variable that it is in; may be empty.
    :ivar entries: what makes them run, see `klpbuild.resolve.reach.Reach.entries`; None
        when that cannot be told.
    """

    where: str
    name: str = ""
    entries: tuple[Entry, ...] | None = None


@dataclass(frozen=True)
class Gates:
    """The objects that can be gates, and what they need.

    :ivar patched: the objects that the livepatch has a ``klp_object`` for.
    :ivar dependencies: of the kernel's modules.
    """

    patched: frozenset[str]
    dependencies: Dependencies

    def choose(self, target: LivepatchSymbol, use: Use) -> str:
        """Choose the gate of the relocations at some places that lead to a symbol.

        :raises KlpError: when no patched object can be it.
        """
        if target.owner == VMLINUX:
            return VMLINUX
        running = [entry.object for entry in use.entries or ()]
        found = self.of_owner(target.owner)
        gates = [g for g in dict.fromkeys((target.owner, *running, *found)) if g in found]
        if not gates:
            raise self._no_gate(target, use.where)
        possible = [gate for gate in gates if self._in_time(gate, use) is not False]
        if not possible:
            raise self._too_late(target, use, gates)
        sure = [gate for gate in possible if not self.unchecked(gate, target, use)]
        likely = [g for g in possible if self._in_time(g, use)] if use.entries else possible
        if not sure and (len(likely) == 1 or likely[:1] in ([target.owner], running)):
            return likely[0]
        if not sure:
            raise KlpError(
                f"symbol {target.symbol!r} of module {target.owner} may wait for several objects: "
                f"{_list(possible)}",
                where=use.where,
                why=f"Not known: {self.unchecked(possible[0], target, use)}.",
                hint=f"Name the one that depends on {target.owner} and runs the code: "
                f"KLP_RELOC_SYMBOL(MODULE, {target.owner}, {target.symbol}).",
            )
        return sure[0]

    def check(self, gate: str, target: LivepatchSymbol, where: str) -> None:
        """Check that a symbol can be found when a gate loads.

        :raises KlpError: when its owner need not be there, or the gate is not patched.
        """
        symbol, owner = target.symbol, target.owner
        if gate != VMLINUX and owner == VMLINUX:
            raise KlpError(
                f"vmlinux symbol {symbol!r} cannot be applied when {gate} loads",
                where=where,
                why="Kernels since 5.8 refuse vmlinux symbols in a module's livepatch relocations.",
                hint=f"Write KLP_RELOC_SYMBOL(vmlinux, vmlinux, {symbol}).",
            )
        if gate == VMLINUX and owner != VMLINUX:
            raise KlpError(
                f"symbol {symbol!r} of module {owner} cannot be applied when the livepatch loads",
                where=where,
                why=f"{owner} need not be loaded then, and may go later.",
                hint=f"Write KLP_RELOC_SYMBOL({owner}, {owner}, {symbol}), "
                "or name the patched module that depends on it as the gate."
                if self.patched - {VMLINUX}
                else "",
            )
        if gate not in self.patched | {VMLINUX}:
            raise KlpError(
                f"gate {gate} of symbol {symbol!r} is not an object of this livepatch",
                where=where,
                why="The kernel applies livepatch relocations only for objects "
                "that the livepatch patches.",
                hint=f"Use one of them: {_list(sorted(self.patched))}." if self.patched else "",
            )
        if self.dependencies.needs(gate, owner) is False:
            others = self.of_owner(owner)
            raise KlpError(
                f"symbol {symbol!r} of module {owner} cannot be applied when {gate} loads",
                where=where,
                why=f"{gate} does not depend on {owner}, which need not be loaded then: "
                f"the kernel would refuse {gate}, or the livepatch.",
                hint=f"Patched objects that depend on {owner}: {_list(others)}."
                if others
                else _INSTEAD,
            )

    def of_owner(self, owner: str) -> list[str]:
        """List the patched modules at whose loading an owner's symbols can be found, or may be."""
        modules = sorted(self.patched - {VMLINUX})
        return [gate for gate in modules if self.dependencies.needs(gate, owner) is not False]

    def check_use(self, gate: str, target: LivepatchSymbol, use: Use) -> None:
        """Check that code does not run before a gate is loaded.

        :raises KlpError: when it may.
        """
        if self._in_time(gate, use) is False:
            raise self._too_late(target, use, [gate])

    def unchecked(self, gate: str, target: LivepatchSymbol, use: Use) -> str:
        """Describe what could not be checked about a gate; empty when all was."""
        if self.dependencies.needs(gate, target.owner) is None:
            return f"whether {gate} depends on {target.owner}: its file is not at hand"
        if self._in_time(gate, use) is None:
            if use.entries is None:
                return f"what runs the code that uses {target.symbol}: its machine is not followed"
            users = _list([entry.object for entry in use.entries])
            return f"whether {users} depend on {gate}: their files are not at hand"
        return ""

    def _in_time(self, gate: str, use: Use) -> bool | None:
        """Tell whether code runs only after its gate is loaded; None when that is not known."""
        if gate == VMLINUX:
            return True
        if use.entries is None:
            return None
        said = [
            entry.object not in ("", VMLINUX) and self.dependencies.needs(entry.object, gate)
            for entry in use.entries
        ]
        return False if False in said else None if None in said else True

    def _no_gate(self, target: LivepatchSymbol, where: str) -> KlpError:
        return KlpError(
            f"symbol {target.symbol!r} belongs to module {target.owner}, "
            "on which no patched module depends",
            where=where,
            why=f"A livepatch relocation is applied when a patched module loads, and "
            f"{target.owner} need not be there then.",
            hint=f"Patched: {', '.join(sorted(self.patched)) or 'none'}. {_INSTEAD}",
        )

    def _too_late(self, target: LivepatchSymbol, use: Use, gates: list[str]) -> KlpError:
        entries = use.entries or ()
        alone = [Use(use.where, use.name, (entry,)) for entry in entries]
        each = [any(self._in_time(gate, one) for gate in gates) for one in alone]
        hint = f"Use it only in functions and callbacks of {_list(gates, 'or')}. {_INSTEAD}"
        if all(each):
            hint = "Give each of these objects a function of its own that uses it."
        users = _list([entry.object or "the livepatch itself" for entry in entries])
        return KlpError(
            f"symbol {target.symbol!r} of module {target.owner} is used by code of {users}",
            where=use.where,
            why=f"{_how(use.name, entries)}. The place holds zeros until "
            f"{_list(gates, 'or')} loads.",
            hint=hint,
        )


def _how(name: str, entries: tuple[Entry, ...]) -> str:
    """Describe how code is reached, as a sentence without a full stop."""
    said = _list([f"{e.name} of {e.object or 'the livepatch itself'}" for e in entries])
    if [entry.name for entry in entries] == [name]:
        return f"It is in {said}"
    return f"{name or 'It'} is reached from {said}"


def _list(names: list[str], word: str = "and") -> str:
    *first, last = names
    return f"{', '.join(first)} {word} {last}" if first else last
