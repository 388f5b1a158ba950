"""Make metapackages, which depend on the newest livepatch of a flavour."""

from __future__ import annotations

import gzip
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path

from klpbuild.errors import KlpError
from klpbuild.files.whole import write_file
from klpbuild.package.contents import Package, PackagedFile, package_name, render
from klpbuild.package.deb import changelog, installed_size, pack
from klpbuild.package.rpm import changelog_day, literal, rpm_arch, rpmbuild

#: What a release says of one build: 47, 427.13.1.el9_4.x86_64, rc1.
_BUILD = re.compile(r"\d|rc\d|(?:el|fc)\d")

#: When the next kernel is there, nothing depends on the livepatch of the running one any more.
#: Removing a package unloads its livepatch, so apt keeps it as long as that kernel.
_SETTING = 'APT::VersionedKernelPackages { "livepatch-.*"; };\n'


@dataclass(frozen=True)
class Metapackage:
    """A package whose name stays the same with the next kernel and livepatch version.

    Its version begins with the kernel's: the newest of all that a repository has is that of the
    newest kernel, whichever was built last.

    :ivar of: the package that it depends on.
    :ivar flavour: the kernels that it follows, such as ``6.1-cloud-amd64``.
    """

    of: Package
    flavour: str

    @property
    def name(self) -> str:
        """``livepatch-demo-6.1-cloud-amd64``, in the letters that dpkg allows."""
        return package_name(f"livepatch-{self.of.livepatch.name}-{self.flavour}")

    @property
    def kernel(self) -> str:
        """The kernel's version, in letters that both dpkg and rpm allow in one."""
        return re.sub(r"[-_:]", ".", self.of.kernel_version or self.of.release)

    @property
    def version(self) -> str:
        """The whole version, for dpkg."""
        return f"{self.kernel}+{self.of.version}"

    @property
    def deb_name(self) -> str:
        """The name of the package for dpkg."""
        return f"{self.name}_{self.version}_{self.of.arch.debian_name}.deb"

    @property
    def rpm_name(self) -> str:
        """The name of the package for rpm."""
        return f"{self.name}-{self.kernel}-{self.of.version}.{rpm_arch(self.of)}.rpm"

    @property
    def setting(self) -> str:
        """The name of apt's setting, in the letters that apt.conf(5) allows."""
        return re.sub(r"[^A-Za-z0-9._-]", "-", self.name) + ".conf"

    @property
    def change(self) -> str:
        """What is new in it."""
        return f"Depends on {self.of.name} {self.of.version}."


def metapackage(package: Package) -> Metapackage:
    """Describe the metapackage that a livepatch's package belongs to.

    :raises KlpError: for a kernel whose release names no version to follow.
    """
    flavour = flavour_of(package.release)
    if not flavour or flavour == package.release:
        raise KlpError(
            f"release {package.release!r} is of no flavour that a metapackage could follow",
            why="A release begins with the kernel's version, and a build's own number or its"
            "\nflavour comes behind, as in 6.1.0-47-cloud-amd64.",
        )
    return Metapackage(package, flavour)


def flavour_of(release: str) -> str:
    """Take out of a release what changes from one build to the next.

    ``6.1.0-47-cloud-amd64`` is one of ``6.1-cloud-amd64``; ``5.14.0-427.el9.x86_64`` of
    ``5.14-x86_64``.  Kernels of another series (6.12 beside 6.1) are another flavour: nobody
    gets one because they wanted livepatches.

    :returns: empty for a release without a version.
    """
    series = re.match(r"\d+\.\d+", release)
    words = release.split("-")[1:]
    build = ""
    while words and _BUILD.match(words[0]):
        build = words.pop(0)
    if not words and not _BUILD.match(machine := build.rpartition(".")[2]):
        words = [machine]
    return "-".join((series[0], *filter(None, words))) if series else ""


def build_meta_deb(package: Package, directory: Path) -> Path:
    """Make the metapackage for dpkg; the same input gives the same bytes."""
    meta = metapackage(package)
    place = f"/usr/share/doc/{meta.name}"
    entry = changelog(meta.name, meta.version, (meta.change,), package)
    kept = f"/etc/apt/apt.conf.d/{meta.setting}"
    files = (
        PackagedFile(kept, _SETTING.encode()),
        PackagedFile(f"{place}/changelog.gz", gzip.compress(entry.encode(), 9, mtime=0)),
        PackagedFile(f"{place}/copyright", render("copyright.j2", package, meta=meta).encode()),
    )
    control = render("meta-control.j2", package, meta=meta, size=installed_size(files))
    conffiles = PackagedFile("/DEBIAN/conffiles", f"{kept}\n".encode())
    return pack(control, files, package.epoch, directory / meta.deb_name, conffiles)


def build_meta_rpm(package: Package, directory: Path) -> Path:
    """Make the metapackage for rpm; the same input gives the same bytes."""
    meta = metapackage(package)
    text = render(
        "meta.spec.j2",
        package,
        meta=meta,
        arch=rpm_arch(package),
        date=changelog_day(package),
        maintainer=literal(package.maintainer),
    )
    with tempfile.TemporaryDirectory(prefix="klpbuild-rpm-") as name:
        spec = Path(name) / f"{meta.name}.spec"
        write_file(spec, text.encode())
        return rpmbuild(spec, package, directory / meta.rpm_name)
