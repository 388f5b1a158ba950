"""Run an extracted object: a program in which new functions stand beside the original ones.

The original object plays the running kernel.  The new version of a changed function is
called ``new_NAME``; what it shares with the kernel is the original's own.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

from klpbuild.elf.constants import STB
from klpbuild.elf.reader import ElfFile
from klpbuild.elf.writer import ElfObject
from klpbuild.extract.result import Extraction
from tests.extract.pairs import Pair

_HARNESS = """
asm(".globl __fentry__\\n__fentry__: ret\\n");
int printf(const char *, ...);
"""


def run(pair: Pair, main: str) -> tuple[str, Extraction]:
    """Compile a program from both objects and ``main``, and return what it prints."""
    extraction = pair.extract()
    directory = pair.directory
    original = _as_kernel(directory / "original" / "code.o")
    wanted = {}
    for reference in extraction.references:
        if reference.original is not None and reference.is_defined:
            wanted[reference.symbol] = f"kernel_{reference.original}"
    _as_livepatch(extraction, wanted, directory / "new.o")
    (directory / "main.c").write_text(_HARNESS + main)
    program = directory / "program"
    objects = [directory / "main.c", original, directory / "new.o"]
    command = ["gcc", "-no-pie", "-z", "noexecstack", "-w", *objects, "-o", program]
    subprocess.run([str(word) for word in command], check=True)
    result = subprocess.run([str(program)], check=True, capture_output=True, text=True)
    return result.stdout, extraction


def _as_kernel(path: Path) -> Path:
    """Add a global name ``kernel_INDEX`` for each symbol, as kallsyms would find it."""
    elf = ElfFile.read(path)
    made = ElfObject.from_elf(elf)
    for symbol in elf.symbol_list:
        if symbol.is_defined:
            made.add_symbol(
                f"kernel_{symbol.index}",
                bind=STB.GLOBAL,
                type=symbol.type,
                st_shndx=symbol.st_shndx,
                st_value=symbol.st_value,
            )
    made.write(path.with_name("kernel.o"))
    return path.with_name("kernel.o")


def _as_livepatch(extraction: Extraction, wanted: dict[str, str], path: Path) -> None:
    """Bind the references to the kernel's symbols, and name the new functions ``new_NAME``."""
    data = extraction.object
    elf = ElfFile(data, "new.o")
    made = ElfObject.from_elf(elf)
    changed = {function.symbol for function in extraction.changed}
    for symbol in elf.symbol_list:
        if symbol.st_shndx == 0 and symbol.name in wanted:
            made.rename_symbol(symbol.index, wanted[symbol.name])
    for symbol in elf.symbol_list:
        if symbol.is_defined and symbol.name in changed:
            made.add_symbol(
                f"new_{symbol.name}",
                bind=STB.GLOBAL,
                type=symbol.type,
                st_shndx=symbol.st_shndx,
                st_value=symbol.st_value,
                st_size=symbol.st_size,
            )
    made.write(path)
