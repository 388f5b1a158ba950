"""What the tests of damage, kills and hostile environments share; they are a stage of their own."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.scons.conftest import checkout, shared

__all__ = ["checkout", "shared"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark all tests of this directory."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.hardening)
