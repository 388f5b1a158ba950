"""Which structures a patch changes: the running kernel has objects of the old layout."""

from __future__ import annotations

import re
from collections.abc import Container

from klpbuild.errors import Problems
from klpbuild.extract.patchfile import PatchedSource

_NOISE = re.compile(r'/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\])*"|\'(?:\\.|[^\'\\])*\'', re.DOTALL)
_HEAD = re.compile(r"\b(struct|union)\s+(\w+)\s*\{")


def structures(text: str) -> dict[str, str]:
    """The structures and unions that a C file defines, by ``struct name``.

    :returns: their bodies without comments and with single blanks; of a name that is
        defined more than once all bodies.
    """
    text = _NOISE.sub(" ", text)
    found: dict[str, str] = {}
    for head in _HEAD.finditer(text):
        depth, end = 1, head.end()
        while depth and end < len(text):
            depth += {"{": 1, "}": -1}.get(text[end], 0)
            end += 1
        name = f"{head[1]} {head[2]}"
        body = " ".join(text[head.end() : end - 1].split())
        found[name] = found.get(name, "") + body + "|"
    return found


def changed_structures(before: str, after: str) -> tuple[str, ...]:
    """The structures that both versions of a file define, and differently."""
    old, new = structures(before), structures(after)
    return tuple(sorted(name for name, body in old.items() if new.get(name, body) != body))


def check_layouts(patched: PatchedSource, accepted: Container[str], problems: Problems) -> None:
    """Refuse changed structures, since the running kernel has objects of the old ones.

    :param accepted: structures of which the author knows better.
    :param problems: takes one for each structure.
    """
    for file in patched.files:
        if file.original is None or not file.path.endswith((".c", ".h")):
            continue
        texts = (data.decode(errors="replace") for data in (file.original, file.patched))
        for name in changed_structures(*texts):
            if name in accepted:
                continue
            problems.add(
                f"{name} changes",
                where=f"{file.where}: {file.path}",
                why="The running kernel has objects of the old layout, and code that knows it.",
                hint="Keep the structure, and put new data into a shadow variable "
                "(klp_shadow_get_or_alloc).\n"
                "If no object of it outlives the replaced functions, accept it: "
                f'--accept-layout "{name}", or accept_layouts = ["{name}"] in livepatch.toml.',
            )
