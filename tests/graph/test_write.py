"""The graph's files: other programs read them, and the same graph gives the same bytes."""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import networkx as nx
import pytest

from klpbuild.errors import KlpError
from klpbuild.graph import queries
from klpbuild.graph.build import Graph, Livepatch, build_graph
from klpbuild.graph.modules import LivepatchReference
from klpbuild.graph.write import Format, can_draw, render, write_all

from .inputs import SmallKernel
from .test_graph import DEMO, MODULES, graph_of, module, no_exports

needs_graphviz = pytest.mark.skipif(not can_draw(), reason="graphviz is not installed")

#: A symbol's name may have any byte but zero.
HOSTILE = 'a"b\\c<d>&{e}\x01\udcff\u00e9\n];'


def hostile_graph() -> Graph:
    """Of a module and a livepatch whose file has odd names."""
    reference = LivepatchReference('ga"te', 'own\\er"', HOSTILE, 1)
    patch = Livepatch(module("lp", livepatch=True, references=(reference,)))
    return build_graph(no_exports(), [replace(module("m"), undefined=(HOSTILE,))], [patch])


def without_keys(graph: Any) -> list[Any]:
    """Nodes and edges, however a format names the keys of edges."""
    edges = sorted(
        (source, target, sorted((k, v) for k, v in data.items() if k != "id"))
        for source, target, data in graph.edges(data=True)
    )
    return [sorted(graph.nodes(data=True)), edges]


def test_graphml_is_read_back(small: SmallKernel) -> None:
    for graph in (graph_of(small, small.link()), graph_of(small, small.loadable())):
        data = render(graph, Format.GRAPHML)
        again = nx.read_graphml(io.BytesIO(data), force_multigraph=True)
        assert without_keys(again) == without_keys(graph)
        ids = [e.get("id") for e in ElementTree.fromstring(data).iter() if e.tag.endswith("edge")]
        assert len(ids) == len(set(ids)) == graph.number_of_edges()


def test_json_is_read_back(small: SmallKernel) -> None:
    graph = graph_of(small, small.loadable())
    data = json.loads(render(graph, Format.JSON))
    again = nx.node_link_graph(data, edges="edges")
    assert without_keys(again) == without_keys(graph)


def test_dot_says_what_the_graph_says(small: SmallKernel) -> None:
    text = render(graph_of(small, small.loadable()), Format.DOT).decode()
    assert text.startswith("digraph references {\n")
    assert f'  "{DEMO}" -> "ext4:state_show,2" [label="patches"' in text
    assert f'  "{DEMO}" -> "jbd2:jbd2_journal_start,0" [label="livepatch\\ngate ext4"];' in text
    assert f'  "{DEMO}" -> "jbd2" [label="needs when ext4 loads", style=dashed];' in text
    ext4 = text[text.index('  subgraph "cluster_ext4" {') :]
    assert '    "ext4:state_show,2" [label="state_show (2)", shape=ellipse];' in ext4
    assert '"vmlinux:_printk" [label="_printk", shape=ellipse, color="#1f6fb2"' in text


@needs_graphviz
def test_graphviz_reads_the_dot(small: SmallKernel) -> None:
    for graph in (graph_of(small, small.link()), hostile_graph()):
        done = subprocess.run(
            ["dot", "-Tjson0"], input=render(graph, Format.DOT), capture_output=True, check=True
        )
        assert done.stderr == b""
        read = json.loads(done.stdout)
        nodes = [n for n in read["objects"] if not n["name"].startswith("cluster_")]
        assert len(nodes) == len(graph)
        assert len(read["edges"]) == graph.number_of_edges()


@needs_graphviz
def test_svg_shows_every_node(small: SmallKernel) -> None:
    graph = graph_of(small, small.loadable())
    root = ElementTree.fromstring(render(graph, Format.SVG))
    texts = {e.text for e in root.iter("{http://www.w3.org/2000/svg}text")}
    assert {DEMO, "ext4", "jbd2_journal_start", "state_show (2)", "gate ext4"} <= texts
    assert render(graph, Format.SVG) == render(graph, Format.SVG)


def test_hostile_names_are_written_in_all_formats(tmp_path: Path) -> None:
    graph = hostile_graph()
    name = ':a"b\\c<d>&{e}\\x01\\xff\u00e9\\x0a];'
    assert name in nx.read_graphml(io.BytesIO(render(graph, Format.GRAPHML)))
    assert name in [node["id"] for node in json.loads(render(graph, Format.JSON))["nodes"]]
    for path in write_all(graph, tmp_path, "graph"):
        assert path.read_bytes()


def test_the_same_bytes_whatever_the_order(small: SmallKernel) -> None:
    patch = small.read(small.loadable())
    first = build_graph(small.exports, MODULES, [patch], small.database)
    second = build_graph(small.exports, reversed(MODULES), [patch], small.database)
    for kind in (Format.GRAPHML, Format.DOT, Format.JSON):
        assert render(first, kind) == render(second, kind)


def test_all_files_are_written(small: SmallKernel, tmp_path: Path) -> None:
    written = write_all(graph_of(small, small.link()), tmp_path / "out", "graph")
    kinds = ["graphml", "dot", "json", *(["svg"] if can_draw() else [])]
    assert [path.name for path in written] == [f"graph.{kind}" for kind in kinds]
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == sorted(p.name for p in written)


def test_without_graphviz(small: SmallKernel, tmp_path: Path, monkeypatch: Any) -> None:
    graph = graph_of(small, small.link())
    monkeypatch.setenv("PATH", str(tmp_path))
    assert [p.suffix for p in write_all(graph, tmp_path, "g")] == [".graphml", ".dot", ".json"]
    with pytest.raises(KlpError) as caught:
        render(graph, Format.SVG)
    assert str(caught.value) == (
        "no SVG: graphviz is not installed (its program is dot)\n"
        "  Install the package graphviz, or write another format: graphml, dot."
    )
    assert not (tmp_path / "g.svg").exists()


@needs_graphviz
def test_a_graph_that_is_too_large_to_draw(tmp_path: Path) -> None:
    graph = build_graph(no_exports(), [module(f"m{n}") for n in range(1500)])
    with pytest.raises(KlpError) as caught:
        render(graph, Format.SVG)
    assert str(caught.value) == (
        "a graph of 1,501 nodes is too large to draw\n"
        "  Name a livepatch or an object, to draw what is around it."
    )
    assert len(write_all(graph, tmp_path, "g")) == 3


def test_graphviz_that_fails(small: SmallKernel, tmp_path: Path, monkeypatch: Any) -> None:
    graph = graph_of(small, small.link())
    program = tmp_path / "bin" / "dot"
    program.parent.mkdir()
    shell = shutil.which("sh")
    program.write_text(f"#!{shell}\necho 'out of memory' >&2\nexit 3\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent))
    with pytest.raises(KlpError) as caught:
        render(graph, Format.SVG)
    assert str(caught.value) == "graphviz could not draw the graph\n  out of memory"


def test_the_neighbourhood_of_a_livepatch(small: SmallKernel) -> None:
    graph = graph_of(small, small.loadable())
    part = queries.neighbourhood(graph, [DEMO])
    assert set(queries.objects(part)) == {"btrfs", "ext4", "jbd2", "vmlinux"}
    assert queries.uses(part, DEMO) == queries.uses(graph, DEMO)
    crc = queries.neighbourhood(graph, ["crc16"])
    assert sorted(crc) == ["crc16", "ext4"]
    names = re.findall(r'node id="([^"]*)"', render(crc, Format.GRAPHML).decode())
    assert names == ["crc16", "ext4"]
