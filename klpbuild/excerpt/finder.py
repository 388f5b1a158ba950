"""Find the file of the kernel's source that defines a function."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from klpbuild.errors import KlpError
from klpbuild.excerpt.cfile import Kind, items
from klpbuild.kernel.source import source_tree
from klpbuild.kernel.tree import Kernel
from klpbuild.names import VMLINUX

#: Directories whose code is never in a kernel.
_ELSEWHERE = ("Documentation", "LICENSES", "samples", "scripts", "tools", "usr", ".git")


def find_definition(kernel: Kernel, owner: str, function: str, file: str | None) -> str:
    """Find the file that defines a function, relative to `source_tree`.

    :param owner: vmlinux or a module; a module's file tells the directory.
    :param file: its name without directories, if the symbols tell; None: any.
    :raises KlpError: without the kernel's source, or when none or several files define it.
    """
    tree = source_tree(kernel)
    for directory in _directories(kernel, owner):
        found = sorted(_defining(kernel, tree, directory, function, file))
        if len(found) == 1:
            return found[0]
        if found:
            raise KlpError(
                f"function {function} is defined in {len(found)} files",
                where=str(tree),
                why="\n".join(found),
                hint="Say which one: --file FILE.",
            )
    raise KlpError(
        f"the source does not define function {function}",
        where=str(tree),
        why="A macro may make it, as SYSCALL_DEFINE makes __x64_sys_*.",
    )


def _directories(kernel: Kernel, owner: str) -> list[str]:
    """List the directories to search, the likeliest first."""
    path = kernel.file_of(owner)
    if path is None or owner == VMLINUX:
        return [""]
    parts = path.parent.parts
    for marker in ("kernel", "updates"):
        if marker in parts:
            place = len(parts) - 1 - parts[::-1].index(marker)
            inside = "/".join(parts[place + 1 :])
            if inside and (source_tree(kernel) / inside).is_dir():
                return [inside, ""]
    for end in range(len(parts)):  # a build tree: the directory is the source's
        inside = "/".join(parts[end:])
        if not inside.startswith("/") and (source_tree(kernel) / inside).is_dir():
            return [inside, ""]
    return [""]


def _defining(
    kernel: Kernel, tree: Path, directory: str, function: str, file: str | None
) -> Iterator[str]:
    call = re.compile(rb"\b" + re.escape(function.encode()) + rb"\s*\(")
    for path in _sources(kernel, tree, directory):
        if file is not None and path.rpartition("/")[2] != file:
            continue
        data = (tree / path).read_bytes()
        if function.encode() not in data or not call.search(data):
            continue
        found = items(data.decode(errors="replace"))
        if any(item.kind is Kind.FUNCTION and function in item.names for item in found):
            yield path


def _sources(kernel: Kernel, tree: Path, directory: str) -> Iterator[str]:
    for parent, names, files in os.walk(tree / directory):
        inside = os.path.relpath(parent, tree)
        inside = "" if inside == "." else inside
        if not inside:
            names[:] = [name for name in names if name not in _ELSEWHERE]
        if inside == "arch":
            names[:] = [name for name in names if name == kernel.arch.kernel_name]
        names.sort()
        for name in sorted(files):
            if name.endswith(".c"):
                yield f"{inside}/{name}" if inside else name
