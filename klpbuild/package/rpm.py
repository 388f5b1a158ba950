"""Make a package for rpm: a spec file, its source, and what rpmbuild makes of them."""

from __future__ import annotations

import gzip
import io
import re
import tarfile
import tempfile
import textwrap
from pathlib import Path

from klpbuild.files.whole import write_file
from klpbuild.package.contents import Package, PackagedFile, render
from klpbuild.package.deb import run

_UNITS = "/usr/lib/systemd/system"

#: Macros that keep the computer's name and the time out of an rpm.
_REPRODUCIBLE = {
    "_buildhost": "localhost",
    "use_source_date_epoch_as_buildtime": "1",
    "clamp_mtime_to_source_date_epoch": "1",
    "_binary_payload": "w9.gzdio",
}


def rpm_arch(package: Package) -> str:
    """Return rpm's name of the package's architecture."""
    return package.arch.rpm_name


def rpm_name(package: Package) -> str:
    """Name the package's file."""
    return f"{package.name}-{package.version}-1.{rpm_arch(package)}.rpm"


def spec_name(package: Package) -> str:
    """Name the spec file."""
    return f"{package.name}.spec"


def source_name(package: Package) -> str:
    """Name the source archive."""
    return f"{package.name}-{package.version}.tar.gz"


def write_spec(package: Package, directory: Path) -> tuple[Path, Path]:
    """Write the spec file and its source archive; the same input gives the same bytes.

    :param directory: gets them.
    :returns: the paths of both.
    :raises KlpError: when an input cannot be read.
    """
    files = package.files(_UNITS)
    spec, source = directory / spec_name(package), directory / source_name(package)
    write_file(source, _archive(package, files))
    write_file(spec, _spec(package, files).encode())
    return spec, source


def build_rpm(package: Package, directory: Path) -> Path:
    """Make an ``.rpm`` from the spec file and the source archive in a directory.

    :param directory: has them, and gets the package.
    :raises KlpError: when rpmbuild is missing or fails.
    """
    return rpmbuild(directory / spec_name(package), package, directory / rpm_name(package))


def rpmbuild(spec: Path, package: Package, made: Path) -> Path:
    """Make an ``.rpm`` from a spec file, with its sources beside it.

    :param package: whose architecture and time it gets.
    :param made: the package.
    """
    with tempfile.TemporaryDirectory(prefix="klpbuild-rpm-") as name:
        defined = {
            **_REPRODUCIBLE,
            "_topdir": name,
            "_sourcedir": str(spec.parent.absolute()),
            "_rpmdir": name,
            "_rpmfilename": made.name,
            "_dbpath": f"{name}/database",
        }
        words = [word for key in defined for word in ("--define", f"{key} {defined[key]}")]
        command = ["rpmbuild", "-bb", "--target", rpm_arch(package), *words, str(spec)]
        run(command, package.epoch, "rpm")
        write_file(made, (Path(name) / made.name).read_bytes())
    return made


def _archive(package: Package, files: tuple[PackagedFile, ...]) -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for file in sorted(files, key=lambda f: f.path):
            entry = tarfile.TarInfo(f"{package.name}-{package.version}{file.path}")
            entry.size, entry.mode, entry.mtime = len(file.data), file.mode, package.epoch
            archive.addfile(entry, io.BytesIO(file.data))
    return gzip.compress(data.getvalue(), 9, mtime=0)


def _spec(package: Package, files: tuple[PackagedFile, ...]) -> str:
    paragraphs = [textwrap.fill(literal(each), 79) for each in package.paragraphs]
    changes = [
        textwrap.fill(literal(each), 79, initial_indent="- ", subsequent_indent="  ")
        for each in package.changes
    ]
    return render(
        "livepatch.spec.j2",
        package,
        arch=rpm_arch(package),
        kernel=_kernel(package.release),
        description=_inside("\n\n".join(paragraphs)),
        files=files,
        date=changelog_day(package),
        changes=[_inside(each) for each in changes],
        maintainer=literal(package.maintainer),
    )


def changelog_day(package: Package) -> str:
    """Write the day as changelogs have it."""
    day, number, month, year, *_ = package.debian_date.replace(",", "").split()
    return f"{day} {month} {number} {year}"


def _kernel(release: str) -> str:
    """Name what the kernel's package provides.

    ``kernel-uname-r`` of Fedora and RHEL; of `make rpm-pkg` (scripts/package/mkspec) a name, since
    rpm takes one ``-`` in a version at most.
    """
    return f"kernel-uname-r = {release}" if release.count("-") <= 1 else f"kernel-{release}"


def literal(text: str) -> str:
    """Escape rpm's macros in a text."""
    return text.replace("%", "%%")


def _inside(text: str) -> str:
    """Keep lines of a text from beginning with ``%``.

    rpm expands ``%%`` before it looks whether a line begins a section or is a condition
    (build/parseSpec.c, readLine); a no-break space keeps it from that.
    """
    return re.sub(r"^(\s*)%", "\\1\N{NO-BREAK SPACE}%", text, flags=re.MULTILINE)
