"""Write files whole or not at all, and remove what killed processes left of them."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import re
import shutil
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from klpbuild.errors import KlpError, Problems

_UNFINISHED = re.compile(r"\..+\.(\d+)-\d+\.new")


def unfinished(path: Path) -> Path:
    """Name a file, in the same directory, until it is whole.

    No other process or thread takes the same one; `remove_unfinished` knows it.
    """
    return path.with_name(f".{path.name}.{os.getpid()}-{threading.get_native_id()}.new")


def file_digest(path: Path) -> str:
    """Compute the SHA-256 digest of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def make_directory(path: Path) -> None:
    """Make a directory with its parents, unless it is there.

    :raises OSError: with the true reason when a file is in its place.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path)) from error


def write_file(path: Path, data: bytes) -> None:
    """Write a file whole or not at all: aside, then renamed.

    :raises KlpError: when it cannot be written; what was there stays.
    """
    temporary = unfinished(path)
    try:
        make_directory(path.parent)
        with temporary.open("wb") as file:
            with suppress(OSError):  # tells `remove_unfinished` that it is being written
                fcntl.flock(file, fcntl.LOCK_EX)
            file.write(data)
            file.flush()
            temporary.replace(path)
    except OSError as error:
        raise KlpError(f"cannot be written: {error.strerror}", where=str(path)) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def remove_unfinished(directory: Path, depth: int | None = None) -> None:
    """Remove what killed processes left of files that they were writing.

    :param depth: how many directories deep to look; None: all of them.
    """
    for path in _files_below(directory, depth):
        match = _UNFINISHED.fullmatch(path.name)
        if match and _is_left(path, int(match[1])):
            with suppress(OSError):
                path.unlink()


def check_kinds(directory: Path, depth: int | None = None) -> None:
    """Refuse pipes, sockets and devices in a directory, also behind links.

    Whoever opens one, a compiler, SCons or we, may wait for ever or read without end.

    :param depth: how many directories deep to look; None: all of them.
    :raises KlpError: for each of them.
    """
    problems = Problems()
    for path in _files_below(directory, depth):
        with suppress(OSError):  # a link that leads nowhere is told by who opens it
            if not path.is_file() and path.exists():
                problems.add("is not a file", where=str(path), hint="Remove it.")
    problems.check()


def _files_below(directory: Path, depth: int | None) -> Iterator[Path]:
    for parent, directories, names in os.walk(directory):
        yield from (Path(parent, name) for name in names)
        if depth is not None and len(Path(parent).relative_to(directory).parts) >= depth:
            directories.clear()


def _is_left(path: Path, process: int) -> bool:
    """Tell whether nobody writes it any more; a process of another container has it locked."""
    with suppress(OSError):
        os.kill(process, 0)
        return False
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def remove_tree(path: Path) -> None:
    """Remove a directory with all that is in it, or what is in its place.

    :raises KlpError: when it cannot be removed.
    """
    try:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    except OSError as error:
        what = f"cannot be removed: {error.strerror}"
        raise KlpError(what, where=str(error.filename or path)) from error
