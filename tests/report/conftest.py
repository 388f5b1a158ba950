"""A module of the miniature kernel, and all that could be known of its build."""

from __future__ import annotations

from pathlib import Path

import pytest

from klpbuild.check.kernelside import KernelSide
from klpbuild.report.facts import Facts
from tests.check.conftest import good, miniature
from tests.report.built import make_facts

__all__ = ["good", "miniature"]


@pytest.fixture
def facts(miniature: KernelSide, good: dict[str, bytes], tmp_path: Path) -> Facts:
    """What is known of a livepatch that was made from a patch."""
    return make_facts(miniature, good["meminfo"], tmp_path)
