"""Register kernels from packages that the user downloaded, under names of the user's.

::

    kernels/<name>/root/       the unpacked packages
    kernels/<name>/added.json  what they are; without it there is no such kernel
    kernels/<name>/source/     the kernel's source, if a package has it
    kernels/<name>/learned/    kept by klpbuild
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from klpbuild.distro.archives import check_links, packages_in, unpack
from klpbuild.distro.debian import Report
from klpbuild.distro.packaging import Packaging, packaging_of, packaging_of_files
from klpbuild.distro.parts import Part
from klpbuild.errors import KlpError
from klpbuild.files.records import from_json, read_record, to_json
from klpbuild.files.whole import file_digest, make_directory, remove_tree, write_file
from klpbuild.kernel.cache import aside, cached_kernel, kernel_directory, locked
from klpbuild.kernel.config import config_of
from klpbuild.kernel.headers import common_headers
from klpbuild.kernel.installed import Installed
from klpbuild.kernel.modules import module_files
from klpbuild.kernel.source import unpack_source

_RECORD = "added.json"
_NAME = re.compile(r"\w[\w.+~@=,-]{,63}", re.ASCII)
_TAKEN = ("fixtures",)
#: Where headers are, below the root; each has its configuration.
_HEADERS = (
    "usr/src/linux-headers-*",
    "usr/src/kernels/*",
    "usr/src/linux-*-obj/*/*",
    "lib/modules/*/build",
    "usr/lib/modules/*/build",
)
_RELEASE = re.compile(r'#define UTS_RELEASE "([^"]+)"')


@dataclass(frozen=True)
class AddedPackage:
    """A package of the user's.

    :ivar file: its name.
    :ivar sha256: in hexadecimal digits.
    """

    file: str
    sha256: str


@dataclass(frozen=True)
class AddedKernel:
    """A kernel from packages of the user's.

    :ivar release: UTS_RELEASE.
    :ivar headers: the headers tree, relative to the root of the packages.
    :ivar folder: where the packages were.
    """

    name: str
    release: str
    headers: str
    folder: str
    packages: tuple[AddedPackage, ...]

    @property
    def path(self) -> Path:
        """Its directory in the cache."""
        return kernel_directory(self.name)

    @property
    def root(self) -> Path:
        """The directory that the packages take for ``/``."""
        return self.path / "root"

    @property
    def packaging(self) -> Packaging:
        """The names that its distribution gives to packages."""
        return packaging_of(Path(self.headers), self.release)


def added_kernel(name: str) -> AddedKernel | None:
    """Find the kernel that was added under a name, None without one."""
    if not _NAME.fullmatch(name):
        return None
    record = kernel_directory(name) / _RECORD
    kernel = read_record(record, partial(from_json, AddedKernel))
    return kernel if kernel and kernel.name == name and kernel.root.is_dir() else None


def added_kernels() -> tuple[AddedKernel, ...]:
    """List all kernels that were added, by name."""
    names = sorted(path.parent.name for path in kernel_directory("").glob(f"[!.]*/{_RECORD}"))
    return tuple(kernel for name in names if (kernel := added_kernel(name)))


def add(name: str, folder: Path, report: Report = lambda line: None) -> AddedKernel:
    """Unpack the packages in a folder, without root, and register them as a kernel.

    One of this name that was added before is replaced.

    :param name: what ``kernel=`` takes.
    :param folder: holds the packages of one kernel.
    :param report: takes one line for each step.
    :raises KlpError: when the packages are of no kernel, of several or of half a one, or cannot
        be unpacked; the cache stays as it was.
    """
    if not _NAME.fullmatch(name) or name in _TAKEN:
        raise KlpError(
            f"{name!r} cannot be a kernel's name",
            why="It has letters, digits and . _ + ~ @ = , - only, 64 at most"
            + (f", and {name} is the miniature kernel." if name in _TAKEN else "."),
        )
    packages = packages_in(folder)
    path = kernel_directory(name)
    make_directory(path.parent)
    with locked(path):
        if cached_kernel(name):
            raise KlpError(
                f"a kernel called {name} was fetched, and stands in the cache",
                where=str(path),
                hint="Choose another name.",
            )
        with aside(path) as making:
            whole = making / "kernel"
            root = whole / "root"
            root.mkdir(parents=True)
            whole.chmod(0o755)
            for number, package in enumerate(packages, 1):
                report(f"[{number}/{len(packages)}] {package.name}")
                unpack(package, root)
            check_links(root)
            headers, release = _headers(root, folder, packages)
            _check_modules(root, release, headers, folder)
            archive = _source_archive(root)
            if tree := _source_tree(root):
                (whole / "source").symlink_to(Path("root", tree.relative_to(root)))
            elif archive:
                report(f"unpacking {archive.name}")
                (whole / "source").mkdir()
                unpack_source(archive, whole / "source")
            listed = tuple(AddedPackage(package.name, file_digest(package)) for package in packages)
            place = str(headers.relative_to(root))
            kernel = AddedKernel(name, release, place, str(folder.absolute()), listed)
            write_file(whole / _RECORD, to_json(kernel))
            remove_tree(path)
            whole.rename(path)
    return kernel


def _headers(root: Path, folder: Path, packages: tuple[Path, ...]) -> tuple[Path, str]:
    """Find the one headers tree, and the release that it is for.

    :raises KlpError: when there are none, or those of several kernels.
    """
    found: dict[Path, str] = {}
    for pattern in _HEADERS:
        for tree in sorted(root.glob(pattern)):
            real = tree.resolve()
            text = real / "include/generated/utsrelease.h"
            match = _RELEASE.search(text.read_text(errors="replace")) if text.is_file() else None
            if match and _NAME.fullmatch(match[1]):
                found[real] = match[1]
    releases = sorted(set(found.values()))
    if len(releases) > 1:
        raise KlpError(
            f"the packages are of several kernels: {', '.join(releases)}",
            where=str(folder),
            hint="Put those of one kernel into a folder of their own.",
        )
    if not found:
        release = next(iter(_releases_of_modules(root)), "RELEASE")
        wanted = packaging_of_files(tuple(path.name for path in packages))
        raise KlpError(
            "no package has a kernel's headers",
            where=str(folder),
            why=f"There are {', '.join(path.name for path in packages)}.",
            hint=f"Add {wanted.package(Part.HEADERS, release)}.",
        )
    headers, installed = sorted(found)[0], Installed(root, releases[0])
    if not (headers / ".config").is_file() and not installed.config():
        wanted = packaging_of(headers.relative_to(root), releases[0])
        raise KlpError(
            f"no package has the configuration of {releases[0]}",
            where=str(folder),
            why="It is .config in the headers, or in /boot or beside the modules.",
            hint=f"Add {wanted.package(Part.IMAGE, releases[0])}.",
        )
    try:
        config = config_of(headers, installed)
        config.architecture()
        config.check_livepatch()
    except KlpError as error:  # what it names goes with the unpacked packages
        problems = (replace(problem, where=str(folder)) for problem in error.problems)
        raise KlpError.together(problems) from None
    _check_whole(headers, root, folder)
    return headers, releases[0]


def _check_whole(headers: Path, root: Path, folder: Path) -> None:
    """Refuse headers that are links to what no package has."""
    lost = [path for path in sorted(headers.iterdir()) if path.is_symlink() and not path.exists()]
    named = [path.readlink() for path in lost]
    missing = next((p for link in named for p in link.parts if p.startswith("linux-")), "")
    why = f"{lost[0].relative_to(root)} is a link to {named[0]}." if lost else ""
    if not lost and (headers / "Makefile").is_file():
        common = common_headers(headers, root)
        if common is None or (common / "Makefile").is_file():
            return
        missing, why = common.name, f"Their Makefile includes /{common.relative_to(root)}/Makefile."
    raise KlpError(
        f"the headers need {missing or 'a Makefile'}, which no package has",
        where=str(folder),
        why=why,
        hint=f"Add the package {missing}." if missing else "",
    )


def _releases_of_modules(root: Path) -> Iterable[str]:
    for lib in ("lib", "usr/lib"):
        for directory in sorted((root / lib / "modules").glob("*")):
            if module_files(directory):
                yield directory.name


def _check_modules(root: Path, release: str, headers: Path, folder: Path) -> None:
    """Refuse packages without modules, or with those of another kernel."""
    if module_files(Installed(root, release).modules):
        return
    others = list(_releases_of_modules(root))
    wanted = packaging_of(headers.relative_to(root), release)
    raise KlpError(
        f"no package has the modules of {release}",
        where=str(folder),
        why=f"There are those of {', '.join(others)}."
        if others
        else "Symbols in them and the names of their objects are needed for every livepatch.",
        hint=f"Add {wanted.package(Part.MODULES, release)}.",
    )


def _source_tree(root: Path) -> Path | None:
    """Find the whole source as files of a package: openSUSE's kernel-source."""
    trees = [path.parents[1] for path in sorted(root.glob("usr/src/*/init/main.c"))]
    return next((t for t in trees if (t / "Kconfig").is_file() and not t.is_symlink()), None)


def _source_archive(root: Path) -> Path | None:
    """Find the whole source as an archive in a package: Debian's and Ubuntu's linux-source."""
    places = ("usr/src/linux-source-*.tar.*", "usr/src/linux-source-*/linux-source-*.tar.*")
    found = [path for place in places for path in sorted(root.glob(place))]
    return next((path for path in found if path.is_file() and not path.is_symlink()), None)
