"""List the kinds of packages, and choose which are made."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path

from klpbuild.errors import KlpError
from klpbuild.package.contents import Package
from klpbuild.package.deb import build_deb, deb_name
from klpbuild.package.meta import build_meta_deb, build_meta_rpm, metapackage
from klpbuild.package.rpm import build_rpm, rpm_name, source_name, spec_name, write_spec


class Format(StrEnum):
    """A kind of package."""

    DEB = "deb"
    SPEC = "spec"  #: what rpmbuild takes: a spec file and a source archive
    RPM = "rpm"
    META_DEB = "meta-deb"  #: the name that follows the newest livepatch of a flavour
    META_RPM = "meta-rpm"

    def file_names(self, package: Package) -> tuple[str, ...]:
        """Name the files that are made."""
        return tuple(name(package) for name in _MADE[self][1])

    def make(self, package: Package, directory: Path) -> None:
        """Make the package's files.

        :param directory: gets them; for an rpm it has the spec file already.
        :raises KlpError: when a program is missing or fails, or an input cannot be read.
        """
        _MADE[self][0](package, directory)


#: For each kind the function that makes it, and those that name its files.
_MADE: dict[Format, tuple[Callable[[Package, Path], object], list[Callable[[Package], str]]]] = {
    Format.DEB: (build_deb, [deb_name]),
    Format.SPEC: (write_spec, [spec_name, source_name]),
    Format.RPM: (build_rpm, [rpm_name]),
    Format.META_DEB: (build_meta_deb, [lambda package: metapackage(package).deb_name]),
    Format.META_RPM: (build_meta_rpm, [lambda package: metapackage(package).rpm_name]),
}


def wanted_formats(text: str) -> tuple[Format, ...]:
    """Parse the kinds of packages that an option names.

    :param text: names with commas between; empty: a spec file, and what can be made with the
        programs of this machine.
    :raises KlpError: for another name.
    """
    if not text:
        programs = {"dpkg-deb": Format.DEB, "rpmbuild": Format.RPM}
        found = {kind for program, kind in programs.items() if shutil.which(program)}
        return tuple(kind for kind in Format if kind in found or kind is Format.SPEC)
    names = set(text.split(","))
    if unknown := sorted(names - set(Format)):
        raise KlpError(
            f"{unknown[0]!r} is no kind of package",
            where=f"packages={text}",
            hint=f"Known: {', '.join(Format)}.",
        )
    if Format.RPM in names:
        names.add(Format.SPEC)
    return tuple(kind for kind in Format if kind in names)
