"""The kernels that tests, CI and the documents' commands want, and what stands in for them.

Mirrors drop releases: one that is gone is replaced by the nearest of its series, which is said
in one line.  What was recorded (docs/check.md, docs/corpus.md) keeps naming what it was seen on.
"""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass

from klpbuild.distro.apt import Apt
from klpbuild.distro.debian import offered_releases
from klpbuild.errors import KlpError
from klpbuild.kernel.cache import cached_kernel
from klpbuild.kernel.fetch import fetch
from klpbuild.kernel.locate import locate
from klpbuild.kernel.tree import Kernel


@dataclass(frozen=True)
class Wanted:
    """A kernel that tests want.

    :ivar release: None for the newest cloud kernel that is offered.
    :ivar suites: where alone it is looked for; empty for the machine's own sources.
    """

    release: str | None = None
    suites: tuple[str, ...] = ()


#: The one that most tests use; the sample patches and the documents are for it.
DEFAULT = Wanted("6.1.0-47-cloud-amd64")
NEWEST = Wanted()
#: Kernels of other suites, built by compilers of their own.
OTHERS = {
    "trixie": Wanted(suites=("trixie", "trixie-security")),
    "trixie-backports": Wanted(suites=("trixie-backports",)),
}


def fetched(wanted: Wanted, *, debug_symbols: bool = False, source: bool = False) -> Kernel:
    """Fetch a wanted kernel, or what stands in for it.

    :raises KlpError: when none of its series is offered.
    """
    release = wanted.release
    if release is not None and cached_kernel(release) is None:
        release = nearest(release, offered_releases(Apt()))
        if release != wanted.release:
            warnings.warn(f"{wanted.release} is gone: {release} stands in", stacklevel=2)
    cached = fetch(release, debug_symbols=debug_symbols, source=source, suites=wanted.suites)
    return locate(cached.release)


def nearest(release: str, offered: tuple[str, ...]) -> str:
    """Choose the release that is next to another one in its series and flavour.

    :param offered: all that could be fetched.
    :raises KlpError: when there is none.
    """
    series, number, flavour = _parts(release)
    alike = {_parts(one)[1]: one for one in offered if _parts(one)[::2] == (series, flavour)}
    if not alike:
        raise KlpError(f"no kernel {series} of the flavour {flavour} is offered any more")
    return alike[min(alike, key=lambda other: (abs(other - number), other))]


def _parts(release: str) -> tuple[str, int, str]:
    """``6.1.0-47-cloud-amd64`` as ``6.1``, 47 and ``cloud-amd64``."""
    match = re.fullmatch(r"(\d+\.\d+)\.(\d+)(?:[+\w.]*?)(?:-(\d+))?-(\D.*)", release)
    assert match, release
    return match[1], int(match[3] or match[2]), match[4]
