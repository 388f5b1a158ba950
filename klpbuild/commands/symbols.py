"""Write symbols.klp: every symbol of vmlinux and of each module, in kallsyms order."""

from __future__ import annotations

import argparse
from pathlib import Path

from klpbuild import steps


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's words."""
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


def run(arguments: argparse.Namespace) -> int:
    """Write it and say what it holds."""
    given = steps.GivenSymbols(arguments.vmlinux, arguments.system_map, arguments.kallsyms)
    build = Path("build")
    kernel = steps.locate_kernel(arguments.kernel, Path("kernel-fixtures"), build, given)
    output = arguments.output or build / kernel.name / "symbols.klp"
    written = steps.write_symbols(kernel, output)
    print(f"{output}: {written.symbols:,} symbols of {written.objects:,} objects")
    return 0
