"""The summary at the end of a run."""

from __future__ import annotations

import shutil
import subprocess
import sys

from tests.scons.checkout import Checkout

_PROGRAM = """
import atexit
import SCons.Script
from klpbuild.scons.summary import Summary

def interrupted(summary):
    print("built")
    raise KeyboardInterrupt

Summary._show = interrupted
atexit.register(Summary.__new__(Summary)._end)
"""


def test_an_interrupt_while_it_is_written_is_one_line() -> None:
    done = subprocess.run([sys.executable, "-c", _PROGRAM], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (130, "built\n", "scons: interrupted\n")


def test_a_file_that_cannot_be_written_sets_the_exit_status(checkout: Checkout) -> None:
    index = checkout.directory / "build/index.html"
    index.unlink(missing_ok=True)
    (index / "there").mkdir(parents=True)
    said = checkout.scons("livepatch=version", status=2)
    shutil.rmtree(index)
    assert said.endswith("scons: error: build/index.html: cannot be written: Is a directory\n")
    assert (checkout.directory / "build/fixtures/livepatch-version.ko").is_file()
