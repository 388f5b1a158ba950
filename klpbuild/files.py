"""Write klpbuild's own files whole, read them back if they are whole, and lock directories."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import re
import shlex
import shutil
import stat
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, fields, is_dataclass
from enum import Enum
from functools import cache, lru_cache, partial, wraps
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from klpbuild.errors import KlpError, Problem, Problems, printable

_T = TypeVar("_T")

_UNFINISHED = re.compile(r"\..+\.(\d+)-\d+\.new")

#: A packager's variable on a command line: not shown, for SIGN_KEY=... is secret.
_VARIABLE = re.compile(r"[A-Z_]+=")

#: Errors that mean that a file does not exist.
_ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG)

#: In a directory of outputs: there may be some that SCons' database does not know of.
UNNOTED = ".unnoted"

#: Outputs are in build/KERNEL/LIVEPATCH/linked; deeper are whole trees.
_OUTPUTS_DEPTH = 3

#: A file that changes again this soon may keep its times: they are not finer.
SETTLED_NS = 2_000_000_000

#: File descriptors of locks: of this thread's, and of the directories of outputs.
_THREAD = threading.local()
_OUTPUTS_HELD: list[int] = []

#: Errors of flock on a file system without locks.
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)


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
        try:
            status = path.stat()
        except OSError:
            return read(kind, path)  # which says why
        times = status.st_mtime_ns, status.st_ctime_ns
        if max(times) + SETTLED_NS > time.time_ns():
            return read(kind, path)
        state = status.st_dev, status.st_ino, status.st_size, *times
        return kept(kind, path, state)  # type: ignore[arg-type]  # classes can be hashed

    return unless_kept


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


def note(what: str, where: Path, why: str = "") -> None:
    """Show the user, once, a note on something that is no error."""
    _tell_once(str(Problem(what, str(where), why)))


def warn(what: str) -> None:
    """Warn the user, once, of what may go wrong."""
    _tell_once(printable(what), "warning")


@cache
def _tell_once(text: str, kind: str = "note") -> None:
    print(f"klpbuild: {kind}: {text}", file=sys.stderr, flush=True)


def to_json(record: object) -> bytes:
    """Serialise a record, or a tuple of records, as JSON that `from_json` reads."""
    return (json.dumps(_plain(record), indent=1, default=os.fspath) + "\n").encode()


def _plain(record: object) -> object:
    if is_dataclass(record) and not isinstance(record, type):
        return asdict(record)
    return [_plain(item) for item in record] if isinstance(record, tuple) else record


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
    if origin is list and isinstance(value, list):
        return [_typed(inside[0], item) for item in value]
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


@contextmanager
def locked(path: Path, hint: str = "") -> Iterator[None]:
    """Lock a path: other processes and threads that make it wait.

    :param hint: what to do when its directory cannot be written.
    :raises KlpError: when its directory cannot be written.
    """
    with _held(path.parent / f".{path.name}.lock", str(path), hint):
        yield


@contextmanager
def working_in(build: Path, *, writes: bool = True) -> Iterator[None]:
    """Lock a directory of outputs against other runs of klpbuild and SCons.

    :param writes: whether outputs are written: then `UNNOTED` is left there.
    :raises KlpError: when it cannot be written.
    """
    with _held(build / ".lock", str(build)) as file:
        _OUTPUTS_HELD.append(file)
        try:
            remove_unfinished(build, _OUTPUTS_DEPTH)
            check_kinds(build, _OUTPUTS_DEPTH)
            if writes:
                write_file(build / UNNOTED, b"")
            yield
        finally:
            _OUTPUTS_HELD.remove(file)


@contextmanager
def _held(lock: Path, what: str, hint: str = "") -> Iterator[int]:
    """Hold a lock that the kernel releases when the process ends, however it ends.

    The file says who holds it, so that whoever waits can tell.
    """
    file = _opened(lock, hint)
    held = _held_here()
    held.append(file)
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = _holder(file)
            if holder != _ourselves():  # else another thread
                print(f"klpbuild: waiting for {holder}: {what}", file=sys.stderr, flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
        with suppress(OSError):  # opened for reading only, or the disk is full
            os.ftruncate(file, 0)
            os.pwrite(file, _ourselves().encode(), 0)
        yield file
    finally:
        held.remove(file)
        os.close(file)


def _holder(file: int) -> str:
    """Read who holds a lock: it is written a moment after the lock is taken."""
    for _ in range(20):
        if text := os.pread(file, 1000, 0).decode(errors="replace"):
            return text
        time.sleep(0.01)
    return "another process"


def held_locks() -> tuple[int, ...]:
    """List the files of the locks that this thread holds, and of the directories of outputs.

    A child that has them keeps the locks when this process is killed.  Those of other threads
    are theirs: they may be closed at any moment.
    """
    return (*_OUTPUTS_HELD, *_held_here())


def _held_here() -> list[int]:
    if not hasattr(_THREAD, "held"):
        _THREAD.held = []
    held: list[int] = _THREAD.held
    return held


def _opened(lock: Path, hint: str) -> int:
    try:
        make_directory(lock.parent)
        return os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError as error:
        with suppress(OSError):  # another user's: reading is enough to lock it
            return os.open(lock, os.O_RDONLY | os.O_CLOEXEC)
        raise KlpError(
            f"cannot be written: {error.strerror}", where=str(lock.parent), hint=hint
        ) from error


def _ourselves() -> str:
    program = Path(sys.argv[0])
    name = program.parent.name if program.name == "__main__.py" else program.name
    words = [word for word in sys.argv[1:] if not _VARIABLE.match(word)]
    command = shlex.join([name.lower(), *words])
    command = command if command.isprintable() else ascii(command)
    return f"process {os.getpid()} ({command[:200]})"
