"""Texts that several rules share."""

from __future__ import annotations

from klpbuild.check.rule import Wording
from klpbuild.elf.constants import EM

REBUILD = "Build the module again."
DAMAGED = "Use the module as it was built: strip and objcopy must not touch it."

X86_64 = frozenset({int(EM.X86_64)})


def says(*texts: str) -> tuple[Wording, ...]:
    """Make the kernel's words, the same in all versions."""
    return tuple(Wording(text) for text in texts)
