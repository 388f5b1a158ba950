"""Reading and rewriting objects, compared with binutils."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator

import numpy as np

from klpbuild.elf.constants import EM, SHF, SHT, STB, STT
from klpbuild.elf.reader import ElfFile
from klpbuild.elf.tables import rela_dtype
from klpbuild.elf.writer import ElfObject, WritableSection
from tests.benchmarks.measure import Comparison, Setting, UnavailableError, benchmark

SIZES = (10, 1_000, 100_000)
SYMBOLS_EACH = 100


def object_with_relocations(count: int) -> ElfObject:
    """A module with ``count`` relocations to at most `SYMBOLS_EACH` undefined symbols."""
    elf = ElfObject(EM.X86_64)
    text = elf.add_section(
        WritableSection(
            ".text", SHT.PROGBITS, SHF.ALLOC | SHF.EXECINSTR, sh_addralign=16, data=bytes(8 * count)
        )
    )
    names = [f"function_{n}" for n in range(min(count, SYMBOLS_EACH))]
    first, *_ = [
        elf.add_symbol(name, bind=STB.GLOBAL, type=STT.NOTYPE, st_shndx=0) for name in names
    ]
    rows = np.zeros(count, rela_dtype("<"))
    rows["r_offset"] = np.arange(count) * 8
    rows["r_sym"] = first + np.arange(count) % len(names)
    rows["r_type"], rows["r_addend"] = 4, -4
    elf.add_relocations(".rela.text", text, rows, SHF.INFO_LINK)
    return elf


@benchmark("elf", small=True)
def elf(setting: Setting) -> Iterator[Comparison]:
    """Read an object and write it again."""
    objcopy = shutil.which("objcopy")
    if objcopy is None:
        raise UnavailableError("objcopy is not installed")
    for count in SIZES:
        path, copy = setting.directory / f"{count}.o", setting.directory / "copy.o"
        object_with_relocations(count).write(path)
        yield Comparison(
            f"rewrite {count:,} relocations",
            lambda path=path, copy=copy: ElfObject.from_elf(ElfFile.read(path)).write(copy),
            "objcopy",
            lambda path=path, copy=copy: subprocess.run([objcopy, path, copy], check=True),
        )
