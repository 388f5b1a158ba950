"""Give many patches to klpbuild, load what it builds, and tell what became of each."""

from __future__ import annotations

import argparse
import fnmatch
import sys
from pathlib import Path

from klpbuild.errors import KlpError
from klpbuild.kernel.locate import locate
from klpbuild.report.junit import Case, junit
from tests.corpus.build import build_all, print_one
from tests.corpus.collect import collect
from tests.corpus.load import load_all
from tests.corpus.progress import Progress
from tests.corpus.results import LOADED, Outcome, Result, ResultsFile
from tests.corpus.table import table
from tests.corpus.verify import Shipped, Verdict, verify

DEFAULT_KERNEL = "6.1.0-47-cloud-amd64"
DEFAULT_OUTPUT = Path("build/corpus")
DEFAULT_RESULTS = DEFAULT_OUTPUT / "results.jsonl"


def main() -> int:
    """Do what the command line says and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.corpus", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    make = commands.add_parser("collect", help="make patches of a newer version's changes")
    make.add_argument("newer", type=Path, metavar="SOURCE_TREE", help="of the newer version")
    make.add_argument("patches", type=Path, metavar="DIRECTORY", help="gets the patches")
    build = commands.add_parser("build", help="build a livepatch from each patch")
    build.add_argument("patches", type=Path, metavar="DIRECTORY")
    build.add_argument("--jobs", type=int, default=1, help="how many at a time (default: 1)")
    build.add_argument(
        "--again",
        metavar="KIND",
        action="append",
        default=[],
        help="build these again: built, refused, failed, all, or a kind of refusal",
    )
    load = commands.add_parser("load", help="load each livepatch that was built, in QEMU")
    load.add_argument("--slice", type=int, default=25, help="modules to one boot (default: 25)")
    load.add_argument("--again", action="store_true", help="load those again that were loaded")
    second = commands.add_parser("verify", help="compare modules with the compiler's own output")
    shown = commands.add_parser("table", help="print the results as a table, Markdown")
    listed = commands.add_parser("junit", help="print the results as JUnit XML")
    one = commands.add_parser("one", help="build one livepatch, print its line of the results")
    one.add_argument("patch", type=Path)
    for command in (build, one):
        command.add_argument("--keep", action="store_true", help="keep intermediate files")
    for command in (build, load, second, shown, listed):
        command.add_argument("--results", type=Path, default=DEFAULT_RESULTS, metavar="FILE.jsonl")
    for command in (build, load, second):
        command.add_argument("--only", default="*", metavar="GLOB", help="patches of these names")
    for command in (make, build, load, second, one):
        command.add_argument("--kernel", default=DEFAULT_KERNEL)
    for command in (build, load, second, one):
        command.add_argument("--output", type=Path, default=DEFAULT_OUTPUT, metavar="DIRECTORY")
    arguments = parser.parse_args()
    try:
        return COMMANDS[arguments.command](arguments)
    except KlpError as error:
        print(error, file=sys.stderr)
        return 1


def _collect(arguments: argparse.Namespace) -> int:
    count = collect(locate(arguments.kernel), arguments.newer, arguments.patches)
    print(f"{arguments.patches}: {count} patches")
    return 0


def _build(arguments: argparse.Namespace) -> int:
    results = ResultsFile(arguments.results)
    patches = [
        path
        for path in sorted(arguments.patches.glob("*.patch"))
        if fnmatch.fnmatch(path.name, arguments.only)
        and _is_wanted(results.by_patch.get(path.name), arguments.again)
    ]
    with Progress(len(patches)) as progress:
        output = arguments.output.absolute()
        jobs, keep = arguments.jobs, arguments.keep
        build_all(patches, arguments.kernel, results, output, jobs, keep, progress)
    results.tidy()
    return int(any(result.outcome is Outcome.FAILED for result in results))


def _is_wanted(known: Result | None, again: list[str]) -> bool:
    return known is None or bool({"all", known.outcome, known.kind} & set(again))


def _load(arguments: argparse.Namespace) -> int:
    results = ResultsFile(arguments.results)
    wanted = [
        result
        for result in results
        if result.outcome is Outcome.BUILT
        and fnmatch.fnmatch(result.patch, arguments.only)
        and (result.loading is None or arguments.again)
    ]
    with Progress(len(wanted)) as progress:
        output = arguments.output.absolute()
        load_all(wanted, arguments.kernel, results, output, arguments.slice, progress)
    results.tidy()
    return int(any(r.loading is not None and r.loading.outcome != LOADED for r in results))


def _verify(arguments: argparse.Namespace) -> int:
    """Needs what ``build --keep`` leaves."""
    shipped = Shipped.of(locate(arguments.kernel))
    whole = Verdict()
    modules = 0
    for result in ResultsFile(arguments.results):
        module = arguments.output / result.module
        if not result.module or not fnmatch.fnmatch(result.patch, arguments.only):
            continue
        verdict = verify(module, module.with_suffix(""), shipped)
        modules += 1
        whole += verdict
        for problem in verdict.problems:
            print(f"{result.patch}: {problem}")
    print(
        f"{modules} modules, {whole.functions} functions, {whole.references} references,"
        f" {whole.positions} positions: {len(whole.problems)} differences"
    )
    return int(bool(whole.problems))


def _table(arguments: argparse.Namespace) -> int:
    print(table(tuple(ResultsFile(arguments.results))), end="")
    return 0


def _junit(arguments: argparse.Namespace) -> int:
    """A refusal is a result; only what klpbuild or the kernel got wrong is a failure."""
    cases = []
    for result in ResultsFile(arguments.results):
        wrong = result.traceback
        if result.loading is not None and result.loading.outcome != LOADED:
            wrong = f"{result.loading.outcome}\n{result.loading.said}"
        said = "\n".join(f"refused: {reason.what}" for reason in result.reasons)
        cases.append(Case("corpus", result.patch, wrong, said=said, seconds=result.seconds))
    print(junit("corpus", cases).decode(), end="")
    return 0


def _one(arguments: argparse.Namespace) -> int:
    print_one(arguments.patch, arguments.kernel, arguments.output, arguments.keep)
    return 0


COMMANDS = {
    "collect": _collect,
    "build": _build,
    "load": _load,
    "verify": _verify,
    "table": _table,
    "junit": _junit,
    "one": _one,
}

if __name__ == "__main__":
    sys.exit(main())
