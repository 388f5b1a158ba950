"""Architectures: one record for each, looked up by ``e_machine``."""

from __future__ import annotations

from klpbuild.arch.aarch64 import ARM64
from klpbuild.arch.base import Architecture
from klpbuild.arch.loongarch64 import LOONGARCH64
from klpbuild.arch.powerpc64le import PPC64LE
from klpbuild.arch.riscv64 import RISCV64
from klpbuild.arch.s390x import S390X
from klpbuild.arch.x86_64 import X86_64
from klpbuild.errors import KlpError

__all__ = [
    "ARCHITECTURES", "ARM64", "LOONGARCH64", "PPC64LE", "RISCV64", "S390X", "X86_64",
    "Architecture", "by_machine",
]  # fmt: skip

ARCHITECTURES = (X86_64, ARM64, PPC64LE, S390X, LOONGARCH64, RISCV64)


def by_machine(machine: int, where: str = "") -> Architecture:
    """Look up the architecture of an ELF file.

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
