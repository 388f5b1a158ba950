"""The summary at the end of a run."""

from __future__ import annotations

import subprocess
import sys

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
