"""Texts that several rules share."""

from __future__ import annotations

from klpbuild.check.rule import Wording
from klpbuild.elf.constants import EM

KEPT_WHOLE = (
    "Let kbuild make the objects, and objtool process them where the kernel has it; strip and"
    " objcopy must not touch the module."
)
REBUILD = "Build the module again."
DAMAGED = "Use the module as it was built: strip and objcopy must not touch it."

X86_64 = frozenset({int(EM.X86_64)})
ARM64 = frozenset({int(EM.AARCH64)})
PPC64 = frozenset({int(EM.PPC64)})
S390 = frozenset({int(EM.S390)})
#: Those whose module loader and tables about code have a model.
MODELLED = X86_64 | ARM64 | PPC64 | S390


def says(*texts: str) -> tuple[Wording, ...]:
    """Make the kernel's words, the same in all versions."""
    return tuple(Wording(text) for text in texts)
