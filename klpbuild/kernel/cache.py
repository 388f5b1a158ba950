"""The cache directory: fetched kernels, and records that klpbuild keeps of any kernel.

::

    kernels/<release>/root/          the unpacked packages
    kernels/<release>/packages.json  what they are; without it there is no kernel
    kernels/<release>/learned/       kept by klpbuild: kallsyms, compiler flags
    trees/<release>-<digest>/        learned of a kernel that was named by its path
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from glob import escape
from pathlib import Path

from klpbuild.distro.parts import REQUIRED_PARTS, Part
from klpbuild.distro.versions import version_key
from klpbuild.errors import KlpError
from klpbuild.files import locks
from klpbuild.files.records import from_json, read_record, to_json
from klpbuild.files.whole import write_file

_RECORD = "packages.json"
_TREE = re.compile(r".*-([0-9a-f]{12})-[0-9a-f]{12}")
_OUTLIVED = 3600.0

#: Characters in a path that make, or a shell that it starts, would split at, expand or run.
UNFIT_FOR_MAKE = re.compile(r"[^\w/.+~@=,-]")


@dataclass(frozen=True)
class FetchedPackage:
    """A package that stands unpacked in the cache.

    :ivar sha256: of the ``.deb`` file, in hexadecimal digits.
    """

    part: Part
    name: str
    version: str
    sha256: str


@dataclass(frozen=True)
class CachedKernel:
    """A fetched kernel: all its required parts are there.

    :ivar path: its directory in the cache.
    :ivar packages: in the order in which they were fetched.
    """

    release: str
    path: Path
    packages: tuple[FetchedPackage, ...]

    @property
    def root(self) -> Path:
        """The directory that the packages take for ``/``."""
        return self.path / "root"

    @property
    def headers(self) -> str:
        """The headers tree, relative to the root of the packages."""
        return f"usr/src/linux-headers-{self.release}"

    @property
    def learned(self) -> Path:
        """The directory of what klpbuild keeps of the kernel; may not exist yet."""
        return self.path / "learned"

    def package(self, part: Part) -> FetchedPackage | None:
        """Find the package that brought a part."""
        return next((package for package in self.packages if package.part is part), None)

    def package_of(self, part: Part) -> FetchedPackage:
        """Find the package that brought a part that every kernel has."""
        return next(package for package in self.packages if package.part is part)

    @property
    def tools(self) -> Path | None:
        """The root of the compiler and tools that were fetched for it, None without."""
        root = self.path / "tools" / "root"
        return root.resolve() if root.is_dir() else None

    @property
    def version(self) -> str:
        """The version of the image's package."""
        return self.package_of(Part.IMAGE).version

    def write_record(self) -> None:
        """Record the packages as fetched."""
        write_file(self.path / _RECORD, to_json(self.packages))


def cache_directory() -> Path:
    """Find the cache: ``$KLPBUILD_CACHE``, ``$XDG_CACHE_HOME/klpbuild`` or ``~/.cache/klpbuild``.

    :raises KlpError: when its name cannot be used with make, or it is no directory.
    """
    named, xdg = os.environ.get("KLPBUILD_CACHE"), os.environ.get("XDG_CACHE_HOME", "")
    if named:
        path = Path(named)
    elif Path(xdg).is_absolute():  # the XDG specification ignores a relative one
        path = Path(xdg, "klpbuild")
    else:
        path = Path("~/.cache/klpbuild")
    try:
        path = path.expanduser().absolute()
    except RuntimeError as error:  # neither $HOME nor an entry in the table of users
        raise KlpError(
            "the user has no home directory to keep kernels in",
            hint="Set KLPBUILD_CACHE to a directory.",
        ) from error
    if path.exists() and not path.is_dir():
        raise KlpError(
            "is not a directory", where=str(path), hint="Set KLPBUILD_CACHE to a directory."
        )
    if UNFIT_FOR_MAKE.search(str(path)):
        raise KlpError(
            "kbuild cannot work in this cache directory",
            where=str(path),
            why="Its name has a character that means something to make.",
            hint="Set KLPBUILD_CACHE to another directory.",
        )
    return path


def kernel_directory(release: str) -> Path:
    """Compute where a fetched kernel stands or would stand."""
    return cache_directory() / "kernels" / release


def cached_kernel(release: str) -> CachedKernel | None:
    """Find the fetched kernel of this release, None if it is not (wholly) there.

    One whose record is damaged counts as not there: `klpbuild kernel fetch` makes both again.
    """
    path = kernel_directory(release)
    packages = read_record(path / _RECORD, partial(from_json, tuple[FetchedPackage, ...]))
    if packages is None:
        return None
    kernel = CachedKernel(release, path, packages)
    complete = kernel.root.is_dir() and all(kernel.package(part) for part in REQUIRED_PARTS)
    return kernel if complete else None


def cached_kernels() -> tuple[CachedKernel, ...]:
    """List all fetched kernels, the newest first."""
    directory = cache_directory() / "kernels"
    found = [cached_kernel(path.parent.name) for path in directory.glob(f"[!.]*/{_RECORD}")]
    kernels = [kernel for kernel in found if kernel]
    kernels.sort(key=lambda k: (version_key(k.version), k.release), reverse=True)
    return tuple(kernels)


def tree_directory(release: str, *identity: Path, under: Path | None = None) -> Path:
    """Compute the directory of what is kept of a kernel that was named by its path.

    :param under: the directory of such kernels, None for the cache's.
    :param identity: files that change when the kernel is built anew; each counts
        with its path, size and time of change, so that nothing learned outlives it.
    """
    places, states = hashlib.sha256(), hashlib.sha256()
    for path in identity:
        places.update(str(path.resolve()).encode() + b"\0")
        if path.exists():
            status = path.stat()
            states.update(f"{status.st_size} {status.st_mtime_ns}\0".encode())
        states.update(b"\0")
    top = under.absolute() if under else cache_directory() / "trees"
    return top / f"{release}-{places.hexdigest()[:12]}-{states.hexdigest()[:12]}"


def remove_outlived(directory: Path) -> None:
    """Remove what was learned of the same tree before it was built anew.

    What was made within the last hour stays: another process may still work with it.

    :param directory: a `tree_directory`; others are left alone.
    """
    match = _TREE.fullmatch(directory.name)
    for other in directory.parent.glob(f"*-{match[1]}-*") if match else ():
        with suppress(FileNotFoundError):  # another process does the same
            if other != directory and other.stat().st_mtime + _OUTLIVED < time.time():
                shutil.rmtree(other, ignore_errors=True)


def _elsewhere(path: Path) -> str:
    if not path.is_relative_to(cache_directory()):
        return ""
    return "Set KLPBUILD_CACHE to a directory that can be written."


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Lock a path: other processes and threads that make it wait.

    What a killed process left that was making it (`aside`) is removed.

    :raises KlpError: when its directory cannot be written.
    """
    with locks.locked(path, _elsewhere(path)):
        remove_left(path)
        yield


@contextmanager
def aside(path: Path) -> Iterator[Path]:
    """Make a new directory on the file system of ``path``, to make its contents in.

    It goes when the block ends; what is wanted, or all of it, is renamed before.  The
    caller holds the lock of ``path``: what a killed process left goes too.
    """
    remove_left(path)
    prefix = f".{path.name}.making-"
    with tempfile.TemporaryDirectory(prefix=prefix, dir=path.parent) as directory:
        yield Path(directory)


def remove_left(path: Path) -> None:
    """Remove what a killed process left that was making a path, whose lock is held."""
    for left in path.parent.glob(f".{escape(path.name)}.making-*"):
        shutil.rmtree(left, ignore_errors=True)
