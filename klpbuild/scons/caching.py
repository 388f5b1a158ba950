"""A cache of everything that is built, shared by whoever names the same directory."""

from __future__ import annotations

import os
from collections import defaultdict
from pathlib import Path

import SCons.CacheDir
import SCons.Node
import SCons.Node.Alias
import SCons.Node.FS

from klpbuild.errors import KlpError


def use_cache(env):
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
    cache = type("LivepatchCache", (RememberingCache,), {"directory": str(directory)})
    env.CacheDir("cache", cache)


class RememberingCache(SCons.CacheDir.CacheDir):
    """SCons' cache in `directory`, which also remembers what it gave."""

    directory = ""

    def __init__(self, path):
        super().__init__(self.directory)
        self.given = set()

    def retrieve(self, node):
        """Get a file, if it is there."""
        found = super().retrieve(node)
        if found:
            self.given.add(node)
        return found


def hit_rate(env):
    """How many of the steps of this run came from the cache, in words; empty without any."""
    steps = defaultdict(list)
    for node in _made():
        # SCons has let go of the executors by then; files of one step are made from the same.
        steps[id(node.builder), *map(id, node.children())].append(node)
    given = env.get_CacheDir().given
    hits = sum(given.issuperset(nodes) for nodes in steps.values())
    return f"{hits} of {len(steps)} steps from the cache." if steps else ""


def _made():
    """The files that were made in this run, or came from the cache, and belong into it."""
    waiting, seen = list(SCons.Node.Alias.default_ans.values()), set()
    while waiting:
        node = waiting.pop()
        if node in seen:
            continue
        seen.add(node)
        waiting += node.children()
        is_file = isinstance(node, SCons.Node.FS.File) and node.is_derived()
        if is_file and node.get_state() == SCons.Node.executed and not node.nocache:
            yield node
