"""Make a source tree without build outputs from one in which the kernel was built.

kbuild does not work with ``O=`` on a source tree that holds a build of its own: make would
find there what it is to make, and the Makefile refuses.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

#: kbuild leaves such a note beside nearly all that it makes (scripts/Kbuild.include).
_NOTE = re.compile(r"\.(.+)\.cmd")
_MADE = (".o", ".a", ".ko", ".cmd", ".mod", ".mod.c", ".order")
_MADE_ON_TOP = re.compile(r"\.config.*|vmlinux.*|System\.map|Module\.symvers|modules\..*|\.version")
_MADE_DIRECTORIES = frozenset({"config", "generated"})
_HEADERS = re.compile(r"(arch/\w+/)?include")


def is_clean(source: Path, architecture: str) -> bool:
    """Tell whether kbuild takes it as the source of a build elsewhere (rule ``outputmakefile``).

    :param architecture: the kernel's name for it, such as ``x86``.
    """
    made = (".config", "include/config", f"arch/{architecture}/include/generated")
    return not any((source / name).exists() for name in made)


def link_sources(source: Path, place: Path) -> None:
    """Make a tree of links to all files that were not made by a build.

    :param place: where; what is there is removed.
    """
    shutil.rmtree(place, ignore_errors=True)
    for directory, names in _sources(source):
        made = place / directory
        made.mkdir(parents=True)
        for name in names:
            (made / name).symlink_to(source / directory / name)


def _sources(source: Path) -> Iterator[tuple[str, list[str]]]:
    """Walk through the directories of the tree, with the files in each that were not built."""
    for place, directories, files in os.walk(source):
        directory = os.path.relpath(place, source)
        linked = [name for name in directories if Path(place, name).is_symlink()]
        leave = _MADE_DIRECTORIES if _HEADERS.fullmatch(directory) else frozenset({".git"})
        directories[:] = [name for name in directories if name not in {*leave, *linked}]
        noted = {match[1] for name in files if (match := _NOTE.fullmatch(name))}
        yield (
            directory,
            linked
            + [
                name
                for name in files
                if name not in noted
                and not name.endswith(_MADE)
                and not (directory == "." and _MADE_ON_TOP.fullmatch(name))
            ],
        )
