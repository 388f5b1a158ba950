"""Fetch a distribution's kernel into the cache as packages."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from klpbuild.distro import apt
from klpbuild.distro.apt import Apt, Offer
from klpbuild.distro.debian import (
    RELEASE,
    Report,
    choose,
    choose_more,
    newest_release,
    offers_kernel,
    other_suites,
    unknown_release,
)
from klpbuild.distro.parts import REQUIRED_PARTS, Part
from klpbuild.distro.tools import KernelCompiler, bring_tools, is_dynamic, runs_here, wrap_programs
from klpbuild.errors import KlpError
from klpbuild.files.whole import remove_tree
from klpbuild.kernel.added import added_kernel
from klpbuild.kernel.cache import (
    CachedKernel,
    FetchedPackage,
    aside,
    cache_directory,
    cached_kernel,
    kernel_directory,
    locked,
    remove_left,
)
from klpbuild.kernel.config import Config
from klpbuild.kernel.installed import Installed
from klpbuild.kernel.kbuild import is_here
from klpbuild.kernel.locate import locate
from klpbuild.kernel.modules import module_files


def fetch(
    release: str | None = None,
    *,
    debug_symbols: bool = False,
    source: bool = False,
    suites: Sequence[str] = (),
    report: Report = lambda line: None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> CachedKernel:
    """Fetch a Debian kernel into the cache, without root: only what is missing.

    A release that apt's sources do not offer is looked for in the other suites of the
    machine's own mirror; the machine's sources are not touched.

    :param release: such as ``6.1.0-47-cloud-amd64``; the newest one for cloud
        machines if None.
    :param debug_symbols: also vmlinux and the modules with their symbols.
    :param source: also the source package, of exactly the image's version.
    :param suites: where alone it is looked for, such as ``trixie-backports``.
    :param report: takes one line for each step.
    :param progress: called during a step with the bytes that have arrived, and with all.
    :raises KlpError: when apt cannot deliver; the cache stays as it was.
    """
    if release is not None and not re.fullmatch(RELEASE, release):
        raise unknown_release(release, Apt())
    offering = _suites(suites, report) if suites else Apt()
    if release is None:
        release = newest_release(offering)
        report(f"{release} is the newest that apt offers")
    wanted = [*REQUIRED_PARTS]
    wanted += [Part.DEBUG] if debug_symbols else []
    wanted += [Part.SOURCE] if source else []
    path = kernel_directory(release)
    with locked(path):
        if added := added_kernel(release):
            raise KlpError(
                f"a kernel called {release} was added from {added.folder}",
                where=str(path),
                hint="Remove this directory to fetch Debian's.",
            )
        present = cached_kernel(release)
        if present:
            remove_left(_place(present))
        missing = [part for part in wanted if not (present and present.package(part))]
        if not missing:
            assert present
            _bring_tools(present, None, suites, report)
            report(f"{release} is there: {path}")
            return present
        if not suites and not offers_kernel(offering, release):
            offering = _elsewhere(release, report)
        if present:
            chosen = choose_more(offering, release, missing, present.version, present.path)
        else:
            chosen = choose(offering, release, missing, report)
        kernel = _bring(offering, release, path, present, chosen, report, progress)
        _bring_tools(kernel, offering, suites, report)
        report(f"{release} is ready: {path}")
        return kernel


def _elsewhere(release: str, report: Report) -> Apt:
    """Open the other suites of the machine's mirror.

    :raises KlpError: when they cannot be asked; with the releases that apt does offer.
    """
    report(f"apt's own sources do not offer {release}")
    try:
        return _suites((), report)
    except KlpError as error:
        report(str(error))
        raise unknown_release(release, Apt()) from error


def _suites(suites: Sequence[str], report: Report) -> Apt:
    name = "-".join(sorted(suites)) or "all"
    if not re.fullmatch(r"[A-Za-z0-9.+-]+", name):
        raise KlpError(
            f"suite {name!r} cannot be read", hint="Name suites such as trixie-backports."
        )
    directory = cache_directory() / "apt" / name
    with locked(directory):
        return other_suites(directory, suites, report)


def _bring(
    offering: Apt,
    release: str,
    path: Path,
    present: CachedKernel | None,
    chosen: dict[Part, Offer],
    report: Report,
    progress: Callable[[int, int], None],
) -> CachedKernel:
    place = _place(present) if present else path
    _check_space(place.parent, chosen.values())
    download = sum(offer.size for offer in chosen.values()) / 1e6
    unpacked = sum(offer.unpacked_size for offer in chosen.values()) / 1e6
    report(f"{release}: {download:,.1f} MB to download, {unpacked:,.0f} MB on the disk")
    with aside(place) as making:
        root, number = making / "root", 0
        root.mkdir()
        for number, offer in enumerate(chosen.values(), 1):
            size = f"{offer.size / 1e6:.1f} MB"
            report(f"[{number}/{len(chosen)}] {offer.name} {offer.version} ({size})")
            arrived = making / f"package{number}"
            arrived.mkdir()
            apt.unpack(offering.download(offer, arrived, progress), root)
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
            _check_whole(root, release, fetched)
            remove_tree(path)
            whole = making / "kernel"
            whole.mkdir(mode=0o755)
            root.rename(whole / "root")
            CachedKernel(release, whole, fetched).write_record()
            whole.rename(path)
            kernel = CachedKernel(release, path, fetched)
    return kernel


def _place(present: CachedKernel) -> Path:
    """Resolve where the packages of a fetched kernel stand.

    Somebody may have moved them to another disk, with a symbolic link in their place.
    """
    return present.root.resolve()


def _bring_tools(
    kernel: CachedKernel, offering: Apt | None, suites: Sequence[str], report: Report
) -> None:
    """Fetch the compiler that built a kernel, and libraries, where this machine has others.

    :param offering: where the kernel is from; None: every suite of the mirror.
    :raises KlpError: when apt does not offer them.
    """
    if kernel.tools is not None:
        return
    located = locate(kernel.release)
    text = Config.read(located.config).value("CC_VERSION_TEXT")
    compiler = KernelCompiler.parse(text)
    kbuild = kernel.root / "usr" / "lib" / kernel.package_of(Part.KBUILD).name
    programs = [path for path in sorted(kbuild.rglob("*")) if is_dynamic(path)]
    if compiler is None or (is_here(located) and all(map(runs_here, programs))):
        return
    tools = cache_directory() / "tools" / f"{compiler.package}_{compiler.revision}"
    with locked(tools):
        if not tools.is_dir():
            # A suite such as backports has kernels, and not the compilers that built them.
            if suites or offering is None or offering.configuration is None:
                offering = _suites((), report)
            with aside(tools) as making:
                bring_tools(offering, compiler, _libraries(offering, kernel), making, report)
                root = making / "root"
                wrap_programs([root / "usr/bin", root / "usr/libexec"], root, tools / "root")
                whole = making / "whole"
                whole.mkdir(mode=0o755)
                root.rename(whole / "root")
                whole.rename(tools)
        wrap_programs([kbuild], tools / "root", tools / "root")
    link = kernel.path / "tools"
    link.unlink(missing_ok=True)
    link.symlink_to(os.path.relpath(tools, kernel.path))


def _libraries(offering: Apt, kernel: CachedKernel) -> list[str]:
    """List the packages that the kernel's own programs need, by its kbuild package."""
    package = kernel.package_of(Part.KBUILD)
    offers = offering.offers([package.name]).get(package.name, ())
    depends = next((o.depends for o in offers if o.version == package.version), "")
    return re.findall(r"(?:^|, )(lib[a-z0-9+.-]+|zlib1g)\b", depends)


def _check_whole(root: Path, release: str, fetched: Sequence[FetchedPackage]) -> None:
    """Refuse packages that bring no image or no modules."""
    installed = Installed(root, release)
    missing = [] if installed.image() else ["no bootable image"]
    missing += [] if module_files(installed.modules) else ["no modules"]
    if missing:
        raise KlpError(
            f"the packages of {release} bring {' and '.join(missing)}",
            why="Fetched: " + ", ".join(f"{p.name} {p.version}" for p in fetched) + ".",
            hint="Its distribution packages kernels in a way that this klpbuild does not know.",
        )


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
