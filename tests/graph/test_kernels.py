"""The graphs of whole kernels: the fixtures and a real one; and the command."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from klpbuild.cli import main
from klpbuild.graph import queries
from klpbuild.graph.build import Graph, build_graph
from klpbuild.graph.modules import read_modules
from klpbuild.kernel.tree import Kernel
from klpbuild.symbols.symvers import Exports

from .inputs import SmallKernel


def kernel_graph(kernel: Kernel) -> Graph:
    return build_graph(Exports.read(kernel.module_symvers), read_modules(kernel.modules))


def assert_needs_what_modpost_says(kernel: Kernel) -> None:
    """modpost wrote ``depends=`` from the same exports: two ways to one answer."""
    modules = read_modules(kernel.modules)
    exports = Exports.read(kernel.module_symvers)
    for module in modules:
        found = (exports.find(name) for name in module.undefined)
        owners = {export.owner for export in found if export is not None}
        assert tuple(sorted(owners - {"vmlinux"})) == module.depends, module.name


def test_the_fixtures(fixture_kernel: Kernel) -> None:
    assert_needs_what_modpost_says(fixture_kernel)
    graph = kernel_graph(fixture_kernel)
    assert set(queries.objects(graph)) == {
        "9p", "9pnet", "btrfs", "button", "ext4", "jbd2", "snd_pcm", "vmlinux",
    }  # fmt: skip
    assert queries.cycles(graph) == ()
    assert queries.load_order(graph, ["ext4"]) == ("jbd2", "ext4")


@pytest.mark.kernel
def test_a_whole_kernel(debian_kernel: Kernel) -> None:
    assert_needs_what_modpost_says(debian_kernel)
    graph = kernel_graph(debian_kernel)
    assert len(queries.objects(graph)) == len(debian_kernel.modules) + 1
    assert queries.cycles(graph) == ()
    unresolved = [node for node, kind in graph.nodes(data="kind") if kind == "symbol"]
    assert unresolved == []
    order = queries.load_order(graph, ["nfs"])
    assert order.index("sunrpc") < order.index("lockd") < order.index("nfs")
    assert order[-1] == "nfs"


def ask(kernel: Kernel, capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """What ``klpbuild graph`` prints for the fixtures."""
    status = main(["graph", "--kernel", str(kernel.build), *words])
    out, err = capsys.readouterr()
    assert (status, err) == (0, "")
    return out


@pytest.fixture
def demo(small: SmallKernel, tmp_path: Path) -> tuple[str, ...]:
    """A livepatch on disk, and the symbols that belong to it."""
    path = tmp_path / "demo.ko"
    path.write_bytes(small.loadable().data)
    return str(path), "--symbols", str(small.symbols)


def test_command_shows_the_kernel(
    fixture_kernel: Kernel, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = ask(fixture_kernel, capsys).splitlines()
    assert lines[0].startswith("7 modules, ")
    assert lines[1:] == ["cycles: none", "needed by  module", "1          9pnet", "1          jbd2"]


def test_command_shows_a_livepatch(
    fixture_kernel: Kernel, demo: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    lines = ask(fixture_kernel, capsys, *demo).splitlines()
    assert lines[:4] == [
        "livepatch_demo",
        "  patches      ext4:ext4_attr_store, ext4:state_show,2, vmlinux:cmdline_proc_show",
        "  needs        ext4, jbd2, vmlinux",
        "  needs first  vmlinux",
    ]
    table = [line.split() for line in lines[5:]]
    assert table[0] == ["symbol", "fate", "owner", "sympos", "gate"]
    assert ["jbd2_journal_start", "livepatch", "jbd2", "0", "ext4"] in table
    assert ["saved_command_line", "livepatch", "vmlinux", "0", "vmlinux"] in table


def test_command_shows_an_object(
    fixture_kernel: Kernel, demo: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    lines = ask(fixture_kernel, capsys, *demo, "--object", "ext4").splitlines()
    assert lines[:5] == [
        "ext4 (module)",
        "  needs        jbd2, vmlinux",
        "  needed by    none",
        "  load order   jbd2, ext4",
        "  livepatches  livepatch_demo",
    ]


def test_command_says_why_to_rebuild(
    fixture_kernel: Kernel, demo: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert ask(fixture_kernel, capsys, *demo, "--why-rebuild", "jbd2").splitlines() == [
        "When jbd2 changes, build again:",
        "  livepatch_demo",
        "    it refers to the positions of jbd2_journal_start",
    ]
    assert ask(fixture_kernel, capsys, *demo, "--why-rebuild", "9p") == (
        "No livepatch must be built again when 9p changes.\n"
    )


def test_command_writes_files(
    fixture_kernel: Kernel,
    demo: tuple[str, ...],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    output = tmp_path / "out" / "graph.json"
    words = (*demo, "--format", "json", "-o", str(output))
    assert ask(fixture_kernel, capsys, *words) == ""
    nodes = {node["id"] for node in json.loads(output.read_text())["nodes"]}
    assert {"livepatch_demo", "ext4", "jbd2:jbd2_journal_start,0"} <= nodes
    assert "9p" not in nodes
    assert ask(fixture_kernel, capsys, "--format", "dot").startswith("digraph references {\n")


@pytest.mark.slow
def test_command_writes_the_same_bytes_in_any_process(
    fixture_kernel: Kernel, demo: tuple[str, ...]
) -> None:
    """Sets have another order in each process."""
    program = "import sys; from klpbuild.cli import main; sys.exit(main())"
    for kind in ("graphml", "text"):
        words = ["-c", program, "graph", "--kernel", str(fixture_kernel.build), *demo]
        outputs = {
            subprocess.run(
                [sys.executable, *words, "--format", kind],
                env={**os.environ, "PYTHONHASHSEED": str(seed)},
                capture_output=True,
                check=True,
            ).stdout
            for seed in (1, 2)
        }
        assert len(outputs) == 1, kind


def test_command_collects_what_is_wrong(
    fixture_kernel: Kernel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    empty = tmp_path / "empty.ko"
    empty.touch()
    absent = tmp_path / "absent.ko"
    assert main(["graph", "--kernel", str(fixture_kernel.build), str(empty), str(absent)]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert f"{empty}: is empty" in err
    assert f"{absent}: cannot be read: No such file or directory" in err
    assert "Traceback" not in err
    assert main(["graph", "--kernel", str(fixture_kernel.build), "--object", "ext3"]) == 1
    assert "object 'ext3' is not in the graph\n  Did you mean ext4?" in capsys.readouterr().err
