"""A build with nothing to do, compared with SCons itself doing nothing."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.benchmarks.measure import Comparison, UnavailableError, benchmark

ROOT = Path(__file__).parent.parent.parent


@benchmark("scons")
def scons(directory: Path) -> Iterator[Comparison]:
    """For the fixtures, after a build."""
    program = [sys.executable, "-m", "SCons", "-s"]
    (directory / "SConstruct").write_text("DefaultEnvironment(tools=[])\n")
    build = [*program, "-C", str(ROOT), "livepatch=meminfo"]
    first = subprocess.run(build, capture_output=True, text=True, check=False)
    if first.returncode:
        raise UnavailableError(f"scons livepatch=meminfo fails:\n{first.stderr}")
    yield Comparison(
        "build with nothing changed",
        lambda: subprocess.run(build, check=True, capture_output=True),
        "empty SConstruct",
        lambda: subprocess.run([*program, "-C", str(directory)], check=True, capture_output=True),
        excess_max=1.0,
    )
