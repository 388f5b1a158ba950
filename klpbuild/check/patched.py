"""List the objects and functions that a livepatch patches."""

from __future__ import annotations

from dataclasses import dataclass

from klpbuild.check.pointers import Place


@dataclass(frozen=True)
class PatchedFunction:
    """A ``struct klp_func``.

    :ivar old: name of the function that is replaced; empty when the pointer is missing.
    :ivar new: name of the function that replaces it; empty when the pointer is missing.
    :ivar new_place: where that one begins.
    :ivar sympos: ``old_sympos``.
    """

    old: str
    new: str
    new_place: Place | None
    sympos: int


@dataclass(frozen=True)
class Patched:
    """A ``struct klp_object``.

    :ivar object: its name, ``vmlinux`` when it has none.
    :ivar functions: None when ``funcs`` is missing.
    :ivar callbacks: which of its callbacks are set.
    :ivar entries: where its tables have pointers to new functions and callbacks.
    """

    object: str
    functions: tuple[PatchedFunction, ...] | None
    callbacks: frozenset[str]
    entries: tuple[Place, ...]
