"""Cache patched objects by the content of the patched files that they are made from."""

from __future__ import annotations

import hashlib
import json
import posixpath
import shlex
import zlib
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from klpbuild.errors import KlpError
from klpbuild.files.records import from_json, read_record
from klpbuild.files.whole import write_file

#: Limit on versions of one object: those of a few livepatches that differ.
_VERSIONS = 8


@dataclass(frozen=True)
class _Version:
    """An object as some patches made it.

    :ivar files: the patched files that the compiler read, each with its digest.
    :ivar others: names, without directories, of all that it read, a blank between them: a list
        takes longer to read.
    :ivar added: the files that the patches add: each could be found in place of another one.
    :ivar object: the object's digest; empty where it is the original.
    """

    files: Mapping[str, str]
    others: str
    added: tuple[str, ...]
    object: str


@dataclass(frozen=True)
class Found:
    """A cached object.

    :ivar data: the object; None where it is the original.
    :ivar files: the patched files that it is made from.
    :ivar others: names, without directories, of all that the compiler read.
    """

    data: bytes | None
    files: tuple[str, ...]
    others: Collection[str]


@dataclass(frozen=True)
class KeptObjects:
    """The patched objects of one tree.

    A version stands for what patches make now if each patched file that the compiler read then
    has the same content now, and no other file of a patch has the name of one that it read.

    :ivar directory: where they are kept.
    :ivar digests: the patched files of now, each with the digest of its content.
    :ivar added: those of them that the kernel does not have.
    """

    directory: Path
    digests: Mapping[str, str]
    added: frozenset[str]

    def find(self, target: str, line: Collection[str]) -> Found | None:
        """Find the object that a command makes of the patched files, if it was kept.

        :param target: the object, as kbuild calls it.
        :param line: the command, as for the original.
        """
        for version in self._versions(self._record(target, line)):
            if not self._is_now(version):
                continue
            if not version.object:
                return Found(None, tuple(version.files), version.others.split())
            data = read_record(self._object(target, version.object), bytes)
            if data is not None and _digest(data) == version.object:
                return Found(data, tuple(version.files), version.others.split())
        return None

    def keep(
        self,
        target: str,
        line: Collection[str],
        read: Collection[str],
        files: Collection[str],
        data: bytes | None,
    ) -> None:
        """Store an object in the cache.

        :param read: all files that the compiler read, as it calls them.
        :param files: the patched files among them.
        :param data: the object; None where it is the original.
        """
        made_from = {path: self.digests[path] for path in sorted(files)}
        others = " ".join(sorted({posixpath.basename(name) for name in read}))
        name = "" if data is None else _digest(data)
        version = _Version(made_from, others, tuple(sorted(self.added)), name)
        record = self._record(target, line)
        known = [v for v in self._versions(record) if not self._is_now(v)]
        versions = [version, *known][:_VERSIONS]
        with suppress(KlpError):  # a cache that cannot be written costs time, not correctness
            if data is not None:
                write_file(self._object(target, name), data)
            plain = json.dumps([asdict(v) for v in versions]).encode()
            write_file(record, zlib.compress(plain))
        for gone in {v.object for v in known} - {v.object for v in versions} - {""}:
            self._object(target, gone).unlink(missing_ok=True)

    def _is_now(self, version: _Version) -> bool:
        if any(self.digests.get(path) != digest for path, digest in version.files.items()):
            return False
        names = frozenset(version.others.split())
        return version.added == tuple(sorted(self.added)) and not any(
            posixpath.basename(path) in names for path in self.digests.keys() - version.files.keys()
        )

    def _versions(self, record: Path) -> tuple[_Version, ...]:
        found = read_record(
            record, lambda data: from_json(tuple[_Version, ...], zlib.decompress(data))
        )
        return found or ()

    def _record(self, target: str, line: Collection[str]) -> Path:
        return self.directory / f"{target[:-2]}-{_digest(shlex.join(line).encode())}.kept"

    def _object(self, target: str, digest: str) -> Path:
        return self.directory / f"{target[:-2]}-{digest}.o"


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:32]
