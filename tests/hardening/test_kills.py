"""Builds for a real kernel, killed at random moments; `tests.hardening.kills` kills more."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest

from klpbuild.kernel.tree import Kernel
from tests.hardening.kills import Builds, link_kernel, run

KILLS = 12


@pytest.mark.kernel
def test_the_next_run_makes_the_clean_bytes(debian_source_kernel: Kernel, tmp_path: Path) -> None:
    release = debian_source_kernel.release
    checkout = tmp_path / "checkout"
    checkout.mkdir()
    builds = Builds(checkout, release, link_kernel(tmp_path / "cache", release))
    killed = run(builds, KILLS, Random("ci"), fresh=False)
    assert killed.wrong == []
    assert sum(killed.kinds.values()) == KILLS
