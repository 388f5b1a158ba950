"""Ask apt what its sources offer, and download and unpack packages without root."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from klpbuild.distro.versions import version_key
from klpbuild.errors import KlpError
from klpbuild.files.whole import file_digest
from klpbuild.run import run
from klpbuild.terminal.progress import meanwhile

_UPDATE = "Run `apt-get update` as root and look into /etc/apt/sources.list*, then try again."

#: Messages of apt's methods when no server answers (methods/connect.cc).
_NO_WAY = re.compile(
    r"Could not resolve|Temporary failure resolving|ould not connect|nable to connect"
    r"|Cannot initiate the connection|Connection (timed out|failed)|etwork is unreachable"
)
#: Interval between reports on a download, in seconds.
_GLANCE = 0.2


@dataclass(frozen=True)
class Offer:
    """A package of one version that apt can download.

    :ivar size: of the ``.deb`` file, in bytes.
    :ivar unpacked_size: of its files, in bytes.
    :ivar depends: the field ``Depends``.
    """

    name: str
    version: str
    architecture: str
    size: int
    unpacked_size: int
    sha256: str
    depends: str


@dataclass(frozen=True)
class Source:
    """A suite that apt's sources name.

    :ivar uri: of the archive, such as a mirror's ``.../debian/``.
    :ivar suite: as the archive calls it: a code name such as ``bookworm-backports``.
    :ivar origin: ``Origin`` of its Release file, such as ``Debian``.
    :ivar label: ``Label`` of its Release file; that of security updates differs.
    """

    uri: str
    suite: str
    origin: str
    label: str


@dataclass(frozen=True)
class Apt:
    """apt with the machine's own sources, or with others beside them.

    :ivar configuration: a file for APT_CONFIG that names other sources and a state of their
        own, so that the machine's are not touched; None for the machine's own.
    """

    configuration: Path | None = None

    def run(self, *command: str, directory: Path | None = None) -> subprocess.CompletedProcess[str]:
        """Run one of apt's programs.

        :raises KlpError: when it is not on this machine.
        """
        return _run(command, directory, self.configuration)

    def sources(self) -> tuple[Source, ...]:
        """List the suites that apt knows, each once."""
        line = "$(REPO_URI)\t$(CODENAME)\t$(ORIGIN)\t$(LABEL)"
        done = self.run("apt-get", "indextargets", "--format", line, "Created-By: Packages")
        rows = (text.split("\t") for text in done.stdout.splitlines())
        return tuple(dict.fromkeys(Source(*row) for row in rows if len(row) == 4))

    def package_names(self, prefix: str) -> frozenset[str]:
        """List the package names that apt knows; some may have no package that it offers."""
        return frozenset(self.run("apt-cache", "pkgnames", prefix).stdout.split())

    def offers(self, names: Iterable[str]) -> dict[str, tuple[Offer, ...]]:
        """List all versions of some packages that apt offers, each name's newest first.

        :param names: names of packages; those that apt does not offer are left out.
        """
        wanted = sorted(set(names))
        found: dict[str, list[Offer]] = {}
        text = self.run("apt-cache", "show", "--all-versions", *wanted).stdout if wanted else ""
        for stanza in text.split("\n\n"):
            offer = _parse(stanza)
            if offer and offer.name in wanted and offer not in found.get(offer.name, ()):
                found.setdefault(offer.name, []).append(offer)
        return {
            name: tuple(sorted(versions, key=lambda o: version_key(o.version), reverse=True))
            for name, versions in found.items()
        }

    def suites(self, names: Iterable[str]) -> dict[tuple[str, str], str]:
        """Find which suite offers packages.

        :returns: name and version of each package to the suite, such as ``trixie-backports``.
        """
        wanted = sorted(set(names))
        text = self.run("apt-cache", "madison", *wanted).stdout if wanted else ""
        found: dict[tuple[str, str], str] = {}
        for line in text.splitlines():
            columns = [column.strip() for column in line.split("|")]
            if len(columns) == 3 and columns[2].endswith("Packages"):
                suite = columns[2].split()[1].partition("/")[0]
                found.setdefault((columns[0], columns[1]), suite)
        return found

    def download(
        self,
        offer: Offer,
        directory: Path,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> Path:
        """Download a package into a directory that has no other one.

        :param progress: called now and then with the number of bytes that are there, and of all.
        :raises KlpError: when it does not arrive whole.
        """
        # As root, apt would download as the user _apt, who may not write here.
        command = ["apt-get", "-q", "-o", "APT::Sandbox::User=root", "download"]
        command.append(f"{offer.name}={offer.version}")
        with _watching(directory, lambda size: progress(size, offer.size)):
            process = self.run(*command, directory=directory)
        files = sorted(directory.glob("*.deb"))
        if process.returncode or len(files) != 1:
            lines = [line for line in process.stderr.splitlines() if line[:2] in ("E:", "W:")]
            hint = "Look at the network, the disk and apt's proxy (Acquire::http::Proxy)."
            if _NO_WAY.search(process.stderr):
                hint = "The mirror does not answer: look at the network, and at apt's proxy."
            elif re.search(r"\b404\b", process.stderr):
                hint = f"The package is gone from the mirror: apt's lists are old.  {_UPDATE}"
            raise KlpError(
                f"{offer.name} {offer.version} could not be downloaded",
                why="\n".join(lines or process.stderr.splitlines()[-5:]),
                hint=hint,
            )
        found = file_digest(files[0])
        if found != offer.sha256:
            raise KlpError(
                f"{offer.name} {offer.version} arrived damaged",
                why=f"Its SHA-256 is {found}, apt's lists say {offer.sha256}.",
                hint=_UPDATE,
            )
        return files[0]


@contextmanager
def _watching(directory: Path, arrived: Callable[[int], None]) -> Iterator[None]:
    """Report now and then how many bytes the files of a directory have."""

    def look() -> None:
        # A file may be renamed between the listing and the look at it.
        with suppress(FileNotFoundError):
            arrived(sum(path.stat().st_size for path in directory.iterdir()))

    with meanwhile(look, _GLANCE):
        yield


def _run(
    command: Sequence[str], directory: Path | None = None, configuration: Path | None = None
) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"}
    if configuration is not None:
        environment["APT_CONFIG"] = str(configuration)
    try:
        return run(command, environment, directory)
    except FileNotFoundError as error:
        raise KlpError(
            f"{command[0]} is not on this machine",
            why="Kernels are fetched as Debian packages, with apt-get and dpkg-deb.",
            hint="Name a kernel by the path of its headers or build tree instead:\n"
            "kernel=/lib/modules/RELEASE/build",
        ) from error


@cache
def native_architecture() -> str:
    """Read Debian's name of this machine's architecture, such as ``amd64``."""
    return _run(["dpkg", "--print-architecture"]).stdout.strip()


def _parse(stanza: str) -> Offer | None:
    """Parse an offer; None for what is only installed, and for other architectures."""
    fields = dict(re.findall(r"^([A-Za-z0-9-]+):[ \t]*(.*)$", stanza, re.MULTILINE))
    if not fields.get("Filename") or not fields.get("SHA256"):
        return None
    if fields.get("Architecture") not in (native_architecture(), "all"):
        return None
    return Offer(
        name=fields["Package"],
        version=fields["Version"],
        architecture=fields["Architecture"],
        size=int(fields["Size"]),
        unpacked_size=int(fields.get("Installed-Size", "0")) * 1024,
        sha256=fields["SHA256"],
        depends=fields.get("Depends", ""),
    )


def nothing_offered() -> KlpError:
    """Make the error for a machine whose apt knows no kernel at all."""
    return KlpError(
        "apt offers no kernel package",
        why="Its package lists are empty or name no kernel of Debian.",
        hint=_UPDATE,
    )


def unpack(package: Path, directory: Path) -> None:
    """Unpack a package's files below a directory.

    :raises KlpError: when the package is broken or the disk is full.
    """
    process = _run(["dpkg-deb", "-x", str(package), str(directory)])
    if process.returncode:
        full = "No space left on device" in process.stderr
        raise KlpError(
            f"{package.name} could not be unpacked" + (": the disk is full" if full else ""),
            where=str(directory),
            why=process.stderr.strip(),
            hint="Set KLPBUILD_CACHE to a directory on a larger disk." if full else "",
        )
