"""A checkout that the tests of scons share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.scons.checkout import Checkout


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """A checkout in which meminfo is built."""
    checkout = Checkout(tmp_path_factory.mktemp("checkout") / "klpbuild")
    checkout.scons("livepatch=meminfo")
    return checkout


@pytest.fixture
def checkout(shared: Checkout) -> Iterator[Checkout]:
    """The same; what a test changes of the livepatch is put back."""
    livepatch = shared.directory / "kernel-fixtures/livepatches/meminfo"
    before = {path: path.read_bytes() for path in livepatch.iterdir()}
    yield shared
    for path, data in before.items():
        path.write_bytes(data)
    shared.scons("livepatch=meminfo")
