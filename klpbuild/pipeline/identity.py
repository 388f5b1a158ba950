"""Cache keys of kernel, compiler and klpbuild: short texts that change with their content.

Nothing else changes them: not times, and not the machine or the directory, so that builds can share
results.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from contextlib import suppress
from pathlib import Path

import klpbuild
from klpbuild.compiler.flags import compile_command
from klpbuild.errors import KlpError, reading
from klpbuild.files.records import SETTLED_NS, read_record
from klpbuild.files.whole import write_file
from klpbuild.kernel.cache import cache_directory
from klpbuild.kernel.kbuild import cross_prefix
from klpbuild.kernel.tree import Kernel

#: Suffixes of the files that count for klpbuild's cache key.
_OWN = (".py", ".h", ".j2", ".css", ".js", ".sh")

#: Programs and files of kbuild that decide about code.
_BUILD_TOOLS = ("tools/objtool/objtool", "scripts/mod/modpost", "scripts/module.lds")


def identities(kernel: Kernel) -> tuple[str, str]:
    """Compute the cache keys of a kernel without its modules, and of all of it.

    Each changes when any part of what it stands for does.  The tree is never modelled file by
    file: what is built from it stands for it.
    """
    # What the kernel says when it is booted follows from its image.
    symbols = kernel.vmlinux or kernel.system_map or kernel.image or kernel.kallsyms
    parts = filter(None, (kernel.config, kernel.module_symvers, symbols))
    digest, found = hashlib.sha256(), []
    with _Digests(kernel.cache / "digests.json") as digests:
        for paths in (parts, kernel.modules):
            for path in paths:
                digest.update(f"{path.name} {digests.of(path)}\n".encode())
            found.append(f"{kernel.release}:{digest.hexdigest()[:16]}")
    without, whole = found
    return without, whole


def compiler_identity(kernel: Kernel) -> str:
    """Compute the cache key of the tools: compiler, binutils, kbuild and the user's flags.

    The compiler stands for its parts by its version; a launcher before it changes nothing.
    """
    tools = kernel.toolchain
    # Tools that were fetched with the kernel stand for themselves, wherever they are.
    prefix = "" if tools.cross_compile.startswith(str(cache_directory())) else tools.cross_compile
    said = (compile_command(kernel).version, tools.arch, prefix, tools.kcflags)
    digest = hashlib.sha256("\0".join(said).encode())
    binutils = [shutil.which(f"{cross_prefix(kernel)}{name}") for name in ("as", "ld")]
    with _Digests(kernel.cache / "tool-digests.json") as digests:
        for path in (*map(Path, filter(None, binutils)), *(kernel.build / t for t in _BUILD_TOOLS)):
            if path.is_file():
                digest.update(f"{path.name} {digests.of(path)}\n".encode())
    return digest.hexdigest()[:16]


def tool_identity() -> str:
    """Compute the cache key of klpbuild itself."""
    digest = hashlib.sha256()
    root = Path(klpbuild.__file__).parent
    for path in sorted(root.rglob("*")):
        if path.suffix in _OWN:
            digest.update(f"{path.relative_to(root)}\n".encode() + path.read_bytes())
    return f"{klpbuild.__version__}:{digest.hexdigest()[:16]}"


def _read(data: bytes) -> dict[str, object]:
    """Read what `_Digests` keeps; `from_json` takes long for 30,000 files."""
    found = json.loads(data)
    if not isinstance(found, dict):
        raise ValueError("is no record of digests")
    return found


class _Digests:
    """Cache of files' digests, read again only when size, times or inode of a file change."""

    def __init__(self, kept: Path) -> None:
        self._kept = kept
        self._known = read_record(kept, _read) or {}
        self._new: dict[str, object] = {}

    def __enter__(self) -> _Digests:
        return self

    def __exit__(self, *_: object) -> None:
        if self._new:
            with suppress(KlpError):  # a read-only cache costs time, not correctness
                write_file(self._kept, json.dumps(self._known | self._new).encode())

    def of(self, path: Path) -> str:
        """Return the digest of a file.

        :raises KlpError: when the file cannot be read.
        """
        with reading(path):
            status = path.stat()
            state = [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]
            match self._known.get(str(path)):
                case [*old, str(digest)] if old == state:
                    return digest
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "blake2b").hexdigest()[:32]
            if max(state[1:3]) + SETTLED_NS < time.time_ns():
                self._new[str(path)] = [*state, digest]
        return digest
