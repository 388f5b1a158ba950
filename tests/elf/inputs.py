"""Objects to read: made by the machine's compiler, or by our own writer."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np

from klpbuild.elf.constants import EM, SHF, SHT, STB, STT
from klpbuild.elf.tables import rela_dtype
from klpbuild.elf.writer import ElfObject, WritableSection

SOURCE = """
extern int elsewhere(int);
extern int shared_counter;
static int twice(int value) { return 2 * value; }
static const char *const names[] = { "proc", "ext4", "btrfs" };
int (*hook)(int) = twice;
int uninitialised[64];
__attribute__((noinline)) static int helper(int value) { return elsewhere(value) + shared_counter; }
int entry(int value) { return helper(value) + hook(value) + uninitialised[value & 63]; }
const char *name(int value) { return names[value % 3]; }
"""

GROUP = """
.section .text.least, "axG", @progbits, least, comdat
.weak least
least: .quad elsewhere
.section .data.least, "awG", @progbits, least, comdat
.quad least
"""

#: What the kernel's builds use, and what makes every kind of section.
FLAGS = {
    "plain": ["-O2"],
    "sections": ["-O2", "-ffunction-sections", "-fdata-sections"],
    "debug": ["-O0", "-g"],
    "sections-debug": ["-O2", "-g", "-ffunction-sections", "-fdata-sections"],
    "kernel": ["-O2", "-mcmodel=kernel", "-fno-pic", "-pg", "-mfentry", "-mrecord-mcount"],
    "link-order": ["-O2", "-ffunction-sections", "-fpatchable-function-entry=4,2"],
    "common": ["-O2", "-fcommon"],
    "groups": ["-x", "assembler"],
}


def compile_object(directory: Path, kind: str) -> Path:
    """An object compiled with the flags of `FLAGS`."""
    flags = FLAGS[kind] if "-x" in FLAGS[kind] else [*FLAGS[kind], "-x", "c"]
    text = GROUP if kind == "groups" else SOURCE
    path = directory / f"{kind}.o"
    command = ["gcc", *flags, "-c", "-o", str(path), "-"]
    subprocess.run(command, input=text.encode(), check=True, capture_output=True)
    return path


def small_object(order: str = "<", machine: int = EM.X86_64) -> ElfObject:
    """One section of 32 bytes, two local and two global symbols, two relocations."""
    elf = ElfObject(machine, order)
    text = elf.add_section(
        WritableSection(
            ".text", SHT.PROGBITS, SHF.ALLOC | SHF.EXECINSTR, sh_addralign=16, data=bytes(range(32))
        )
    )
    elf.add_section(
        WritableSection(
            ".bss", SHT.NOBITS, SHF.ALLOC | SHF.WRITE, sh_addralign=64, nobits_size=4096
        )
    )
    elf.add_symbol("", bind=STB.LOCAL, type=STT.SECTION, st_shndx=text)
    elf.add_symbol("local", bind=STB.LOCAL, type=STT.FUNC, st_shndx=text, st_value=8, st_size=8)
    elf.add_symbol("entry", bind=STB.GLOBAL, type=STT.FUNC, st_shndx=text, st_value=16, st_size=16)
    elsewhere = elf.add_symbol("elsewhere", bind=STB.GLOBAL, type=STT.NOTYPE, st_shndx=0)
    rows = np.zeros(2, rela_dtype(order))
    rows["r_offset"], rows["r_sym"] = (4, 20), (1, elsewhere)
    rows["r_type"], rows["r_addend"] = (2, 4), (-(2**40), -4)
    elf.add_relocations(".rela.text", text, rows, SHF.INFO_LINK)
    return elf
