"""Make nodes of names literally: in a string SCons replaces ``$NAME`` and runs ``${}``.

Whoever names a file, a kernel or a livepatch must not run code here, so that every name
of the user's side comes through this module, and none is handed to SCons as a string.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

from klpbuild.errors import printable

#: SCons' classes have no types.
Environment: TypeAlias = Any
Node: TypeAlias = Any


def file(env: Environment, path: Path | str) -> Node:
    """Make the node of a file.  A path that begins with ``#`` means just that."""
    return env.fs.File(str(Path(path).absolute()))


def directory(env: Environment, path: Path | str) -> Node:
    """Make the node of a directory."""
    return env.fs.Dir(str(Path(path).absolute()))


def alias(env: Environment, name: str) -> Node:
    """Make the node of a target that is no file."""
    return env.ans.Alias(name)


def announcement(tag: str, what: str | None = None) -> Callable[..., str]:
    """Make the line that an Action prints before it runs: its tag, and its target or `what`."""

    def announce(target: list[Node], source: list[Node], env: Environment) -> str:
        return f"  {tag:<7} {printable(str(what or target[0]))}"

    return announce
