"""Small inputs for tests: C compiled as the kernel compiles it, symbol lists."""

from __future__ import annotations

import subprocess
from pathlib import Path

import klpbuild
from klpbuild.compiler.entry import entry_offsets
from klpbuild.elf.reader import ElfFile

HEADER = Path(klpbuild.__file__).parent / "compiler/include/klpbuild/livepatch.h"

KERNEL_LIKE = [
    "-O2",
    "-ffreestanding",
    "-fno-pic",
    "-mcmodel=kernel",
    "-mno-red-zone",
    "-fno-common",
    "-fno-asynchronous-unwind-tables",
    "-fcf-protection=none",
]


def compile_c(directory: Path, source: str, *flags: str, name: str = "livepatch") -> Path:
    """Compile C text to an object with klpbuild's header included."""
    path = directory / f"{name}.c"
    path.write_text(source)
    output = directory / f"{name}.o"
    command = ["gcc", *KERNEL_LIKE, *flags, "-include", HEADER, "-c", path, "-o", output]
    subprocess.run([str(word) for word in command], check=True)
    return output


def symbols_klp(directory: Path, **objects: str) -> Path:
    """Write a symbols.klp: object name to symbol names with blanks between."""
    lines = ["klp-convert-symbol-data.0.1"]
    for name, symbols in objects.items():
        lines += [f"*{name}", *symbols.split()]
    path = directory / "symbols.klp"
    path.write_text("\n".join(lines) + "\n")
    return path


def module_symvers(directory: Path, **exports: str) -> Path:
    """Write a Module.symvers: owner's path (``/`` written ``__``) to exported names."""
    lines = [
        f"0x{number:08x}\t{symbol}\t{owner.replace('__', '/')}\tEXPORT_SYMBOL_GPL\t"
        for owner, symbols in exports.items()
        for number, symbol in enumerate(symbols.split(), 1)
    ]
    path = directory / "Module.symvers"
    path.write_text("\n".join(lines) + "\n")
    return path


def functions_with_entry(elf: ElfFile) -> frozenset[str]:
    """The names of the functions with an entry call."""
    return frozenset(elf.symbol_name(index) for index in entry_offsets(elf))
