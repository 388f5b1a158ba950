"""Targets for work on klpbuild itself: its tests and benchmarks."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from SCons.Action import Action
from SCons.Script import ARGUMENTS, COMMAND_LINE_TARGETS

from klpbuild.scons import literal
from klpbuild.scons.actions import guarded

#: What each does.
TARGETS = {
    "test": "run the tests that need no kernel",
    "test-bare-debian": "follow the tutorial, and build the Debian package, in a new Debian",
    "test-hardening": "damage, kill and fuzz, for up to ten minutes",
    "test-kernel": "fetch Debian kernels, build the samples for them and boot them",
    "test-machines": "build small kernels, for other machines too, and boot livepatches there",
    "benchmark": "measure, and write build/benchmark.json",
}

_LONG = "kernel or boot or browser or slow"
_OWN = ("bare_debian", "hardening", "machines")  # each has a target
_PYTEST = ["-m", "pytest", "-n", "auto", "--dist", "worksteal"]
_WORDS = {
    "test": [*_PYTEST, "-m", f"not ({' or '.join((_LONG, *_OWN))})"],
    "test-bare-debian": ["-m", "pytest", "-m", "bare_debian"],
    "test-hardening": [*_PYTEST, "-m", "hardening"],
    "test-kernel": ["-m", "pytest", "-n", "2", "-m", f"({_LONG}) and not hardening"],
    "test-machines": ["-m", "pytest", "-m", "machines"],
    "benchmark": ["-m", "tests.benchmarks"],
}


def add_targets(env: Any) -> bool:
    """Add the targets.

    :returns: whether the command line names nothing else.
    """
    for name, words in _WORDS.items():
        env.AlwaysBuild(env.Alias(name, [], _runner(name, words)))
    return bool(COMMAND_LINE_TARGETS) and set(COMMAND_LINE_TARGETS) <= set(TARGETS)


def _runner(name: str, words: list[str]) -> Any:
    def run(target: list[Path], source: list[Path], env: Any) -> int:
        environment = dict(os.environ)
        if name == "test-kernel":
            from tests import needs

            needs.provide()
            environment["KLPBUILD_REQUIRE_KERNEL"] = "1"
        named = ["--kernel", ARGUMENTS["kernel"]] if "kernel" in ARGUMENTS else []
        whole = [*words, *(named if name == "benchmark" else ())]
        return subprocess.run([sys.executable, *whole], env=environment, check=False).returncode

    return Action(guarded(run), literal.announcement("TEST", name))
