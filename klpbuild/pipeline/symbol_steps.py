"""Run the steps that read symbols: they are repeated when one of the kernel's modules changes.

They import little, for they are most of such a build.
"""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from pathlib import Path

import klpbuild.graph
from klpbuild.elf.reader import ElfFile
from klpbuild.files import write_file
from klpbuild.graph.build import Livepatch, build_graph
from klpbuild.graph.queries import dependencies
from klpbuild.graph.tables import read_livepatch as read_tables
from klpbuild.kernel.cache import cache_directory
from klpbuild.kernel.dependencies import Dependencies
from klpbuild.kernel.tree import KALLSYMS, Kernel
from klpbuild.pipeline.table import Said
from klpbuild.symbols.database import SymbolDatabase
from klpbuild.symbols.symvers import Exports
from klpbuild.symbols.write import SymbolSources, Written
from klpbuild.symbols.write import write_symbols as write_symbols_klp
from klpbuild.terminal.progress import Progress


def write_symbols(kernel: Kernel, output: Path, said: Said) -> Written:
    """Write symbols.klp and its index.

    A kernel of which only image and modules are at hand is booted once: its own
    /proc/kallsyms is the first word on vmlinux' symbols.

    :param said: is told when the kernel was booted.
    :raises KlpError: when there is no source of symbols at all.
    """
    kallsyms = kernel.kallsyms
    if not (kernel.vmlinux or kernel.system_map or kallsyms) and kernel.image:
        from klpbuild.vm.probe import learn

        if not (kernel.cache / KALLSYMS).exists():
            said.results.append(f"{kernel.release} is booted once for its /proc/kallsyms")
        kallsyms = learn(kernel).kallsyms
    sources = SymbolSources(
        kernel.version,
        kernel.modules,
        kernel.vmlinux,
        kernel.system_map,
        kallsyms,
        kernel.module_symvers,
    )
    fetched = kernel.cache.is_relative_to(cache_directory())
    kept = cache_directory() if fetched else kernel.cache
    progress = Progress("objects read", patience=1.0)
    return write_symbols_klp(output, sources, kept / "symbols", progress)


def write_dependencies(kernel: Kernel, linked: Path, symbols: Path, output: Path) -> None:
    """Write which objects' symbols the conversion of a livepatch depends on.

    A line has an object, the digest of its symbols, and the modules that it needs.  The
    graph says which objects; a change in any other one leaves the file as it is, and so the
    livepatch.  What it said is kept beside the file with a digest of all that it was made
    from, for making it takes longer than all the rest.
    """
    database = SymbolDatabase.read(symbols)
    livepatch = read_tables(ElfFile.read(linked), linked.name)
    own = sorted(Path(klpbuild.graph.__file__).parent.glob("*.py"))
    content = hashlib.sha256(repr(_meanings(livepatch, database)).encode())
    for path in (linked, kernel.module_symvers, *own):
        content.update(path.read_bytes())
    kept = output.with_suffix(".json")
    needed = _kept(kept, content.hexdigest())
    if needed is None:
        exports = Exports.read(kernel.module_symvers)
        graph = build_graph(exports, livepatches=[livepatch], database=database)
        needed = list(dependencies(graph, livepatch.module.name))
        said = {"content": content.hexdigest(), "objects": needed}
        write_file(kept, json.dumps(said).encode())
    lines, modules = [], Dependencies(kernel.modules)
    for name in needed:
        if name in database.objects:
            found = database.symbols(name)
            digest = hashlib.sha256(bytes(found.names) + found.rows.tobytes()).hexdigest()
            lines.append(" ".join((name, digest, *modules.all_of(name))) + "\n")
    write_file(output, "".join(lines).encode())


def _meanings(livepatch: Livepatch, database: SymbolDatabase) -> list[object]:
    """Collect all that the graph of a livepatch takes from the kernel's symbols."""
    meanings: list[object] = [livepatch.module.name in database.objects]
    for name in livepatch.module.undefined:
        meanings += [name, *((c.object, c.sympos) for c in database.candidates(name))]
    return meanings


def _kept(path: Path, content: str) -> list[str] | None:
    """Read the graph's answer for the same content; None when it has not been asked."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        said = json.loads(path.read_text())
        if said["content"] == content:
            return [str(name) for name in said["objects"]]
    return None
