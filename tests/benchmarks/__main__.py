"""Run the benchmarks, show a table of ratios and write build/benchmark.json."""

from __future__ import annotations

import argparse
import importlib
import json
import pkgutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console
from rich.table import Table

import tests.benchmarks
from klpbuild.elf.writer import write_file
from klpbuild.errors import KlpError
from tests.benchmarks.measure import BENCHMARKS, Result, UnavailableError, measure

OUTPUT = Path("build/benchmark.json")


def main() -> int:
    """Run what the command line names and return the exit status."""
    for module in sorted(pkgutil.iter_modules(tests.benchmarks.__path__), key=lambda m: m.name):
        if module.name != "__main__":
            importlib.import_module(f"tests.benchmarks.{module.name}")
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("name", nargs="*", help=f"of: {', '.join(BENCHMARKS)} (default: all)")
    parser.add_argument(
        "--strict", action="store_true", help="exit with 1 when a goal is missed or nothing was run"
    )
    arguments = parser.parse_args()
    unknown = set(arguments.name) - BENCHMARKS.keys()
    if unknown:
        parser.error(f"unknown: {', '.join(sorted(unknown))}; known: {', '.join(BENCHMARKS)}")

    results: list[Result] = []
    absent: dict[str, str] = {}
    console = Console() if sys.stdout.isatty() else Console(width=160)
    with console.status("") as status:
        for name in arguments.name or BENCHMARKS:
            try:
                with TemporaryDirectory() as directory:
                    for comparison in BENCHMARKS[name](Path(directory)):
                        status.update(f"{name}: {comparison.name}")
                        results.append(measure(name, comparison))
            except (UnavailableError, KlpError) as error:
                absent[name] = str(error)
            except subprocess.CalledProcessError as error:
                absent[name] = f"{error}\n{(error.stderr or b'').decode(errors='replace')}"
    console.print(_table(results))
    for name, why in absent.items():
        console.print(f"not run: {name}: {why}", soft_wrap=True, highlight=False)
    write_file(OUTPUT, (json.dumps(_as_json(results, absent), indent=1) + "\n").encode())
    print(f"written: {OUTPUT}")
    missed = any(not met for result in results for _, met in result.goals)
    return int(arguments.strict and (missed or not results))


def _table(results: list[Result]) -> Table:
    table = Table("benchmark", "what", box=None)
    for title in ("klpbuild", "ratio"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("compared with")
    table.add_column("takes", justify="right")
    table.add_column("goal")
    for result in results:
        goals = [f"{text}: {'met' if met else 'MISSED'}" for text, met in result.goals]
        table.add_row(
            result.group,
            result.comparison.name,
            _time(result.ours),
            f"{result.ratio:.2f}",
            result.comparison.other,
            _time(result.theirs),
            ", ".join(goals),
        )
    return table


def _time(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1000:.1f} ms"


def _as_json(results: list[Result], absent: dict[str, str]) -> dict[str, object]:
    rows = [
        {
            "benchmark": result.group,
            "what": result.comparison.name,
            "seconds": result.ours,
            "compared_with": result.comparison.other,
            "compared_seconds": result.theirs,
            "ratio": result.ratio,
            "goals": [{"goal": text, "met": met} for text, met in result.goals],
        }
        for result in results
    ]
    return {"results": rows, "not_run": absent}


if __name__ == "__main__":
    sys.exit(main())
