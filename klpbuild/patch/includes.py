"""Find which C files may include a header: ``#include`` lines followed, conditions ignored.

Debug information does not name a header of which only macros are used.  What is found
here is never too little and often too much: the compiler has the last word.
"""

from __future__ import annotations

import json
import os
import posixpath
import re
from collections.abc import Iterable
from functools import cached_property
from itertools import chain
from pathlib import Path

from klpbuild.files.records import read_record
from klpbuild.files.whole import write_file
from klpbuild.reach import reached

_INCLUDE = re.compile(
    rb'^[ \t]*#[ \t]*include(?:_next)?[ \t]*(?:"([^"\n]+)"|<([^>\n]+)>)', re.MULTILINE
)
#: Headers that kbuild includes into every C file (scripts/Makefile.lib and the top Makefile).
_FORCED = ("linux/compiler-version.h", "linux/kconfig.h", "linux/compiler_types.h")


class IncludeGraph:
    """The ``#include`` lines of C files and of all headers that they lead to."""

    def __init__(self, source: Path, architecture: str, cache: Path) -> None:
        """Load what was read before from the cache.

        :param source: the source tree.
        :param architecture: kbuild's name of it.
        :param cache: the file to keep what is read in.
        """
        self._source = source
        self._roots = (
            "include",
            f"arch/{architecture}/include",
            "include/uapi",
            f"arch/{architecture}/include/uapi",
        )
        self._cache = cache
        self._included = read_record(cache, _parse) or {}
        self._resolved: dict[tuple[str, str | None], list[str]] = {}

    def includers(self, header: str, files: Iterable[str]) -> list[str]:
        """List the C files that may include a header, directly or not, and headers that do.

        :param header: relative to the source tree, as are the files.
        :returns: the C files in their order, then the headers.
        """
        files = list(files)
        forced = [f"include/{name}" for name in _FORCED]
        before = len(self._included)
        includers: dict[str, list[str]] = {}
        for path in reached([*files, *forced], self._includes):
            for target in self._includes(path):
                includers.setdefault(target, []).append(path)
        if len(self._included) != before:
            write_file(self._cache, json.dumps(self._included).encode())
        found = reached([header], lambda path: includers.get(path, ()))
        first = files if found.keys() & forced else [path for path in files if path in found]
        return [*first, *sorted(found.keys() - files)]

    def closure(self, files: Iterable[str]) -> list[str]:
        """List C files and all that they may include, sorted."""
        return sorted(reached([*files, *(f"include/{name}" for name in _FORCED)], self._includes))

    def _includes(self, path: str) -> list[str]:
        if path not in self._included:
            try:
                text = (self._source / path).read_bytes()
            except OSError:
                text = b""
            found: dict[str, None] = {}
            for quoted, angled in _INCLUDE.findall(text):
                name = (quoted or angled).decode(errors="replace")
                directory = posixpath.dirname(path) if quoted else None
                found.update(dict.fromkeys(self._meant(name, directory)))
            self._included[path] = list(found)
        return self._included[path]

    def _meant(self, name: str, directory: str | None) -> list[str]:
        """Resolve the files that a name may stand for."""
        key = name, directory
        if key not in self._resolved:
            self._resolved[key] = self._resolve(name, directory)
        return self._resolved[key]

    def _resolve(self, name: str, directory: str | None) -> list[str]:
        if directory is not None:
            place = posixpath.normpath(posixpath.join(directory, name))
            if place in self._all_files:
                return [place]
        names = [f"{root}/{name}" for root in self._roots]
        if name.startswith("asm/"):  # a generated asm/x.h includes asm-generic/x.h
            names.append(f"include/asm-generic/{name.removeprefix('asm/')}")
        found = [path for path in names if path in self._all_files]
        if found:
            return found
        # Another -I may lead to it.
        plain = re.sub(r"^(\.\./)+", "", posixpath.normpath(name))
        same = self._by_name.get(posixpath.basename(plain), [])
        return [path for path in same if path == plain or path.endswith(f"/{plain}")]

    @cached_property
    def _all_files(self) -> frozenset[str]:
        found = []
        top = str(self._source)
        for directory, _, names in os.walk(top):
            place = directory[len(top) + 1 :]
            found += [f"{place}/{name}" for name in names if name.endswith((".h", ".c"))]
        return frozenset(found)

    @cached_property
    def _by_name(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for path in sorted(self._all_files):
            found.setdefault(posixpath.basename(path), []).append(path)
        return found


def _parse(data: bytes) -> dict[str, list[str]]:
    """Parse what `IncludeGraph` wrote; :raises ValueError: for anything else."""
    found: dict[str, list[str]] = json.loads(data)
    kinds = {type(found), *map(type, found.values())}
    if kinds - {dict, list} or set(map(type, chain.from_iterable(found.values()))) - {str}:
        raise ValueError("is not a table of included files")
    return found
