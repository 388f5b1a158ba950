"""Choose the packages that make a Debian kernel, and the suites that may have them."""

from __future__ import annotations

import difflib
import operator
import re
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from klpbuild.distro import apt
from klpbuild.distro.apt import Apt, Offer
from klpbuild.distro.parts import Part
from klpbuild.distro.versions import VersionKey, version_key
from klpbuild.errors import KlpError
from klpbuild.files.whole import write_file

Report = Callable[[str], None]

#: A meta-package's name has two numbers: linux-image-6.12-cloud-amd64.
RELEASE = r"\d+\.\d+\.\d+[a-z0-9.+~]*(?:-[a-z0-9.+~]+)+"
_IMAGE = re.compile(rf"linux-image-({RELEASE}?)(-unsigned)?")

_RELATIONS: dict[str, Callable[[VersionKey, VersionKey], bool]] = {
    "=": operator.eq,
    ">=": operator.ge,
    ">>": operator.gt,
    "<=": operator.le,
    "<<": operator.lt,
}

#: Code names of Debian's releases since the first with a kernel that klpbuild builds for.  Names
#: such as stable mean another release some day, and mirrors may have them later.
_CODENAMES = ("bookworm", "trixie", "forky", "duke")
_SUITES = (
    *(f"{name}{kind}" for name in _CODENAMES for kind in ("", "-backports", "-proposed-updates")),
    "sid",
)
_SECURITY_SUITES = tuple(f"{name}-security" for name in _CODENAMES)
#: Seconds after which other suites are asked again what they offer.
_FRESH = 3600.0
_KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
#: How many releases an error names.
_NEAR = 6


def offered_releases(offering: Apt) -> tuple[str, ...]:
    """List the kernel releases that apt's sources offer with their headers, newest first.

    :raises KlpError: when there are none.
    """
    headers = offering.package_names("linux-headers-")
    names = [
        name
        for name in offering.package_names("linux-image-")
        if (match := _IMAGE.fullmatch(name))
        and not name.endswith("-dbg")
        and f"linux-headers-{match[1]}" in headers
    ]
    newest: dict[str, VersionKey] = {}
    for name, versions in offering.offers(names).items():
        release = name.removeprefix("linux-image-").removesuffix("-unsigned")
        key = version_key(versions[0].version)
        newest[release] = max(key, newest.get(release, key))
    if not newest:
        raise apt.nothing_offered()
    by_name = sorted(newest)
    return tuple(sorted(by_name, key=lambda release: newest[release], reverse=True))


def newest_release(offering: Apt) -> str:
    """Name the newest release for cloud machines of this machine's architecture.

    :raises KlpError: when apt's sources offer none.
    """
    releases = offered_releases(offering)
    flavour = f"-cloud-{apt.native_architecture()}"
    for release in releases:
        if release.endswith(flavour):
            return release
    raise KlpError(
        f"apt offers no kernel of the flavour {flavour[1:]}",
        hint="\n".join(("Name one of these releases:", *releases)),
    )


def offers_kernel(offering: Apt, release: str) -> bool:
    """Tell whether apt's sources offer an image of a release with its headers."""
    return bool(_images(release, offering.offers(_first_names(release))))


def _first_names(release: str) -> list[str]:
    image = f"linux-image-{release}"
    return [image, f"{image}-unsigned", f"linux-headers-{release}"]


def _images(release: str, offered: dict[str, tuple[Offer, ...]]) -> list[Offer]:
    """List the images whose headers are offered in the same version, the unsigned ones first."""
    image = f"linux-image-{release}"
    headers = {offer.version for offer in offered.get(f"linux-headers-{release}", ())}
    return [
        offer
        for name in (f"{image}-unsigned", image)
        for offer in offered.get(name, ())
        if offer.version in headers
    ]


def choose(offering: Apt, release: str, parts: Sequence[Part], report: Report) -> dict[Part, Offer]:
    """Choose the packages of a kernel that is not there yet.

    :param parts: those that are wanted.
    :raises KlpError: when apt's sources do not offer them.
    """
    offered = offering.offers(_first_names(release))
    images = _images(release, offered)
    if not images:
        raise unknown_release(release, offering)
    # max keeps the first of equals: the unsigned one.
    image = max(images, key=lambda offer: version_key(offer.version))
    headers = next(o for o in offered[f"linux-headers-{release}"] if o.version == image.version)
    chosen = _files_of(offering, release, image)
    chosen[Part.HEADERS] = headers
    chosen |= _needed_by(offering, headers, report)
    others = [part for part in parts if part not in chosen]
    return chosen | choose_more(offering, release, others, image.version)


def choose_more(
    offering: Apt, release: str, parts: Sequence[Part], version: str, there: Path | None = None
) -> dict[Part, Offer]:
    """Choose packages of exactly the image's version.

    :param there: where the kernel stands, when its image was fetched before.
    :raises KlpError: when apt's sources do not offer them.
    """
    series = ".".join(release.split(".")[:2])
    names = {Part.DEBUG: f"linux-image-{release}-dbg", Part.SOURCE: f"linux-source-{series}"}
    offered = offering.offers(names[part] for part in parts)
    return {part: _exact(names[part], version, offered, there) for part in parts}


def _files_of(offering: Apt, release: str, image: Offer) -> dict[Part, Offer]:
    """Choose the packages with the files of an image.

    Since 6.19 linux-image-RELEASE is empty and depends on those that have them.
    """
    if f"linux-binary-{release}" not in image.depends:
        return {Part.IMAGE: image}
    names = {
        Part.IMAGE: (f"linux-binary-unsigned-{release}", f"linux-binary-{release}"),
        Part.MODULES: (f"linux-modules-{release}",),
        Part.BASE: (f"linux-base-{release}",),
    }
    offered = offering.offers(name for those in names.values() for name in those)
    chosen = {}
    for part, those in names.items():
        found = [o for name in those for o in offered.get(name, ()) if o.version == image.version]
        chosen[part] = found[0] if found else _exact(those[-1], image.version, offered, None)
    return chosen


def unknown_release(release: str, *offering: Apt) -> KlpError:
    """Make the error for a release that is not offered: it names near ones and their suites."""
    found: dict[str, str] = {}
    for each in offering:
        releases = offered_releases(each)
        near = difflib.get_close_matches(release, releases, _NEAR, 0.6) or releases[:_NEAR]
        images = {name: one for one in near for name in _first_names(one)[:2]}
        for (name, _), suite in each.suites(images).items():
            found.setdefault(images[name], suite)
        for one in near:
            found.setdefault(one, "")
    width = max(map(len, found), default=0)
    rows = [f"{one:<{width}}  {suite}".rstrip() for one, suite in found.items()]
    return KlpError(
        f"apt offers no kernel {release} with its headers",
        hint="\n".join(("Name one of these releases:", *rows)),
    )


def _exact(
    name: str, version: str, offered: dict[str, tuple[Offer, ...]], there: Path | None
) -> Offer:
    for offer in offered.get(name, ()):
        if offer.version == version:
            return offer
    others = ", ".join(offer.version for offer in offered.get(name, ())) or "none"
    again = "Run `apt-get update` as root and try again."
    if there:
        again += f"\nIf apt has a newer image of this release, remove {there} to fetch it anew."
    raise KlpError(
        f"apt does not offer {name} {version}",
        why=f"It must be of exactly the image's version.  Offered: {others}.",
        hint=again,
    )


def _needed_by(offering: Apt, headers: Offer, report: Report) -> dict[Part, Offer]:
    """Find the common headers and kbuild that a headers package depends on."""
    patterns = {Part.COMMON: r"linux-headers-\S+-common\S*", Part.KBUILD: r"linux-kbuild-\S+"}
    needs: dict[Part, tuple[str, str, str]] = {}
    for part, pattern in patterns.items():
        relation = rf"(?:^|, )({pattern}?)(?: \((\S+) (\S+)\))?(?=,|$)"
        match = re.search(relation, headers.depends)
        if not match:
            raise KlpError(
                f"{headers.name} {headers.version} names no {part} that it depends on",
                why=f"Depends: {headers.depends}",
            )
        needs[part] = (match[1], match[2] or "", match[3] or "")
    offered = offering.offers(name for name, _, _ in needs.values())
    return {
        part: _satisfying(headers, *need, offered.get(need[0], ()), report)
        for part, need in needs.items()
    }


def _satisfying(
    headers: Offer,
    name: str,
    relation: str,
    version: str,
    offered: tuple[Offer, ...],
    report: Report,
) -> Offer:
    """Choose the offer of the headers' own version, else the lowest that they allow."""
    allowed = [
        offer
        for offer in offered
        if not relation or _RELATIONS[relation](version_key(offer.version), version_key(version))
    ]
    if not allowed:
        raise KlpError(
            f"apt does not offer {name} as {headers.name} needs it",
            why=f"Needed: {relation} {version}.  "
            f"Offered: {', '.join(offer.version for offer in offered) or 'none'}.",
            hint="Run `apt-get update` as root and try again.",
        )
    for offer in allowed:
        if offer.version == headers.version:
            return offer
    lowest = allowed[-1]
    report(
        f"{name} {headers.version} is not offered; {lowest.version} is the lowest that "
        f"{headers.name} allows"
    )
    return lowest


def other_suites(
    directory: Path, suites: Iterable[str], report: Report, architecture: str = ""
) -> Apt:
    """Make an apt that knows other suites of the machine's own mirror.

    :param directory: gets its configuration and state; what is kept there of these suites is
        brought up to date.
    :param suites: names or code names; all that a mirror of Debian has if there are none.
    :param architecture: Debian's name of the packages' architecture; the machine's own if empty.
    :raises KlpError: when the machine has no source of Debian, or none of them can be read.
    """
    named = tuple(suites)
    other, stamp = Apt(directory / "apt.conf"), directory / "updated"
    with suppress(OSError):
        if time.time() - stamp.stat().st_mtime < _FRESH:
            return other
    archives: dict[str, str] = {}
    for source in Apt().sources():
        if source.origin == "Debian":
            archives.setdefault(source.label, source.uri)
    if "Debian" not in archives:
        raise KlpError(
            "apt's sources name no mirror of Debian",
            why="Other suites are looked for where the machine's own packages come from.",
            hint="Name a kernel by the path of its headers or build tree instead.",
        )
    signed = f"[signed-by={_KEYRING}] " if _KEYRING.is_file() else ""
    lines = []
    for label, uri in archives.items():
        security = label != "Debian"
        for suite in named or (_SECURITY_SUITES if security else _SUITES):
            if suite.endswith("-security") == security:
                lines.append(f"deb {signed}{uri} {suite} main\n")
    for part in ("lists/partial", "archives/partial"):
        (directory / part).mkdir(parents=True, exist_ok=True)
    settings: dict[str, str | Path] = {
        "Dir::State": directory,
        "Dir::State::lists": directory / "lists",
        "Dir::State::status": directory / "status",  # as on a machine without any package
        "Dir::Cache": directory,
        "Dir::Cache::archives": directory / "archives",
        "Dir::Etc::sourcelist": directory / "sources.list",
        "Dir::Etc::sourceparts": "-",
        "Dir::Etc::preferences": directory / "preferences",
        "Dir::Etc::preferencesparts": directory / "preferences.d",
        "APT::Sandbox::User": "root",
        "APT::Install-Recommends": "false",
        "Acquire::Languages": "none",
    }
    if architecture:
        settings["APT::Architecture"] = settings["APT::Architectures"] = architecture
    write_file(directory / "status", b"")
    write_file(directory / "sources.list", "".join(lines).encode())
    text = "".join(f'{name} "{value}";\n' for name, value in settings.items())
    write_file(directory / "apt.conf", text.encode())
    report(f"reading the lists of {', '.join(named) or 'all suites'} from {archives['Debian']}")
    done = other.run("apt-get", "-q", "update")
    if done.returncode and not other.sources():
        wrong = [line for line in done.stderr.splitlines() if line.startswith("E:")]
        raise KlpError(
            f"the lists of {', '.join(named) or 'other suites'} cannot be read",
            why="\n".join(wrong[:5]),
            hint="Name suites as the mirror does, such as trixie-backports or sid.",
        )
    write_file(stamp, b"")
    return other
