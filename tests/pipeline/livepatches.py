"""Write patches, and build a livepatch of any kind step by step, as `klpbuild build` does."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path

from klpbuild.compiler.log import BuildLog
from klpbuild.kernel.tree import Kernel
from klpbuild.pipeline.build import Build
from klpbuild.pipeline.paths import Paths
from klpbuild.pipeline.table import livepatch_steps, run_steps, symbols_step
from klpbuild.request.chosen import named_livepatches


def build_all(kernel: Kernel, livepatches: Path, output: Path) -> Path:
    """Build the livepatch ``all`` in a directory of livepatches; return its module."""
    (named,) = named_livepatches(livepatches, "all")
    assert named.chosen is not None, named.error
    paths = Paths.below(output / "build", named.chosen.module)
    build = Build(kernel, named.chosen, paths, BuildLog(output / "build.log"))
    first = symbols_step(kernel, paths.symbols)
    run_steps(livepatch_steps(build), paths.directory, first=first)
    return paths.module


def written(kernel: Kernel, changes: Mapping[str, Mapping[str, str]], directory: Path) -> Path:
    """Write a patch that replaces texts in files of the kernel's source."""
    source = kernel.source
    assert source is not None
    text = ""
    for path, replaced in changes.items():
        old = new = (source / path).read_text()
        for former, latter in replaced.items():
            assert former in new
            new = new.replace(former, latter)
        before, after = (t.splitlines(keepends=True) for t in (old, new))
        text += "".join(difflib.unified_diff(before, after, f"a/{path}", f"b/{path}"))
    patch = directory / "fix.patch"
    patch.write_text(text)
    return patch
