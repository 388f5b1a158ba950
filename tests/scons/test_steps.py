"""The steps as SCons takes them, and the same table run in order."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from klpbuild.compiler.log import BuildLog
from klpbuild.pipeline.build import Build
from klpbuild.pipeline.paths import Paths
from klpbuild.pipeline.table import livepatch_steps, run_steps
from klpbuild.request.chosen import named_livepatches
from klpbuild.request.given import locate_kernel
from tests.scons.checkout import Checkout

pytestmark = pytest.mark.slow


def test_both_ways_write_the_same_files(
    checkout: Checkout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(checkout.directory)
    monkeypatch.setenv("KLPBUILD_CACHE", checkout.environment["KLPBUILD_CACHE"])
    kernel = locate_kernel("fixtures", Path("kernel-fixtures"), Path("build"))
    (named,) = named_livepatches(Path("kernel-fixtures/livepatches"), "meminfo")
    assert named.chosen is not None
    directory = Path("build") / kernel.name
    paths = Paths.below(directory, named.chosen.module)
    steps = livepatch_steps(Build(kernel, named.chosen, paths, BuildLog(directory / "build.log")))
    # The page tells how long each step took.
    outputs = [path for step in steps for path in step.outputs if path.suffix != ".html"]
    by_scons = {path: path.read_bytes() for path in outputs}
    run_steps(steps, directory)
    assert {path: path.read_bytes() for path in outputs} == by_scons
    assert {"livepatch-meminfo.ko", "livepatch-meminfo.json", "result.json", "sha256"} <= {
        path.name for path in outputs
    }


def test_a_build_that_does_nothing_imports_little() -> None:
    code = "import sys, klpbuild.scons; print(sorted({'numpy', 'jinja2'} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
