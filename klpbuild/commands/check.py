"""Say what the kernel will say of a livepatch module, before it does.

Without --kernel it checks what holds for every kernel.  Exit status: 0 the kernel
would load all of them, 1 there are findings, 2 it could not be checked.

Examples:

    klpbuild check build/6.1.0-47-cloud-amd64/livepatch-fix.ko --kernel 6.1.0-47-cloud-amd64
    klpbuild check *.ko --kernel 6.1.0-47-cloud-amd64 --format sarif
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from klpbuild.errors import KlpError, Problem
from klpbuild.files.given import is_file
from klpbuild.terminal.shown import annotation, has_colour
from klpbuild.terminal.shown import show as show_problem

if TYPE_CHECKING:
    from klpbuild.check.rule import Report
    from klpbuild.kernel.tree import Kernel

CLEAN, FINDINGS, NOT_CHECKED = 0, 1, 2

_FORMATS = ("text", "json", "sarif")
_SEVERITIES = ("note", "warning", "error")


def add_kernel_arguments(parser: argparse.ArgumentParser, *, required: bool) -> None:
    """Declare the words that name a kernel and its symbols."""
    parser.add_argument(
        "--kernel", required=required, help="fixtures, the release of a fetched kernel, or a path"
    )
    parser.add_argument(
        "--symbols",
        type=Path,
        metavar="FILE",
        help="symbols.klp of the kernel (default: build/KERNEL/symbols.klp, else made)",
    )
    add_modules_argument(parser)


def add_modules_argument(parser: argparse.ArgumentParser) -> None:
    """Declare the word that names further modules."""
    parser.add_argument(
        "--modules",
        dest="further",
        action="append",
        type=Path,
        default=[],
        metavar="PATH",
        help="a module beside those of the kernel, or a directory of modules (repeatable)",
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's words."""
    parser.add_argument("modules", nargs="+", type=Path, metavar="MODULE.ko")
    add_kernel_arguments(parser, required=False)
    output = parser.add_mutually_exclusive_group()
    output.add_argument("--format", choices=_FORMATS, default="text", help="default: %(default)s")
    output.add_argument(
        "--json", dest="format", action="store_const", const="json", help="write JSON"
    )
    parser.add_argument(
        "--fail-on",
        choices=_SEVERITIES,
        default="error",
        metavar="SEVERITY",
        help="exit with 1 for findings as bad as this: note, warning or error"
        " (default: %(default)s)",
    )
    parser.add_argument(
        "-v", "--verbose", action="store_true", help="list every rule that was not checked"
    )


def run(arguments: argparse.Namespace) -> int:
    """Check, show, and return the exit status."""
    from klpbuild.check import formats
    from klpbuild.check.module import check_module
    from klpbuild.check.rule import Severity

    reports: list[Report] = []
    problems: list[Problem] = []
    try:
        kernel = find_kernel(arguments.kernel, arguments.further) if arguments.kernel else None
        symbols = find_symbols(kernel, arguments.symbols) if kernel else None
    except KlpError as error:
        show(error)
        return NOT_CHECKED
    for path in arguments.modules:
        try:
            reports.append(check_module(path, kernel, symbols))
        except KlpError as error:
            show(error)
            problems += error.problems
    if arguments.format == "json":
        sys.stdout.write(formats.as_json(reports))
    elif arguments.format == "sarif":
        sys.stdout.write(formats.as_sarif(reports, problems))
    elif reports:
        colour = has_colour(sys.stdout)
        sys.stdout.write(formats.as_text(reports, colour=colour, verbose=arguments.verbose))
    for report in reports:
        for finding in report.findings:
            place = ":".join(filter(None, (report.file, finding.where)))
            about = Problem(f"{finding.what} [{finding.rule.identifier}]", place, finding.rule.why)
            if note := annotation(about, finding.rule.severity.word):
                print(note, file=sys.stderr)
    if problems:
        return NOT_CHECKED
    threshold = Severity[arguments.fail_on.upper()]
    return FINDINGS if any(report.at_least(threshold) for report in reports) else CLEAN


def show(error: KlpError) -> None:
    """Show a user's error as `klpbuild.cli` does."""
    for problem in error.problems:
        show_problem(problem, "klpbuild")


def find_kernel(text: str, further: Sequence[Path] = ()) -> Kernel:
    """Find the kernel that the user names, with further modules.

    :raises KlpError: when there is none, or a module is not for it.
    """
    from klpbuild.kernel.further import with_modules
    from klpbuild.kernel.locate import locate

    output = Path("build") / "fixtures" / "kernel"
    kernel = locate(text, fixtures=Path("kernel-fixtures"), output=output)
    return with_modules(kernel, further)


def find_symbols(kernel: Kernel, given: Path | None) -> Path | None:
    """Find the kernel's symbols.klp: the named one, that of the build, or one made now.

    :returns: None when the kernel's symbols are not at hand.
    :raises KlpError: when the symbols are broken, or the named file is not there.
    """
    from klpbuild.kernel.cache import cache_directory
    from klpbuild.symbols.database import has_index
    from klpbuild.symbols.write import SymbolSources, write_symbols

    if given is not None:
        if not is_file(given):
            raise KlpError("there is no such file", where=str(given))
        return given
    built = Path("build") / kernel.name / "symbols.klp"
    if not kernel.further and has_index(built):
        return built
    if not (kernel.vmlinux or kernel.system_map or kernel.kallsyms):
        return None
    sources = SymbolSources(
        kernel.version,
        kernel.modules,
        kernel.vmlinux,
        kernel.system_map,
        kernel.kallsyms,
        kernel.module_symvers,
    )
    output = kernel.cache / f"symbols{_mark(kernel.further)}.klp"
    write_symbols(output, sources, cache_directory() / "symbols")
    return output


def _mark(further: Sequence[Path]) -> str:
    """Make a suffix for the symbols of a kernel with further modules."""
    stats = [(str(path.absolute()), path.stat()) for path in further]
    content = repr([(name, status.st_size, status.st_mtime_ns) for name, status in stats])
    return f"-{sha256(content.encode()).hexdigest()[:16]}" if further else ""
