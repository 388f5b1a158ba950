"""A directed graph with kinds of edges, and attributes of nodes and edges.

networkx has one, too; importing it takes longer than the graph of a livepatch does, which
every build makes.  It is asked for its algorithms.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any, TypeAlias

Attributes: TypeAlias = dict[str, Any]


class Graph:
    """Nodes by name; from one to another there is at most one edge of a kind.

    :ivar nodes: the attributes of each, in the order in which they were added.
    """

    def __init__(self) -> None:
        self.nodes: dict[str, Attributes] = {}
        self._out: dict[str, dict[str, dict[str, Attributes]]] = {}
        self._sources: dict[str, dict[str, None]] = {}

    def __contains__(self, name: object) -> bool:
        return name in self.nodes

    def __iter__(self) -> Iterator[str]:
        return iter(self.nodes)

    def __len__(self) -> int:
        return len(self.nodes)

    def add_node(self, name: str, **attributes: str | int) -> None:
        """Add a node, or attributes to one."""
        if name not in self.nodes:
            self.nodes[name], self._out[name], self._sources[name] = {}, {}, {}
        self.nodes[name].update(attributes)

    def add_edge(self, source: str, target: str, key: str, **attributes: str | int) -> None:
        """Add an edge between two nodes, or attributes to one."""
        self._out[source].setdefault(target, {}).setdefault(key, {}).update(attributes)
        self._sources[target][source] = None

    def edges(self) -> Iterator[tuple[str, str, str, Attributes]]:
        """Iterate over source, target, kind and attributes of each edge."""
        for source in self.nodes:
            for target, key, data in self.out_edges(source):
                yield source, target, key, data

    def edge(self, source: str, target: str, key: str) -> Attributes | None:
        """Find the attributes of an edge; None without it."""
        return self._out.get(source, {}).get(target, {}).get(key)

    def out_edges(self, source: str) -> Iterator[tuple[str, str, Attributes]]:
        """Iterate over target, kind and attributes of each edge that begins at a node."""
        for target, kinds in self._out[source].items():
            for key, data in kinds.items():
                yield target, key, data

    def in_edges(self, target: str) -> Iterator[tuple[str, str]]:
        """Iterate over source and kind of each edge that ends at a node."""
        for source in self._sources[target]:
            for key in self._out[source][target]:
                yield source, key

    def neighbours(self, name: str) -> set[str]:
        """Find the nodes that an edge leads to from a node, or from there to it."""
        return {*self._out[name], *self._sources[name]}

    def part(self, names: Collection[str]) -> Graph:
        """Copy the graph of some nodes and the edges between them."""
        found = Graph()
        for name in self.nodes:
            if name in names:
                found.add_node(name, **self.nodes[name])
        for source in found:
            for target, key, data in self.out_edges(source):
                if target in found:
                    found.add_edge(source, target, key, **data)
        return found
