"""Disable a livepatch of this machine and unload its module.

Needs root.  Waits until no task runs the livepatch's code.  When that takes too long, the
tasks that do are shown with their stacks, and the kernel goes on trying: the same command
waits on, `klpbuild load` goes back.

Exit status: 0 unloaded, 1 failed, 3 the transition has not ended in time.

Example:

    sudo klpbuild unload livepatch-fix
"""

from __future__ import annotations

import argparse

from klpbuild.commands.load import add_waiting_arguments, run_waiting


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's words."""
    parser.add_argument("module", metavar="NAME", help="a loaded livepatch")
    add_waiting_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Unload, and return the exit status."""
    return run_waiting("unload", arguments)
