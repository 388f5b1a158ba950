"""Build a livepatch from source patches, without building the kernel.

The kernel must have been fetched with --debug-symbols and --source: the patches are
compiled against its source and compared with its binaries.

Examples:

    klpbuild build fix.patch --kernel 6.1.0-47-cloud-amd64
    klpbuild build series --name fixes --kernel 6.1.0-47-cloud-amd64 -o out/livepatch-fixes.ko
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from klpbuild.check.formats import as_sarif
from klpbuild.check.rule import RefusedError
from klpbuild.commands.check import add_modules_argument
from klpbuild.compiler.launcher import LAUNCHERS, with_launcher
from klpbuild.errors import KlpError, printable
from klpbuild.files.locks import working_in
from klpbuild.files.whole import write_file
from klpbuild.kernel.further import with_modules
from klpbuild.kernel.locate import locate
from klpbuild.module.accepted import Accepted
from klpbuild.module.livepatch import check_name
from klpbuild.patch.fix import PatchesError
from klpbuild.patch.series import SERIES, read_series
from klpbuild.pipeline.documents import write_index
from klpbuild.pipeline.extracted import Extracted
from klpbuild.pipeline.fixes import left_out
from klpbuild.pipeline.from_patch import build_from_patches
from klpbuild.pipeline.paths import Paths
from klpbuild.pipeline.table import Said, Step
from klpbuild.report.names import SUFFIXES
from klpbuild.report.timings import done, timing_table
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
    for kind, metavar, text in (
        ("layout", '"struct X"', "structure: no object of it outlives what is replaced"),
        ("thread", "FUNCTION", "function of a kernel thread: none runs at the load"),
        ("data", "VARIABLE", "variable: callbacks write it, or it is the kernel's"),
    ):
        text = f"the patches may change this {text}"
        parser.add_argument(
            f"--accept-{kind}", action="append", default=[], metavar=metavar, help=text
        )
    parser.add_argument(
        "-k",
        "--keep-going",
        action="store_true",
        help="leave out the patches that cannot be in a livepatch; exit status 1 if any is",
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
        "-v", "--verbose", action="store_true", help="also tell what became of each reference"
    )
    parser.add_argument(
        "--timings", action="store_true", help="tell what each step cost, and its parts"
    )
    parser.add_argument("--json", action="store_true", help="write JSON")
    parser.add_argument(
        "--sarif",
        type=Path,
        metavar="FILE",
        help="write there, as SARIF, why the patches are refused; no result if they are not",
    )
    parser.add_argument(
        "--build",
        type=Path,
        default=Path("build"),
        metavar="DIRECTORY",
        help="directory of all outputs (default: %(default)s)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Build, and print the result for each function and reference."""
    try:
        left = _build(arguments)
    except KlpError as error:
        if arguments.json:
            told = [asdict(problem) for problem in error.problems]
            fixes = error.fixes if isinstance(error, PatchesError) else ()
            told_fixes = [asdict(fix) for fix in fixes]
            print(json.dumps({"module": None, "problems": told, "fixes": told_fixes}, indent=1))
        if arguments.sarif is not None:
            reports = [error.report] if isinstance(error, RefusedError) else []
            problems = () if reports else error.problems
            write_file(arguments.sarif, as_sarif(reports, problems).encode())
        raise
    finally:
        if arguments.timings and not arguments.json:
            print("\n".join(timing_table(done())))
    if left is not None:
        raise left
    return 0


def _build(arguments: argparse.Namespace) -> KlpError | None:
    """Build; return what to say at the end of patches that are left out."""
    start = time.monotonic()
    patches = [path for argument in arguments.patches for path in _patches(argument)]
    name = arguments.name if arguments.name is not None else default_name(patches[0])
    check_name(name, hint="Choose another one with --name.")
    parts = Parts(arguments.source, arguments.vmlinux, arguments.debug_modules, arguments.image)
    kernel = with_parts(locate(arguments.kernel), parts)
    kernel = with_launcher(with_modules(kernel, arguments.further), arguments.launcher)
    build = arguments.build / kernel.name
    accepted = Accepted(
        tuple(arguments.accept_layout), tuple(arguments.accept_thread), tuple(arguments.accept_data)
    )
    said = _Said(quiet=arguments.json, verbose=arguments.verbose)
    with working_in(arguments.build):
        module, extracted = build_from_patches(
            kernel, patches, name, build, accepted, arguments.keep_going, said.tell, said.begin
        )
        paths = Paths.below(build, module.stem)
        left = left_out(extracted.fixes)
        if arguments.output is not None:
            write_file(arguments.output, module.read_bytes())
            for suffix in SUFFIXES:
                name = arguments.output.name.removesuffix(".ko") + suffix
                beside = module.with_suffix(suffix).read_bytes()
                write_file(arguments.output.with_name(name), beside)
            module = arguments.output
        if arguments.sarif is not None:
            write_file(arguments.sarif, as_sarif([], left.problems if left else ()).encode())
        write_index(arguments.build)
        seconds = time.monotonic() - start
        if arguments.json:
            told = _as_json(module, paths, extracted, seconds)
            timings = {"timings": [asdict(each) for each in done()]} if arguments.timings else {}
            print(json.dumps(told | timings, indent=1))
        else:
            print(printable(f"{module}  ({seconds:.0f} s)"))
    return left


@dataclass(frozen=True)
class _Said:
    """Shows how far a build is, and its steps' messages.

    :ivar quiet: nothing but warnings is said.
    :ivar verbose: references, too.
    """

    quiet: bool
    verbose: bool

    def begin(self, step: Step) -> None:
        if not self.quiet:
            print(printable(f"  {step.tag:<7} {step.outputs[0]}"), flush=True)

    def tell(self, step: Step, said: Said) -> None:
        if self.quiet:
            said.results.clear()
            said.details.clear()
        for line in said.lines(verbose=self.verbose):
            print(line, file=sys.stderr if self.quiet else sys.stdout)


def _as_json(module: Path, paths: Paths, extracted: Extracted, seconds: float) -> dict[str, object]:
    """Collect a build's results for programs."""
    return {
        "module": str(module),
        "seconds": round(seconds, 1),
        "result": json.loads(paths.result.read_bytes()),
        "functions": [
            {"object": patched.name, "old": each.old, "sympos": each.sympos, "new": each.new}
            for patched in extracted.functions
            for each in patched.functions
        ],
        "reasons": dict(extracted.reasons),
        "idle": {name: idle.why for name, idle in extracted.idle.items()},
        "references": json.loads(paths.relocations.read_bytes()),
    }


def _patches(argument: Path) -> list[Path]:
    """List a patch, or those that a quilt series file names."""
    if argument.is_dir():
        whole = argument.absolute()
        raise KlpError(
            "is a directory",
            where=str(argument),
            hint="Name its patches, or its series file.  SCons builds livepatches in directories:\n"
            f"./scons livepatches={whole.parent} livepatch={whole.name}",
        )
    if argument.name != SERIES:
        return [argument]
    listed = [each.path for each in read_series(argument)]
    if not listed:
        raise KlpError("names no patch", where=str(argument))
    return listed


def default_name(patch: Path) -> str:
    """Derive a livepatch's name from a patch file: letters, digits, ``-`` and ``_``; 45 at most."""
    kept = "".join(c if c.isascii() and (c.isalnum() or c in "-_") else "-" for c in patch.stem)
    return kept.strip("-")[:45] or "patch"
