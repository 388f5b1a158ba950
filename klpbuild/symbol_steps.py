"""The steps that read symbols: all that is done again when one of the kernel's modules changes.

They import little, for they are most of such a build.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from klpbuild.elf.reader import ElfFile
from klpbuild.files import write_file
from klpbuild.graph.build import build_graph
from klpbuild.graph.queries import dependencies
from klpbuild.graph.tables import read_livepatch as read_tables
from klpbuild.kernel.cache import cache_directory
from klpbuild.kernel.tree import Kernel
from klpbuild.names import object_name
from klpbuild.progress import Progress
from klpbuild.symbols.database import SymbolDatabase
from klpbuild.symbols.symvers import Exports
from klpbuild.symbols.write import SymbolSources, Written
from klpbuild.symbols.write import write_symbols as write_symbols_klp


def write_symbols(kernel: Kernel, output: Path) -> Written:
    """Write symbols.klp and its index.

    A kernel of which only image and modules are at hand is booted once: its own
    /proc/kallsyms is the first word on vmlinux' symbols.

    :raises KlpError: when there is no source of symbols at all.
    """
    kallsyms = kernel.kallsyms
    if not (kernel.vmlinux or kernel.system_map or kallsyms) and kernel.image:
        from klpbuild.vm.probe import KALLSYMS, learn

        if not (kernel.cache / KALLSYMS).exists():
            print(f"          booting {kernel.release} once for its /proc/kallsyms")
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
    """Write which objects the conversion of a livepatch depends on, each with a digest.

    The graph says which; a change in any other object of the kernel leaves the file as
    it is, and so the livepatch.
    """
    database = SymbolDatabase.read(symbols)
    exports = Exports.read(kernel.module_symvers)
    elf = ElfFile.read(linked)
    graph = build_graph(exports, livepatches=[read_tables(elf, linked.name)], database=database)
    lines = []
    for name in dependencies(graph, object_name(linked.name)):
        if name in database.objects:
            found = database.symbols(name)
            digest = hashlib.sha256(bytes(found.names) + found.rows.tobytes()).hexdigest()
            lines.append(f"{name} {digest}\n")
    write_file(output, "".join(lines).encode())
