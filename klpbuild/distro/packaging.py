"""Names that distributions give to the packages of a kernel."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePath

from klpbuild.distro.parts import Part

_UBUNTU_FLAVOUR = re.compile(r"\d+\.\d+\.\d+-\d+-[a-z]")
_DEBIAN_FLAVOUR = re.compile(r"-(?:amd64|arm64|armmp|686|686-pae|s390x|powerpc64le|riscv64)\Z")


@dataclass(frozen=True)
class Packaging:
    """The names of a kernel's packages; ``{release}``, ``{base}`` and ``{series}`` stand in them.

    :ivar image: the bootable image and, if `modules` is the same, the modules.
    :ivar debug: vmlinux with its symbols, and the modules' debug files.
    :ivar source: the whole source tree; empty where no package of files has it.
    """

    headers: str
    image: str
    modules: str
    debug: str
    source: str

    def package(self, part: Part, release: str) -> str:
        """Name the package that has a part of a kernel; empty if none has."""
        names = {
            Part.HEADERS: self.headers,
            Part.IMAGE: self.image,
            Part.MODULES: self.modules,
            Part.DEBUG: self.debug,
            Part.SOURCE: self.source,
        }
        # 6.8.0-31-generic: linux-headers-6.8.0-31, linux-source-6.8.0
        base = re.sub(r"-[a-z][a-z0-9-]*\Z", "", release)
        series = re.match(r"\d+\.\d+", release)
        return names[part].format(
            release=release, base=base, series=series[0] if series else release
        )


DEBIAN = Packaging(
    "linux-headers-{release} (with the -common headers and linux-kbuild that it needs)",
    "linux-image-{release} (since 6.19: linux-binary-{release})",
    "linux-image-{release} (since 6.19: linux-modules-{release})",
    "linux-image-{release}-dbg",
    "linux-source-{series}",
)
UBUNTU = Packaging(
    "linux-headers-{release} and linux-headers-{base}",
    "linux-image-{release} or linux-image-unsigned-{release}",
    "linux-modules-{release}",
    "linux-image-unsigned-{release}-dbgsym (*.ddeb)",
    "linux-source-{series}.0",
)
#: By ``make bindeb-pkg``.
KBUILD = Packaging(
    "linux-headers-{release}",
    "linux-image-{release}",
    "linux-image-{release}",
    "linux-image-{release}-dbg (made with CONFIG_DEBUG_INFO)",
    "",
)
FEDORA = Packaging(
    "kernel-devel-{release}",
    "kernel-core-{release}",
    "kernel-modules-core-{release} (or kernel-core) and kernel-modules-{release}",
    "kernel-debuginfo-{release}",
    "",
)
SUSE = Packaging(
    "kernel-default-devel and kernel-devel of {release}",
    "kernel-default of {release}",
    "kernel-default of {release}",
    "kernel-default-debuginfo of {release}",
    "kernel-source of {release}",
)
ARCH = Packaging("linux-headers", "linux", "linux", "linux-headers", "")


def packaging_of(headers: PurePath, release: str) -> Packaging:
    """Recognise the distribution by the place of a kernel's headers.

    :param headers: their place below the system's root, such as ``usr/src/kernels/R``.
    """
    parts = headers.parts
    if "kernels" in parts:
        return FEDORA
    if any(part.endswith("-obj") for part in parts):
        return SUSE
    if "modules" in parts:
        return ARCH
    if _UBUNTU_FLAVOUR.match(release):
        return UBUNTU
    return DEBIAN if _DEBIAN_FLAVOUR.search(release) else KBUILD


def packaging_of_files(names: tuple[str, ...]) -> Packaging:
    """Recognise the distribution by the names of downloaded packages."""
    if any(".pkg.tar" in name for name in names):
        return ARCH
    if any(name.endswith(".rpm") for name in names):
        suse = any(name.startswith(("kernel-default", "kernel-source")) for name in names)
        return SUSE if suse else FEDORA
    ubuntu = any(name.endswith(".ddeb") or "-generic" in name for name in names)
    return UBUNTU if ubuntu else DEBIAN
