"""Many fixes in one livepatch: nothing of them compiled yet, all built before, two more."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from klpbuild.kernel.locate import locate
from klpbuild.kernel.prepare import prepare
from tests.benchmarks.measure import (
    Comparison,
    Figure,
    Quantity,
    Setting,
    UnavailableError,
    benchmark,
)
from tests.benchmarks.patch import forget, klpbuild, peak_memory

_C_FILE = re.compile(r"^\+\+\+ b/(\S+)\.c\b", re.MULTILINE)


@benchmark("fixes")
def fixes(setting: Setting) -> Iterator[Comparison | Figure]:
    """The patches of `--patches`, all of which can be built; headers keep what they reach."""
    patches = sorted(setting.patches.glob("*.patch")) if setting.patches else []
    if len(patches) < 3:
        raise UnavailableError("name a directory of three patches or more: --patches DIR")
    tree = prepare(locate(setting.kernel), lambda line: None)

    def words(chosen: Sequence[Path]) -> tuple[str, ...]:
        options = ("--name", "fixes", "--kernel", setting.kernel)
        return ("build", *map(str, chosen), *options, "--build", str(setting.directory))

    def build(chosen: Sequence[Path], forgotten: Sequence[Path] = ()) -> None:
        for patch in forgotten:
            for name in _C_FILE.findall(patch.read_text()):
                forget(tree, f"{name}.o")
        klpbuild(words(chosen))

    count, two = len(patches), patches[-2:]
    yield Comparison(
        f"{count} fixes in one livepatch, nothing compiled yet",
        lambda: build(patches, patches),
        "one of them",
        lambda: build(patches[:1], patches[:1]),
        seconds_max=60,
        key="fixes_cold_s",
        quantity=Quantity.SECONDS,
    )
    yield Comparison(
        f"{count} fixes in one livepatch, all built before",
        lambda: build(patches),
        "one of them",
        lambda: build(patches[:1]),
        seconds_max=15,
        key="fixes_warm_s",
        quantity=Quantity.SECONDS,
    )
    yield peak_memory("fixes_peak_mb", words(patches))
    yield Comparison(
        f"{count - 2} of them built before, and two more",
        lambda: build(patches, two),
        "the two alone",
        lambda: build(two, two),
        ratio_max=3,
        key="fixes_two_more_over_two",
    )
