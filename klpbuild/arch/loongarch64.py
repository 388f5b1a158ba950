"""LoongArch: its record."""

from klpbuild.arch.base import PATCHABLE, Architecture
from klpbuild.elf.constants import EM

LOONGARCH64 = Architecture(
    name="loongarch64",
    kernel_name="loongarch",
    debian_name="loong64",
    rpm_name="loongarch64",
    machine=EM.LOONGARCH,
    big_endian=False,
    options=("LOONGARCH", "64BIT"),
    ftrace_flags=("-fpatchable-function-entry=2",),
    entry_sections=PATCHABLE,
    entry_symbol="",
    absolute_64=2,
)
