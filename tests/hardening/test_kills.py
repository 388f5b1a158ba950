"""Builds for the miniature kernel that are killed at random moments; the next one's bytes.

``KLPBUILD_KILLS`` says how many; those of a real kernel's builds are run by hand, see
`tests.hardening.kills`.
"""

from __future__ import annotations

import os
from pathlib import Path
from random import Random

from tests.hardening.kills import Builds, run, scons
from tests.scons.checkout import Checkout


class MiniatureBuilds(Builds):
    """Two texts of meminfo, built by scons."""

    makers = ("scons",)

    def __init__(self, checkout: Checkout) -> None:
        self.directory, self.release = checkout.directory, "fixtures"
        self.cache = checkout.directory / "cache"
        self.source = checkout.directory / "kernel-fixtures/livepatches/meminfo/meminfo.c"
        self.text = self.source.read_text()
        self.environment = {**checkout.environment, "TMPDIR": str(self.directory / "tmp")}
        (self.directory / "tmp").mkdir()

    def command(self, by: str) -> list[str]:
        """The command line that builds."""
        return scons("-Q", "livepatch=meminfo")

    def choose(self, unit: str) -> None:
        """Write the source."""
        self.source.write_text(self.text.replace("kB", unit))


def test_killed_builds(tmp_path: Path) -> None:
    builds = MiniatureBuilds(Checkout(tmp_path / "klpbuild"))
    killed = run(builds, int(os.environ.get("KLPBUILD_KILLS", "5")), Random("kills"))
    assert killed.wrong == []
