"""The miniature kernel and its good livepatches, built once in each worker."""

from __future__ import annotations

import pytest

from klpbuild.check.kernelside import KernelSide
from tests.check.kernels import make_kernel, make_livepatch


@pytest.fixture(scope="session")
def miniature(tmp_path_factory: pytest.TempPathFactory) -> KernelSide:
    """A kernel of a few functions with all its parts."""
    return make_kernel(tmp_path_factory.mktemp("miniature"))


@pytest.fixture(scope="session")
def good(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The good livepatches by name."""
    directory = tmp_path_factory.mktemp("livepatches")
    return {name: make_livepatch(directory, name) for name in ("meminfo", "button", "tables")}
