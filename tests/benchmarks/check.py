"""Checking a finished module against a kernel whose symbols are indexed."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from klpbuild.check.module import check_module
from klpbuild.kernel.cache import cached_kernels
from klpbuild.kernel.locate import locate
from tests.benchmarks.measure import Comparison, Setting, UnavailableError, benchmark

BUILD = Path("build")


@benchmark("check")
def check(setting: Setting) -> Iterator[Comparison]:
    """All rules, with the proof where the kernel's code is at hand."""
    readelf = shutil.which("readelf")
    if readelf is None:
        raise UnavailableError("readelf is not installed")
    found = False
    for cached in cached_kernels():
        results = BUILD / cached.release
        symbols = results / "symbols.klp"
        kernel = locate(cached.release)
        for module in sorted(results.glob("livepatch-meminfo.ko")):
            found = True
            yield Comparison(
                f"check {module.name} for {cached.release}",
                lambda module=module, kernel=kernel, symbols=symbols: check_module(
                    module, kernel, symbols
                ),
                "readelf -aW",
                lambda module=module: subprocess.run(
                    [readelf, "-aW", module], check=True, capture_output=True
                ),
                seconds_max=0.5,
            )
    if not found:
        raise UnavailableError("no fetched kernel has a built livepatch-meminfo.ko")
