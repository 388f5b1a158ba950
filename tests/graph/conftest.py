"""A small kernel, and the miniature kernel of the project, built."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from klpbuild.kernel.locate import locate
from klpbuild.kernel.tree import Kernel

from .inputs import SmallKernel

FIXTURES = Path(__file__).parent.parent.parent / "kernel-fixtures"


@pytest.fixture
def small(tmp_path: Path) -> SmallKernel:
    return SmallKernel(tmp_path)


@pytest.fixture(scope="session")
def fixture_kernel(tmp_path_factory: pytest.TempPathFactory) -> Kernel:
    output = tmp_path_factory.mktemp("fixtures") / "kernel"
    command = ["make", "-s", "-C", str(FIXTURES), f"O={output}", "-j2"]
    subprocess.run(command, check=True, capture_output=True)
    return locate(str(output))
