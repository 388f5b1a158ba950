"""Write the graph as GraphML, DOT, JSON or SVG: whole files, the same bytes each time."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterable, Mapping
from html import escape
from pathlib import Path

from klpbuild.errors import KlpError
from klpbuild.files import write_file
from klpbuild.graph.build import Edge, Fate, Kind
from klpbuild.graph.digraph import Attributes, Graph
from klpbuild.graph.formats import Format, can_draw

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
    if format is Format.GRAPHML:
        return _graphml(graph)
    if format is Format.DOT:
        return _dot(graph).encode()
    if format is Format.JSON:
        return _json(graph).encode()
    return _svg(graph)


def write_graph(graph: Graph, path: Path, format: Format) -> None:
    """Write one file of a graph, whole or not at all.

    :raises KlpError: when it cannot be made or written.
    """
    write_file(path, render(graph, format))


def write_all(graph: Graph, directory: Path, stem: str) -> tuple[Path, ...]:
    """Write ``<stem>.graphml``, ``.dot``, ``.json``, and ``.svg`` when graphviz is there.

    :returns: the files written.
    :raises KlpError: when one cannot be written.
    """
    written = []
    for kind in Format:
        if kind is Format.SVG and not (can_draw() and len(graph) <= SVG_NODES_MAX):
            continue
        path = directory / f"{stem}.{kind}"
        write_graph(graph, path, kind)
        written.append(path)
    return tuple(written)


def _text(name: str) -> str:
    """Escape what XML and UTF-8 cannot hold in a name as ``\\xNN``."""
    decoded = name.encode(errors="surrogateescape").decode(errors="backslashreplace")
    return re.sub(r"[\x00-\x1f\x7f\ufffe\uffff]", lambda found: f"\\x{ord(found[0]):02x}", decoded)


def _attributes(data: Attributes) -> Attributes:
    return {
        key: _text(value) if isinstance(value, str) else value
        for key, value in sorted(data.items())
    }


def printable(graph: Graph) -> Graph:
    """Copy the graph with names that any file can hold, and a number on each edge."""
    copy = Graph()
    for node, data in graph.nodes.items():
        copy.add_node(_text(node), **_attributes(data))
    for number, (source, target, key, data) in enumerate(graph.edges()):
        copy.add_edge(_text(source), _text(target), key, id=f"e{number}", **_attributes(data))
    return copy


_GRAPHML = """\
<?xml version='1.0' encoding='utf-8'?>
<graphml xmlns="http://graphml.graphdrawing.org/xmlns" \
xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" \
xsi:schemaLocation="http://graphml.graphdrawing.org/xmlns \
http://graphml.graphdrawing.org/xmlns/1.0/graphml.xsd">
"""


def _graphml(graph: Graph) -> bytes:
    """Render GraphML as networkx does: an attribute is a key, declared with its type."""
    shown, keys = printable(graph), dict[tuple[str, str, str], int]()
    lines = ['  <graph edgedefault="directed">']

    def add(scope: str, words: str, data: Mapping[str, object]) -> None:
        lines.append(f"    <{scope} {words}>")
        for name, value in data.items():
            kind = "long" if isinstance(value, int) else "string"
            key = keys.setdefault((name, kind, scope), len(keys))
            text = f">{escape(str(value), quote=False)}</data>" if value != "" else " />"
            lines.append(f'      <data key="d{key}"{text}')
        lines.append(f"    </{scope}>")

    for node, data in shown.nodes.items():
        add("node", f'id="{_quoted_xml(node)}"', data)
    for source, target, _, data in shown.edges():
        ends = f'source="{_quoted_xml(source)}" target="{_quoted_xml(target)}"'
        add("edge", f'{ends} id="{data["id"]}"', data)
    declared = [
        f'  <key id="d{number}" for="{scope}" attr.name="{name}" attr.type="{kind}" />'
        for (name, kind, scope), number in reversed(keys.items())
    ]
    text = "\n".join([*declared, *lines, "  </graph>", "</graphml>"])
    return f"{_GRAPHML}{text}\n".encode()


def _quoted_xml(name: str) -> str:
    return escape(name, quote=False).replace('"', "&quot;")


def _json(graph: Graph) -> str:
    shown = printable(graph)
    data = {
        "directed": True,
        "multigraph": True,
        "graph": {},
        "nodes": [{**data, "id": node} for node, data in shown.nodes.items()],
        "edges": [
            {**data, "source": source, "target": target, "key": key}
            for source, target, key, data in shown.edges()
        ],
    }
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


def _dot(graph: Graph) -> str:
    """Draw each object around what it defines; what it exports has a thick blue line."""
    shown = printable(graph)
    exported = {t for _, t, key, _ in shown.edges() if key == Edge.EXPORTS}
    boxes: dict[str, list[str]] = {}
    for node, data in shown.nodes.items():
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
    for source, target, _, data in shown.edges():
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


def _svg(graph: Graph) -> bytes:
    if not can_draw():
        raise KlpError(
            SVG_ABSENT, hint="Install the package graphviz, or write another format: graphml, dot."
        )
    if len(graph) > SVG_NODES_MAX:
        raise KlpError(
            f"a graph of {len(graph):,} nodes is too large to draw",
            hint="Name a livepatch or an object, to draw what is around it.",
        )
    done = subprocess.run(
        ["dot", "-Tsvg"], input=_dot(graph).encode(), capture_output=True, check=False
    )
    if done.returncode:
        message = done.stderr.decode(errors="replace").strip()
        raise KlpError("graphviz could not draw the graph", why=message)
    return done.stdout
