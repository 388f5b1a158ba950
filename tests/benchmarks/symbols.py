"""symbols.klp of a whole Debian kernel, compared with nm and with pyelftools."""

from __future__ import annotations

import itertools
import resource
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from elftools.elf.elffile import ELFFile

from klpbuild.elf.constants import EM, SHF, SHT, STB, STT
from klpbuild.elf.writer import ElfObject, WritableSection
from klpbuild.errors import KlpError
from klpbuild.kernel.locate import locate
from klpbuild.symbols.database import SymbolDatabase
from klpbuild.symbols.index import index_path
from klpbuild.symbols.write import SymbolSources, write_symbols
from tests.benchmarks.measure import Comparison, UnavailableError, benchmark

RELEASE = "6.1.0-47-cloud-amd64"
LOOKUPS = 1000


def whole_kernel() -> SymbolSources:
    """vmlinux and all modules of a debug package.

    :raises UnavailableError: when it was not fetched.
    """
    try:
        kernel = locate(RELEASE)
    except KlpError as error:
        raise UnavailableError(str(error)) from error
    if kernel.vmlinux is None:
        raise UnavailableError(f"the debug symbols of {RELEASE} are not fetched")
    directory = kernel.vmlinux.parent.parent / "lib" / "modules" / RELEASE
    return SymbolSources(kernel.version, tuple(sorted(directory.rglob("*.ko"))), kernel.vmlinux)


def read_with_pyelftools(paths: list[Path]) -> int:
    """How many named symbols the files have."""
    found = 0
    for path in paths:
        with path.open("rb") as file:
            table = ELFFile(file).get_section_by_name(".symtab")
            found += sum(bool(symbol.name) for symbol in table.iter_symbols())
    return found


def module_with(symbol: str) -> bytes:
    """A module with one function."""
    elf = ElfObject(EM.X86_64)
    flags = SHF.ALLOC | SHF.EXECINSTR
    text = elf.add_section(WritableSection(".text", SHT.PROGBITS, flags, data=bytes(16)))
    elf.add_symbol(symbol, bind=STB.GLOBAL, type=STT.FUNC, st_shndx=text)
    return elf.to_bytes()


def peak_megabytes(directory: Path) -> int:
    """What writing symbols.klp anew takes at most, in a process of its own."""
    command = [sys.executable, "-m", __name__, str(directory)]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


@benchmark("symbols")
def symbols(directory: Path) -> Iterator[Comparison]:
    """Write symbols.klp anew, after no change and after one; find names in it."""
    sources = whole_kernel()
    paths = [path for path in (sources.vmlinux, *sources.modules) if path]
    output, cache = directory / "symbols.klp", directory / "cache"
    numbers = itertools.count()

    def nm() -> None:
        subprocess.run(["nm", *map(str, paths)], stdout=subprocess.DEVNULL, check=True)

    def anew() -> None:
        output.unlink(missing_ok=True)
        write_symbols(output, sources, directory / f"cache-{next(numbers)}")

    peak = peak_megabytes(directory / "peak")
    title = f"symbols.klp of {len(paths):,} objects, {peak} MB at most"
    yield Comparison(title, anew, "nm", nm, ratio_max=1.0)
    yield Comparison(title, anew, "pyelftools", lambda: read_with_pyelftools(paths))

    changing = directory / "changing.ko"
    with_change = replace(sources, modules=(*sources.modules, changing))

    def unchanged() -> None:
        write_symbols(output, with_change, cache)

    def changed() -> None:
        changing.write_bytes(module_with(f"symbol_{next(numbers)}"))
        write_symbols(output, with_change, cache)

    changed()
    yield Comparison("one object changed", changed, "none changed", unchanged, excess_max=0.5)

    names = SymbolDatabase.read(output).symbols("vmlinux").name_list[:LOOKUPS]

    def look_up() -> None:
        database = SymbolDatabase.read(output)
        for name in names:
            database.candidates(name)

    def without_index() -> None:
        index_path(output).unlink(missing_ok=True)
        look_up()

    title = f"open symbols.klp, find {LOOKUPS:,} names"
    yield Comparison(title, look_up, "without index", without_index, seconds_max=0.2)


if __name__ == "__main__":
    place = Path(sys.argv[1])
    write_symbols(place / "symbols.klp", whole_kernel(), place / "cache")
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
