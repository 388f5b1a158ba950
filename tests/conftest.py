"""What all tests share: a cache directory of their own, and a real Debian kernel."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from klpbuild.errors import KlpError
from klpbuild.kernel.fetch import fetch
from klpbuild.kernel.locate import locate
from klpbuild.kernel.tree import Kernel
from tests.samples import Built, build

DEFAULT_TEST_KERNEL = "6.1.0-47-cloud-amd64"


@pytest.fixture(autouse=True)
def cache_dir(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Path | None:
    """An empty cache directory; the real one (None) for tests of a Debian kernel."""
    if any(request.node.get_closest_marker(name) for name in ("kernel", "boot")):
        return None
    directory = tmp_path_factory.mktemp("cache")
    request.getfixturevalue("monkeypatch").setenv("KLPBUILD_CACHE", str(directory))
    return directory


def _debian_kernel(
    release: str | None, debug_symbols: bool = False, source: bool = False
) -> Kernel:
    try:
        return locate(fetch(release, debug_symbols=debug_symbols, source=source).release)
    except KlpError as error:
        if os.environ.get("KLPBUILD_REQUIRE_KERNEL") == "1":
            raise
        pytest.skip(f"no Debian kernel {release or ''}: {error}")


def _test_release() -> str:
    return os.environ.get("KLPBUILD_TEST_KERNEL", DEFAULT_TEST_KERNEL)


@pytest.fixture(scope="session")
def debian_kernel() -> Kernel:
    """The kernel ``KLPBUILD_TEST_KERNEL``: image and headers, fetched when missing."""
    return _debian_kernel(_test_release())


@pytest.fixture(scope="session")
def debian_debug_kernel() -> Kernel:
    """The same kernel with its debug symbols."""
    return _debian_kernel(_test_release(), debug_symbols=True)


@pytest.fixture(scope="session")
def debian_source_kernel() -> Kernel:
    """The kernel that the sample patches are for, with debug symbols and source."""
    return _debian_kernel(DEFAULT_TEST_KERNEL, debug_symbols=True, source=True)


@pytest.fixture(scope="session")
def newest_kernel() -> Kernel:
    """The newest cloud kernel that the machine's apt offers."""
    return _debian_kernel(None)


@pytest.fixture(scope="session")
def newest_source_kernel() -> Kernel:
    """The newest kernel with debug symbols and source."""
    return _debian_kernel(None, debug_symbols=True, source=True)


@pytest.fixture(scope="session")
def debian_samples(debian_kernel: Kernel, tmp_path_factory: pytest.TempPathFactory) -> Built:
    """The samples, built for the test kernel."""
    return build(debian_kernel, tmp_path_factory.mktemp("samples"))


@pytest.fixture(scope="session")
def newest_samples(newest_kernel: Kernel, tmp_path_factory: pytest.TempPathFactory) -> Built:
    """The samples, built for the newest kernel."""
    return build(newest_kernel, tmp_path_factory.mktemp("samples"))
