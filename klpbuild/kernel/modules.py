"""List the files of a kernel's modules, and decompress those that are compressed."""

from __future__ import annotations

import gzip
import lzma
import os
import posixpath
import subprocess
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path

from klpbuild.errors import KlpError, note
from klpbuild.files.records import (
    from_json,
    note_damage,
    read_record,
    sealed,
    to_json,
    write_sealed,
)
from klpbuild.files.whole import remove_tree, remove_unfinished, write_file
from klpbuild.kernel.cache import aside, locked
from klpbuild.names import object_name

#: The record in a directory of decompressed modules.
_KEPT = ".klpbuild-modules.json"
_COMPRESSED = (".ko.xz", ".ko.gz", ".ko.zst")
_MODULES = (".ko", *_COMPRESSED)
#: Links from the modules' directory to the kernel's headers and source.
_TREES = ("build", "source")
#: Directory of installed livepatches, which no livepatch patches.
_LIVEPATCHES = "updates/livepatch"


def module_files(directory: Path, without: Sequence[str] = ()) -> list[Path]:
    """List the modules in a directory and those below it as they are, in any order.

    :param without: names of directories that are left out, directly in this one.
    """
    found: list[Path] = []
    for parent, directories, names in os.walk(directory):
        if without and parent == str(directory):
            directories[:] = [name for name in directories if name not in without]
        found += [Path(parent, name) for name in names if name.endswith(_MODULES)]
    return found


def is_module_file(path: Path) -> bool:
    """Tell whether a file is called like a module, compressed or not."""
    return path.name.endswith(_MODULES)


def debug_files(directory: Path) -> tuple[Path, ...]:
    """List the modules' debug files, sorted by path: ``x.ko``, or ``x.ko.debug``."""
    found = (
        f"{at}/{name}"
        for at, _, names in os.walk(directory)
        for name in names
        if name.endswith((".ko", ".ko.debug"))
    )
    return _sorted(found)


def _sorted(paths: Iterable[str]) -> tuple[Path, ...]:
    """Sort paths as `Path` does, which takes long for thousands."""
    return tuple(map(Path, sorted(paths, key=lambda path: path.split("/"))))


def shipped_modules(directory: Path, decompressed: Path) -> tuple[Path, ...]:
    """List the modules of an installed kernel, sorted by path.

    Of several with one name it is the one that modprobe loads.

    :param directory: ``/lib/modules/RELEASE``: the kernel's own are in ``kernel/``, others in
        ``updates/dkms/``, ``extra/`` and the like.
    :param decompressed: where the kernel's own compressed ones are decompressed to, once.
    :raises KlpError: when one cannot be decompressed.
    """
    own = module_files(directory / "kernel")
    others = module_files(directory, ("kernel", *_TREES))
    others = [path for path in others if not path.is_relative_to(directory / _LIVEPATCHES)]
    kept = decompressed.with_name("further")
    modules = _own_modules(directory, own, decompressed)
    if not others:
        return modules
    plain = {path: path for path in modules}
    plain |= {plain_module(path, kept): path for path in others}
    return tuple(sorted(_loaded(directory, plain)))


def _loaded(directory: Path, plain: dict[Path, Path]) -> list[Path]:
    """Choose, of several modules with one name, the one that modprobe loads.

    :param plain: the modules, and as they are installed.
    """
    by_name: dict[str, list[Path]] = {}
    for path in plain:
        by_name.setdefault(object_name(path.name), []).append(path)
    listed: set[Path] = set()
    if any(len(same) > 1 for same in by_name.values()):
        with suppress(OSError):  # depmod has not run
            lines = (directory / "modules.dep").read_text().splitlines()
            listed = {directory / line.partition(":")[0] for line in lines}
    updates = directory / "updates"  # depmod.d(5): search updates built-in
    return [
        max(same, key=lambda path: (plain[path] in listed, plain[path].is_relative_to(updates)))
        for same in by_name.values()
    ]


def builtin_modules(build: Path, image: Path | None, release: str) -> frozenset[str]:
    """Read which modules are part of a kernel's image, from ``modules.builtin``.

    :param build: the kernel's build tree.
    :param image: its bootable image, beside which it may be installed.
    :returns: their names; empty also when the list is not at hand.
    """
    places = [build]
    if image is not None:
        root = image.parent.parent
        places += [root / lib / "modules" / release for lib in ("lib", "usr/lib")]
    for place in places:
        with suppress(OSError):
            return frozenset(map(object_name, (place / "modules.builtin").read_text().split()))
    return frozenset()


def plain_module(path: Path, kept: Path) -> Path:
    """Decompress a module once; one that is not compressed is returned as it is.

    :param kept: where decompressed modules are kept.
    :raises KlpError: when it cannot be decompressed.
    """
    if path.suffix == ".ko":
        return path
    status = path.stat()
    content = f"{path.absolute()}\0{status.st_size}\0{status.st_mtime_ns}"
    plain = kept / sha256(content.encode()).hexdigest()[:16] / path.stem
    if sealed(plain) is None:
        remove_unfinished(plain.parent)
        write_sealed(plain, decompress(path))
    return plain


def _own_modules(directory: Path, shipped: list[Path], decompressed: Path) -> tuple[Path, ...]:
    compressed = [path for path in shipped if path.suffix != ".ko"]
    if not compressed:
        return tuple(sorted(shipped, key=lambda path: str(path).split("/")))
    plain = {path.with_suffix("").relative_to(directory) for path in compressed}
    with locked(decompressed):
        if not _is_whole(decompressed, plain):
            with aside(decompressed) as making:
                _decompress_all(directory, compressed, making / "modules")
                remove_tree(decompressed)
                (making / "modules").rename(decompressed)
    return tuple(
        sorted(
            [path for path in shipped if path.suffix == ".ko"]
            + [decompressed / relative for relative in plain]
        )
    )


@dataclass(frozen=True)
class _Kept:
    """Record of a decompressed module: its time of change saves reading it."""

    path: str
    size: int
    changed: int
    sha256: str


def _is_whole(decompressed: Path, modules: Iterable[Path]) -> bool:
    """Tell whether all decompressed modules are there, as they were written.

    Those without notes, of an older klpbuild, are taken as they are.
    """
    if not all((decompressed / module).is_file() for module in modules):
        return False
    noted = decompressed / _KEPT
    if not noted.exists():
        return True
    kept = read_record(noted, partial(from_json, tuple[_Kept, ...]))
    return kept is not None and all(_is_unchanged(decompressed / each.path, each) for each in kept)


def _is_unchanged(path: Path, kept: _Kept) -> bool:
    try:
        status = path.stat()
        if (status.st_size, status.st_mtime_ns) == (kept.size, kept.changed):
            return True
        if sha256(path.read_bytes()).hexdigest() == kept.sha256:  # of a cache that was copied
            return True
        note("is not what was decompressed, and is made again", path)
    except OSError as error:
        note_damage(path, error)
    return False


def _decompress_all(directory: Path, files: list[Path], target: Path) -> None:
    def decompress_one(path: Path) -> _Kept:
        plain, data = target / path.with_suffix("").relative_to(directory), decompress(path)
        plain.parent.mkdir(parents=True, exist_ok=True)
        plain.write_bytes(data)
        digest = sha256(data).hexdigest()
        status = plain.stat()
        return _Kept(str(plain.relative_to(target)), status.st_size, status.st_mtime_ns, digest)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        write_file(target / _KEPT, to_json(tuple(pool.map(decompress_one, files))))


def decompress(path: Path) -> bytes:
    """Decompress a file.

    :param path: its suffix names the compression: ``.xz``, ``.gz`` or ``.zst``.
    :raises KlpError: when it is broken, or zstd is not on this machine.
    """
    try:
        if path.suffix == ".xz":
            return lzma.decompress(path.read_bytes())
        if path.suffix == ".gz":
            return gzip.decompress(path.read_bytes())
        process = subprocess.run(["zstd", "-dcq", str(path)], capture_output=True, check=True)
        return process.stdout
    except FileNotFoundError as error:
        if error.filename != "zstd":
            raise
        raise KlpError(
            "this kernel's modules are compressed with zstd, which is not on this machine",
            where=str(path),
            hint="Install the package zstd.",
        ) from error
    except (lzma.LZMAError, EOFError, OSError, subprocess.CalledProcessError) as error:
        raise KlpError("cannot be decompressed", where=str(path), why=str(error)) from error


def _files_in(directory: str) -> set[str]:
    try:
        with os.scandir(directory) as entries:
            return {entry.name for entry in entries if entry.is_file()}
    except OSError:
        return set()


def built_modules(tree: Path) -> tuple[Path, ...]:
    """List the modules of a build tree, sorted by path, as its ``modules.order`` does.

    Its lines end in ``.ko`` or, since 6.2, in ``.o``; before 5.3 they begin with
    ``kernel/``.
    """
    try:
        lines = (tree / "modules.order").read_text().split()
    except OSError:
        return tuple(sorted(tree.rglob("*.ko")))
    # Strings and directories: there may be 30,000, and each build lists them.
    directories: dict[str, set[str]] = {}

    def is_there(path: str) -> bool:
        directory, _, name = path.rpartition("/")
        if directory not in directories:
            directories[directory] = _files_in(directory)
        return name in directories[directory]

    named = (f"{posixpath.splitext(line.removeprefix('kernel/'))[0]}.ko" for line in lines)
    return _sorted(path for path in (f"{tree}/{name}" for name in named) if is_there(path))
