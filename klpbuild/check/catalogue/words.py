"""What several rules say."""

from __future__ import annotations

from klpbuild.check.rule import Wording

REBUILD = "Build the module again."
DAMAGED = "Use the module as it was built: strip and objcopy must not touch it."


def says(*texts: str) -> tuple[Wording, ...]:
    """The kernel's words, the same in all versions."""
    return tuple(Wording(text) for text in texts)
