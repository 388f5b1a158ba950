"""Formats that a graph can be written in."""

from __future__ import annotations

import shutil
from enum import StrEnum


class Format(StrEnum):
    """Format of a graph's file."""

    GRAPHML = "graphml"
    DOT = "dot"
    JSON = "json"
    SVG = "svg"


def can_draw() -> bool:
    """Tell whether graphviz is installed."""
    return shutil.which("dot") is not None


def possible_formats() -> tuple[Format, ...]:
    """List the formats that this machine can write: a picture only where graphviz is."""
    return tuple(kind for kind in Format if kind is not Format.SVG or can_draw())
