"""Build the graph of references between objects.

Nodes are objects (``ext4``) and symbols (``ext4:ext4_attr_store,0``); a symbol
that nothing defines is ``:name``.  Node attributes:

============  ====================================================================
``kind``      ``vmlinux``, ``module``, ``livepatch`` or ``symbol``
``object``    name of the object, or the owner of the symbol; empty if it has none
``symbol``    of symbols: the name
``sympos``    of symbols: the position, where it is known
============  ====================================================================

Edges have as key and as attribute ``kind`` one of:

==============  ========================  ===========================================
``defines``     object to symbol
``exports``     object to symbol          ``crc``, ``namespace``
``references``  livepatch to symbol       ``fate``, ``gate``, ``owner``, ``sympos``
``patches``     livepatch to object, and
                livepatch to function
``needs``       object to object          ``gate``: empty when the needed object must
                                          be loaded first, else the objects whose
                                          loading applies the relocations;
                                          ``symbols``: how many
==============  ========================  ===========================================

The graph tells what there is.  How a reference that is not yet
converted is resolved is decided by the conversion, not here.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, TypeAlias

from klpbuild.errors import KlpError
from klpbuild.graph.modules import LivepatchReference, Module
from klpbuild.names import VMLINUX

if TYPE_CHECKING:
    import networkx as nx

    from klpbuild.symbols.database import Candidate, SymbolDatabase
    from klpbuild.symbols.symvers import Exports

Graph: TypeAlias = "nx.MultiDiGraph[str]"


class Kind(StrEnum):
    """Kind of a node."""

    VMLINUX = "vmlinux"
    MODULE = "module"
    LIVEPATCH = "livepatch"
    SYMBOL = "symbol"


class Edge(StrEnum):
    """Kind of an edge."""

    DEFINES = "defines"
    EXPORTS = "exports"
    REFERENCES = "references"
    PATCHES = "patches"
    NEEDS = "needs"


class Fate(StrEnum):
    """How a reference is, or would be, resolved.

    The last four are of livepatches before the conversion.
    """

    EXPORTED = "exported"
    LIVEPATCH = "livepatch"
    UNIQUE = "unique"
    AMBIGUOUS = "ambiguous"
    UNRESOLVED = "unresolved"
    WEAK = "weak"


@dataclass(frozen=True, order=True)
class PatchedFunction:
    """An entry of a livepatch's tables.

    :ivar object: ``vmlinux`` or the module.
    :ivar function: the replaced function; empty for an object with callbacks only.
    :ivar sympos: its position.
    :ivar new: the function that takes its place, if it has a symbol.
    """

    object: str
    function: str = ""
    sympos: int = 0
    new: str = field(default="", compare=False)


@dataclass(frozen=True)
class Livepatch:
    """A livepatch module and what its tables say.

    :ivar module: its file, converted or not.
    :ivar patches: what it replaces.
    :ivar annotations: what KLP_SYMPOS says of an unconverted one; ``gate`` empty.
    """

    module: Module
    patches: tuple[PatchedFunction, ...] = ()
    annotations: tuple[LivepatchReference, ...] = ()

    @property
    def touched(self) -> frozenset[str]:
        """The objects that it patches."""
        return frozenset(patched.object for patched in self.patches)

    def dependencies(self, exports: Exports) -> tuple[str, ...]:
        """List the objects whose symbols count for its conversion, as the graph does.

        A build asks this each time, and the graph takes longer to make than all the rest:
        see `queries.dependencies`, which answers people.
        """
        found = {VMLINUX, *self.touched, *self.module.depends}
        annotated = {each.symbol: each for each in self.annotations}
        references = list(self.module.references)
        for name in self.module.undefined:
            if name in annotated:
                references.append(annotated[name])
            elif export := exports.find(name):
                found.add(export.owner)
        for reference in references:
            found |= {reference.owner, reference.gate} - {""}
        return tuple(sorted(found))


def symbol_node(owner: str, symbol: str, sympos: int | None = None) -> str:
    """Name the node of a symbol: ``ext4:ext4_attr_store,0``."""
    return f"{owner}:{symbol}" if sympos is None else f"{owner}:{symbol},{sympos}"


def build_graph(
    exports: Exports,
    modules: Iterable[Module] = (),
    livepatches: Sequence[Livepatch] = (),
    database: SymbolDatabase | None = None,
) -> Graph:
    """Build the graph.  The same input gives the same graph, in the same order.

    Kernel modules get edges between objects only: their 90,000 references to
    exported symbols are counted in ``symbols``.  Livepatches get every symbol.

    :param exports: Module.symvers.
    :param modules: the kernel's modules, see `modules.read_modules`.
    :param livepatches: livepatches, converted or not.
    :param database: every symbol of the kernel.  Without it, references of
        unconverted livepatches to symbols that are not exported are unresolved.
    :raises KlpError: when a livepatch has the name of another object.
    """
    import networkx as nx  # takes longer to import than a build without changes may

    graph: Graph = nx.MultiDiGraph()
    _add_object(graph, VMLINUX)
    for name in database.objects if database is not None else ():
        _add_object(graph, name)
    for module in modules:
        _add_module(graph, module, exports)
    for livepatch in livepatches:
        _Builder(graph, exports, database, livepatch).add()
    return in_order(graph)


def _add_object(graph: Graph, name: str, kind: Kind | None = None) -> None:
    default = Kind.VMLINUX if name == VMLINUX else Kind.MODULE
    if kind is not None or name not in graph:
        graph.add_node(name, kind=str(kind or default), object=name)


def _add_edge(graph: Graph, source: str, target: str, kind: Edge, **attributes: str | int) -> None:
    graph.add_edge(source, target, key=str(kind), kind=str(kind), **attributes)


def _add_module(graph: Graph, module: Module, exports: Exports) -> None:
    _add_object(graph, module.name)
    owners: Counter[str] = Counter(dict.fromkeys(module.depends, 0))
    for name in module.undefined:
        export = exports.find(name)
        if export is None:
            if name not in module.weak:
                _add_unresolved(graph, module.name, name, Fate.UNRESOLVED)
        elif export.owner != module.name:
            owners[export.owner] += 1
    for owner, count in owners.items():
        _add_object(graph, owner)
        _add_edge(graph, module.name, owner, Edge.NEEDS, gate="", symbols=count)


def _add_unresolved(graph: Graph, source: str, name: str, fate: Fate) -> None:
    node = symbol_node("", name)
    graph.add_node(node, kind=str(Kind.SYMBOL), object="", symbol=name)
    _add_edge(graph, source, node, Edge.REFERENCES, fate=str(fate), gate="", owner="")


class _Builder:
    """Adds one livepatch with its references."""

    def __init__(
        self, graph: Graph, exports: Exports, database: SymbolDatabase | None, livepatch: Livepatch
    ) -> None:
        self.graph = graph
        self.exports = exports
        self.database = database
        self.livepatch = livepatch
        self.name = livepatch.module.name
        #: needed object -> gate ("" for ordinary references) -> number of symbols
        self.needs: dict[str, Counter[str]] = defaultdict(Counter)

    def add(self) -> None:
        module = self.livepatch.module
        if self.name in self.graph:
            raise KlpError(
                f"two objects are named {self.name!r}", why="The kernel loads one module of a name."
            )
        _add_object(self.graph, self.name, Kind.LIVEPATCH)
        for patched in sorted(self.livepatch.patches):
            self._patch(patched)
        for reference in module.references:
            self._livepatch_reference(reference)
        annotated = {reference.symbol: reference for reference in self.livepatch.annotations}
        for name in module.undefined:
            if name in annotated:
                self._livepatch_reference(annotated[name])
            else:
                self._ordinary(name)
        for owner in module.depends:
            self.needs[owner][""] += 0
        for owner, gates in self.needs.items():
            _add_object(self.graph, owner)
            named = sorted(gate for gate in gates if gate)
            _add_edge(
                self.graph, self.name, owner, Edge.NEEDS,
                gate="" if "" in gates else " ".join(named), symbols=gates.total(),
            )  # fmt: skip

    def _patch(self, patched: PatchedFunction) -> None:
        _add_object(self.graph, patched.object)
        _add_edge(self.graph, self.name, patched.object, Edge.PATCHES)
        if patched.function:
            node = self._symbol(patched.object, patched.function, patched.sympos)
            _add_edge(self.graph, self.name, node, Edge.PATCHES, sympos=patched.sympos)

    def _symbol(self, owner: str, symbol: str, sympos: int | None) -> str:
        """Add the node of a symbol that an object defines."""
        node = symbol_node(owner, symbol, sympos)
        position = {} if sympos is None else {"sympos": sympos}
        _add_object(self.graph, owner)
        self.graph.add_node(node, kind=str(Kind.SYMBOL), object=owner, symbol=symbol, **position)
        _add_edge(self.graph, owner, node, Edge.DEFINES)
        export = self.exports.find(symbol)
        # Of namesakes in one object at most one is exported; which, a position does not tell.
        if export is not None and export.owner == owner and not sympos:
            _add_edge(
                self.graph, owner, node, Edge.EXPORTS,
                crc=f"0x{export.crc:08x}", namespace=export.namespace,
            )  # fmt: skip
        return node

    def _refer(
        self, owner: str, symbol: str, sympos: int | None, fate: Fate, gate: str = ""
    ) -> None:
        """Add one reference to a symbol of an object; several gates become one word list."""
        node = self._symbol(owner, symbol, sympos)
        known = self.graph.get_edge_data(self.name, node, key=str(Edge.REFERENCES))
        gates = {*known["gate"].split(), gate} if known else {gate}
        position = {} if sympos is None else {"sympos": sympos}
        _add_edge(
            self.graph, self.name, node, Edge.REFERENCES,
            fate=str(fate), gate=" ".join(sorted(gates - {""})), owner=owner, **position,
        )  # fmt: skip

    def _livepatch_reference(self, reference: LivepatchReference) -> None:
        gate = reference.gate or self._gate(reference.owner)
        _add_object(self.graph, gate)
        self._refer(reference.owner, reference.symbol, reference.sympos, Fate.LIVEPATCH, gate)
        self.needs[reference.owner][gate] += 1

    def _gate(self, owner: str) -> str:
        """Choose the gate of an annotation that leaves it open, if that is unambiguous."""
        modules = sorted(self.livepatch.touched - {VMLINUX})
        if owner == VMLINUX or owner in modules:
            return owner
        return modules[0] if len(modules) == 1 else owner

    def _ordinary(self, name: str) -> None:
        export = self.exports.find(name)
        if export is not None:
            self._refer(export.owner, name, None, Fate.EXPORTED)
            self.needs[export.owner][""] += 1
            return
        found = self._reachable(name)
        if not found:
            weak = name in self.livepatch.module.weak
            _add_unresolved(self.graph, self.name, name, Fate.WEAK if weak else Fate.UNRESOLVED)
            return
        fate = Fate.UNIQUE if len(found) == 1 else Fate.AMBIGUOUS
        for candidate in found:
            self._refer(candidate.object, name, candidate.sympos, fate)
        for owner in {candidate.object for candidate in found}:
            self.needs[owner][owner] += 1

    def _reachable(self, name: str) -> list[Candidate]:
        """Find the symbols of a name in vmlinux and the patched objects."""
        if self.database is None:
            return []
        reachable = self.livepatch.touched | {VMLINUX}
        return [c for c in self.database.candidates(name) if c.object in reachable]


def in_order(graph: Graph) -> Graph:
    """Copy a graph with nodes and edges sorted, objects before symbols."""
    import networkx as nx

    ordered: Graph = nx.MultiDiGraph()
    is_symbol = {node: kind == Kind.SYMBOL for node, kind in graph.nodes(data="kind")}
    for node in sorted(graph, key=lambda node: (is_symbol[node], node)):
        ordered.add_node(node, **graph.nodes[node])
    for source, target, key, data in sorted(
        graph.edges(keys=True, data=True), key=lambda edge: edge[:3]
    ):
        ordered.add_edge(source, target, key=key, **data)
    return ordered
