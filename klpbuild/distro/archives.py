"""Unpack downloaded packages of any distribution below a directory, without root."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import tarfile
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, cast

from klpbuild.errors import KlpError

#: File names of packages.
SUFFIXES = (".deb", ".ddeb", ".rpm", ".pkg.tar.zst", ".pkg.tar.xz")
#: Space that unpacking leaves free on the disk, in bytes.
_RESERVE = 256 << 20
_AR = b"!<arch>\n"
_AR_HEADER = 60


def packages_in(folder: Path) -> tuple[Path, ...]:
    """List the packages in a folder, sorted by name.

    :raises KlpError: when it is no folder, or holds none.
    """
    if not folder.is_dir():
        raise KlpError("there is no such folder", where=str(folder))
    found = sorted(path for path in folder.iterdir() if path.name.endswith(SUFFIXES))
    if not found:
        raise KlpError(
            "holds no packages",
            where=str(folder),
            why=f"They are called {', '.join(f'*{suffix}' for suffix in SUFFIXES)}.",
        )
    return tuple(found)


def unpack(package: Path, root: Path) -> None:
    """Unpack a package's files, directories and links below a directory.

    Nothing is written elsewhere, whatever the package holds: no member has ``..`` in its name or
    goes through a link.  A link to an absolute path becomes one to the place below the
    directory, as the package means it.  Owners and special permissions are left out.

    :param root: may hold the files of other packages.
    :raises KlpError: when the package is broken or would leave the directory, what reads it is
        not on this machine, or the disk would be full.
    """
    space = shutil.disk_usage(root).free - _RESERVE
    try:
        with (
            _opened(package) as stream,
            tarfile.open(fileobj=stream, mode="r|*", errorlevel=1) as members,
        ):
            for member in members:
                space -= member.size
                if space < 0:
                    raise KlpError(
                        "does not fit on the disk",
                        where=package.name,
                        why=f"Its files would fill that of {root}.",
                        hint="Set KLPBUILD_CACHE to a directory on a larger disk.",
                    )
                _extract(package, members, member, root)
    except (tarfile.TarError, EOFError, ValueError) as error:
        raise _broken(package, str(error)) from error


def check_links(root: Path) -> None:
    """Refuse links that lead out of a directory, by themselves or with others.

    :param root: what packages were unpacked into.
    :raises KlpError: for each such link.
    """
    top = os.path.realpath(root)
    outside = []
    for parent, directories, names in os.walk(root):
        for name in (*directories, *names):
            path = Path(parent, name)
            if path.is_symlink() and not _is_below(os.path.realpath(path), top):
                outside.append(path)
    if outside:
        raise KlpError(
            f"the packages have links that lead out of them: {outside[0].relative_to(root)}"
            + (f" and {len(outside) - 1} more" if outside[1:] else ""),
            why=f"It means {outside[0].readlink()}.",
        )


def _is_below(path: str, top: str) -> bool:
    return path == top or path.startswith(f"{top}/")


def _extract(package: Path, members: tarfile.TarFile, member: tarfile.TarInfo, root: Path) -> None:
    path = _place(package, member.name, root)
    # pacman's own notes: .PKGINFO, .MTREE, .INSTALL
    if path == root or (path.parent == root and path.name.startswith(".")):
        return
    if member.isdir():
        if not path.is_symlink():  # as dpkg: a link to a directory stays
            _make_room(package, path, directory=True)
            path.mkdir(parents=True, exist_ok=True)
        return
    _make_room(package, path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if member.issym():
        path.symlink_to(_inside(path, member.linkname, root))
    elif member.islnk():
        target = _place(package, member.linkname, root)
        if target.is_symlink() or not target.is_file():
            raise _broken(package, f"{member.name} is a link to {member.linkname}, no file of it.")
        os.link(target, path)
    elif member.isfile():
        content = members.extractfile(member)
        assert content is not None
        mode = 0o755 if member.mode & 0o111 else 0o644
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        with os.fdopen(os.open(path, flags, mode), "wb") as file:
            shutil.copyfileobj(content, file, 1 << 20)
    else:
        raise _broken(package, f"{member.name} is neither a file, a directory nor a link.")


def _place(package: Path, name: str, root: Path) -> Path:
    """Compute where a member goes.

    :raises KlpError: when that is not below the directory, or behind a link.
    """
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if name.startswith("/") or ".." in parts or "\0" in name:
        raise KlpError(
            f"would write outside of its directory: {name}",
            where=package.name,
            why="Names in a package are relative and have no `..`.  Nothing was written there.",
        )
    place = root
    for part in parts[:-1]:
        place /= part
        if place.is_symlink():
            raise KlpError(
                f"would write through a link: {name}",
                where=package.name,
                why=f"{place.relative_to(root)} is a link to {place.readlink()}.  Nothing was "
                "written there.",
            )
    return root.joinpath(*parts)


def _make_room(package: Path, path: Path, *, directory: bool = False) -> None:
    """Remove the same file of another package."""
    if path.is_dir() and not path.is_symlink():
        if not directory:
            raise _broken(package, f"{path.name} is a directory in one package, a file in another.")
    elif directory and path.exists():
        raise _broken(package, f"{path.name} is a file in one package, a directory in another.")
    else:
        with suppress(FileNotFoundError):
            path.unlink()


def _inside(path: Path, target: str, root: Path) -> str:
    """Turn a link's absolute target into one below the directory."""
    if not target.startswith("/"):
        return target
    return os.path.relpath(root / target.lstrip("/"), path.parent)


def _broken(package: Path, why: str) -> KlpError:
    return KlpError("cannot be unpacked", where=package.name, why=why)


@contextmanager
def _opened(package: Path) -> Iterator[IO[bytes]]:
    """Open a package's files as a tar archive, compressed in a way that Python reads, or not."""
    with package.open("rb") as file:
        if package.name.endswith(".rpm"):
            with _filtered(package, _rpm_reader(package), file) as stream:
                yield stream
            return
        member: IO[bytes] = file
        name = package.name
        if package.name.endswith((".deb", ".ddeb")):
            name, member = _data_of(package, file)
        if name.endswith(".zst"):
            with _filtered(package, _zstd(package), member) as stream:
                yield stream
        else:
            yield member


def _rpm_reader(package: Path) -> list[str]:
    if shutil.which("rpm2archive"):
        return ["rpm2archive", "-"]
    if shutil.which("bsdtar"):
        return ["bsdtar", "-cf", "-", "--format=pax", "@-"]
    raise KlpError(
        "needs rpm2archive or bsdtar to be unpacked, and neither is on this machine",
        where=package.name,
        hint="Install the package rpm, or libarchive-tools (bsdtar).",
    )


def _zstd(package: Path) -> list[str]:
    if shutil.which("zstd"):
        return ["zstd", "-dcq"]
    raise KlpError(
        "is compressed with zstd, which is not on this machine",
        where=package.name,
        hint="Install the package zstd.",
    )


def _data_of(package: Path, file: IO[bytes]) -> tuple[str, IO[bytes]]:
    """Find the archive of files in a Debian package, which is an ``ar`` archive (deb(5))."""
    if file.read(len(_AR)) != _AR:
        raise _broken(package, "It is not a Debian package.")
    while len(header := file.read(_AR_HEADER)) == _AR_HEADER:
        name, size = header[:16].decode("ascii", "replace").strip().rstrip("/"), header[48:58]
        if not size.strip().isdigit():
            break
        if name.startswith("data.tar"):
            return name, cast("IO[bytes]", _Section(file, int(size)))
        file.seek(int(size) + int(size) % 2, io.SEEK_CUR)
    raise _broken(package, "It has no data.tar.")


class _Section(io.BufferedIOBase):
    """A part of a file, as a file of its own."""

    def __init__(self, file: IO[bytes], size: int) -> None:
        self._file, self._left = file, size

    def read(self, size: int | None = -1, /) -> bytes:
        wanted = self._left if size is None or size < 0 else min(size, self._left)
        data = self._file.read(wanted)
        self._left -= len(data)
        return data


@contextmanager
def _filtered(package: Path, command: list[str], source: IO[bytes]) -> Iterator[IO[bytes]]:
    """Run a program over a file, and give what it writes.

    :raises KlpError: when the program fails.
    """
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors
        )
        assert process.stdin and process.stdout

        def feed(target: IO[bytes]) -> None:
            with suppress(BrokenPipeError), target:
                shutil.copyfileobj(source, target, 1 << 20)

        feeding = threading.Thread(target=feed, args=(process.stdin,))
        feeding.start()
        try:
            yield process.stdout
            while process.stdout.read(1 << 20):
                pass  # what stands behind the archive's end
        except tarfile.TarError as error:
            process.kill()
            errors.seek(0)
            said = errors.read().decode(errors="replace").strip()
            raise _broken(package, said or str(error)) from error
        except BaseException:
            process.kill()
            raise
        finally:
            process.stdout.close()
            process.wait()
            feeding.join()
        if process.returncode:
            errors.seek(0)
            raise _broken(package, errors.read().decode(errors="replace").strip()[-1000:])
