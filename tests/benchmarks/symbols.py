"""symbols.klp of a whole Debian kernel, compared with nm and with pyelftools."""

from __future__ import annotations

import itertools
import json
import resource
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from elftools.elf.elffile import ELFFile

from klpbuild.names import VMLINUX, index_path, object_name
from klpbuild.symbols.database import SymbolDatabase
from klpbuild.symbols.write import SymbolSources, write_symbols
from tests.benchmarks.inputs import miniature, module_with, whole_kernel
from tests.benchmarks.measure import Comparison, Figure, Setting, benchmark

LOOKUPS = 1000

#: Every so many modules one is compared with what pyelftools reads.
CHECKED = 50


def read_with_pyelftools(path: Path) -> list[str]:
    """The names of a file's defined symbols, in its order."""
    with path.open("rb") as file:
        return [
            symbol.name
            for symbol in ELFFile(file).get_section_by_name(".symtab").iter_symbols()
            if symbol.name
            and symbol["st_shndx"] != "SHN_UNDEF"
            and symbol["st_info"]["type"] != "STT_FILE"
        ]


def check_answers(symbols_klp: Path, modules: Sequence[Path]) -> None:
    """That the modules' symbols are those that pyelftools reads."""
    database = SymbolDatabase.read(symbols_klp)
    for path in modules:
        if database.symbols(object_name(path.name)).name_list != read_with_pyelftools(path):
            raise AssertionError(f"{path}: other symbols than pyelftools reads")


def peak_megabytes(directory: Path, sources: SymbolSources) -> int:
    """What writing symbols.klp anew takes at most, in a process of its own."""
    command = [sys.executable, "-m", __name__, str(directory)]
    done = subprocess.run(
        command,
        check=True,
        capture_output=True,
        text=True,
        input=json.dumps(asdict(sources), default=str),
    )
    return int(done.stdout)


@benchmark("symbols", small=True)
def symbols(setting: Setting) -> Iterator[Comparison | Figure]:
    """Write symbols.klp anew, after no change and after one; find names in it."""
    directory = setting.directory
    if setting.small:
        tree = miniature(directory)
        modules = tuple(sorted(tree.rglob("*.ko")))
        exports = tree / "Module.symvers"
        sources = SymbolSources((6, 1, 0), modules, tree / "vmlinux", module_symvers=exports)
    else:
        sources = whole_kernel(setting.kernel)
    paths = [path for path in (sources.vmlinux, *sources.modules) if path]
    output, cache = directory / "symbols.klp", directory / "cache"
    numbers = itertools.count()

    def nm() -> None:
        subprocess.run(["nm", *map(str, paths)], stdout=subprocess.DEVNULL, check=True)

    def anew() -> None:
        output.unlink(missing_ok=True)
        write_symbols(output, sources, directory / f"cache-{next(numbers)}")

    def pyelftools() -> None:
        for path in paths:
            read_with_pyelftools(path)

    anew()
    check_answers(output, sources.modules[:: 1 if setting.small else CHECKED])
    title = f"symbols.klp of {len(paths):,} objects"
    yield Comparison(title, anew, "nm", nm, ratio_max=0.5, key="symbols_klp_over_nm")
    yield Comparison(title, anew, "pyelftools", pyelftools)
    peak = peak_megabytes(directory / "peak", sources)
    yield Figure("symbols_klp_peak_mb", "memory at most", peak, "MB", 400)

    changing = directory / "changing.ko"
    with_change = replace(sources, modules=(*sources.modules, changing))

    def unchanged() -> None:
        write_symbols(output, with_change, cache)

    def changed() -> None:
        changing.write_bytes(module_with(f"symbol_{next(numbers)}"))
        if write_symbols(output, with_change, cache).scanned != 1:
            raise AssertionError("other objects than the changed one were scanned")

    changing.write_bytes(module_with("symbol"))
    unchanged()
    yield Comparison("one object changed", changed, "none changed", unchanged, excess_max=0.5)

    names = SymbolDatabase.read(output).symbols(VMLINUX).name_list[:LOOKUPS]

    def look_up() -> None:
        database = SymbolDatabase.read(output)
        for name in names:
            if database.candidates(name)[0].object != VMLINUX:
                raise AssertionError(f"{name} is not found in vmlinux")

    def without_index() -> None:
        index_path(output).unlink(missing_ok=True)
        look_up()

    look_up()
    title = f"open symbols.klp, find {len(names):,} names"
    yield Comparison(title, look_up, "without index", without_index, seconds_max=0.2)


def _from_json(text: str) -> SymbolSources:
    given = json.loads(text)
    return SymbolSources(
        tuple(given["version"]),
        tuple(map(Path, given["modules"])),
        Path(given["vmlinux"]),
        module_symvers=Path(given["module_symvers"]),
    )


if __name__ == "__main__":
    place = Path(sys.argv[1])
    write_symbols(place / "symbols.klp", _from_json(sys.stdin.read()), place / "cache")
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
