"""Describe a package of a livepatch: its names, what it needs, and its files."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from klpbuild.arch import Architecture
from klpbuild.errors import KlpError, printable, reading
from klpbuild.kernel.tree import Kernel
from klpbuild.module.livepatch import FILE_NAME, Livepatch
from klpbuild.module.tables import livepatch_api
from klpbuild.patch.fix import Standing
from klpbuild.run import run
from klpbuild.running.program import program_text

#: Suffix of the document with what the module mends.
_PROVENANCE = ".provenance.json"


@dataclass(frozen=True)
class PackagedFile:
    """A file that a package brings.

    :ivar path: absolute, on the machine that it is for.
    """

    path: str
    data: bytes
    mode: int = 0o644


@dataclass(frozen=True)
class Package:
    """A livepatch for one kernel, ready to be packaged.

    :ivar release: of the kernel.
    :ivar kernel_version: the version of the kernel's Debian package, empty if not known.
    :ivar module: the finished module: signed and compressed as it is to be installed.
    :ivar directory: where modprobe finds it, absolute.
    :ivar documents: provenance and the like, to go with it.
    :ivar maintainer: ``Name <address>``.
    :ivar epoch: seconds since 1970, the time of every file and of the changelog.
    """

    livepatch: Livepatch
    release: str
    arch: Architecture
    kernel_version: str
    module: Path
    directory: str
    documents: tuple[Path, ...]
    maintainer: str
    epoch: int

    @property
    def name(self) -> str:
        """``livepatch-meminfo-6.1.0-47-cloud-amd64``, in the letters that dpkg allows."""
        return package_name(f"livepatch-{self.livepatch.name}-{self.release}")

    @property
    def version(self) -> str:
        """The package's version; a greater one upgrades it, and its livepatch replaces this one."""
        return self.livepatch.version

    @property
    def virtual_name(self) -> str:
        """The name that every package for this kernel provides: only one can be installed."""
        return package_name(f"livepatch-{self.release}")

    @property
    def module_name(self) -> str:
        """The module's name for modprobe."""
        return self.livepatch.module_name

    @property
    def unit(self) -> str:
        """The systemd unit that loads it, in the letters that systemd allows."""
        return re.sub(r"[^a-z0-9.-]", "-", self.name) + ".service"

    @property
    def program(self) -> str:
        """The path of the program ``livepatch`` in the package."""
        return f"/usr/libexec/{self.name}/livepatch"

    @property
    def summary(self) -> str:
        """One line that says what it is."""
        return f"kernel livepatch for Linux {self.release}"

    @property
    def about(self) -> tuple[str, ...]:
        """The package's description in paragraphs: the livepatch's, and what it mends."""
        about = self.livepatch.description or f"Livepatch {self.livepatch.name}."
        return (about, f"Fixes {', '.join(self.mended)}.") if self.mended else (about,)

    @property
    def paragraphs(self) -> tuple[str, ...]:
        """The package's description: what the livepatch is, and when it is loaded."""
        return (
            *self.about,
            "The livepatch replaces functions of the running kernel, without a reboot. It is loaded"
            " when it is installed and at each boot of exactly this kernel, unless the kernel"
            " command line says livepatch.enable=0.",
        )

    @property
    def changes(self) -> tuple[str, ...]:
        """The changelog's entry: what it is, each fix, and what no fix names."""
        fixes = self._fixes()
        named = {reference for _, references in fixes for reference in references}
        rest = [reference for reference in self.mended if reference not in named]
        lines = [f"{what} ({', '.join(ids)})" if ids else what for what, ids in fixes]
        lines += [f"Fixes {', '.join(rest)}."] if rest else []
        return (self.about[0], *lines, *self._left_out())

    @property
    def cves(self) -> tuple[str, ...]:
        """The CVE numbers that it mends, in small letters, as the names of what it provides."""
        numbers = (each.lower() for each in self.mended)
        return tuple(n for n in numbers if re.fullmatch(r"cve-\d{4}-\d{4,19}", n))

    @cached_property
    def mended(self) -> tuple[str, ...]:
        """CVE numbers and the author's own references, without what this kernel has not.

        Patches may change nothing in this kernel; its provenance says which do.
        """
        known = self._provenance.get("references")
        if known is None:
            return self.livepatch.references
        described = {reference.upper() for reference in self.livepatch.references}
        return tuple(
            reference["id"]
            for reference in known
            if reference["kind"] == "cve" or reference["id"].upper() in described
        )

    def _left_out(self) -> list[str]:
        """Describe each patch and part that is not in it, but could be."""
        return [
            printable(": ".join(each for each in (f"Without {_name(fix)}", fix["why"]) if each))
            for fix in self._provenance.get("fixes", ())
            if fix["result"] not in (Standing.IN, Standing.IDLE)
        ]

    def _fixes(self) -> list[tuple[str, tuple[str, ...]]]:
        """List the subject of each fix that changes something, and the CVE numbers in it."""
        references = self._provenance.get("references", ())
        of_parts = [
            (printable(fix["subject"]), tuple(cve for cve in fix["cves"] if cve in self.mended))
            for fix in self._provenance.get("fixes", ())
            if fix["subject"] and not fix["patch"] and fix["result"] == Standing.IN
        ]
        return of_parts + [
            (
                printable(patch["subject"]),
                tuple(
                    reference["id"]
                    for reference in references
                    if reference["id"] in self.mended
                    and reference["where"].rpartition(":")[0] == patch["name"]
                ),
            )
            for patch in self._provenance.get("patches", ())
            if patch["subject"] and not patch["changes_nothing"]
        ]

    @cached_property
    def _provenance(self) -> dict[str, Any]:
        """The predicate of the module's provenance; empty without one."""
        for document in self.documents:
            if document.name.endswith(_PROVENANCE):
                predicate: dict[str, Any] = json.loads(read(document))["predicate"]
                return predicate
        return {}

    @property
    def date(self) -> datetime:
        """The time of the changelog."""
        return datetime.fromtimestamp(self.epoch, UTC)

    @property
    def debian_date(self) -> str:
        """The time as Debian's changelogs write it."""
        from email.utils import format_datetime  # its import takes 5 ms of each build

        return format_datetime(self.date)

    def files(self, units: str) -> tuple[PackagedFile, ...]:
        """Collect what every kind of package brings: module, unit, program, documents.

        :param units: the distribution's directory of systemd units.
        :raises KlpError: when an input cannot be read.
        """
        inputs = [PackagedFile(f"{self.directory}/{self.module.name}", read(self.module))]
        for document in self.documents:
            inputs.append(
                PackagedFile(f"/usr/share/livepatch/{self.name}/{document.name}", read(document))
            )
        unit = render("livepatch.service.j2", self)
        return (
            *inputs,
            PackagedFile(f"{units}/{self.unit}", unit.encode()),
            PackagedFile(self.program, program_text().encode(), 0o755),
        )


def package_livepatch(
    livepatch: Livepatch,
    kernel: Kernel,
    module: Path,
    directory: str,
    epoch: int,
    documents: tuple[Path, ...] = (),
) -> Package:
    """Describe the package of a livepatch.

    :raises KlpError: for a livepatch that cannot be upgraded once it is installed.
    """
    check_packageable(livepatch)
    if not livepatch_api(kernel).replace:
        raise KlpError(
            "has no atomic replace, so a package's livepatch could not be upgraded",
            where=kernel.name,
            why="It came with v5.1.",
            hint="Install the module without a package.",
        )
    # It stands in shell scripts and in systemd units.
    if not re.fullmatch(r"[A-Za-z0-9._+~-]+", kernel.release):
        raise KlpError(
            f"release {kernel.release!r} cannot be a package's",
            where=kernel.name,
            hint="Letters, digits and . _ + ~ - can be in it.",
        )
    version = kernel.package_version or installed_version(kernel)
    if not re.fullmatch(r"[A-Za-z0-9.+~:-]*", version):
        raise KlpError(f"version {version!r} cannot be a package's", where=kernel.name)
    return Package(
        livepatch,
        kernel.release,
        kernel.arch,
        version,
        module,
        directory,
        documents,
        maintainer(),
        epoch,
    )


def installed_version(kernel: Kernel) -> str:
    """Ask dpkg for the version of a kernel's headers package; empty if they are of none.

    Image and headers are made from one source package and have one version.
    """
    name = f"linux-headers-{kernel.release}"
    if kernel.build.resolve() != Path("/usr/src") / name:
        return ""
    command = ["dpkg-query", "--show", "--showformat=${Version}", name]
    try:
        done = run(command)
    except FileNotFoundError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def check_packageable(livepatch: Livepatch) -> None:
    """Refuse a livepatch that cannot be upgraded once it is installed."""
    if not livepatch.version:
        raise KlpError(
            f"livepatch {livepatch.name} has no version",
            why="A package needs one, and the kernel loads a newer livepatch beside the older one"
            "\nonly if their modules' names differ: the version is part of the name.",
            hint=f'Write version = "1" into its {FILE_NAME}.',
        )
    if not livepatch.replace or (livepatch.own_tables and not _says_replace(livepatch)):
        how = "Write .replace = true into its struct klp_patch"
        if not livepatch.own_tables:
            how = f"Take replace = false out of its {FILE_NAME}"
        raise KlpError(
            f"livepatch {livepatch.name} does not replace those before it",
            why="After an upgrade of its package the older version would stay in force below it.",
            hint=f"{how}, or install the module without\na package.",
        )


def _says_replace(livepatch: Livepatch) -> bool:
    """Tell whether a source with tables of its own asks for atomic replace."""
    texts = (read(source).decode(errors="replace") for source in livepatch.sources)
    return any(re.search(r"\.replace\s*=\s*true\b", text) for text in texts)


def _name(fix: Mapping[str, Any]) -> str:
    """Name a patch, or a part, of the provenance."""
    return "/".join(name for name in (fix.get("part"), fix["patch"]) if name)


def read(path: Path) -> bytes:
    """Read a file; refuse with its name if that fails."""
    with reading(path):
        return path.read_bytes()


def package_name(text: str) -> str:
    """Convert a text into a package's name (Debian policy 5.6.1; rpm takes it, too)."""
    return re.sub(r"[^a-z0-9+.-]", "-", text.lower())


def maintainer(environment: Mapping[str, str] = os.environ) -> str:
    """Read who makes the packages from the variables that Debian's tools read.

    :param environment: ``DEBFULLNAME``, ``DEBEMAIL``, ``NAME``, ``EMAIL`` (see debchange(1)).
    """
    name = environment.get("DEBFULLNAME") or environment.get("NAME") or ""
    address = environment.get("DEBEMAIL") or environment.get("EMAIL") or ""
    both = re.fullmatch(r"\s*(.*?)\s*<(.+)>\s*", address)
    if both:
        name, address = name or both[1], both[2]
    text = f"{name or 'Unknown'} <{address or 'unknown@invalid.invalid'}>"
    if not text.isprintable() or not re.fullmatch(r"[^<>@]+ <[^<>@\s]+@[^<>@\s]+>", text):
        raise KlpError(
            f"{text!r} is no maintainer",
            where="DEBFULLNAME and DEBEMAIL",
            hint="Set them to a name and an address.",
        )
    return text


def source_date(directory: Path, given: int | None = None) -> int:
    """Find the time that packages of a livepatch bear, seconds since 1970.

    ``SOURCE_DATE_EPOCH``; else the last commit that changed the livepatch's directory;
    else, outside of git, the newest time of its files.

    :param given: ``SOURCE_DATE_EPOCH``.
    """
    if given is not None:
        return given
    # A directory of a contributor may hold a repository whose configuration names programs.
    settings = ("safe.bareRepository=explicit", "core.fsmonitor=false", "gpg.program=false")
    options = [word for setting in settings for word in ("-c", setting)]
    command = ["git", *options, "log", "-1", "--no-show-signature", "--format=%ct", "--", "."]
    environment = {**os.environ, "GIT_ALLOW_PROTOCOL": ""}  # nothing is fetched
    try:
        done = run(command, environment, directory)
        if done.returncode == 0 and done.stdout.strip():
            return int(done.stdout)
    except FileNotFoundError:
        pass  # no git on this machine
    times = [path.stat().st_mtime for path in directory.rglob("*") if path.is_file()]
    return int(max(times, default=0))


def render(template: str, package: Package, **more: object) -> str:
    """Render one of the templates of this room."""
    # A build in which nothing is done has no use for them.
    from klpbuild.module.templates import environment

    templates = environment(Path(__file__).parent / "templates")
    return templates.get_template(template).render(package=package, **more)
