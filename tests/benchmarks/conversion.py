"""Converting linked modules, compared with binutils copying the same file."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from klpbuild.convert.converter import convert
from klpbuild.elf.reader import ElfFile
from klpbuild.files.whole import write_file
from klpbuild.resolve.fate import Resolver
from klpbuild.symbols.database import SymbolDatabase
from klpbuild.symbols.symvers import Exports
from tests.benchmarks.elf import SIZES, SYMBOLS_EACH, object_with_relocations
from tests.benchmarks.measure import Comparison, Quantity, Setting, UnavailableError, benchmark
from tests.objects import module_symvers, symbols_klp

#: As many as a distribution's vmlinux has, and its modules together.
VMLINUX_SYMBOLS = 90_000
MODULES, MODULE_SYMBOLS = 1_000, 300
SMALL_PART = 100


@benchmark("conversion", small=True)
def conversion(setting: Setting) -> Iterator[Comparison]:
    """From the linked file and a warm index to the converted file."""
    objcopy = shutil.which("objcopy")
    if objcopy is None:
        raise UnavailableError("objcopy is not installed")
    directory = setting.directory
    part = SMALL_PART if setting.small else 1
    wanted = " ".join(f"function_{n}" for n in range(SYMBOLS_EACH))
    others = " ".join(f"other_{n}" for n in range(VMLINUX_SYMBOLS // part))
    modules = {
        f"module_{m}": " ".join(f"local_{n}" for n in range(MODULE_SYMBOLS))
        for m in range(MODULES // part)
    }
    symbols = symbols_klp(directory, vmlinux=f"{wanted} {others}", **modules)
    exports = module_symvers(directory, vmlinux=" ".join(f"export_{n}" for n in range(14_000)))
    SymbolDatabase.read(symbols)

    def run(path: Path, output: Path) -> None:
        resolver = Resolver(SymbolDatabase.read(symbols), Exports.read(exports), frozenset())
        result = convert(ElfFile.read(path), resolver)
        if len(result.decisions) != min(int(path.stem), SYMBOLS_EACH):
            raise AssertionError("not everything was converted")
        if sum(relocation.count for relocation in result.relocations) != int(path.stem):
            raise AssertionError("relocations were lost")
        write_file(output, result.data)

    for count in SIZES:
        path, copy = directory / f"{count}.ko", directory / "copy.ko"
        object_with_relocations(count).write(path)
        yield Comparison(
            f"convert {count:,} relocations",
            lambda path=path, copy=copy: run(path, copy),
            "objcopy",
            lambda path=path, copy=copy: subprocess.run([objcopy, path, copy], check=True),
            seconds_max=0.2 if count <= 1_000 else 1.0,
            key="convert_100k_relocations_s" if count == 100_000 else "",
            quantity=Quantity.SECONDS,
        )
