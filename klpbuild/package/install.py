"""Install modules where depmod and modprobe look for them, and uninstall them.

Everything is written aside first, on the same file system, and renamed when all of it is
there: a full disk, an interrupt or a crash leaves what was there before.  A manifest in the
build directory tells `uninstall` what is ours; it is never put under DESTDIR, where a package
would pick it up.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from klpbuild.errors import KlpError, Problems
from klpbuild.files.records import from_json
from klpbuild.files.whole import write_file
from klpbuild.run import run

#: Where a kernel's livepatches go, below ``lib/modules/RELEASE``.  depmod searches all of
#: it, and prefers `updates`, where kbuild of today puts every external module.
DIRECTORY = Path("updates/livepatch")


@dataclass(frozen=True)
class Place:
    """Where modules are installed.

    :ivar release: of the kernel.
    :ivar prefix: PREFIX: empty, or absolute.
    :ivar destdir: DESTDIR; None for the running system.
    """

    release: str
    prefix: str = ""
    destdir: Path | None = None

    @property
    def root(self) -> Path:
        """The directory that stands for the root of the system."""
        return self.destdir or Path("/")

    @property
    def directory(self) -> Path:
        """The directory of the livepatches, in the system that they are for: no DESTDIR."""
        return Path(f"{self.prefix}/lib/modules/{self.release}") / DIRECTORY

    def path(self, module: str) -> Path:
        """Compute where a module is when it is installed."""
        return self.directory / module

    def staged(self, module: str) -> Path:
        """Compute where `install` writes it: with DESTDIR."""
        return self.root / self.path(module).relative_to("/")

    @property
    def wants_depmod(self) -> bool:
        """Whether modprobe of this system looks there.

        In a package it is for the package's own script to run depmod on the target.
        """
        return self.destdir is None and self.prefix in ("", "/usr")


@dataclass
class Manifest:
    """List of what was installed from one build directory.

    :ivar files: path of each installed file, with the SHA-256 of what it may hold: two of them
        when an installation was interrupted.
    :ivar directories: that were made for them, the outer ones first.
    """

    files: dict[str, list[str]] = field(default_factory=dict)
    directories: list[str] = field(default_factory=list)

    @classmethod
    def read(cls, path: Path) -> Manifest:
        """Read the manifest; empty when nothing was installed.

        :raises KlpError: when it cannot be read or is broken.
        """
        try:
            return from_json(cls, path.read_bytes())
        except FileNotFoundError:
            return cls()
        except OSError as error:
            raise KlpError(f"cannot be read: {error.strerror}", where=str(path)) from error
        except (ValueError, RecursionError) as error:
            raise KlpError(
                "is not a list of installed files",
                where=str(path),
                hint="Remove it; then remove what was installed by hand.",
            ) from error

    def write(self, path: Path) -> None:
        """Write the manifest whole; no file when it lists nothing."""
        if not self.files and not self.directories:
            path.unlink(missing_ok=True)
            return
        write_file(path, (json.dumps(vars(self), indent=1, sort_keys=True) + "\n").encode())


def install(
    modules: Sequence[Path], place: Place, manifest: Path, epoch: int | None = None
) -> list[Path]:
    """Install modules: all of them, or none when one cannot be written.

    A module that was installed before under another suffix (``.ko``, now ``.ko.xz``) goes.

    :param manifest: the file that lists what was installed.
    :param epoch: the time that the files get, in seconds since 1970; None: now.
    :returns: the files, in the order of the modules.
    :raises KlpError: when something cannot be written; what was there before is whole.
    """
    known = Manifest.read(manifest)
    check_inside(place)
    contents = {place.staged(module.name): module.read_bytes() for module in modules}
    written: dict[Path, Path] = {}
    made: list[Path] = []
    try:
        for target, data in contents.items():
            _make_directory(target.parent, made)
            written[target] = _write_aside(target, data, epoch)
        for target, data in contents.items():
            digest = hashlib.sha256(data).hexdigest()
            known.files[str(target)] = [*known.files.get(str(target), []), digest]
        known.directories += [str(d) for d in made if str(d) not in known.directories]
        known.write(manifest)
        for target, new in written.items():
            new.replace(target)
    except OSError as error:
        raise _not_written(error, place) from error
    finally:
        for new in written.values():
            with suppress(OSError):
                new.unlink(missing_ok=True)
        for directory in reversed(made):
            with suppress(OSError):  # not empty: it is used
                directory.rmdir()
    for target in contents:
        known.files[str(target)] = known.files[str(target)][-1:]
        for other in _of_same_module(target, known.files):
            if _remove_own(other, known):
                del known.files[str(other)]
    known.write(manifest)
    return list(contents)


def check_inside(place: Place) -> None:
    """Refuse a symbolic link that leads out of DESTDIR, as ``lib -> /usr/lib`` does.

    In the system that DESTDIR stands for it means another directory than here.
    """
    directory = place.staged("module").parent
    if place.destdir is None or directory.resolve().is_relative_to(place.destdir.resolve()):
        return
    raise KlpError(
        "a symbolic link leads out of DESTDIR",
        where=str(directory),
        why=f"It would be written to {directory.resolve()}.",
        hint="Make the link relative, such as lib -> usr/lib.",
    )


def _make_directory(path: Path, made: list[Path]) -> None:
    """Make a directory with its parents, whatever the umask, and note which ones were made."""
    for directory in reversed([p for p in (path, *path.parents) if not p.exists()]):
        directory.mkdir()
        made.append(directory)
        directory.chmod(0o755)


def _write_aside(target: Path, data: bytes, epoch: int | None) -> Path:
    if target.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(target))
    path = _aside(target)
    path.unlink(missing_ok=True)  # left by a process that was killed
    try:
        with path.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        path.chmod(0o644)
        if epoch is not None:
            os.utime(path, (epoch, epoch))
    except OSError as error:
        with suppress(OSError):
            path.unlink(missing_ok=True)
        error.filename = str(target)
        raise
    return path


def _aside(target: Path) -> Path:
    """Name the file that is written and then renamed; modprobe ignores such a suffix."""
    return target.with_name(f".{target.name}.klpbuild-new")


def _not_written(error: OSError, place: Place) -> KlpError:
    hint = ""
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        hint = "Set DESTDIR to a directory that can be written" + (
            "." if place.destdir else ", or install as root."
        )
    return KlpError(
        f"cannot be written: {error.strerror}",
        where=str(error.filename or place.root),
        why="Nothing was installed; what was there before is still whole.",
        hint=hint,
    )


def _of_same_module(target: Path, files: Sequence[str] | dict[str, list[str]]) -> list[Path]:
    """List other files of a module in its directory."""
    return [
        path
        for path in map(Path, list(files))
        if path != target and path.parent == target.parent and _stem(path) == _stem(target)
    ]


def _stem(path: Path) -> str:
    """Strip ``.ko`` and what follows: ``livepatch-meminfo`` of ``livepatch-meminfo.ko.xz``."""
    return path.name.partition(".ko")[0]


def _remove_own(path: Path, known: Manifest) -> bool:
    """Remove a file if it is the one that was installed; tell whether it is gone."""
    try:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        if digest not in known.files[str(path)]:
            return False
        path.unlink()
    except FileNotFoundError:
        pass
    return True


def uninstall(place: Place, manifest: Path, names: Sequence[str] | None = None) -> list[Path]:
    """Remove what was installed there from this build directory, and nothing else.

    :param manifest: the file that lists what was installed.
    :param names: modules without suffix, ``livepatch-meminfo``; None: all.
    :returns: the files that were removed.
    :raises KlpError: when nothing was installed there; after the rest is removed, for files
        that cannot be removed or are no longer those that were installed.
    """
    known = Manifest.read(manifest)
    check_inside(place)
    directory = place.staged("module").parent
    wanted = [
        path
        for path in map(Path, known.files)
        if path.parent == directory and (names is None or _stem(path) in names)
    ]
    if not wanted:
        raise KlpError(
            "nothing is installed there by this build",
            where=str(directory),
            why=f"{manifest} lists what is.",
        )
    problems = Problems()
    removed = []
    for path in wanted:
        try:
            _aside(path).unlink(missing_ok=True)
            if _remove_own(path, known):
                removed.append(path)
                del known.files[str(path)]
                continue
        except OSError as error:
            problems.add(f"cannot be removed: {error.strerror}", where=str(path))
            continue
        problems.add(
            "is not the file that was installed, and is left alone",
            where=str(path),
            hint="Remove it by hand, or install again first.",
        )
    for made in sorted(known.directories, key=len, reverse=True):
        with suppress(OSError):  # not empty: others use it
            Path(made).rmdir()
        if not Path(made).exists():
            known.directories.remove(made)
    known.write(manifest)
    problems.check()
    return removed


def run_depmod(place: Place) -> None:
    """Run depmod after a change; only in the running system.

    :raises KlpError: when it is missing or fails.
    """
    if not place.wants_depmod or not place.directory.parents[1].is_dir():
        return
    hint = f"Run `depmod {place.release}` as root."
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])
    program = shutil.which("depmod", path=path)
    if program is None:
        raise KlpError("depmod is not on this machine", why="The package kmod has it.", hint=hint)
    done = run([program, place.release])
    if done.returncode:
        raise KlpError("depmod fails", where=place.release, why=done.stderr.strip(), hint=hint)
