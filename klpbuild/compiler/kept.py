"""Cache the objects of C files that klpbuild generates: for one kernel each is compiled once.

An object is found by all that it is made from: the source, the command lines and the compiler's
version.  It counts as long as every file that the compiler read, and objtool, has its size and
times.  Sources of the user are not kept: for them there is ccache.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from klpbuild.errors import KlpError
from klpbuild.files.records import SETTLED_NS, from_json, read_record, to_json
from klpbuild.files.whole import write_file
from klpbuild.kernel.tree import Kernel

#: Directory in `Kernel.cache`.
_DIRECTORY = "objects"
#: Limit on objects that are kept of a kernel, 100 kB each.
_MOST = 100
_FILLER = b"~"


@dataclass(frozen=True)
class _Record:
    """Record of a cached object.

    :ivar sha256: of the object.
    :ivar files: that were read, a line each: a list takes longer to read.
    :ivar state: digest of their sizes and times.
    """

    sha256: str
    files: str
    state: str


@dataclass(frozen=True)
class Made:
    """Cache key of an object: what it is made from.

    :ivar source: the C source.
    :ivar command: the command lines and the compiler's version, without the directories of
        source and output.
    :ivar text: a part of the source that stands once in it, and once in the object: two sources
        that differ in nothing else share an object.
    """

    source: bytes
    command: tuple[str, ...]
    text: bytes = b""

    @property
    def _name(self) -> str:
        digest = hashlib.sha256(_without(self.text, self.source))
        for word in self.command:
            digest.update(b"\0" + os.fsencode(word))
        return digest.hexdigest()[:32]

    def find(self, kernel: Kernel) -> tuple[bytes, tuple[Path, ...]] | None:
        """Load the cached object, and list the files that the compiler read; None if not cached."""
        path = kernel.cache / _DIRECTORY / f"{self._name}.json"
        record = read_record(path, partial(from_json, _Record))
        if record is None or _state(record.files.splitlines()) != record.state:
            return None
        data = read_record(path.with_suffix(".o"), bytes)
        if data is None or hashlib.sha256(data).hexdigest() != record.sha256:
            return None
        with suppress(OSError):
            os.utime(path)  # what is used is kept longer
        filler = _FILLER * len(self.text)
        data = data.replace(filler, self.text) if filler else data
        return data, tuple(map(Path, record.files.splitlines()))

    def keep(self, kernel: Kernel, data: bytes, files: Iterable[Path]) -> None:
        """Cache an object, unless a file that was read may still change without a trace.

        :param files: all but the source that were read.
        """
        names = tuple(map(str, files))
        kept = _without(self.text, data)
        if self.text and (data.count(self.text) != 1 or kept.count(_FILLER * len(self.text)) != 1):
            return
        if (state := _state(names)) is None:
            return
        path = kernel.cache / _DIRECTORY / f"{self._name}.json"
        record = _Record(hashlib.sha256(kept).hexdigest(), "\n".join(names), state)
        with suppress(KlpError):  # a read-only cache costs time, not correctness
            write_file(path.with_suffix(".o"), kept)
            write_file(path, to_json(record))
            _forget_oldest(path.parent)


def _without(text: bytes, data: bytes) -> bytes:
    return data.replace(text, _FILLER * len(text)) if text else data


def _state(files: Sequence[str]) -> str | None:
    """Compute a digest of the files' sizes and times; None if one is gone or was just written."""
    digest = hashlib.sha256()
    latest = time.time_ns() - SETTLED_NS
    try:
        for name in files:
            status = Path(name).stat()
            if status.st_mtime_ns > latest:
                return None
            digest.update(f"{name}\0{status.st_size} {status.st_mtime_ns}\n".encode())
    except OSError:
        return None
    return digest.hexdigest()


def _forget_oldest(directory: Path) -> None:
    with suppress(OSError):
        records = sorted(directory.glob("*.json"), key=lambda path: path.stat().st_mtime_ns)
        for path in records[:-_MOST]:
            path.unlink(missing_ok=True)
            path.with_suffix(".o").unlink(missing_ok=True)
