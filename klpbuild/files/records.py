"""Read and write klpbuild's own records: JSON with checked types, and files with a digest."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, fields, is_dataclass
from enum import Enum
from functools import cache, lru_cache, partial, wraps
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from klpbuild.errors import KlpError, note
from klpbuild.files.whole import write_file

_T = TypeVar("_T")

#: Errors that mean that a file does not exist.
_ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG)

#: A file that changes again this soon may keep its times: they are not finer.
SETTLED_NS = 2_000_000_000


def read_record(path: Path, read: Callable[[bytes], _T]) -> _T | None:
    """Read a file that klpbuild wrote; None without it, and with a note when it is damaged.

    :param read: whatever it raises means damage: nobody foresees what is in a damaged file.
    """
    try:
        return read(_content(path))
    except OSError as error:
        if error.errno not in _ABSENT:
            note_damage(path, error)
    except Exception as error:
        note_damage(path, error)
    return None


def read_output(path: Path, read: Callable[[bytes], _T]) -> _T:
    """Read what an earlier step of the same build wrote.

    :raises KlpError: when it is missing or damaged.
    """
    try:
        return read(_content(path))
    except Exception as error:
        raise KlpError(
            "is missing or damaged",
            where=str(path),
            why=_reason(error),
            hint="Remove it, and build again.",
        ) from error


def _content(path: Path) -> bytes:
    """Read a file whole, and no pipe or device, which would be waited for."""
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise ValueError("is not a file")
        return file.read()


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def while_unchanged(read: Callable[[type[_T], Path], _T]) -> Callable[[type[_T], Path], _T]:
    """Cache what a class method reads of a file until size, times or inode of that change.

    What it gives must not be changed.  A file that was written just now is read each time:
    it may change again without a trace, for times are not finer.
    """

    @lru_cache(maxsize=4)
    def kept(kind: type[_T], path: Path, state: tuple[int, ...]) -> _T:
        return read(kind, path)

    @wraps(read)
    def unless_kept(kind: type[_T], path: Path) -> _T:
        state = settled_state(path)
        if state is None:
            return read(kind, path)
        return kept(kind, path, state)  # type: ignore[arg-type]  # classes can be hashed

    return unless_kept


def settled_state(path: Path) -> tuple[int, ...] | None:
    """Read device, inode, size and times of a file; None if it may change without a trace."""
    try:
        status = path.stat()
    except OSError:
        return None
    times = status.st_mtime_ns, status.st_ctime_ns
    if max(times) + SETTLED_NS > time.time_ns():
        return None
    return status.st_dev, status.st_ino, status.st_size, *times


def write_sealed(path: Path, data: bytes) -> None:
    """Write a file that itself cannot tell whether it is whole, and its digest beside it.

    :raises KlpError: when it cannot be written.
    """
    write_file(_seal(path), hashlib.sha256(data).hexdigest().encode())
    write_file(path, data)


def sealed(path: Path) -> Path | None:
    """Find a file that `write_sealed` wrote; None without it, and with a note when it is damaged.

    One without a digest, of an older klpbuild, is taken as it is.
    """
    if not path.is_file():
        return None
    digest = read_record(_seal(path), bytes.decode)
    if digest and not read_record(path, partial(_check_digest, digest)):
        return None
    return path


def _seal(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


def _check_digest(digest: str, data: bytes) -> bool:
    if hashlib.sha256(data).hexdigest() != digest:
        raise ValueError("its SHA-256 is not the one beside it")
    return True


def note_damage(path: Path, error: Exception) -> None:
    """Warn the user, once, that a file of klpbuild's own cannot be read and is made again."""
    note("is damaged, and counts as missing", path, _reason(error))


def to_json(record: object) -> bytes:
    """Serialise a record, or a tuple of records, as JSON that `from_json` reads."""
    return (json.dumps(_plain(record), indent=1, default=_other) + "\n").encode()


def _plain(record: object) -> object:
    if is_dataclass(record) and not isinstance(record, type):
        return asdict(record)
    return [_plain(item) for item in record] if isinstance(record, tuple) else record


def _other(value: Any) -> object:
    """Write what JSON has no form of."""
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, frozenset):
        return sorted(value)
    return value.hex() if isinstance(value, bytes) else os.fspath(value)


def from_json(kind: type[_T], data: bytes | str) -> _T:
    """Read JSON into a dataclass, or a tuple or mapping of them, and check every type.

    :raises ValueError: when it is not JSON, or not of this kind.
    """
    value: _T = _typed(kind, json.loads(data))
    return value


def _typed(kind: Any, value: Any) -> Any:
    origin, inside = get_origin(kind), get_args(kind)
    if kind is object:
        return value
    if is_dataclass(kind):
        return _record(kind, value)
    if origin in (list, frozenset) and isinstance(value, list):
        return origin(_typed(inside[0], item) for item in value)
    if origin is tuple and isinstance(value, list):
        kinds = inside[:1] * len(value) if inside[-1] is Ellipsis else inside
        return tuple(_typed(each, item) for each, item in zip(kinds, value, strict=True))
    if origin in (dict, Mapping) and isinstance(value, dict):
        return {_typed(inside[0], key): _typed(inside[1], item) for key, item in value.items()}
    if origin in (Union, UnionType):
        for each in inside:
            with suppress(ValueError):
                return _typed(each, value)
    elif origin is None and isinstance(value, str) and issubclass(kind, Enum | Path):
        return kind(value)
    elif kind is bytes and isinstance(value, str):
        return bytes.fromhex(value)
    elif origin is None and (type(value) is kind or (kind is float and type(value) is int)):
        return value
    raise ValueError(f"{value!r:.60} is not {getattr(kind, '__name__', kind)}")


def _record(kind: Any, value: Any) -> Any:
    if not isinstance(value, dict):
        raise ValueError(f"{value!r:.60} is not a {kind.__name__}")
    # Another version of klpbuild may have written fields more, or those with a default less.
    read = {n: _typed(each, value[n]) for n, each in _field_kinds(kind).items() if n in value}
    try:
        return kind(**read)
    except TypeError as error:
        raise ValueError(f"has not the fields of a {kind.__name__}") from error


@cache
def _field_kinds(kind: Any) -> dict[str, Any]:
    hints = get_type_hints(kind)
    return {field.name: hints[field.name] for field in fields(kind)}
