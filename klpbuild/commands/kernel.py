"""Fetch Debian kernels, add those of other distributions, and list what is there.

Nothing needs root.  Kernels go to $KLPBUILD_CACHE, else to klpbuild/ in
$XDG_CACHE_HOME or ~/.cache.

Example:

    klpbuild kernel fetch 6.1.0-47-cloud-amd64
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from klpbuild.distro.debian import Report
from klpbuild.distro.parts import Part
from klpbuild.errors import printable
from klpbuild.kernel.added import AddedKernel, add, added_kernels
from klpbuild.kernel.cache import CachedKernel, cache_directory, cached_kernels
from klpbuild.kernel.fetch import fetch
from klpbuild.kernel.installed import Installed
from klpbuild.kernel.lacking import WITHOUT, how_to_get, lacking_parts
from klpbuild.kernel.locate import locate
from klpbuild.terminal.columns import columns

_FETCH = """\
Get a Debian kernel into the cache: image, headers and kbuild, and on request more.  A
second fetch gets only what is missing.

Examples:

    klpbuild kernel fetch
    klpbuild kernel fetch 6.1.0-47-cloud-amd64 --debug-symbols --source
"""

_ADD = """\
Unpack the packages of one kernel, of whatever distribution, into the cache, without root,
and give it a name for kernel= and --kernel.  A kernel of that name that was added before
is replaced.  Nothing of the packages is installed, and no script in them runs.  Their
signatures are yours to verify.

Example:

    klpbuild kernel add el9 ~/Downloads/el9
"""

_LIST = """\
Show the kernels that are there: what is there of each, and how much room it takes.

Example:

    klpbuild kernel list
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare ``kernel fetch``, ``kernel add`` and ``kernel list``."""
    words = parser.add_subparsers(dest="word", metavar="fetch|add|list", required=True)
    plain = argparse.RawDescriptionHelpFormatter
    getting = words.add_parser(
        "fetch",
        help="get a Debian kernel into the cache",
        description=_FETCH,
        formatter_class=plain,
    )
    getting.add_argument(
        "release",
        nargs="?",
        help="such as 6.1.0-47-cloud-amd64; default: the newest cloud kernel that apt offers",
    )
    getting.add_argument(
        "--debug-symbols",
        action="store_true",
        help="also vmlinux, System.map and the modules' debug files (about 280 MB, 2 GB unpacked)",
    )
    getting.add_argument(
        "--source", action="store_true", help="also the source package (about 140 MB)"
    )
    getting.add_argument(
        "--suite",
        action="append",
        default=[],
        metavar="SUITE",
        help="look there only, such as trixie-backports; default: apt's own sources, then every "
        "suite of the same mirror",
    )
    adding = words.add_parser(
        "add",
        help="make a kernel of packages that you downloaded",
        description=_ADD,
        formatter_class=plain,
    )
    adding.add_argument("name", metavar="NAME", help="the kernel's, such as el9")
    adding.add_argument(
        "folder",
        metavar="FOLDER",
        type=Path,
        help="holds its packages: *.rpm, *.deb, *.ddeb, *.pkg.tar.zst",
    )
    listing = words.add_parser(
        "list", help="show the kernels that are there", description=_LIST, formatter_class=plain
    )
    listing.add_argument("--json", action="store_true", help="write JSON")


def run(arguments: argparse.Namespace) -> int:
    """Fetch, add or list kernels, and return the exit status."""
    if arguments.word == "fetch":
        return _fetch(arguments)
    if arguments.word == "add":
        return _add(arguments)
    kernels, added = cached_kernels(), added_kernels()
    if arguments.json:
        rows = [*map(_as_json, kernels), *map(_added_as_json, added)]
        print(json.dumps(rows, indent=1))
    elif kernels or added:
        _show(kernels, added)
    else:
        print(f"No kernel is fetched in {cache_directory()}; `klpbuild kernel fetch` gets one.")
    return 0


def _fetch(arguments: argparse.Namespace) -> int:
    with _progress() as (report, progress):
        cached = fetch(
            arguments.release,
            debug_symbols=arguments.debug_symbols,
            source=arguments.source,
            suites=arguments.suite,
            report=report,
            progress=progress,
        )
        report(f"reading {cached.release}")
        kernel = locate(cached.release)
    print(f"{kernel.release} ({cached.version}): {len(kernel.modules)} modules, in {cached.path}")
    return 0


def _add(arguments: argparse.Namespace) -> int:
    with _progress() as (report, _):
        added = add(arguments.name, arguments.folder, report)
        report(f"reading {added.release}")
        kernel = locate(added.name)
    print(f"{added.name} ({kernel.release}): {len(kernel.modules)} modules, in {added.path}")
    for part in lacking_parts(kernel):
        print(f"no {part.value}: {WITHOUT[part]}", f"  {how_to_get(kernel, part)}", sep="\n")
    return 0


@contextmanager
def _progress() -> Iterator[tuple[Report, Callable[[int, int], None]]]:
    """Show steps in plain lines; on a terminal the current step moves below those that are done.

    :returns: what tells of a step, and of how many bytes of a download are there.
    """
    if not sys.stderr.isatty():
        yield lambda line: print(line, file=sys.stderr, flush=True), lambda arrived, total: None
        return
    begun = ""

    def show(text: str) -> None:
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)

    def report(line: str) -> None:
        nonlocal begun
        if begun:
            show(f"{begun}\n")
        begun = printable(line)
        show(begun)

    def progress(arrived: int, total: int) -> None:
        show(f"{begun}: {arrived / 1e6:,.1f} MB are there, {arrived / total:.0%}")

    show("asking apt")
    try:
        yield report, progress
    finally:
        show(f"{begun}\n" if begun else "")


def _as_json(kernel: CachedKernel) -> dict[str, object]:
    return {
        "release": kernel.release,
        "version": kernel.version,
        "path": str(kernel.path),
        "size": _size(kernel.path),
        "has": _has(kernel),
        "packages": [
            {"part": p.part.value, "name": p.name, "version": p.version, "sha256": p.sha256}
            for p in kernel.packages
        ],
    }


def _added_as_json(kernel: AddedKernel) -> dict[str, object]:
    return {
        "name": kernel.name,
        "release": kernel.release,
        "path": str(kernel.path),
        "size": _size(kernel.path),
        "has": _added_has(kernel),
        "folder": kernel.folder,
        "packages": [{"file": p.file, "sha256": p.sha256} for p in kernel.packages],
    }


def _added_has(kernel: AddedKernel) -> list[str]:
    installed = Installed(kernel.root, kernel.release)
    parts = {
        Part.IMAGE: installed.image() is not None,
        Part.HEADERS: True,
        Part.DEBUG: installed.vmlinux() is not None,
        Part.SOURCE: (kernel.path / "source").is_dir(),
    }
    return [part.value for part, there in parts.items() if there]


def _has(kernel: CachedKernel) -> list[str]:
    """Name the parts that are there."""
    parts = (Part.IMAGE, Part.HEADERS, Part.DEBUG, Part.SOURCE)
    has = [part.value for part in parts if kernel.package(part)]
    if (kernel.learned / "kallsyms").is_file():
        has.append("kallsyms")
    return has


def _size(directory: Path) -> int:
    """Compute the bytes on the disk, below a directory."""
    total = 0
    for parent, _, names in os.walk(directory):
        total += sum(os.lstat(os.path.join(parent, name)).st_blocks * 512 for name in names)  # noqa: PTH118
    return total


def _show(kernels: tuple[CachedKernel, ...], added: tuple[AddedKernel, ...]) -> None:
    rows = [("release", "version", "has", "size", "path")]
    for kernel in kernels:
        size = f"{_size(kernel.path) / 1e6:,.0f} MB"
        has = ", ".join(_has(kernel))
        rows.append((kernel.release, kernel.version, has, size, str(kernel.path)))
    for one in added:
        size = f"{_size(one.path) / 1e6:,.0f} MB"
        rows.append((one.name, one.release, ", ".join(_added_has(one)), size, str(one.path)))
    print("\n".join(columns(rows, right=3)))
