"""Write symbols.klp, every symbol of vmlinux and of each module; look names up.

Symbols come in the order in which the kernel counts them.  With names it is shown what each
stands for: the object, the position that a livepatch gives (sympos; 0 is a unique name), the
address (in a module the offset in its section), the letter that nm prints, the source file,
and the object that exports it.

Example:

    klpbuild symbols meminfo_proc_show --kernel 6.1.0-47-cloud-amd64
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from klpbuild.commands.check import add_modules_argument
from klpbuild.errors import Problems, did_you_mean
from klpbuild.names import VMLINUX
from klpbuild.pipeline import symbol_steps
from klpbuild.pipeline.table import Said
from klpbuild.request.given import locate_kernel
from klpbuild.request.variables import Variables
from klpbuild.symbols.database import Candidate, SymbolDatabase
from klpbuild.terminal.columns import columns


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's words."""
    parser.add_argument("name", nargs="*", metavar="NAME", help="a symbol to look up")
    parser.add_argument(
        "--kernel",
        default="fixtures",
        help="fixtures, the release of a fetched kernel, or a path (default: %(default)s)",
    )
    parser.add_argument(
        "-o", "--output", type=Path, metavar="FILE", help="default: build/KERNEL/symbols.klp"
    )
    for name, what in (
        ("--vmlinux", "vmlinux with symbols"),
        ("--system-map", "System.map"),
        ("--kallsyms", "copy of /proc/kallsyms that root made"),
    ):
        parser.add_argument(
            name, default="", metavar="FILE", help=f"{what}, in place of the kernel's own"
        )
    parser.add_argument("--json", action="store_true", help="write JSON")
    add_modules_argument(parser)


def run(arguments: argparse.Namespace) -> int:
    """Write symbols.klp, summarise it, and look the names up."""
    given = Variables(
        vmlinux=arguments.vmlinux, system_map=arguments.system_map, kallsyms=arguments.kallsyms
    )
    build = Path("build")
    fixtures, modules = Path("kernel-fixtures"), arguments.further
    kernel = locate_kernel(arguments.kernel, fixtures, build, given, modules=modules)
    output = arguments.output or build / kernel.name / "symbols.klp"
    said = Said()
    written = symbol_steps.write_symbols(kernel, output, said)
    if not arguments.json:
        print(*(f"{line}\n" for line in said.lines()), sep="", end="")
        print(f"{output}: {written.symbols:,} symbols of {written.objects:,} objects")
    found = _found(SymbolDatabase.read(output), arguments.name, kernel.name)
    if arguments.json:
        counts = {"symbols": written.symbols, "objects": written.objects}
        document = {"file": str(output), **counts, "found": [asdict(each) for each in found]}
        print(json.dumps(document, indent=1))
    elif found:
        print("\n".join(columns([_COLUMNS, *map(_row, found)])))
    return 0


def _found(database: SymbolDatabase, names: Sequence[str], kernel: str) -> list[Candidate]:
    """Look up the symbols of the names.

    :raises KlpError: with every name that the kernel does not have.
    """
    problems = Problems()
    found: list[Candidate] = []
    for name in names:
        candidates = database.candidates(name)
        found += candidates
        if not candidates:
            near = did_you_mean(name, database.names())
            problems.add(f"symbol {name!r} is not in kernel {kernel}", why=near, hint=_HINT)
    problems.check()
    return found


_COLUMNS = ("symbol", "object", "sympos", "kind", "address", "file", "exported by")
_HINT = "Inlined functions, macros and locals of other builds have no symbol."


def _row(candidate: Candidate) -> tuple[str, ...]:
    address = "-" if candidate.address is None else f"{candidate.address:#x}"
    if candidate.object != VMLINUX and candidate.section:
        address = f"{candidate.section}+{address}"
    return (
        candidate.symbol,
        candidate.object,
        f"{candidate.sympos} (unstable)" if candidate.unstable else str(candidate.sympos),
        candidate.kind,
        address,
        candidate.file or "-",
        candidate.exported_by or "-",
    )
