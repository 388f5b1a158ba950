"""Cache of the symbols of each object, so that a changed module costs one scan.

A fragment is named by a digest of what it was read from, so builds and kernels
share one cache.  It is an SQLite file: a thousand files would take longer to
create than to scan, and two builds may write at once.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from klpbuild.errors import KlpError
from klpbuild.files.records import SETTLED_NS, note_damage
from klpbuild.files.whole import remove_tree
from klpbuild.symbols.table import ObjectSymbols
from klpbuild.symbols.tables import FileState, state_of

#: Version of fragments: raised when what is read from an object changes.
_FORMAT = "4"

#: Time limit of waiting for another build that writes, in seconds.
_PATIENCE = 30

_TABLES = """
create table if not exists fragments (key text primary key, data blob not null);
create table if not exists seen (output text primary key, files text not null);
"""


def fragment_key(kind: str, digest: str) -> str:
    """Make the cache key of a fragment.

    :param kind: how the source is read, with everything else that counts.
    :param digest: of the source's content.
    """
    return f"{_prefix(kind)}{digest}"


def _prefix(kind: str) -> str:
    return f"{_FORMAT} {kind} "


def is_settled(file: Path) -> bool:
    """Tell whether any further change to a file will show in its size and times."""
    try:
        return _is_old(state_of(file.stat()))
    except OSError:
        return False


def _is_old(state: FileState) -> bool:
    return max(state[1:3]) + SETTLED_NS < time.time_ns()


#: Suffix of an output's name: the key of the row with its inputs.
_RESULT = "\n"


class FragmentCache:
    """Cache of fragments, and which of them each file had when it was last read.

    The latter is believed only while a file's size, times and inode stay as they
    were: a file that was merely touched is read again and found unchanged.

    A context manager; what is new and not yet written is written at its end.
    """

    def __init__(self, directory: Path, output: str) -> None:
        """Open the cache.

        :param output: whose files are remembered.
        :raises KlpError: when the directory cannot be made.
        """
        self._path = directory / "symbols.sqlite"
        self._output = output
        self._new: list[tuple[str, bytes]] = []
        self._known: dict[str, list[object]] = {}
        self._ahead: dict[str, bytes] | None = None
        self._database = self._open()
        self._seen = self._read_seen()
        self._keys = self._read_keys()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.write(whole=False)
        self._database.close()

    def write(self, whole: bool = True) -> None:
        """Write what is new; any thread may do it, while the others let the cache alone.

        A cache that cannot be written costs time, not correctness.

        :param whole: whether all files were seen.
        """
        try:
            with self._database:
                self._write(whole)
        except sqlite3.OperationalError:  # read-only, full, or too long in use by another
            pass
        except sqlite3.DatabaseError as error:  # the next build begins anew
            note_damage(self._path, error)
            with suppress(KlpError):
                remove_tree(self._path)

    def _write(self, whole: bool) -> None:
        self._database.executemany("insert or replace into fragments values (?, ?)", self._new)
        self._new = []
        if whole and self._known != self._seen:
            row = self._output, json.dumps(self._known)
            self._database.execute("insert or replace into seen values (?, ?)", row)

    def _open(self) -> sqlite3.Connection:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            where = str(self._path.parent)
            raise KlpError(f"cannot be written: {error.strerror}", where=where) from error
        try:
            with suppress(sqlite3.OperationalError):  # for instance read-only: still good to read
                return self._connect()
            return sqlite3.connect(self._path, _PATIENCE, check_same_thread=False)
        except sqlite3.DatabaseError as error:
            note_damage(self._path, error)
        try:
            remove_tree(self._path)
            return self._connect()
        except (KlpError, sqlite3.Error):  # a cache that cannot be used costs time
            return sqlite3.connect(":memory:", check_same_thread=False)

    def _connect(self) -> sqlite3.Connection:
        database = sqlite3.connect(self._path, _PATIENCE, check_same_thread=False)
        # Fragments are large, so large pages write them faster.  No waiting for the disk:
        # what a power failure damages is made again.
        database.execute("pragma page_size = 65536")
        database.execute("pragma synchronous = off")
        database.executescript(_TABLES)
        return database

    def _read_seen(self) -> dict[str, list[object]]:
        with suppress(sqlite3.Error, ValueError, TypeError, AttributeError):
            query = "select files from seen where output = ?"
            for (files,) in self._database.execute(query, (self._output,)):
                found: Any = json.loads(files)
                return {file: [state, key] for file, (state, key) in found.items()}
        return {}

    def finished(self, files: Sequence[tuple[Path, str]], state: object) -> tuple[int, int] | None:
        """Return what `finish` noted, if no file has changed since.

        :param files: all that the output is made from, each with how it is read.
        :param state: of all else, and of the output.
        """
        if self._seen.keys() != {str(path) for path, _ in files}:
            return None
        with suppress(sqlite3.Error, ValueError, TypeError, KeyError):
            query = "select files from seen where output = ?"
            for (text,) in self._database.execute(query, (self._output + _RESULT,)):
                noted = json.loads(text)
                same = noted["state"] == json.loads(json.dumps(state))
                if same and all(self.seen(path, kind) for path, kind in files):
                    objects, symbols = noted["result"]
                    return int(objects), int(symbols)
        return None

    def finish(self, state: object, result: tuple[int, int]) -> None:
        """Record that the output was made: see `finished`."""
        row = self._output + _RESULT, json.dumps({"state": state, "result": result})
        with suppress(sqlite3.Error), self._database:
            self._database.execute("insert or replace into seen values (?, ?)", row)

    def _read_keys(self) -> set[str]:
        with suppress(sqlite3.Error):
            return {key for (key,) in self._database.execute("select key from fragments")}
        return set()

    def load(self, key: str, object: str) -> ObjectSymbols | None:
        """Load a fragment; None when it is not there or damaged."""
        if key not in self._keys:
            return None
        with suppress(sqlite3.Error, ValueError, TypeError):
            if self._ahead is None:
                self._ahead = self._read_ahead()
            data = self._ahead.pop(key, None)
            if data is not None:
                return ObjectSymbols.from_bytes(object, key, data)
            query = "select data from fragments where key = ?"
            for (data,) in self._database.execute(query, (key,)):
                return ObjectSymbols.from_bytes(object, key, data)
        return None

    def _read_ahead(self) -> dict[str, bytes]:
        """Load the fragments that the files had last in one query: most still have them."""
        keys = json.dumps([key for _, key in self._seen.values()])
        query = "select key, data from fragments where key in (select value from json_each(?))"
        return dict(self._database.execute(query, (keys,)))

    def save(self, key: str, symbols: ObjectSymbols) -> None:
        """Add a fragment to the cache."""
        self._new.append((key, symbols.to_bytes(key)))

    def seen(self, file: Path, kind: str) -> str | None:
        """Return the key of a file that has not changed since it was read in this way."""
        state, key = self._seen.get(str(file), (None, ""))
        if not str(key).startswith(_prefix(kind)):
            return None
        try:
            now = state_of(file.stat())
        except OSError:
            return None
        if list(now) != state:
            return None
        self._known[str(file)] = [state, key]
        return str(key)

    def note(self, file: Path, state: FileState, key: str) -> None:
        """Record the fragment of a file.

        :param state: from before it was read.
        """
        if _is_old(state):
            self._known[str(file)] = [list(state), key]
