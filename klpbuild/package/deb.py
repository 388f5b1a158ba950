"""Make a package for dpkg, with dpkg-deb."""

from __future__ import annotations

import gzip
import hashlib
import os
import shutil
import tempfile
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path

from klpbuild.errors import KlpError
from klpbuild.files.whole import write_file
from klpbuild.package.contents import Package, PackagedFile, render
from klpbuild.run import run as run_to_end

#: Since Debian 13 /lib is a link to /usr/lib, so that both places are one.
_UNITS = "/lib/systemd/system"

_SCRIPTS = ("postinst", "prerm", "postrm")


def deb_name(package: Package) -> str:
    """Name the package's file."""
    return f"{package.name}_{package.version}_{package.arch.debian_name}.deb"


def build_deb(package: Package, directory: Path) -> Path:
    """Make a ``.deb``; the same input gives the same bytes.

    :param directory: gets it.
    :raises KlpError: when dpkg-deb is missing or fails, or an input cannot be read.
    """
    files = (*package.files(_UNITS), *_documents(package))
    scripts = (
        PackagedFile(f"/DEBIAN/{script}", render(f"{script}.j2", package).encode(), 0o755)
        for script in _SCRIPTS
    )
    control = _control(package, files)
    return pack(control, files, package.epoch, directory / deb_name(package), *scripts)


def pack(
    control: str, files: Sequence[PackagedFile], epoch: int, made: Path, *scripts: PackagedFile
) -> Path:
    """Make a package of files; the same input gives the same bytes.

    :param control: the file of that name.
    :param made: the package.
    :raises KlpError: when dpkg-deb is missing or fails.
    """
    described = (
        PackagedFile("/DEBIAN/control", control.encode()),
        PackagedFile("/DEBIAN/md5sums", _md5sums(files).encode()),
    )
    with tempfile.TemporaryDirectory(prefix="klpbuild-deb-") as name:
        root = Path(name) / "root"
        stage(root, (*files, *described, *scripts), epoch)
        packed = Path(name) / made.name
        command = [
            "dpkg-deb", "--root-owner-group", "-Zxz", "--threads-max=1", "--build",
            str(root), str(packed),
        ]  # fmt: skip
        run(command, epoch, "dpkg")
        write_file(made, packed.read_bytes())
    return made


def stage(root: Path, files: Iterable[PackagedFile], epoch: int) -> None:
    """Write a package's files below a directory, with the modes and times that they get."""
    for file in files:
        path = root / file.path.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(file.data)
        path.chmod(file.mode)
    for path in (root, *root.rglob("*")):
        if path.is_dir():
            path.chmod(0o755)  # whatever the umask
        os.utime(path, (epoch, epoch))


def run(command: list[str], epoch: int, package: str) -> None:
    """Run a program that makes packages.

    :param package: of Debian, that has the program.
    :raises KlpError: when it is missing or fails, with what it said.
    """
    if shutil.which(command[0]) is None:
        raise KlpError(
            f"{command[0]} is not installed",
            why="It makes the packages.",
            hint=f"Run: apt-get install {package}",
        )
    environment = {**os.environ, "SOURCE_DATE_EPOCH": str(epoch), "LC_ALL": "C", "TZ": "UTC"}
    done = run_to_end(command, environment)
    if done.returncode:
        said = (done.stderr + done.stdout).strip().splitlines()
        raise KlpError(
            f"{command[0]} fails with exit status {done.returncode}", why="\n".join(said[-20:])
        )


def _documents(package: Package) -> tuple[PackagedFile, ...]:
    place = f"/usr/share/doc/{package.name}"
    entry = changelog(package.name, package.version, package.changes, package)
    return (
        PackagedFile(f"{place}/changelog.gz", gzip.compress(entry.encode(), 9, mtime=0)),
        PackagedFile(f"{place}/copyright", render("copyright.j2", package, meta=None).encode()),
    )


def changelog(name: str, version: str, changes: Iterable[str], package: Package) -> str:
    """Write a changelog of one version.

    :param package: whose maintainer and time it has.
    """
    lines = [f"{name} ({version}) unstable; urgency=medium", ""]
    for change in changes:
        lines += textwrap.wrap(change, 78, initial_indent="  * ", subsequent_indent="    ")
    lines += ["", f" -- {package.maintainer}  {package.debian_date}"]
    return "\n".join(lines) + "\n"


def _control(package: Package, files: Iterable[PackagedFile]) -> str:
    size = installed_size(files)
    return render(
        "control.j2", package, size=size, kernels=_kernels(package), description=_long(package)
    )


def installed_size(files: Iterable[PackagedFile]) -> int:
    """Count the kibibytes of an installed package, as dpkg-gencontrol does."""
    return sum(-(-len(file.data) // 1024) for file in files)


def _kernels(package: Package) -> list[str]:
    """List the kernel's package under the names that Debian and Ubuntu have for it."""
    exact = f" (= {package.kernel_version})" if package.kernel_version else ""
    release = package.release.lower().replace("_", "-")
    names = f"linux-image-{release}", f"linux-image-{release}-unsigned"
    return [name + exact for name in (*names, f"linux-image-unsigned-{release}")]


def _long(package: Package) -> list[str]:
    """Write the extended description, without the space before each line."""
    lines: list[str] = []
    for paragraph in package.paragraphs:
        lines += [*textwrap.wrap(paragraph, 76), ""]
    return lines[:-1]


def _md5sums(files: Iterable[PackagedFile]) -> str:
    rows = sorted(
        (file.path.lstrip("/"), hashlib.md5(file.data, usedforsecurity=False).hexdigest())
        for file in files
    )
    return "".join(f"{digest}  {path}\n" for path, digest in rows)
