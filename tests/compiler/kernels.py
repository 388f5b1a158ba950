"""The miniature kernel as a `Kernel`, for the tests of the compiler and of modules."""

from __future__ import annotations

from pathlib import Path

import pytest

from klpbuild.kernel.locate import locate
from klpbuild.kernel.tree import Kernel

SOURCE = Path(__file__).parents[2] / "kernel-fixtures"


@pytest.fixture(scope="session")
def fixtures_kernel(tmp_path_factory: pytest.TempPathFactory) -> Kernel:
    """The miniature kernel, built once; read only."""
    directory = tmp_path_factory.mktemp("fixtures")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KLPBUILD_CACHE", str(directory / "cache"))
        return locate("fixtures", fixtures=SOURCE, output=directory / "kernel")
