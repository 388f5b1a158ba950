"""What all tests share: a cache directory of their own, and a real Debian kernel."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from klpbuild.errors import KlpError
from klpbuild.kernel.tree import Kernel
from tests.kernels import DEFAULT, NEWEST, OTHERS, Wanted, fetched
from tests.samples import Built, build


@pytest.fixture(autouse=True)
def cache_dir(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Path | None:
    """An empty cache directory; the real one (None) for tests of a Debian kernel."""
    if any(request.node.get_closest_marker(name) for name in ("kernel", "boot", "machines")):
        return None
    directory = tmp_path_factory.mktemp("cache")
    request.getfixturevalue("monkeypatch").setenv("KLPBUILD_CACHE", str(directory))
    return directory


def _debian_kernel(wanted: Wanted, debug_symbols: bool = False, source: bool = False) -> Kernel:
    try:
        return fetched(wanted, debug_symbols=debug_symbols, source=source)
    except KlpError as error:
        if os.environ.get("KLPBUILD_REQUIRE_KERNEL") == "1":
            raise
        pytest.skip(f"no Debian kernel {wanted.release or ''}: {error}")


def _test_release() -> Wanted:
    named = os.environ.get("KLPBUILD_TEST_KERNEL")
    return Wanted(named) if named else DEFAULT


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
    return _debian_kernel(DEFAULT, debug_symbols=True, source=True)


@pytest.fixture(scope="session")
def newest_kernel() -> Kernel:
    """The newest cloud kernel that the machine's apt offers."""
    return _debian_kernel(NEWEST)


@pytest.fixture(scope="session")
def newest_source_kernel() -> Kernel:
    """The newest kernel with debug symbols and source."""
    return _debian_kernel(NEWEST, debug_symbols=True, source=True)


@pytest.fixture(scope="session", params=sorted(OTHERS))
def suite_kernel(request: pytest.FixtureRequest) -> Kernel:
    """The newest kernel of another suite, with debug symbols, source, and its compiler."""
    return _debian_kernel(OTHERS[request.param], debug_symbols=True, source=True)


@pytest.fixture(scope="session")
def debian_samples(debian_kernel: Kernel, tmp_path_factory: pytest.TempPathFactory) -> Built:
    """The samples, built for the test kernel."""
    return build(debian_kernel, tmp_path_factory.mktemp("samples"))


@pytest.fixture(scope="session")
def newest_samples(newest_kernel: Kernel, tmp_path_factory: pytest.TempPathFactory) -> Built:
    """The samples, built for the newest kernel."""
    return build(newest_kernel, tmp_path_factory.mktemp("samples"))
