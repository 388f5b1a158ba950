"""Find the files that a patch names, and refuse those that a livepatch cannot change."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path, PurePosixPath

from klpbuild.errors import KlpError, printable
from klpbuild.patch.diff import FileDiff

#: Parts of the source tree that are in no object of the kernel.
_NOT_THE_KERNEL = ("Documentation/", "LICENSES/")
#: Parts with programs of their own, of which the kernel takes only a C file here and there
#: (kernel/bpf/Makefile: ``relo_core.o`` from tools/lib/bpf).
PROGRAMS = ("tools/", "samples/")
_TEXT_SUFFIXES = (".rst", ".txt", ".yaml")
_TEXT_NAMES = ("COPYING", "CREDITS", "MAINTAINERS", "README", "TODO")

_RUNS_ELSEWHERE = (
    (r"(^|/)vdso(32|64)?/", "is part of the vDSO", "The vDSO runs in user space."),
    (r"^arch/[^/]+/boot/", "is part of the boot code", "It has run before any module is loaded."),
    (r"/realmode/", "is part of the real-mode code", "It is a program of its own."),
    (r"/purgatory/", "is part of kexec's purgatory", "It is a program of its own."),
    (r"^drivers/firmware/efi/libstub/", "is part of the EFI stub", "It has run before the kernel."),
    (r"^(scripts|usr)/", "is part of the build", "It runs where the kernel is built."),
)  # fmt: skip
#: The files in which kbuild looks for a directory's objects.
MAKEFILE = re.compile(r"/(Makefile|Kbuild)([._-][^/]*)?$")
_BUILD_FILES = re.compile(r"(^|/)(Makefile|Kbuild|Kconfig)([._-][^/]*)?$|\.(mk|lds|lds\.S)$")

#: Numbers of directories before a name, as ``patch -p`` counts them.
LEVELS = range(6)
#: NAME_MAX (include/uapi/linux/limits.h), and a length that no path of the kernel comes near.
_NAME_MAX, _PATH_MAX = 255, 1000
#: Length of a name in a message, and number of files.
_SHOWN = 120
_PLACES = 5


def named(file: FileDiff, where: str) -> tuple[str, ...]:
    """List the names that a diff has for a file, the new one first.

    :raises KlpError: for one that no file of a source tree can have.
    """
    names = []
    for raw in file.names:
        name = os.fsdecode(raw)
        parts = name.split("/")
        shown = printable(name)
        shown = shown if len(shown) <= _SHOWN else f"{shown[:_SHOWN]}..."
        if shown != name or len(raw) > _PATH_MAX or any(len(p) > _NAME_MAX for p in parts):
            raise KlpError(
                f"names {shown}, which no file of the kernel is called",
                where=where,
                why="Names in a patch are printable text, each part with at most 255 characters.",
            )
        if not all(parts) or ".." in parts:
            raise _not_below(name, where)
        names.append("/".join(part for part in parts if part != "."))
    return tuple(names)


def _not_below(name: str, where: str) -> KlpError:
    return KlpError(
        f"names {name}, which is not a file below the source tree",
        where=where,
        why="Names in a patch are like a/fs/open.c: relative, without '..'.",
        hint="Make the patch in the source tree's top directory, for patch -p1.",
    )


def stripped(name: str, level: int) -> str:
    """Strip a name's first directories; empty if it has no more."""
    return "/".join(name.split("/")[level:])


class Tree:
    """The source tree, with the files that patches have added to it.

    :ivar source: its top directory.
    :ivar files: the paths of files that patches have changed or added.
    :ivar directories: the directories that these are in.
    """

    def __init__(self, source: Path) -> None:
        self.source = source
        self.files: set[str] = set()
        self.directories: set[str] = set()

    def add(self, path: str) -> None:
        """Record a file that a patch changes or adds."""
        self.files.add(path)
        self.directories.update(str(parent) for parent in PurePosixPath(path).parents)

    def has(self, path: str) -> bool:
        """Tell whether it has a file."""
        return path in self.files or (bool(path) and (self.source / path).is_file())

    def _fits(self, path: str, adds: bool) -> bool:
        """Tell whether a file is there or, if a diff adds it, may be put there."""
        first, slash, _ = path.partition("/")
        return self.has(path) or (adds and bool(slash) and (self.source / first).is_dir())

    def level(self, files: Sequence[tuple[FileDiff, tuple[str, ...]]], where: str) -> int:
        """Find how many directories stand before a patch's names: what ``patch -p`` needs.

        One, unless only another number leads to files of the tree.

        :param files: the files of one patch, with their names.
        :raises KlpError: when several numbers lead to files, and to different ones.
        """
        found = {
            level: sum(
                any(self._fits(stripped(name, level), file.adds) for name in names)
                for file, names in files
            )
            for level in LEVELS
        }
        best = [level for level in LEVELS if found[level] == max(found.values()) > 0]
        if not best or (1 in best and 0 not in best):
            return 1
        if len(best) > 1:
            if found[best[0]] < len(files):
                raise KlpError(
                    "names files with different numbers of directories before their names",
                    where=where,
                    why=f"{' and '.join(f'patch -p{level}' for level in best)} lead to some each.",
                    hint="Make the patch with git diff, whose names begin with a/ and b/.",
                )
            name = files[0][1][0]
            choice = " or ".join(f"{stripped(name, level)} (-p{level})" for level in best)
            raise KlpError(
                f"names {name}, which may be {choice}",
                where=where,
                why="The kernel's source has files of both names.",
                hint="Make the patch with git diff, whose names begin with a/ and b/.",
            )
        return best[0]

    def path(self, names: Sequence[str], level: int, where: str) -> str:
        """Find the path of a file that a diff changes, from its names there.

        :raises KlpError: when its two names are two files of the tree.
        """
        paths = tuple(dict.fromkeys(stripped(name, level) for name in names))
        if not all(paths):
            raise _not_below(names[0], where)
        there = [path for path in paths if self.has(path)]
        if len(there) > 1:
            raise KlpError(
                f"names {there[1]} and {there[0]}",
                where=where,
                why="Both are in the kernel's source: which one it changes cannot be told.",
            )
        return [*there, *paths][0]

    def elsewhere(self, names: Sequence[str], level: int) -> str:
        """Suggest where the file of a diff may be, if it is not where its names lead.

        :param level: the number of directories that were taken off its names.
        :returns: what to do; empty where no file of the tree is like it.
        """
        for other in LEVELS:
            there = [path for name in names if self.has(path := stripped(name, other))]
            if there and other != level:
                return (
                    f"By patch -p{other} it is {there[0]}: all names of a patch need the same"
                    " number, also in the series file."
                )
        path = stripped(names[0], level)
        ends = [stripped(path, number) for number in range(path.count("/") + 1)]
        alike = self._files_by_name.get(PurePosixPath(path).name, ())
        for end in ends:
            if found := sorted(other for other in alike if f"/{other}".endswith(f"/{end}")):
                more = f" and {len(found) - _PLACES} more" if len(found) > _PLACES else ""
                return (
                    f"There is {', '.join(found[:_PLACES])}{more}.\nNames in a patch begin at the"
                    " source tree's top directory, for this kernel's version."
                )
        return ""

    @cached_property
    def _files_by_name(self) -> dict[str, list[str]]:
        """The paths of the tree's files by their last part."""
        found: dict[str, list[str]] = {}
        for directory, _, names in os.walk(self.source):
            for name in names:
                path = Path(directory, name).relative_to(self.source)
                found.setdefault(name, []).append(path.as_posix())
        return found

    def check_place(self, path: str, where: str) -> None:
        """Refuse a path through a link or a file, and a directory's."""
        # The tree itself may be named by a link: its last parent, ".", is left out.
        for place in (*reversed(PurePosixPath(path).parents[:-1]), PurePosixPath(path)):
            if (self.source / place).is_symlink():
                raise KlpError(
                    f"{path} is reached through the symbolic link {place}",
                    where=where,
                    hint="Name the file that the link stands for.",
                )
            if str(place) != path and self.has(str(place)):
                raise KlpError(f"{path} is below {place}, which is a file", where=where)
        if path in self.directories or (self.source / path).is_dir():
            raise KlpError(f"{path} is a directory", where=where)


def is_source(path: str) -> bool:
    """Tell whether a file is part of what the kernel is built from, by its name."""
    return path.endswith((".c", ".h", ".S")) or _BUILD_FILES.search(path) is not None


def without_code(path: str, architecture: str) -> str | None:
    """Explain why nothing of a file gets into a kernel; None for one that may be part of it."""
    if architecture and path.startswith("arch/") and not path.startswith(f"arch/{architecture}/"):
        return "is of another architecture"
    if path.startswith(_NOT_THE_KERNEL):
        return "is not part of the kernel"
    if path.startswith(PROGRAMS) and not path.endswith((".c", ".h")):
        return "is not part of the kernel"
    name = path.rpartition("/")[2]
    if path.endswith(_TEXT_SUFFIXES) or name in _TEXT_NAMES:
        return "is text"
    if name.startswith("."):  # for git and editors
        return "is not part of the kernel"
    return None


def check_kind(path: str, where: str) -> None:
    """Refuse a file that no livepatch can change."""
    for pattern, what, why in _RUNS_ELSEWHERE:
        if re.search(pattern, path):
            raise KlpError(f"{path} {what}", where=where, why=f"{why} It cannot be livepatched.")
    if MAKEFILE.search(path):
        return
    if _BUILD_FILES.search(path):
        raise KlpError(
            f"{path} decides how the kernel is built",
            where=where,
            why="The running kernel was built already.",
            hint="Leave this file out of the patch.",
        )
    if path.endswith((".S", ".s")):
        raise KlpError(
            f"{path} is assembly",
            where=where,
            why="Only functions that the compiler made have the entry that livepatch needs.",
        )
    if not path.endswith((".c", ".h")):
        raise KlpError(
            f"{path} is not a C file or a header",
            where=where,
            why="A livepatch replaces C functions.",
        )
