"""Load a livepatch on this machine and wait until every task runs it.

Needs root.  A livepatch that takes the place of others has their modules unloaded.

When the transition has not ended in time, the tasks that hold it up are shown with their
stacks, and the kernel goes on trying: the same command waits on, `klpbuild unload` goes back.

Exit status: 0 enabled, 1 failed, 3 the transition has not ended in time.

Examples:

    sudo klpbuild load livepatch-fix
    sudo klpbuild load build/6.1.0-47-cloud-amd64/livepatch-fix.ko --timeout 300
"""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's words."""
    parser.add_argument(
        "module", metavar="NAME|FILE", help="an installed module, or the path of a file"
    )
    add_waiting_arguments(parser)


def add_waiting_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the words about transitions."""
    parser.add_argument(
        "--timeout",
        type=_seconds,
        default=60,
        metavar="SECONDS",
        help="how long to wait for the transition (default: %(default)s)",
    )
    parser.add_argument(
        "--force",
        action="store_true",
        help="DANGEROUS: end a transition that has not ended in time; tasks may run old and"
        " new code together, and the module can never be unloaded",
    )


def _seconds(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds")
    return int(text)


def run(arguments: argparse.Namespace) -> int:
    """Load, and return the exit status."""
    return run_waiting("load", arguments)


def run_waiting(command: str, arguments: argparse.Namespace) -> int:
    """Run a command of the program ``livepatch`` and return its exit status."""
    from pathlib import Path

    from klpbuild.running.program import run_program

    module = arguments.module
    if command == "load" and module.endswith((".ko", ".ko.gz", ".ko.xz", ".ko.zst")):
        module = str(Path(module).absolute())
    words = [command, "--timeout", str(arguments.timeout)]
    words += ["--force"] if arguments.force else []
    return run_program([*words, module])
