"""Show who references, exports, needs and patches what.

Without a livepatch it shows the modules of a kernel.  With livepatches it also
shows what they patch and refer to, converted or not.

Examples:

    klpbuild graph build/6.1.0-47-cloud-amd64/livepatch-fix.ko --kernel 6.1.0-47-cloud-amd64
    klpbuild graph --kernel 6.1.0-47-cloud-amd64 --object ext4 --format dot
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from klpbuild.errors import KlpError, Problems

if TYPE_CHECKING:
    from klpbuild.graph.build import Graph, Livepatch
    from klpbuild.kernel.tree import Kernel

_FORMATS = ("text", "graphml", "dot", "svg", "json")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``graph``."""
    parser.add_argument(
        "livepatch", nargs="*", type=Path, help="livepatch modules (.ko), converted or not"
    )
    parser.add_argument(
        "--kernel",
        default="fixtures",
        help="fixtures, the release of a fetched kernel, or a path (default: %(default)s)",
    )
    parser.add_argument(
        "--symbols",
        type=Path,
        metavar="FILE",
        help="symbols.klp of the kernel (default: build/KERNEL/symbols.klp)",
    )
    parser.add_argument(
        "--object",
        action="append",
        default=[],
        metavar="NAME",
        help="show one object, such as ext4",
    )
    parser.add_argument(
        "--why-rebuild",
        metavar="OBJECT",
        help="which livepatches must be built again when this object changes",
    )
    parser.add_argument("--format", choices=_FORMATS, default="text", help="default: %(default)s")
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="default: the terminal")


def run(arguments: argparse.Namespace) -> int:
    """Show or write the graph, and return the exit status."""
    # networkx takes a fifth of a second to import, which other commands need not wait for.
    from klpbuild.files.whole import write_file
    from klpbuild.graph.formats import Format
    from klpbuild.graph.write import render

    graph = _graph(arguments)
    if arguments.format == "text":
        data = (_text(graph, arguments) + "\n").encode(errors="backslashreplace")
    else:
        data = render(_part(graph, arguments), Format(arguments.format))
    if arguments.output is not None:
        write_file(arguments.output, data)
    else:
        sys.stdout.flush()
        sys.stdout.buffer.write(data)
    return 0


def _graph(arguments: argparse.Namespace) -> Graph:
    from klpbuild.graph.build import build_graph
    from klpbuild.graph.modules import read_modules
    from klpbuild.kernel.locate import locate
    from klpbuild.symbols.database import SymbolDatabase
    from klpbuild.symbols.symvers import Exports

    build = Path("build")
    kernel: Kernel = locate(
        arguments.kernel, fixtures=Path("kernel-fixtures"), output=build / "fixtures" / "kernel"
    )
    symbols = arguments.symbols or build / kernel.name / "symbols.klp"
    known = arguments.symbols is not None or symbols.exists()
    return build_graph(
        Exports.read(kernel.module_symvers),
        read_modules(kernel.modules),
        _livepatches(arguments.livepatch),
        SymbolDatabase.read(symbols) if known else None,
    )


def _livepatches(paths: list[Path]) -> list[Livepatch]:
    from klpbuild.convert.annotations import read_annotations
    from klpbuild.elf.reader import ElfFile
    from klpbuild.graph.modules import LivepatchReference
    from klpbuild.graph.tables import read_livepatch

    problems = Problems()
    found = []
    for path in paths:
        with problems.collect():
            elf = ElfFile.read(path)
            said = read_annotations(elf).by_symbol.values()
            annotations = tuple(
                LivepatchReference(a.gate or "", a.owner, a.symbol, a.sympos)
                for a in said
                if a.gate is None
            )
            found.append(read_livepatch(elf, path.name, annotations))
    problems.check()
    return found


def _text(graph: Graph, arguments: argparse.Namespace) -> str:
    from klpbuild.graph import queries, text

    if arguments.why_rebuild:
        return text.rebuild_text(graph, arguments.why_rebuild)
    parts = [text.object_text(graph, name) for name in arguments.object]
    parts += [text.livepatch_text(graph, name) for name in queries.livepatches(graph)]
    return "\n\n".join(parts or [text.kernel_text(graph)])


def _part(graph: Graph, arguments: argparse.Namespace) -> Graph:
    """Choose what is drawn: what is about the named objects and livepatches, else all."""
    from klpbuild.graph import queries

    if arguments.why_rebuild:
        raise KlpError("--why-rebuild is answered in text only", hint="Leave --format away.")
    names = [*arguments.object, *queries.livepatches(graph)]
    return queries.neighbourhood(graph, names) if names else graph
