"""The files that a graph can be written as."""

from __future__ import annotations

import shutil
from enum import StrEnum


class Format(StrEnum):
    """The files that a graph can be written as."""

    GRAPHML = "graphml"
    DOT = "dot"
    JSON = "json"
    SVG = "svg"


def can_draw() -> bool:
    """Whether graphviz is installed."""
    return shutil.which("dot") is not None


def possible_formats() -> tuple[Format, ...]:
    """What can be written on this machine: a picture only where graphviz is."""
    return tuple(kind for kind in Format if kind is not Format.SVG or can_draw())
