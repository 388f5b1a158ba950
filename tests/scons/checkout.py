"""A checkout of its own, in which tests run scons and change files."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent


class Checkout:
    """A checkout of its own, so that tests may change it."""

    def __init__(
        self,
        directory: Path,
        environment: Mapping[str, str] | None = None,
        prefix: Sequence[str] = (),
    ) -> None:
        """A copy of this checkout's files.

        :param environment: further variables for every run.
        :param prefix: a program and its options, under which scons is run.
        """
        self.directory = directory
        self.prefix = prefix
        for name in ("klpbuild", "kernel-fixtures", "site_scons"):
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / name, directory / name, ignore=ignored)
        shutil.copy(ROOT / "SConstruct", directory)
        self.environment = {
            "PATH": "/usr/bin:/bin",
            "PYTHONPATH": str(directory),
            "KLPBUILD_CACHE": str(directory / "cache"),
            **(environment or {}),
        }

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run scons."""
        done = subprocess.run(
            [*self.prefix, sys.executable, "-m", "SCons", "-Q", *words],
            cwd=self.directory,
            env=self.environment,
            text=True,
            capture_output=True,
            check=False,
        )
        assert "Traceback" not in done.stdout + done.stderr, done.stdout + done.stderr
        return done

    def scons(self, *words: str, status: int = 0) -> str:
        """Run scons and return what it says; errors after the rest."""
        done = self.run(*words)
        assert done.returncode == status, done.stdout + done.stderr
        return done.stdout + done.stderr

    def built(self, *words: str) -> set[str]:
        """The files that a run says it makes, without the kernel's directory."""
        lines = (line.split() for line in self.scons(*words).splitlines())
        return {
            words[-1].removeprefix("build/fixtures/")
            for words in lines
            if words and words[-1].startswith("build/")
        }
