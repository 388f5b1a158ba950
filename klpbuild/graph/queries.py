"""Ask the graph.  All answers are sorted."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING

from klpbuild.errors import KlpError
from klpbuild.graph.build import Edge, Fate, Graph, Kind, in_order
from klpbuild.names import VMLINUX

if TYPE_CHECKING:
    import networkx as nx


@dataclass(frozen=True, order=True)
class Use:
    """A symbol that a livepatch refers to.

    :ivar symbol: its name.
    :ivar fate: what is known of it.
    :ivar owners: ``(object, sympos)`` of each symbol that is meant or could be; empty
        for a symbol that nothing defines, several for an ambiguous one; sympos is
        None where it does not matter, for exported symbols.
    :ivar gates: the objects whose loading applies the relocations; empty for an
        ordinary reference, and before the conversion.
    """

    symbol: str
    fate: Fate
    owners: tuple[tuple[str, int | None], ...]
    gates: tuple[str, ...] = ()


@dataclass(frozen=True, order=True)
class Rebuild:
    """A livepatch that must be built again.

    :ivar reasons: why, one sentence without a full stop each.
    """

    livepatch: str
    reasons: tuple[str, ...]


@dataclass(frozen=True, order=True)
class Unguarded:
    """A reference that may be resolved too early: nothing loads its owner before its gate."""

    symbol: str
    owner: str
    gate: str


def livepatches(graph: Graph) -> tuple[str, ...]:
    """List the livepatches of the graph."""
    return _of_kind(graph, Kind.LIVEPATCH)


def objects(graph: Graph) -> tuple[str, ...]:
    """List vmlinux and the modules of the graph, without livepatches."""
    return tuple(sorted(_of_kind(graph, Kind.VMLINUX) + _of_kind(graph, Kind.MODULE)))


def touched(graph: Graph, livepatch: str) -> tuple[str, ...]:
    """List the objects that a livepatch patches."""
    _check(graph, livepatch)
    return tuple(
        node for node in _targets(graph, livepatch, Edge.PATCHES) if not _is_symbol(graph, node)
    )


def patched_functions(graph: Graph, livepatch: str) -> tuple[str, ...]:
    """List the nodes of the functions that a livepatch replaces."""
    _check(graph, livepatch)
    return tuple(
        node for node in _targets(graph, livepatch, Edge.PATCHES) if _is_symbol(graph, node)
    )


def needed(graph: Graph, livepatch: str) -> tuple[str, ...]:
    """List the objects whose symbols a livepatch refers to, and those it depends on."""
    _check(graph, livepatch)
    return _targets(graph, livepatch, Edge.NEEDS)


def needed_first(graph: Graph, name: str) -> tuple[str, ...]:
    """List the objects that must be loaded before an object or a livepatch can be."""
    _check(graph, name)
    return tuple(
        target
        for target in _targets(graph, name, Edge.NEEDS)
        if not graph.edges[name, target, str(Edge.NEEDS)]["gate"]
    )


def users(graph: Graph, name: str) -> tuple[str, ...]:
    """List the objects and livepatches that need or patch an object."""
    _check(graph, name)
    wanted = {str(Edge.NEEDS), str(Edge.PATCHES)}
    return tuple(sorted({s for s, _, key in graph.in_edges(name, keys=True) if key in wanted}))


def dependencies(graph: Graph, livepatch: str) -> tuple[str, ...]:
    """List the objects whose symbols count for the conversion of a livepatch.

    A name that nothing annotates is looked for in vmlinux and in all objects that
    the livepatch patches: a new namesake in one of them changes the answer.
    """
    named = {gate for use in uses(graph, livepatch) for gate in use.gates}
    owners = {owner for use in uses(graph, livepatch) for owner, _ in use.owners}
    found = {VMLINUX, *touched(graph, livepatch), *needed(graph, livepatch), *named, *owners}
    return tuple(sorted(found))


def uses(graph: Graph, livepatch: str) -> tuple[Use, ...]:
    """List every symbol that a livepatch refers to, one `Use` each.

    An ambiguous symbol has all its candidates in one `Use`; symbols of one name
    that were told apart have one each.
    """
    _check(graph, livepatch)
    found: list[Use] = []
    candidates: dict[str, list[tuple[str, int | None]]] = defaultdict(list)
    for _, node, key, data in graph.out_edges(livepatch, keys=True, data=True):
        if key != Edge.REFERENCES:
            continue
        name, fate = graph.nodes[node]["symbol"], Fate(data["fate"])
        owner = (data["owner"], data.get("sympos"))
        if fate is Fate.AMBIGUOUS:
            candidates[name].append(owner)
        else:
            owners = (owner,) if data["owner"] else ()
            found.append(Use(name, fate, owners, tuple(data["gate"].split())))
    found += [
        Use(name, Fate.AMBIGUOUS, tuple(sorted(owners, key=_by_place)))
        for name, owners in candidates.items()
    ]
    return tuple(sorted(found, key=lambda use: (use.symbol, [_by_place(o) for o in use.owners])))


def rebuilds(graph: Graph, name: str) -> tuple[Rebuild, ...]:
    """List the livepatches that must be built again when an object changes, and why.

    :param name: ``vmlinux`` or a module.
    :raises KlpError: when the graph has no such object.
    """
    _check(graph, name)
    found = []
    for livepatch in livepatches(graph):
        reasons = _reasons(graph, livepatch, name)
        if reasons:
            found.append(Rebuild(livepatch, tuple(reasons)))
    return tuple(found)


def _reasons(graph: Graph, livepatch: str, name: str) -> list[str]:
    reasons = []
    if name in touched(graph, livepatch):
        functions = [
            graph.nodes[node]["symbol"]
            for node in patched_functions(graph, livepatch)
            if graph.nodes[node]["object"] == name
        ]
        reasons.append(f"it patches {', '.join(functions) or 'it'}")
    found = [
        (use.symbol, sympos)
        for use in uses(graph, livepatch)
        for owner, sympos in use.owners
        if owner == name
    ]
    if positions := [symbol for symbol, sympos in found if sympos is not None]:
        reasons.append(f"it refers to the positions of {_some(positions)}")
    if exports := [symbol for symbol, sympos in found if sympos is None]:
        reasons.append(f"it uses the exports {_some(exports)}")
    gated = [use.symbol for use in uses(graph, livepatch) if name in use.gates]
    if gated and not reasons:
        reasons.append(f"relocations are applied when it loads: {_some(gated)}")
    if not reasons and name in dependencies(graph, livepatch):
        reasons.append("it needs it" if name != VMLINUX else "names are looked for in it")
    return reasons


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:5])
    return shown if len(names) <= 5 else f"{shown} and {len(names) - 5} more"


def unguarded(graph: Graph, livepatch: str) -> tuple[Unguarded, ...]:
    """Find references whose owner need not be loaded when their gate is.

    The kernel resolves a livepatch symbol when the gate loads; if its owner is not
    there then, the gate is refused.  An owner is there when it is vmlinux, the gate
    itself, or an object that the gate needs, directly or through others.
    """
    first = _needed_first(graph)
    return tuple(
        sorted(
            Unguarded(use.symbol, owner, gate)
            for use in uses(graph, livepatch)
            for owner, _ in use.owners
            for gate in use.gates
            if owner not in (VMLINUX, gate, *_all(first, gate))
        )
    )


def load_order(graph: Graph, names: Iterable[str]) -> tuple[str, ...]:
    """Sort objects and all that they need in an order in which they can be loaded.

    What a livepatch reaches through livepatch relocations need not be loaded and
    is left out.

    :param names: modules or livepatches.
    :raises KlpError: when one is not in the graph, or modules need each other.
    """
    import networkx as nx

    first, wanted = _needed_first(graph), set[str]()
    for name in names:
        _check(graph, name)
        wanted |= {name} | _all(first, name)
    order = nx.DiGraph()
    order.add_nodes_from(wanted - {VMLINUX})
    order.add_edges_from((b, a) for a, b in first.edges(wanted) if b != VMLINUX)
    try:
        return tuple(nx.lexicographical_topological_sort(order))
    except nx.NetworkXUnfeasible as error:
        circles = cycles(graph.subgraph(wanted))
        raise KlpError(
            "modules need each other",
            why="\n".join(" -> ".join([*circle, circle[0]]) for circle in circles),
            hint="Modules of one kernel do not: give the modules of one build.",
        ) from error


def cycles(graph: Graph) -> tuple[tuple[str, ...], ...]:
    """Find groups of objects that need each other to be loaded first; empty in a sound kernel.

    Each begins with its first name and follows the needs around.
    """
    import networkx as nx

    first = _needed_first(graph)
    found = []
    for group in nx.strongly_connected_components(first):
        start = min(group)
        if len(group) > 1 or first.has_edge(start, start):
            inside = nx.DiGraph()
            inside.add_edges_from(sorted(first.subgraph(group).edges))
            found.append(_around(inside, start))
    return tuple(sorted(found))


def _needed_first(graph: Graph) -> nx.DiGraph[str]:
    """Select what must be loaded first: an edge leads from an object to one that it needs."""
    import networkx as nx

    first = nx.DiGraph()
    first.add_edges_from(
        (source, target)
        for source, target, key, gate in graph.edges(keys=True, data="gate")
        if key == Edge.NEEDS and not gate
    )
    return first


def _all(first: nx.DiGraph[str], name: str) -> set[str]:
    """Collect what must be loaded before an object, directly and through others."""
    import networkx as nx

    return nx.descendants(first, name) if name in first else set()


def _around(group: nx.DiGraph[str], start: str) -> tuple[str, ...]:
    """Find a shortest cycle through an object."""
    import networkx as nx

    ways = [nx.shortest_path(group, after, start) for after in sorted(group.successors(start))]
    way: list[str] = min(ways, key=lambda way: (len(way), way))
    return (start, *way[:-1])


def neighbourhood(graph: Graph, names: Iterable[str]) -> Graph:
    """Cut out the part of the graph that is about some objects or livepatches.

    Theirs are all edges that begin or end at them, and the edges between the nodes reached.

    :raises KlpError: when one is not in the graph.
    """
    kept: set[str] = set()
    for name in names:
        _check(graph, name)
        kept |= {name, *graph.successors(name), *graph.predecessors(name)}
    kept |= {graph.nodes[node]["object"] for node in kept} & set(graph)
    return in_order(graph.subgraph(kept))


def _of_kind(graph: Graph, kind: Kind) -> tuple[str, ...]:
    return tuple(sorted(node for node, value in graph.nodes(data="kind") if value == kind))


def _targets(graph: Graph, name: str, kind: Edge) -> tuple[str, ...]:
    return tuple(sorted(t for _, t, key in graph.out_edges(name, keys=True) if key == kind))


def _is_symbol(graph: Graph, node: str) -> bool:
    return bool(graph.nodes[node]["kind"] == Kind.SYMBOL)


def _by_place(owner: tuple[str, int | None]) -> tuple[str, int]:
    return owner[0], -1 if owner[1] is None else owner[1]


def _check(graph: Graph, name: str) -> None:
    if name in graph and not _is_symbol(graph, name):
        return
    known = [node for node in graph if not _is_symbol(graph, node)]
    near = get_close_matches(name, known, 3)
    raise KlpError(
        f"object {name!r} is not in the graph",
        hint=f"Did you mean {', '.join(near)}?" if near else "Objects are named as in lsmod.",
    )
