"""From a source patch to a finished module, against kbuild making the one object."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

from klpbuild.distro.parts import Part
from klpbuild.kernel.cache import cached_kernels
from klpbuild.kernel.locate import locate
from klpbuild.kernel.prepare import build_environment, prepare
from klpbuild.pipeline.from_patch import build_from_patches
from tests.benchmarks.measure import Comparison, Setting, UnavailableError, benchmark

PATCHES = Path(__file__).parent.parent / "corpus" / "patches"


@benchmark("patch")
def patch(setting: Setting) -> Iterator[Comparison]:
    """The kernel is prepared before; the first build of each patch fills the caches."""
    found = False
    for cached in cached_kernels():
        if not cached.package(Part.SOURCE) or not cached.package(Part.DEBUG):
            continue
        kernel = locate(cached.release)
        if kernel.version[:2] != (6, 1):  # what the patches are made for
            continue
        found = True
        tree = prepare(kernel, lambda line: None)
        for name, target in (("static-local", "drivers/char/random.o"),):
            file = PATCHES / f"{name}.patch"
            build = setting.directory / cached.release
            build_from_patches(kernel, [file], name, build)
            made = tree.build / target
            yield Comparison(
                f"{file.name} for {cached.release}",
                lambda kernel=kernel, file=file, name=name, build=build: build_from_patches(
                    kernel, [file], name, build
                ),
                f"make {target}",
                lambda made=made, target=target, tree=tree: (
                    made.unlink(missing_ok=True),
                    subprocess.run(
                        tree.make(target),
                        check=True,
                        capture_output=True,
                        env=build_environment(),
                    ),
                ),
                seconds_max=10,
            )
    if not found:
        raise UnavailableError("no fetched 6.1 kernel has source and debug symbols")
