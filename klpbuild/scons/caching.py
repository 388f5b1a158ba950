"""A sealed cache of build outputs that several checkouts share."""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import SCons.Action
import SCons.CacheDir
import SCons.Errors
import SCons.Node
import SCons.Node.Alias
import SCons.Node.FS
import SCons.Util

from klpbuild.errors import KlpError, note
from klpbuild.files.whole import remove_tree, write_file
from klpbuild.reach import reached
from klpbuild.scons.literal import Environment, Node

#: First bytes of an entry of the cache.
_SEAL = "klpbuild-cache-1 "


def use_cache(env: Environment) -> None:
    """Let SCons keep what is built in the directory that ``cache=`` names.

    :raises KlpError: when it cannot be used.
    """
    if not env["cache"]:
        return
    directory = Path(env["cache"]).expanduser().absolute()
    where = f"cache={env['cache']}"
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise KlpError(f"cannot be made: {error.strerror}", where=where) from error
    if not os.access(directory, os.R_OK | os.W_OK | os.X_OK):
        raise KlpError(
            "cannot be written",
            where=where,
            why="SCons locks a cache by a file in it, with --cache-readonly, too.",
        )
    # SCons would expand the path, so that it gets another one and the class knows this one.
    cache = type("LivepatchCache", (SealedCache,), {"directory": str(directory)})
    try:
        env.CacheDir("cache", cache)
        env.get_CacheDir().check_config()
    except (SCons.Errors.SConsEnvironmentError, RecursionError) as error:
        raise KlpError(
            "is no cache of SCons",
            where=where,
            why="It is nested too deep." if isinstance(error, RecursionError) else str(error),
            hint="Remove the file config in it, or name another directory.",
        ) from error


class SealedCache(SCons.CacheDir.CacheDir):  # type: ignore[misc]
    """SCons' cache in `directory`; entries that are not as they were stored are not used.

    An entry begins with a digest of its name and of what follows.  SCons' name of an entry is
    itself a digest of all that the file is made from, and of the file's path.

    :ivar given: the nodes of the files that were taken.
    """

    directory = ""

    def __init__(self, path: object) -> None:
        super().__init__(self.directory)
        self.given: set[Node] = set()

    def check_config(self) -> None:
        """Refuse a cache whose file config is not SCons' own, as SCons does."""
        length = self.config.get("prefix_len") if isinstance(self.config, dict) else None
        if type(length) is not int or not 0 < length < 32:  # digits of 32, or of 64
            raise SCons.Errors.SConsEnvironmentError(
                f"Its file config names no prefix_len: {self.config!r:.100}"
            )

    def retrieve(self, node: Node) -> bool:
        """Get a file, if it is there and as it was stored."""
        if not self.is_enabled():
            return False
        self.requests += 1
        path = Path(self.cachepath(node)[1])
        data = self._read(path)
        if data is None:
            self.CacheDebug("CacheRetrieve(%s):  %s not in cache\n", node, str(path))
            return False
        self.hits += 1
        self.CacheDebug("CacheRetrieve(%s):  retrieving from %s\n", node, str(path))
        if SCons.Action.execute_actions:
            try:
                write_file(Path(node.get_internal_path()), data)
            except KlpError:
                return False  # the step itself will say so
            with suppress(OSError):
                os.utime(path)  # what is used stays longest
        if SCons.CacheDir.cache_show:
            node.build(presub=0, execute=0)
        elif SCons.Action.print_actions:
            print(f"Retrieved `{node.get_internal_path()}' from cache")
        self.given.add(node)
        return True

    def push(self, node: Node) -> object:
        """Store a file, also in the place of an entry that is damaged."""
        if self.is_enabled() and not self.is_readonly():
            self._read(Path(self.cachepath(node)[1]))
        return super().push(node)

    def _read(self, path: Path) -> bytes | None:
        """Read what was stored; None if there is nothing, or something else is there now."""
        try:
            if not path.exists():
                return None
            data = unsealed(path.name, path.read_bytes() if path.is_file() else b"")
        except OSError:
            data = None
        if data is None:
            note("is not as it was stored, and is not taken from the cache", path)
            if not self.is_readonly() and SCons.Action.execute_actions:
                with suppress(KlpError):
                    remove_tree(path)  # SCons stores nothing where something is
        return data

    def copy_to_cache(self, env: Environment, source: str, target: str) -> None:
        """Store a file."""
        entry = Path(target)
        entry.write_bytes(sealed(entry.name, Path(source).read_bytes()))

    def get_cachedir_csig(self, node: Node) -> str:
        """Compute the digest of a file that is in the cache only, for ``scons -n``."""
        data = self._read(Path(self.cachepath(node)[1]))
        return str(SCons.Util.hash_signature(data or b""))


def sealed(name: str, data: bytes) -> bytes:
    """Make the bytes of an entry."""
    return f"{_SEAL}{_digest(name, data)}\n".encode() + data


def unsealed(name: str, entry: bytes) -> bytes | None:
    """Read what an entry holds; None if it is not what `sealed` made for this name."""
    seal, _, data = entry.partition(b"\n")
    return data if seal == f"{_SEAL}{_digest(name, data)}".encode() else None


def _digest(name: str, data: bytes) -> str:
    return hashlib.sha256(f"{name}\n".encode() + data).hexdigest()


def hit_rate(env: Environment) -> str:
    """Count how many of the steps of this run came from the cache, in words; empty without any."""
    steps: dict[tuple[int, ...], list[Node]] = defaultdict(list)
    for node in _made():
        # SCons has let go of the executors by then; files of one step are made from the same.
        steps[id(node.builder), *map(id, node.children())].append(node)
    given = env.get_CacheDir().given
    hits = sum(given.issuperset(nodes) for nodes in steps.values())
    return f"{hits} of {len(steps)} steps from the cache." if steps else ""


def _made() -> Iterator[Node]:
    """List the files that were made in this run, or came from the cache, and belong into it."""
    aliases = SCons.Node.Alias.default_ans.values()
    for node in reached(aliases, lambda node: node.children()):
        is_file = isinstance(node, SCons.Node.FS.File) and node.is_derived()
        if is_file and node.get_state() == SCons.Node.executed and not node.nocache:
            yield node
