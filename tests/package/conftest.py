"""The kernel that these tests build for, and the keys that they sign with."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.compiler.kernels import fixtures_kernel
from tests.package.keys import Keys, make_keys

__all__ = ["fixtures_kernel"]


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    """Made once; read only."""
    return make_keys(tmp_path_factory.mktemp("keys"))


@pytest.fixture(autouse=True)
def no_pin(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever runs the tests may have one."""
    monkeypatch.delenv("KBUILD_SIGN_PIN", raising=False)


@pytest.fixture
def module(tmp_path: Path) -> Path:
    """Something to sign; sign-file takes any bytes."""
    path = tmp_path / "livepatch-x.ko"
    path.write_bytes(bytes(range(256)) * 100)
    return path
