"""Turn the references of a livepatch into nodes and edges of a picture."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property

from klpbuild.names import LivepatchSymbol
from klpbuild.report.facts import Facts
from klpbuild.report.uses import External, Own, Uses

#: Callbacks that klpbuild adds to the tables (module/forget.c.j2), with the reason.
_OURS = {"forget_relocations": "made by klpbuild: lets a module that went be loaded again"}

#: Functions that the compiler calls from any function; the picture would be full of them.
_COMPILERS = ("__fentry__", "_mcount", "__stack_chk_fail", "__x86_return_thunk")
_COMPILERS_PREFIX = ("__x86_indirect_thunk_", "__sanitizer_cov_", "__ubsan_handle_")


class Role(StrEnum):
    """Role of a node in the picture."""

    REPLACED = "replaced"
    NEW = "new"
    OWN = "own"
    LIVEPATCH = "livepatch"
    EXPORTED = "exported"


#: What stands below each other, from left to right.
_BANDS = ((Role.REPLACED,), (Role.NEW, Role.OWN), (Role.LIVEPATCH, Role.EXPORTED))


@dataclass(frozen=True)
class Node:
    """A name in the picture.

    :ivar key: tells it from all others.
    :ivar frame: title of the frame that it stands in.
    :ivar details: what is shown of it, as pairs of a word and a text.
    """

    key: str
    label: str
    role: Role
    frame: str
    details: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Edge:
    """An arrow from a node to another one, by their keys.

    :ivar word: what it says, ``replaces`` or ``uses``.
    """

    source: str
    target: str
    word: str


@dataclass(frozen=True)
class Replacement:
    """A function that is replaced, with the new one.

    :ivar why: why it is in the livepatch.
    :ivar size: of the new one, in bytes; None when its symbol is not found.
    """

    object: str
    old: str
    sympos: int
    new: str
    why: str
    size: int | None


@dataclass(frozen=True)
class Part:
    """Another function or variable of the livepatch, and why it is there."""

    name: str
    kind: str
    size: int
    why: str


class References:
    """References between the functions and variables of a livepatch, for its report page."""

    def __init__(self, facts: Facts) -> None:
        self.facts = facts
        patched = facts.contents.patched or ()
        news = frozenset(f.new for p in patched for f in p.functions or () if f.new)
        self.uses = Uses(facts.contents.elf, news)

    @cached_property
    def replacements(self) -> tuple[Replacement, ...]:
        """The replaced functions, in the order of the tables."""
        found = []
        for patched in self.facts.contents.patched or ():
            for function in patched.functions or ():
                own = self.uses.at(*function.new_place) if function.new_place else None
                why = self.facts.reasons.get(function.new, "") or self._given(function.new)
                found.append(
                    Replacement(
                        patched.object,
                        function.old,
                        function.sympos,
                        function.new,
                        why,
                        own.size if own else None,
                    )
                )
        return tuple(found)

    def _given(self, name: str) -> str:
        return "" if self.facts.patches else "the author's replacement"

    @property
    def parts(self) -> tuple[Part, ...]:
        """The functions and variables that replace nothing, and are used."""
        return tuple(self._parts.values())

    @cached_property
    def _parts(self) -> dict[Own, Part]:
        replacing = {r.new for r in self.replacements}
        users: dict[Own, list[str]] = {}
        for use in self.uses.reached():
            if isinstance(use.used, Own):
                users.setdefault(use.used, []).append(use.user.name)
        found = {}
        for own in self.uses.own:
            if own.name in replacing or not (own.is_function or own in users):
                continue
            by = ", ".join(dict.fromkeys(users.get(own, ())))
            why = self.facts.reasons.get(own.name, "") or _OURS.get(own.name, "")
            why = why or (f"used by {by}" if by else "")
            kind = "function" if own.is_function else "variable"
            found[own] = Part(own.name, kind, own.size, why or "named by the module's tables")
        return found

    @cached_property
    def left_out(self) -> tuple[str, ...]:
        """The compiler's helpers, which the picture does not show."""
        used = {u.used.symbol for u in self.uses.reached() if isinstance(u.used, External)}
        return tuple(sorted(name for name in used if _is_compilers(name)))

    @cached_property
    def of_tables(self) -> tuple[str, ...]:
        """The symbols that no function uses: the module's tables and the like name them."""
        used = {u.used.symbol for u in self.uses.reached() if isinstance(u.used, External)}
        return tuple(fate.symbol for fate in self.facts.fates if fate.symbol not in used)

    @cached_property
    def bands(self) -> tuple[dict[str, list[Node]], ...]:
        """The nodes by band and frame; within a frame, what the same functions use together."""
        nodes, edges = self._graph
        first: dict[str, int] = {}
        for number, edge in enumerate(edges):
            first.setdefault(edge.source, number)
            first.setdefault(edge.target, number)

        def place(node: Node) -> tuple[bool, int]:
            return node.role is Role.EXPORTED, first.get(node.key, len(edges))

        bands: tuple[dict[str, list[Node]], ...] = tuple({} for _ in _BANDS)
        for roles, frames in zip(_BANDS, bands, strict=True):
            for node in sorted((n for n in nodes if n.role in roles), key=place):
                frames.setdefault(node.frame, []).append(node)
        return tuple(filter(None, bands))

    @property
    def nodes(self) -> list[Node]:
        """The nodes in the order of the bands."""
        return [node for frames in self.bands for nodes in frames.values() for node in nodes]

    @property
    def edges(self) -> tuple[Edge, ...]:
        """The edges between the nodes."""
        return self._graph[1]

    @cached_property
    def _graph(self) -> tuple[tuple[Node, ...], tuple[Edge, ...]]:
        nodes: dict[str, Node] = {}
        edges: list[Edge] = []
        for replaced in self.replacements:
            key = f"{replaced.object}:{replaced.old},{replaced.sympos}"
            position = (("position", str(replaced.sympos)),) if replaced.sympos else ()
            nodes[key] = Node(
                key, replaced.old, Role.REPLACED, replaced.object,
                (("object", replaced.object), *position, ("replaced by", replaced.new)),
            )  # fmt: skip
            own = self.uses.by_name.get(replaced.new)
            new = _key(own) if own else f"own:{replaced.new}"
            nodes[new] = Node(
                new, replaced.new, Role.NEW, self.facts.contents.name,
                _pairs(("replaces", f"{replaced.object}:{replaced.old}"), ("why", replaced.why),
                       ("size", _bytes(replaced.size))),
            )  # fmt: skip
            edges.append(Edge(new, key, "replaces"))
        for use in self.uses.reached():
            if isinstance(use.used, External) and _is_compilers(use.used.symbol):
                continue
            for end in (use.user, use.used):
                node = self._own(end) if isinstance(end, Own) else self._external(end)
                nodes.setdefault(node.key, node)
            edges.append(Edge(_key(use.user), _key(use.used), "uses"))
        return tuple(nodes.values()), tuple(edges)

    def _own(self, own: Own) -> Node:
        part = self._parts.get(own)
        details = (("kind", part.kind), ("why", part.why)) if part else ()
        return Node(
            _key(own), own.name, Role.OWN, self.facts.contents.name,
            _pairs(*details, ("size", _bytes(own.size))),
        )  # fmt: skip

    def _external(self, symbol: External) -> Node:
        why = self.facts.why(symbol.symbol, symbol.owner, symbol.sympos)
        if symbol.owner:
            name = LivepatchSymbol(symbol.owner, symbol.symbol, symbol.sympos)
            return Node(
                _key(symbol), symbol.symbol, Role.LIVEPATCH, f"{symbol.owner}, not exported",
                _pairs(("owner", symbol.owner), ("position", str(symbol.sympos or "the only one")),
                       ("applied when", _gate(symbol.gate)), ("why", why),
                       ("name in the file", name.format())),
            )  # fmt: skip
        export = self.facts.side.exports.find(symbol.symbol)
        owner = export.owner if export else "nobody"
        crc = f"{export.crc:#010x}" if export else ""
        return Node(
            _key(symbol), symbol.symbol, Role.EXPORTED, f"{owner}, exported",
            _pairs(("owner", owner), ("CRC", crc), ("why", why)),
        )  # fmt: skip


def _is_compilers(name: str) -> bool:
    return name in _COMPILERS or name.startswith(_COMPILERS_PREFIX)


def _key(end: Own | External) -> str:
    if isinstance(end, Own):
        return f"own:{end.name}@{end.place[0]}+{end.place[1]}"
    return f"{end.owner}:{end.symbol},{end.sympos}@{end.gate}"


def _gate(gate: str) -> str:
    return "the livepatch loads" if gate == "vmlinux" else f"{gate} is loaded"


def _bytes(size: int | None) -> str:
    return "" if size is None else f"{size} bytes"


def _pairs(*pairs: tuple[str, str]) -> tuple[tuple[str, str], ...]:
    return tuple((word, text) for word, text in pairs if text)
