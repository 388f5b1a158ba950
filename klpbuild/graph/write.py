"""Write the graph as GraphML, DOT, JSON or SVG: whole files, the same bytes each time."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from klpbuild.errors import KlpError
from klpbuild.files.whole import write_file
from klpbuild.graph.build import Edge, Fate, Graph, Kind
from klpbuild.graph.formats import Format, can_draw
from klpbuild.run import run

#: Laying out more than this takes graphviz minutes.
SVG_NODES_MAX = 1500

#: Picture in place of a graph that is too large.
TOO_LARGE_TO_DRAW = b"""\
<svg xmlns="http://www.w3.org/2000/svg" width="400" height="40">
<text x="10" y="25">The graph is too large to draw.</text>
</svg>
"""

SVG_ABSENT = "no SVG: graphviz is not installed (its program is dot)"


def render(graph: Graph, format: Format) -> bytes:
    """Render a graph in a format.

    :raises KlpError: for an SVG without graphviz, or of a graph too large to draw.
    """
    return _rendered(_printable(graph), format)


def _rendered(printable: Graph, format: Format) -> bytes:
    if format is Format.GRAPHML:
        return _graphml(printable)
    if format is Format.DOT:
        return _dot(printable).encode()
    if format is Format.JSON:
        return _json(printable).encode()
    return _svg(printable)


def write_all(graph: Graph, directory: Path, stem: str) -> tuple[Path, ...]:
    """Write ``<stem>.graphml``, ``.dot``, ``.json``, and ``.svg`` when graphviz is there.

    :returns: the files written.
    :raises KlpError: when one cannot be written.
    """
    written, printable = [], _printable(graph)
    for kind in Format:
        if kind is Format.SVG and not (can_draw() and len(graph) <= SVG_NODES_MAX):
            continue
        path = directory / f"{stem}.{kind}"
        write_file(path, _rendered(printable, kind))
        written.append(path)
    return tuple(written)


def _text(name: str) -> str:
    """Escape what XML and UTF-8 cannot hold in a name as ``\\xNN``."""
    decoded = name.encode(errors="surrogateescape").decode(errors="backslashreplace")
    return re.sub(r"[\x00-\x1f\x7f\ufffe\uffff]", lambda found: f"\\x{ord(found[0]):02x}", decoded)


def _attributes(data: Mapping[str, object]) -> dict[str, object]:
    return {
        key: _text(value) if isinstance(value, str) else value
        for key, value in sorted(data.items())
    }


def _printable(graph: Graph) -> Graph:
    """Copy the graph with names that any file can hold, and a number on each edge."""
    import networkx as nx

    copy: Graph = nx.MultiDiGraph()
    copy.add_nodes_from((_text(node), _attributes(data)) for node, data in graph.nodes(data=True))
    for number, (source, target, key, data) in enumerate(graph.edges(keys=True, data=True)):
        copy.add_edge(_text(source), _text(target), key=key, id=f"e{number}", **_attributes(data))
    return copy


def _graphml(printable: Graph) -> bytes:
    from networkx.readwrite.graphml import GraphMLWriter

    # networkx takes lxml when it is installed, which writes other bytes: name the writer.
    writer = GraphMLWriter(prettyprint=True, edge_id_from_attribute="id")
    writer.add_graph_element(printable)
    out = io.BytesIO()
    writer.dump(out)
    return out.getvalue()


def _json(printable: Graph) -> str:
    import networkx as nx

    data = nx.node_link_data(printable, edges="edges")
    return json.dumps(data, indent=1, sort_keys=True) + "\n"


_NODE_STYLE = {
    Kind.VMLINUX: 'shape=box, style=filled, fillcolor="#dddddd"',
    Kind.MODULE: "shape=box",
    Kind.LIVEPATCH: 'shape=box, style="filled,bold", fillcolor="#cfe8cf"',
    Kind.SYMBOL: "shape=ellipse",
}
_EDGE_STYLE = {
    Edge.DEFINES: "style=invis, constraint=false",
    Edge.EXPORTS: "style=invis, constraint=false",
    Edge.REFERENCES: "",
    Edge.PATCHES: 'style=bold, color="#2e7d32"',
    Edge.NEEDS: "style=dashed",
}
_EXPORTED_STYLE = 'color="#1f6fb2", penwidth=2'
_BAD = (Fate.AMBIGUOUS, Fate.UNRESOLVED)


def _quoted(*lines: str) -> str:
    """Quote a string for DOT; several lines are centred."""
    escaped = (line.replace("\\", "\\\\").replace('"', '\\"') for line in lines)
    return '"' + "\\n".join(escaped) + '"'


def _dot(printable: Graph) -> str:
    """Draw each object around what it defines; what it exports has a thick blue line."""
    exported = {t for _, t, key in printable.edges(keys=True) if key == Edge.EXPORTS}
    boxes: dict[str, list[str]] = {}
    for node, data in printable.nodes(data=True):
        kind = Kind(data["kind"])
        style = [f"label={_quoted(_label(node, data))}", _NODE_STYLE[kind]]
        if node in exported:
            style.append(_EXPORTED_STYLE)
        boxes.setdefault(data["object"], []).append(f"{_quoted(node)} [{', '.join(style)}];")
    lines = ["digraph references {", "  rankdir=LR;", "  node [fontsize=11];"]
    for name, nodes in boxes.items():
        if name and len(nodes) > 1:
            lines.append(f"  subgraph {_quoted(f'cluster_{name}')} {{")
            lines += ["    style=dotted;", *(f"    {node}" for node in nodes), "  }"]
        else:
            lines += [f"  {node}" for node in nodes]
    for source, target, data in printable.edges(data=True):
        words = ", ".join(_edge_words(data))
        lines.append(f"  {_quoted(source)} -> {_quoted(target)} [{words}];")
    return "\n".join([*lines, "}"]) + "\n"


def _label(node: str, data: Mapping[str, object]) -> str:
    if data["kind"] != Kind.SYMBOL:
        return node
    position = f" ({data['sympos']})" if data.get("sympos") else ""
    return f"{data['symbol']}{position}"


def _edge_words(data: Mapping[str, str]) -> Iterable[str]:
    kind = Edge(data["kind"])
    label: list[str] = [kind]
    if kind is Edge.REFERENCES:
        label = [data["fate"], *([f"gate {data['gate']}"] if data["gate"] else [])]
    elif kind is Edge.NEEDS and data["gate"]:
        label = [f"needs when {data['gate']} loads"]
    yield f"label={_quoted(*label)}"
    if _EDGE_STYLE[kind]:
        yield _EDGE_STYLE[kind]
    if data.get("fate") in _BAD:
        yield 'color="#c62828", fontcolor="#c62828"'


def _svg(printable: Graph) -> bytes:
    if not can_draw():
        raise KlpError(
            SVG_ABSENT, hint="Install the package graphviz, or write another format: graphml, dot."
        )
    if len(printable) > SVG_NODES_MAX:
        raise KlpError(
            f"a graph of {len(printable):,} nodes is too large to draw",
            hint="Name a livepatch or an object, to draw what is around it.",
        )
    done = run(["dot", "-Tsvg"], input=_dot(printable))
    if done.returncode:
        raise KlpError("graphviz could not draw the graph", why=done.stderr.strip())
    return done.stdout.encode()
