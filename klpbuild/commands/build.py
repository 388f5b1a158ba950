"""Build a livepatch from source patches, without building the kernel.

The kernel must have been fetched with --debug-symbols and --source: the patches are
compiled against its source and compared with its binaries.

Examples:

    klpbuild build fix.patch --kernel 6.1.0-47-cloud-amd64
    klpbuild build series --name fixes --kernel 6.1.0-47-cloud-amd64 -o out/livepatch-fixes.ko
"""

from __future__ import annotations

import argparse
from pathlib import Path

from klpbuild.commands.check import add_modules_argument
from klpbuild.compiler.launcher import LAUNCHERS, with_launcher
from klpbuild.errors import KlpError, printable
from klpbuild.files import working_in, write_file
from klpbuild.kernel.further import with_modules
from klpbuild.kernel.locate import locate
from klpbuild.module.accepted import Accepted
from klpbuild.module.livepatch import check_name
from klpbuild.patch.series import SERIES, read_series
from klpbuild.pipeline.from_patch import build_from_patches
from klpbuild.pipeline.table import Said, Step
from klpbuild.report.names import SUFFIXES
from klpbuild.request.given import Parts, with_parts


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's words."""
    parser.add_argument("patches", nargs="+", type=Path, metavar="FIX.patch")
    parser.add_argument("--kernel", required=True, help="release of a fetched kernel, or a path")
    parser.add_argument("--name", help="the livepatch's name (default: the first patch's)")
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="FILE.ko",
        help="copy the module there, and provenance and page beside it",
    )
    parser.add_argument(
        "--accept-layout",
        action="append",
        default=[],
        metavar='"struct X"',
        help="the patches may change this structure: no object of it outlives what is replaced",
    )
    parser.add_argument(
        "--accept-thread",
        action="append",
        default=[],
        metavar="FUNCTION",
        help="the patches may change this function of a kernel thread: none runs at the load",
    )
    add_modules_argument(parser)
    places = parser.add_argument_group(
        "parts of the kernel", "in place of what klpbuild finds beside its headers or in its tree"
    )
    for option, metavar, text in (
        ("--source", "DIRECTORY", "the whole source of exactly this version"),
        ("--vmlinux", "FILE", "vmlinux with symbols and debug information"),
        ("--debug-modules", "DIRECTORY", "of the modules' debug files, kernel/fs/x.ko.debug"),
        ("--image", "FILE", "the bootable image"),
    ):
        places.add_argument(option, type=Path, metavar=metavar, help=text)
    parser.add_argument(
        "--launcher",
        default="",
        metavar="PROGRAM",
        help=f"starts each compiler: {', '.join(LAUNCHERS)}",
    )
    parser.add_argument(
        "--build",
        type=Path,
        default=Path("build"),
        metavar="DIRECTORY",
        help="directory of all outputs (default: %(default)s)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Build, and tell what became of each function and reference."""
    patches = [path for argument in arguments.patches for path in _patches(argument)]
    name = arguments.name if arguments.name is not None else default_name(patches[0])
    check_name(name, hint="Choose another one with --name.")
    parts = Parts(arguments.source, arguments.vmlinux, arguments.debug_modules, arguments.image)
    kernel = with_parts(locate(arguments.kernel), parts)
    kernel = with_launcher(with_modules(kernel, arguments.further), arguments.launcher)
    build = arguments.build / kernel.name
    accepted = Accepted(tuple(arguments.accept_layout), tuple(arguments.accept_thread))
    with working_in(arguments.build):
        module, extracted = build_from_patches(kernel, patches, name, build, accepted, _tell)
        for line in (*extracted.report, str(module)):
            print(printable(line, keep="\n\t"))
        if arguments.output is not None:
            write_file(arguments.output, module.read_bytes())
            for suffix in SUFFIXES:
                name = arguments.output.name.removesuffix(".ko") + suffix
                beside = module.with_suffix(suffix).read_bytes()
                write_file(arguments.output.with_name(name), beside)
            print(arguments.output)
    return 0


def _tell(step: Step, said: Said) -> None:
    """Show what a step says; what was extracted is told at the end."""
    if step.tag == "EXTRACT":
        said.results.clear()
    print(*(f"{line}\n" for line in said.lines()), sep="", end="")


def _patches(argument: Path) -> list[Path]:
    """A patch, or those that a quilt series file names."""
    if argument.name != SERIES:
        return [argument]
    listed = [each.path for each in read_series(argument)]
    if not listed:
        raise KlpError("names no patch", where=str(argument))
    return listed


def default_name(patch: Path) -> str:
    """A livepatch's name for a patch file: letters, digits, ``-`` and ``_``; 45 at most."""
    kept = "".join(c if c.isascii() and (c.isalnum() or c in "-_") else "-" for c in patch.stem)
    return kept.strip("-")[:45] or "patch"
