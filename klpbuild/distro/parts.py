"""Parts that a kernel is packaged in."""

from __future__ import annotations

from enum import StrEnum


class Part(StrEnum):
    """Part of a kernel that comes in a package."""

    IMAGE = "image"
    MODULES = "modules"
    BASE = "base"
    HEADERS = "headers"
    COMMON = "common headers"
    KBUILD = "kbuild"
    DEBUG = "debug symbols"
    SOURCE = "source"


#: The parts without which no module can be built; others may bring the modules.
REQUIRED_PARTS = (Part.IMAGE, Part.HEADERS, Part.COMMON, Part.KBUILD)
