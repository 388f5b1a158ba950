"""The programs and headers that klpbuild uses, and the package of each distribution."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Manager(Enum):
    """A package manager, with the command that installs packages."""

    APT = "apt install"
    DNF = "dnf install"
    ZYPPER = "zypper install"
    PACMAN = "pacman -S"


class Purpose(Enum):
    """Purpose of a program or header; the value is the report's heading."""

    BUILD = "to build livepatches"
    PATCH = "to build them from source patches"
    BOOT = "to boot them in QEMU"
    PACKAGE = "to make packages (optional)"
    COMFORT = "for comfort (optional)"

    @property
    def required(self) -> bool:
        """Whether klpbuild's main work needs it."""
        return self in (Purpose.BUILD, Purpose.PATCH, Purpose.BOOT)


@dataclass(frozen=True)
class Need:
    """A program or header that klpbuild uses.

    :ivar name: a program, or a header file below an include directory (``libelf.h``).
    :ivar packages: the package that has it, by `Manager` in the order of that class; empty
        where there is none.
    :ivar use: what for, in a few words; may be empty.
    """

    name: str
    purpose: Purpose
    packages: tuple[str, str, str, str]
    use: str = ""

    @property
    def is_header(self) -> bool:
        """Whether it is a header file and not a program."""
        return self.name.endswith(".h")

    def package(self, manager: Manager) -> str:
        """Name the package that has it."""
        return self.packages[list(Manager).index(manager)]


def _everywhere(package: str) -> tuple[str, str, str, str]:
    return package, package, package, package


NEEDS = (
    Need("gcc", Purpose.BUILD, _everywhere("gcc")),
    Need("ld", Purpose.BUILD, _everywhere("binutils")),
    Need("make", Purpose.BUILD, _everywhere("make")),
    Need("flex", Purpose.PATCH, _everywhere("flex")),
    Need("bison", Purpose.PATCH, _everywhere("bison")),
    Need("bc", Purpose.PATCH, _everywhere("bc")),
    Need("xz", Purpose.PATCH, ("xz-utils", "xz", "xz", "xz")),
    Need(
        "libelf.h",
        Purpose.PATCH,
        ("libelf-dev", "elfutils-libelf-devel", "libelf-devel", "libelf"),
        "for objtool",
    ),
    Need(
        "openssl/ssl.h",
        Purpose.PATCH,
        ("libssl-dev", "openssl-devel", "libopenssl-devel", "openssl"),
        "for kbuild's tools",
    ),
    Need(
        "qemu-system-x86_64",
        Purpose.BOOT,
        ("qemu-system-x86", "qemu-system-x86-core", "qemu-x86", "qemu-system-x86"),
    ),
    Need(
        "busybox",
        Purpose.BOOT,
        ("busybox-static", "busybox", "busybox-static", "busybox"),
        "linked statically",
    ),
    Need("dpkg-deb", Purpose.PACKAGE, ("dpkg", "dpkg", "dpkg", "dpkg"), "makes .deb"),
    Need("lintian", Purpose.PACKAGE, ("lintian", "", "", ""), "checks .deb"),
    Need("rpmbuild", Purpose.PACKAGE, ("rpm", "rpm-build", "rpm-build", "rpm-tools"), "makes .rpm"),
    Need("rpmlint", Purpose.PACKAGE, ("rpmlint", "rpmlint", "rpmlint", ""), "checks .rpm"),
    Need("openssl", Purpose.PACKAGE, _everywhere("openssl"), "makes keys to sign with"),
    Need("cpio", Purpose.PACKAGE, _everywhere("cpio"), "unpacks .rpm"),
    Need("modinfo", Purpose.COMFORT, _everywhere("kmod"), "shows what is in a module"),
    Need("ccache", Purpose.COMFORT, _everywhere("ccache"), "compiles nothing twice"),
    Need("dot", Purpose.COMFORT, _everywhere("graphviz"), "draws the reference graph"),
)
