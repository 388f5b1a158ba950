"""Lock files and directories of outputs against other processes and threads."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import shlex
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from klpbuild.errors import KlpError
from klpbuild.files.whole import check_kinds, make_directory, remove_unfinished, write_file

#: A packager's variable on a command line: not shown, for SIGN_KEY=... is secret.
_VARIABLE = re.compile(r"[A-Z_]+=")

#: In a directory of outputs: there may be some that SCons' database does not know of.
UNNOTED = ".unnoted"

#: Outputs are in build/KERNEL/LIVEPATCH/linked; deeper are whole trees.
_OUTPUTS_DEPTH = 3

#: File descriptors of locks: of this thread's, and of the directories of outputs.
_THREAD = threading.local()
_OUTPUTS_HELD: list[int] = []

#: Errors of flock on a file system without locks.
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)


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
