"""Follow the edges of a graph that a function describes."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from typing import TypeVar

_Node = TypeVar("_Node", bound=Hashable)


def reached(
    starts: Iterable[_Node], following: Callable[[_Node], Iterable[_Node]]
) -> dict[_Node, None]:
    """Collect the nodes that can be reached from some, these among them.

    :param following: lists the nodes that the edges of a node lead to.
    :returns: the nodes as keys, in the order in which they were found.
    """
    found = dict.fromkeys(starts)
    waiting = list(found)
    while waiting:
        for node in following(waiting.pop()):
            if node not in found:
                found[node] = None
                waiting.append(node)
    return found
