"""What differs between architectures: one record each, looked up by ``e_machine``.

Entry calls, flags and relocation numbers are the kernel's (arch/*/Makefile,
arch/*/kernel/module*.c).
"""

from __future__ import annotations

from dataclasses import dataclass

from klpbuild.elf.constants import EM
from klpbuild.errors import KlpError


@dataclass(frozen=True)
class Architecture:
    """An architecture that can be livepatched.

    :ivar name: the compiler's name of it (``x86_64``).
    :ivar kernel_name: ``ARCH=`` of kbuild, the directory under arch/.
    :ivar debian_name: Debian's name of it.
    :ivar machine: ``e_machine``.
    :ivar big_endian: byte order of its objects.
    :ivar ftrace_flags: compiler flags that make the entry call of every function.
    :ivar entry_sections: sections that hold one address for each entry call.
    :ivar entry_symbol: the function that the entry calls, empty where it is
        made of no-operation instructions only.
    :ivar absolute_64: relocation type of a 64-bit address.
    :ivar none: relocation type that does nothing.
    """

    name: str
    kernel_name: str
    debian_name: str
    machine: int
    big_endian: bool
    ftrace_flags: tuple[str, ...]
    entry_sections: tuple[str, ...]
    entry_symbol: str
    absolute_64: int
    none: int = 0


_PATCHABLE = ("__patchable_function_entries",)
_MCOUNT = ("__mcount_loc",)

X86_64 = Architecture(
    "x86_64", "x86", "amd64", EM.X86_64, False, ("-pg", "-mfentry"), _MCOUNT, "__fentry__", 1
)
ARM64 = Architecture(
    "aarch64", "arm64", "arm64", EM.AARCH64, False, ("-fpatchable-function-entry=2",),
    _PATCHABLE, "", 257,
)  # fmt: skip
PPC64LE = Architecture(
    "powerpc64le", "powerpc", "ppc64el", EM.PPC64, False, ("-pg", "-mprofile-kernel"),
    _MCOUNT + _PATCHABLE, "_mcount", 38,
)  # fmt: skip
S390X = Architecture(
    "s390x", "s390", "s390x", EM.S390, True, ("-pg", "-mfentry", "-mnop-mcount", "-mrecord-mcount"),
    _MCOUNT, "__fentry__", 22,
)  # fmt: skip
LOONGARCH64 = Architecture(
    "loongarch64", "loongarch", "loong64", EM.LOONGARCH, False, ("-fpatchable-function-entry=2",),
    _PATCHABLE, "", 2,
)  # fmt: skip
RISCV64 = Architecture(
    "riscv64", "riscv", "riscv64", EM.RISCV, False, ("-fpatchable-function-entry=4",),
    _PATCHABLE, "", 2,
)  # fmt: skip

ARCHITECTURES = (X86_64, ARM64, PPC64LE, S390X, LOONGARCH64, RISCV64)


def by_machine(machine: int, where: str = "") -> Architecture:
    """The architecture of an ELF file.

    :param machine: ``e_machine``.
    :raises KlpError: when it has no livepatch.
    """
    for architecture in ARCHITECTURES:
        if architecture.machine == machine:
            return architecture
    raise KlpError(
        f"is for machine {machine}, which has no livepatch",
        where=where,
        hint="Known: " + ", ".join(a.name for a in ARCHITECTURES) + ".",
    )
