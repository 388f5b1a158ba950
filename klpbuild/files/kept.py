"""Keep results in files by the content that they follow from, so that none is made twice."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import TypeVar

import klpbuild
from klpbuild.errors import KlpError
from klpbuild.files.records import read_record
from klpbuild.files.whole import write_file

_T = TypeVar("_T")


def content_key(*parts: bytes | memoryview | str) -> bytes:
    """Compute a key that changes with any of the parts, and with where one ends."""
    whole = hashlib.sha256()
    for part in parts:
        data = part.encode(errors="surrogateescape") if isinstance(part, str) else part
        whole.update(hashlib.sha256(data).digest())
    return whole.digest()


@cache
def code_key(*modules: ModuleType) -> bytes:
    """Compute the key of klpbuild's own code, with which everything may change that it finds.

    :param modules: those that decide about a result; none for all of klpbuild.
    """
    files = [Path(str(module.__file__)) for module in modules]
    files = files or sorted(Path(klpbuild.__file__).parent.rglob("*.py"))
    return content_key(*(path.read_bytes() for path in files))


def find_kept(path: Path, key: bytes, read: Callable[[bytes], _T]) -> _T | None:
    """Read the result that was kept in a file; None without one of this key.

    :param read: whatever it raises means damage, of which the user is told.
    """

    def of_key(data: bytes) -> _T | None:
        return read(zlib.decompress(data[len(key) :])) if data.startswith(key) else None

    return read_record(path, of_key)


def keep(path: Path, key: bytes, data: bytes) -> None:
    """Keep a result in a file, in place of one of another key."""
    with suppress(KlpError):  # a cache that cannot be written costs time, not correctness
        write_file(path, key + zlib.compress(data, 1))


def kept_or_made(
    path: Path,
    key: bytes,
    make: Callable[[], _T],
    write: Callable[[_T], bytes],
    read: Callable[[bytes], _T],
) -> _T:
    """Read a kept result, or make it and keep it."""
    found = find_kept(path, key, read)
    if found is None:
        found = make()
        keep(path, key, write(found))
    return found
