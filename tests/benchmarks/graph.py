"""The graph of a whole kernel, compared with listing the undefined symbols of its modules."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

from klpbuild.graph.build import build_graph
from klpbuild.graph.modules import read_modules
from klpbuild.kernel.cache import cached_kernels
from klpbuild.kernel.locate import locate
from klpbuild.symbols.symvers import Exports
from tests.benchmarks.measure import Comparison, Setting, UnavailableError, benchmark


@benchmark("graph")
def graph(setting: Setting) -> Iterator[Comparison]:
    """Of the fetched kernel with the most modules."""
    kernels = [locate(kernel.release) for kernel in cached_kernels()]
    if not kernels:
        raise UnavailableError("no kernel is fetched; `klpbuild kernel fetch` gets one")
    kernel = max(kernels, key=lambda kernel: len(kernel.modules))
    listing = setting.directory / "undefined"

    def ours() -> None:
        build_graph(Exports.read(kernel.module_symvers), read_modules(kernel.modules))

    def theirs() -> None:
        with listing.open("wb") as file:
            subprocess.run(["nm", "-u", *map(str, kernel.modules)], stdout=file, check=True)

    yield Comparison(f"graph of {len(kernel.modules):,} modules", ours, "nm -u", theirs)
