"""Find the compile units of a build tree from kbuild's ``.cmd`` files.

Beside each object kbuild writes a ``.cmd`` file with its source and all files that went
into it (scripts/basic/fixdep.c), for vmlinux a list of its objects (``.vmlinux.objs``,
since v5.18 with CONFIG_MODVERSIONS) or a thin archive of them (``vmlinux.a``, since v6.1),
and for each module a list (``.mod``).
"""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Iterable
from pathlib import Path

from klpbuild.errors import KlpError
from klpbuild.kernel.tree import Kernel
from klpbuild.names import VMLINUX, object_name
from klpbuild.patch.linetable import LineUnit
from klpbuild.run import run

_VMLINUX_OBJECTS = ".vmlinux.objs"
_VMLINUX_ARCHIVE = "vmlinux.a"
_SOURCE = re.compile(r"^source_\S+ := (\S+)$", re.MULTILINE)
_FILES = re.compile(r"^deps_\S+ := \\\n((?:.*\\\n)*)", re.MULTILINE)

_SETTINGS = re.compile(r"\$\(wildcard [^)]*\)")


def has_notes(kernel: Kernel) -> bool:
    """Tell whether kbuild's notes about vmlinux are there."""
    notes = (_VMLINUX_OBJECTS, _VMLINUX_ARCHIVE)
    return any((kernel.build / name).is_file() for name in notes)


def noted_units(kernel: Kernel, source: Path) -> list[tuple[str, list[LineUnit]]]:
    """Read the compile units of vmlinux and of each module, named relative to the source tree.

    :param source: the source tree that the kernel was built from.
    :raises KlpError: when the archive of vmlinux' objects cannot be read.
    """
    build = kernel.build
    owners = [(VMLINUX, _vmlinux_objects(build))]
    for module in kernel.modules:
        notes = module.with_suffix(".mod")
        words = notes.read_text().split() if notes.is_file() else []
        owners.append((object_name(module.name), words))
    return [(owner, list(_units(build, source, objects))) for owner, objects in owners]


def _vmlinux_objects(build: Path) -> list[str]:
    listed = build / _VMLINUX_OBJECTS
    if listed.is_file():
        return listed.read_text().split()
    done = run(["ar", "t", _VMLINUX_ARCHIVE], directory=build)
    if done.returncode:
        where = str(build / _VMLINUX_ARCHIVE)
        raise KlpError("its members cannot be listed", where=where, why=done.stderr.strip())
    return done.stdout.splitlines()


def _units(build: Path, source: Path, objects: Iterable[str]) -> Iterable[LineUnit]:
    for name in dict.fromkeys(objects):
        path = build / name
        notes = path.with_name(f".{path.name}.cmd")
        text = notes.read_text(errors="replace") if notes.is_file() else ""
        own, files = _SOURCE.search(text), _FILES.search(text)
        if own is None:  # assembled by a rule of its own, or taken as it is
            continue
        words = _SETTINGS.sub("", files[1]).replace("\\\n", " ").split() if files else []
        names = [own[1], *words]
        plain = [_in_tree(each, build, source) for each in names]
        yield LineUnit(plain[0], tuple(dict.fromkeys(plain)), name)


def _in_tree(name: str, build: Path, source: Path) -> str:
    """Make a name relative to the source tree, or to the build tree if it is generated there."""
    path = os.path.normpath(build / name)
    for root in (str(source), str(build)):
        if path.startswith(f"{root}/"):
            return path[len(root) + 1 :]
    return posixpath.normpath(name)
