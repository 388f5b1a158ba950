"""RISC-V: its record."""

from klpbuild.arch.base import PATCHABLE, Architecture
from klpbuild.elf.constants import EM

RISCV64 = Architecture(
    name="riscv64",
    kernel_name="riscv",
    debian_name="riscv64",
    rpm_name="riscv64",
    machine=EM.RISCV,
    big_endian=False,
    options=("RISCV", "64BIT"),
    ftrace_flags=("-fpatchable-function-entry=4",),
    entry_sections=PATCHABLE,
    entry_symbol="",
    absolute_64=2,
)
