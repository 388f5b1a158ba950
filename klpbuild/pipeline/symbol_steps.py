"""Run the steps that read symbols: they are repeated when one of the kernel's modules changes.

They import little, for they are most of such a build.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from klpbuild.elf.reader import ElfFile
from klpbuild.files.whole import write_file
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

    A line has an object, the digest of its symbols, and the modules that it needs.  A change
    in any other object leaves the file as it is, and so the livepatch.
    """
    database = SymbolDatabase.read(symbols)
    livepatch = read_tables(ElfFile.read(linked), linked.name)
    lines, modules = [], Dependencies(kernel.modules)
    for name in livepatch.dependencies(Exports.read(kernel.module_symvers)):
        if name in database.objects:
            found = database.symbols(name)
            digest = hashlib.sha256(bytes(found.names) + found.rows.tobytes()).hexdigest()
            lines.append(" ".join((name, digest, *modules.all_of(name))) + "\n")
    write_file(output, "".join(lines).encode())
