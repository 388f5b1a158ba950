"""Show the livepatches of this machine and what holds up a transition.

Each livepatch is shown with the functions that it replaces.  During a transition the tasks
that have not switched yet follow; root sees their stacks, too.

Examples:

    klpbuild status
    klpbuild status livepatch-fix --json
"""

from __future__ import annotations

import argparse
import json
import sys


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's words."""
    parser.add_argument("module", nargs="?", default="", metavar="NAME", help="only this one")
    parser.add_argument("--json", action="store_true", help="write JSON")


def run(arguments: argparse.Namespace) -> int:
    """Show, and return the exit status."""
    from klpbuild.running.program import status_text
    from klpbuild.running.status import as_json, parse_status

    text = status_text(arguments.module)
    if arguments.json:
        text = json.dumps(as_json(parse_status(text)), indent=1) + "\n"
    sys.stdout.write(text)
    return 0
