"""Debian's kernels as packages: which make a kernel, and how they get into the cache."""

from __future__ import annotations

import operator
import re
import shutil
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path

from klpbuild.errors import KlpError
from klpbuild.kernel import apt
from klpbuild.kernel.apt import Offer
from klpbuild.kernel.cache import (
    REQUIRED_PARTS,
    CachedKernel,
    FetchedPackage,
    Part,
    aside,
    cached_kernel,
    kernel_directory,
    locked,
)
from klpbuild.kernel.tree import Kernel
from klpbuild.kernel.versions import VersionKey, version_key

Report = Callable[[str], None]

#: A meta-package's name has two numbers: linux-image-6.12-cloud-amd64.
_RELEASE = r"\d+\.\d+\.\d+[a-z0-9.+~]*(?:-[a-z0-9.+~]+)+"
_IMAGE = re.compile(rf"linux-image-({_RELEASE}?)(-unsigned)?")

_RELATIONS: dict[str, Callable[[VersionKey, VersionKey], bool]] = {
    "=": operator.eq,
    ">=": operator.ge,
    ">>": operator.gt,
    "<=": operator.le,
    "<<": operator.lt,
}


def offered_releases() -> tuple[str, ...]:
    """The kernel releases that apt's sources offer with their headers, newest first.

    :raises KlpError: when there are none.
    """
    headers = apt.package_names("linux-headers-")
    names = [
        name
        for name in apt.package_names("linux-image-")
        if (match := _IMAGE.fullmatch(name))
        and not name.endswith("-dbg")
        and f"linux-headers-{match[1]}" in headers
    ]
    newest: dict[str, VersionKey] = {}
    for name, versions in apt.offers(names).items():
        release = name.removeprefix("linux-image-").removesuffix("-unsigned")
        key = version_key(versions[0].version)
        newest[release] = max(key, newest.get(release, key))
    if not newest:
        raise apt.nothing_offered()
    by_name = sorted(newest)
    return tuple(sorted(by_name, key=lambda release: newest[release], reverse=True))


def newest_release() -> str:
    """The newest release for cloud machines of this machine's architecture.

    :raises KlpError: when apt's sources offer none.
    """
    releases = offered_releases()
    flavour = f"-cloud-{apt.native_architecture()}"
    for release in releases:
        if release.endswith(flavour):
            return release
    raise KlpError(
        f"apt offers no kernel of the flavour {flavour[1:]}",
        hint=_name_one_of(releases),
    )


def _name_one_of(releases: Iterable[str]) -> str:
    return "Name one of these releases:\n" + "\n".join(releases)


def fetch(
    release: str | None = None,
    *,
    debug_symbols: bool = False,
    source: bool = False,
    report: Report = lambda line: None,
) -> CachedKernel:
    """Bring a Debian kernel into the cache, without root: only what is missing.

    :param release: such as ``6.1.0-47-cloud-amd64``; the newest one for cloud
        machines if None.
    :param debug_symbols: also vmlinux and the modules with their symbols.
    :param source: also the source package, of exactly the image's version.
    :param report: takes one line for each step.
    :raises KlpError: when apt cannot deliver; the cache stays as it was.
    """
    if release is None:
        release = newest_release()
        report(f"{release} is the newest that apt offers")
    if not re.fullmatch(_RELEASE, release):
        raise _unknown_release(release)
    wanted = [*REQUIRED_PARTS]
    wanted += [Part.DEBUG] if debug_symbols else []
    wanted += [Part.SOURCE] if source else []
    path = kernel_directory(release)
    with locked(path, lambda: report(f"waiting for another klpbuild that fetches {release}")):
        present = cached_kernel(release)
        missing = [part for part in wanted if not (present and present.package(part))]
        if not missing:
            report(f"{release} is there: {path}")
            assert present
            return present
        chosen = _choose(release, missing, present, report)
        kernel = _bring(release, path, present, chosen, report)
        report(f"{release} is ready: {path}")
        return kernel


def _unknown_release(release: str) -> KlpError:
    return KlpError(
        f"apt offers no kernel {release} with its headers",
        hint=_name_one_of(offered_releases()),
    )


def _choose(
    release: str, parts: list[Part], present: CachedKernel | None, report: Report
) -> dict[Part, Offer]:
    """Of each part the package that fits the image, one that is there or one to fetch."""
    series = ".".join(release.split(".")[:2])
    image, headers = f"linux-image-{release}", f"linux-headers-{release}"
    names = {Part.DEBUG: f"{image}-dbg", Part.SOURCE: f"linux-source-{series}"}
    offered = apt.offers([image, f"{image}-unsigned", headers, *names.values()])
    if present:
        return {part: _exact(names[part], present.version, offered, present) for part in parts}

    header_versions = {offer.version: offer for offer in offered.get(headers, ())}
    images = [
        offer
        for name in (f"{image}-unsigned", image)
        for offer in offered.get(name, ())
        if offer.version in header_versions
    ]
    if not images:
        raise _unknown_release(release)
    # max keeps the first of equals: the unsigned one.
    chosen = {Part.IMAGE: max(images, key=lambda offer: version_key(offer.version))}
    version = chosen[Part.IMAGE].version
    chosen[Part.HEADERS] = header_versions[version]
    chosen |= _needed_by(chosen[Part.HEADERS], report)
    for part in parts:
        if part not in chosen:
            chosen[part] = _exact(names[part], version, offered, present)
    return chosen


def _exact(
    name: str, version: str, offered: dict[str, tuple[Offer, ...]], present: CachedKernel | None
) -> Offer:
    for offer in offered.get(name, ()):
        if offer.version == version:
            return offer
    others = ", ".join(offer.version for offer in offered.get(name, ())) or "none"
    again = "Run `apt-get update` as root and try again."
    if present:
        again += (
            f"\nIf apt has a newer image of this release, remove {present.path} to fetch it anew."
        )
    raise KlpError(
        f"apt does not offer {name} {version}",
        why=f"It must be of exactly the image's version.  Offered: {others}.",
        hint=again,
    )


def _needed_by(headers: Offer, report: Report) -> dict[Part, Offer]:
    """The common headers and kbuild that a headers package depends on."""
    patterns = {Part.COMMON: r"linux-headers-\S+-common\S*", Part.KBUILD: r"linux-kbuild-\S+"}
    needs: dict[Part, tuple[str, str, str]] = {}
    for part, pattern in patterns.items():
        relation = rf"(?:^|, )({pattern})(?: \((\S+) (\S+)\))?(?=,|$)"
        match = re.search(relation, headers.depends)
        if not match:
            raise KlpError(
                f"{headers.name} {headers.version} names no {part} that it depends on",
                why=f"Depends: {headers.depends}",
            )
        needs[part] = (match[1], match[2] or "", match[3] or "")
    offered = apt.offers(name for name, _, _ in needs.values())
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
    """The offer of the headers' own version, else the lowest that they allow."""
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


def _bring(
    release: str,
    path: Path,
    present: CachedKernel | None,
    chosen: dict[Part, Offer],
    report: Report,
) -> CachedKernel:
    _check_space(path.parent, chosen.values())
    with aside(path) as making:
        root, number = making / "root", 0
        root.mkdir()
        for number, offer in enumerate(chosen.values(), 1):
            size = f"{offer.size / 1e6:.1f} MB"
            report(f"[{number}/{len(chosen)}] {offer.name} {offer.version} ({size})")
            arrived = making / f"package{number}"
            arrived.mkdir()
            apt.unpack(apt.download(offer, arrived), root)
            shutil.rmtree(arrived)
        fetched = tuple(
            FetchedPackage(part, offer.name, offer.version, offer.sha256)
            for part, offer in chosen.items()
        )
        if present:
            _move_into(root, present.root)
            kernel = CachedKernel(release, path, present.packages + fetched)
            kernel.write_record()
        else:
            shutil.rmtree(path, ignore_errors=True)
            whole = making / "kernel"
            whole.mkdir(mode=0o755)
            root.rename(whole / "root")
            CachedKernel(release, whole, fetched).write_record()
            whole.rename(path)
            kernel = CachedKernel(release, path, fetched)
    return kernel


def _check_space(directory: Path, chosen: Iterable[Offer]) -> None:
    offers = list(chosen)
    needed = sum(offer.unpacked_size for offer in offers) + max(offer.size for offer in offers)
    free = shutil.disk_usage(directory).free
    if free < needed:
        raise KlpError(
            f"the packages need {needed / 1e6:.0f} MB, and {free / 1e6:.0f} MB are free",
            where=str(directory),
            hint="Set KLPBUILD_CACHE to a directory on a larger disk.",
        )


def _move_into(source: Path, target: Path) -> None:
    """Rename all files below ``source`` to the same place below ``target``."""
    for entry in source.iterdir():
        there = target / entry.name
        if entry.is_dir() and not entry.is_symlink() and there.is_dir():
            _move_into(entry, there)
        else:
            entry.rename(there)


def source_tree(kernel: Kernel) -> Path:
    """The kernel's whole source, unpacked once (about 15 s).

    :param kernel: a fetched kernel with its source package, or one with `source`.
    :raises KlpError: when its source is not at hand.
    """
    if kernel.source:
        return kernel.source
    cached = cached_kernel(kernel.release)
    package = cached.package(Part.SOURCE) if cached and cached.learned == kernel.cache else None
    if not cached or not package:
        raise KlpError(
            f"the source of {kernel.release} is not at hand",
            hint=f"Run `klpbuild kernel fetch {kernel.release} --source`.",
        )
    target = cached.path / "source"
    archive = cached.root / "usr" / "src" / f"{package.name}.tar.xz"
    with locked(target):
        if not target.is_dir():
            with aside(target) as making:
                _unpack_source(archive, making)
                making.joinpath("source").rename(target)
    return target


def _unpack_source(archive: Path, making: Path) -> None:
    tree = making / "source"
    tree.mkdir()
    command = ["tar", "--extract", "--xz", "--no-same-owner", "--strip-components=1"]
    process = subprocess.run(
        [*command, f"--file={archive}", f"--directory={tree}"],
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    if process.returncode:
        raise KlpError(
            "the kernel's source could not be unpacked",
            where=str(archive),
            why="\n".join(process.stderr.splitlines()[-3:]),
            hint="It needs tar, xz (package xz-utils) and about 1.5 GB of disk space.",
        )
