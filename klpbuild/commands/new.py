"""Begin a livepatch: write a directory that builds at once, ready to edit.

With the kernel's source at hand (klpbuild kernel fetch RELEASE --source) each function
is copied from it with what it needs of its file.  Otherwise there is only a skeleton.

Of a source patch, members that it adds to structures become shadow variables if there is no
room for them (needs --debug-symbols, too).

Examples:

    klpbuild new hello --function vmlinux:meminfo_proc_show
    klpbuild new fix --patch fix.patch --kernel 6.1.0-47-cloud-amd64
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

from klpbuild.commands.check import add_modules_argument
from klpbuild.files.locks import working_in
from klpbuild.module.livepatch import check_name
from klpbuild.pipeline import begin, symbol_steps
from klpbuild.pipeline.table import Said
from klpbuild.request.given import locate_kernel, newest_kernel


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's words."""
    parser.add_argument("name", metavar="NAME", help="the livepatch's name, and its directory's")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "--function",
        action="append",
        metavar="OBJECT:FUNCTION[,POSITION]",
        help="a function to replace, such as vmlinux:meminfo_proc_show (repeatable)",
    )
    what.add_argument(
        "--patch",
        action="append",
        type=Path,
        metavar="FIX.patch",
        help="begin with this source patch instead (repeatable)",
    )
    parser.add_argument(
        "--kernel", help="release of a fetched kernel, or a path (default: the newest fetched)"
    )
    parser.add_argument(
        "--directory",
        type=Path,
        default=Path("fixes"),
        metavar="DIR",
        help="where livepatches are (default: %(default)s)",
    )
    parser.add_argument(
        "--file", metavar="FILE", help="the file of the kernel's source that defines the functions"
    )
    add_modules_argument(parser)
    parser.add_argument("--json", action="store_true", help="write JSON")


def run(arguments: argparse.Namespace) -> int:
    """Write the directory; 1 when it does not build yet."""
    check_name(arguments.name, hint="Choose another one.")
    directory = arguments.directory / arguments.name
    name = arguments.kernel or newest_kernel()
    build = Path("build")
    with working_in(build):
        return _begin(arguments, directory, name, build)


def _begin(arguments: argparse.Namespace, directory: Path, name: str, build: Path) -> int:
    kernel = locate_kernel(name, Path("kernel-fixtures"), build, modules=arguments.further)
    if arguments.patch:
        begun = begin.begin_with_patches(kernel, directory, arguments.patch)
    else:
        wanted = [begin.Wanted.parse(text) for text in arguments.function]
        symbols = build / kernel.name / "symbols.klp"
        said = Said()
        symbol_steps.write_symbols(kernel, symbols, said)
        output = sys.stderr if arguments.json else sys.stdout
        print(*(f"{line}\n" for line in said.lines()), sep="", end="", file=output)
        begun = begin.begin_with_functions(kernel, symbols, directory, wanted, arguments.file)
    bootable = kernel.image is not None
    if arguments.json:
        command = begin.build_command(begun, name, bootable=bootable)
        print(json.dumps({**asdict(begun), "build": command}, indent=1, default=str))
        return 1 if begun.problem else 0
    for line in begin.lines(begun, name, bootable=bootable):
        print(line)
    if begun.problem:
        print(f"klpbuild: it does not build yet: {begun.problem}", file=sys.stderr)
        print("  A source patch needs no such file: --patch FIX.patch.", file=sys.stderr)
        return 1
    return 0
