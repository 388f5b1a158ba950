"""Kernels of 1,000, 10,000 and 30,000 objects: cost grows as they do, and a cache saves it."""

from __future__ import annotations

import itertools
import subprocess
import time
from collections.abc import Iterator

from klpbuild.symbols.write import SymbolSources, write_symbols
from tests.benchmarks.inputs import FUNCTIONS, write_modules
from tests.benchmarks.measure import Comparison, Setting, benchmark
from tests.benchmarks.symbols import check_answers

SIZES = (1_000, 10_000, 30_000)
SMALL_SIZES = (10, 100, 300)

#: Files are read again as long as they are so young, in seconds.
SETTLES = 2.1


@benchmark("tree", small=True)
def tree(setting: Setting) -> Iterator[Comparison]:
    """Made objects of `FUNCTIONS` functions each; the tree is a list of files, no SCons nodes."""
    directory = setting.directory
    system_map = directory / "System.map"
    system_map.write_text("ffffffff81000000 T _text\n")
    numbers = itertools.count()
    first, *_ = sizes = SMALL_SIZES if setting.small else SIZES

    def sources(count: int) -> SymbolSources:
        modules = tuple(sorted((directory / str(count)).iterdir()))
        return SymbolSources((6, 1, 0), modules, system_map=system_map)

    def anew(count: int, times: int = 1) -> None:
        for _ in range(times):
            cache = directory / f"cache-{next(numbers)}"
            output = directory / f"{count}-anew.klp"
            output.unlink(missing_ok=True)
            if write_symbols(output, known[count], cache).symbols != count * FUNCTIONS + 1:
                raise AssertionError("symbols are missing")

    def again(count: int) -> None:
        output = directory / f"{count}.klp"
        if write_symbols(output, known[count], directory / "cache").scanned:
            raise AssertionError("unchanged objects were scanned")

    def nm(count: int) -> None:
        names = [path.name for path in known[count].modules]  # short enough for a command line
        place = directory / str(count)
        subprocess.run(["nm", *names], cwd=place, stdout=subprocess.DEVNULL, check=True)

    known: dict[int, SymbolSources] = {}
    for count in sizes:
        write_modules(directory / str(count), count)
        known[count] = sources(count)
    time.sleep(SETTLES)
    for count in sizes:
        output = directory / f"{count}.klp"
        write_symbols(output, known[count], directory / "cache")
        check_answers(output, known[count].modules[:: max(count // 10, 1)])
        title = f"symbols.klp of {count:,} made objects"
        yield Comparison(
            title, lambda count=count: anew(count), "nm", lambda count=count: nm(count)
        )
    for count in sizes[1:]:
        times = count // first
        yield Comparison(
            f"symbols.klp of {count:,} made objects",
            lambda count=count: anew(count),
            f"{times} times {first:,} objects",
            lambda times=times: anew(first, times),
            ratio_max=1.25,
        )
    for count in sizes:
        yield Comparison(
            f"nothing changed of {count:,} made objects",
            lambda count=count: again(count),
            "anew",
            lambda count=count: anew(count),
            ratio_max=0.5,
        )
