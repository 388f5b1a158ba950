"""Run the benchmarks, show a table of ratios and write build/benchmark.json."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import pkgutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console
from rich.table import Table

import tests.benchmarks
from klpbuild.errors import KlpError
from klpbuild.files.whole import write_file
from tests.benchmarks.inputs import RELEASE
from tests.benchmarks.measure import (
    BENCHMARKS,
    SMALL,
    Figure,
    NotMeasured,
    Result,
    Setting,
    UnavailableError,
    measure,
)

OUTPUT = Path("build/benchmark.json")

#: What benchmark.json always has; null when it was not measured.
KEYS = (
    "symbols_klp_over_nm",
    "symbols_klp_peak_mb",
    "unchanged_build_s_over_empty",
    "one_object_s_over_empty",
    "convert_100k_relocations_s",
    "patch_small_over_gcc",
    "patch_large_over_gcc",
    "patch_small_first_over_two_gcc",
    "patch_large_first_over_two_gcc",
    "patch_small_peak_mb",
    "patch_large_peak_mb",
    "fixes_cold_s",
    "fixes_warm_s",
    "fixes_two_more_over_two",
    "fixes_peak_mb",
    "check_vmlinux_s",
    "check_module_s",
    "cli_start_s",
)

Measured = Result | Figure


def main() -> int:
    """Run what the command line names and return the exit status."""
    for module in sorted(pkgutil.iter_modules(tests.benchmarks.__path__), key=lambda m: m.name):
        if module.name != "__main__":
            importlib.import_module(f"tests.benchmarks.{module.name}")
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("name", nargs="*", help=f"of: {', '.join(BENCHMARKS)} (default: all)")
    parser.add_argument(
        "--kernel",
        default=RELEASE,
        metavar="RELEASE",
        help="a fetched kernel, with source and debug symbols for all of it (default: %(default)s)",
    )
    parser.add_argument(
        "--patches",
        type=Path,
        metavar="DIR",
        help="a directory of fixes for that kernel that can be built together",
    )
    parser.add_argument(
        "--small",
        action="store_true",
        help="one round with small inputs and the miniature kernel, to see that answers are right",
    )
    parser.add_argument(
        "--strict", action="store_true", help="exit with 1 when a goal is missed or nothing was run"
    )
    arguments = parser.parse_args()
    unknown = set(arguments.name) - BENCHMARKS.keys()
    if unknown:
        parser.error(f"unknown: {', '.join(sorted(unknown))}; known: {', '.join(BENCHMARKS)}")
    names = arguments.name or [n for n in BENCHMARKS if n in SMALL or not arguments.small]

    load = os.getloadavg()[0]
    console = Console() if sys.stdout.isatty() else Console(width=180)
    measured, absent = _run(names, arguments, console)
    console.print(_table(measured))
    for name, why in absent.items():
        console.print(f"not run: {name}: {why}", soft_wrap=True, highlight=False)
    print(f"{os.cpu_count()} processors, load {load:.1f} before, {os.getloadavg()[0]:.1f} after")
    write_file(OUTPUT, (json.dumps(_as_json(measured, absent, load), indent=1) + "\n").encode())
    print(f"written: {OUTPUT}")
    missed = any(not met for one in measured for _, met in one.goals)
    return int(arguments.strict and (missed or not measured))


def _run(
    names: Sequence[str], arguments: argparse.Namespace, console: Console
) -> tuple[list[Measured], dict[str, str]]:
    """What was measured, and why the rest was not."""
    measured: list[Measured] = []
    absent: dict[str, str] = {}
    with console.status("") as status:
        for name in names:
            status.update(name)
            try:
                with TemporaryDirectory() as directory:
                    setting = Setting(
                        Path(directory), arguments.kernel, arguments.small, arguments.patches
                    )
                    for one in BENCHMARKS[name](setting):
                        status.update(f"{name}: {one.name}")
                        rounds = {"rounds": 1} if setting.small else {}
                        if isinstance(one, NotMeasured):
                            absent[f"{name}: {one.name}"] = one.why
                            continue
                        measured.append(
                            one if isinstance(one, Figure) else measure(name, one, **rounds)
                        )
            except (UnavailableError, KlpError) as error:
                absent[name] = str(error)
            except subprocess.CalledProcessError as error:
                absent[name] = f"{error}\n{(error.stderr or b'').decode(errors='replace')}"
    return measured, absent


def _table(measured: list[Measured]) -> Table:
    table = Table("benchmark", "what", box=None)
    for title in ("klpbuild", "cpu", "ratio", "cpu"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("compared with")
    for title in ("takes", "cpu"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("goal")
    for one in measured:
        goals = ", ".join(f"{text}: {'met' if met else 'MISSED'}" for text, met in one.goals)
        if isinstance(one, Figure):
            table.add_row("", one.name, f"{one.value:,g} {one.unit}", *[""] * 6, goals)
            continue
        table.add_row(
            one.group,
            one.comparison.name,
            _time(one.ours.wall),
            _time(one.ours.cpu),
            f"{one.ratio:.2f}",
            f"{one.cpu_ratio:.2f}",
            one.comparison.other,
            _time(one.theirs.wall),
            _time(one.theirs.cpu),
            goals,
        )
    return table


def _time(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1000:.1f} ms"


def _as_json(measured: list[Measured], absent: dict[str, str], load: float) -> dict[str, object]:
    results = [one for one in measured if isinstance(one, Result)]
    top: dict[str, float | None] = dict.fromkeys(KEYS)
    top |= {one.key: one.value for one in measured if isinstance(one, Figure)}
    top |= {one.comparison.key: one.value for one in results if one.comparison.key}
    rows = [
        {
            "benchmark": result.group,
            "what": result.comparison.name,
            "seconds": result.ours.wall,
            "cpu_seconds": result.ours.cpu,
            "compared_with": result.comparison.other,
            "compared_seconds": result.theirs.wall,
            "compared_cpu_seconds": result.theirs.cpu,
            "ratio": result.ratio,
            "goals": [{"goal": text, "met": met} for text, met in result.goals],
        }
        for result in results
    ]
    machine = {"processors": os.cpu_count(), "load_before": load, "load_after": os.getloadavg()[0]}
    return {**top, "results": rows, "not_run": absent, "machine": machine}


if __name__ == "__main__":
    sys.exit(main())
