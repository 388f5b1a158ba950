"""Small kernels and modules for tests of symbols, made by the machine's own tools."""

from __future__ import annotations

import subprocess
from pathlib import Path

V6_1 = (6, 1, 170)
V6_12 = (6, 12, 117)

#: As the kernel is linked: percpu data from 0, the rest high up, init memory between marks.
LINKER_SCRIPT = """
SECTIONS {
    .data..percpu 0 : { __per_cpu_start = .; *(.data..percpu) __per_cpu_end = .; }
    . = 0xffffffff81000000;
    _text = .;
    .text : { _stext = .; *(.text .text.*) _etext = .; }
    .rodata : { *(.rodata .rodata.*) *(__kstrtab_strings) }
    .data : { *(.data .data.*) }
    __init_begin = .;
    .init.text : { *(.init.text) }
    .init.data : {
        *(.init.data)
        __start_mcount_loc = .;
        KEEP(*(__mcount_loc))
        __stop_mcount_loc = .;
    }
    __init_end = .;
    .bss : { *(.bss .bss.*) }
    /DISCARD/ : { *(.note.*) *(.eh_frame) }
}
"""

KERNEL_FLAGS = [
    "-O1",
    "-ffreestanding",
    "-fno-pic",
    "-mcmodel=kernel",
    "-mno-red-zone",
    "-fno-common",
    "-fno-asynchronous-unwind-tables",
    "-fno-toplevel-reorder",
]


def compile_object(directory: Path, name: str, source: str, *flags: str) -> Path:
    """Compile a C file as the kernel does; its name becomes an STT_FILE symbol."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / name
    path.write_text(source)
    output = path.with_suffix(".o")
    command = ["gcc", *KERNEL_FLAGS, *flags, "-c", path.name, "-o", output.name]
    subprocess.run(command, cwd=directory, check=True)
    return output


def link_vmlinux(directory: Path, *objects: Path, name: str = "vmlinux") -> Path:
    """Link objects as vmlinux is linked."""
    script = directory / "vmlinux.lds"
    script.write_text(LINKER_SCRIPT)
    output = directory / name
    words = ["ld", "-static", "-e", "0", "-T", script, "-o", output, *objects]
    subprocess.run([str(word) for word in words], check=True, capture_output=True)
    return output


def link_module(directory: Path, name: str, *objects: Path) -> Path:
    """Link objects as a module is linked."""
    output = directory / name
    subprocess.run(["ld", "-r", "-o", str(output), *map(str, objects)], check=True)
    return output


def nm(path: Path, *flags: str) -> str:
    """What ``nm`` prints, with names compared byte by byte."""
    command = ["nm", *flags, str(path)]
    environment = {"LC_ALL": "C", "PATH": "/usr/bin:/bin"}
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    return done.stdout
