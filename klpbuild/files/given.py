"""Check names and sizes of the user's files."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from klpbuild.errors import KlpError, Problems, printable, reading

#: The longest name in bytes.  What is made of a file is called like it and a little longer,
#: and file systems take 255 bytes.
NAME_MAX = 200
#: The largest patch in bytes: of a distribution's largest the most have 20 MiB.
PATCH_MAX = 1 << 26


def check_file_name(path: Path) -> None:
    """Refuse the name of a file or directory that cannot be shown as it is, or is too long.

    No other name is refused, for none is ever expanded or run.

    :raises KlpError: for a name with control or format characters, one that is not UTF-8, or
        one of more than `NAME_MAX` bytes.
    """
    if printable(path.name) != path.name:
        raise KlpError(
            "has a name that cannot be shown as it is",
            where=str(path),
            why="Names are UTF-8 without control characters.",
            hint="Rename it.",
        )
    size = len(os.fsencode(path.name))
    if size > NAME_MAX:
        raise KlpError(
            f"has a name of {size} bytes",
            where=str(path.with_name(f"{path.name[:40]}...")),
            why=f"What is made of it has a longer one: {NAME_MAX} bytes are the most.",
            hint="Rename it.",
        )


def check_file_names(paths: Iterable[Path]) -> None:
    """Refuse each name that `check_file_name` refuses, all of them together."""
    problems = Problems()
    for path in paths:
        with problems.collect():
            check_file_name(path)
    problems.check()


def is_file(path: Path) -> bool:
    """Tell whether there is such a file; of a name that no file system takes there is none."""
    try:
        return path.is_file()
    except OSError:
        return False


def read_given_file(path: Path, size_max: int) -> bytes:
    """Read a file that the user names, as `read_small_file` does.

    :raises KlpError: also when there is none.
    """
    with reading(path):
        return read_small_file(path, size_max)


def read_small_file(path: Path, size_max: int) -> bytes:
    """Read a user's file that cannot be large; devices and pipes are never opened.

    :raises KlpError: when it cannot be read, is no file or has more than `size_max` bytes.
    :raises FileNotFoundError: when there is none.
    """
    try:
        if not path.is_file() and path.exists():
            raise KlpError("is not a file", where=str(path))
        with path.open("rb") as file:
            data = file.read(size_max + 1)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise KlpError(f"cannot be read: {error.strerror}", where=str(path)) from error
    if len(data) > size_max:
        raise KlpError(f"has more than {size_max} bytes", where=str(path))
    return data
