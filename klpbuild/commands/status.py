"""Show the livepatches of this machine and what holds up a transition.

Each livepatch is shown with the functions that it replaces.  During a transition the tasks
that have not switched yet follow; root sees their stacks, too.

Examples:

    klpbuild status
    klpbuild status livepatch-fix --json
    klpbuild status --metrics -o /var/lib/prometheus/node-exporter/livepatch.prom
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's words."""
    parser.add_argument("module", nargs="?", default="", metavar="NAME", help="only this one")
    output = parser.add_mutually_exclusive_group()
    output.add_argument("--json", action="store_true", help="write JSON")
    output.add_argument(
        "--metrics",
        action="store_true",
        help="write metrics as the textfile collector of Prometheus' node exporter reads them",
    )
    parser.add_argument(
        "-o", "--output", type=Path, metavar="FILE", help="write it there, whole or not at all"
    )


def run(arguments: argparse.Namespace) -> int:
    """Show the livepatches, and return the exit status."""
    from klpbuild.running.program import status_text
    from klpbuild.running.status import as_json, as_metrics, parse_status

    text = status_text(arguments.module)
    if arguments.json:
        text = json.dumps(as_json(parse_status(text)), indent=1) + "\n"
    elif arguments.metrics:
        text = as_metrics(parse_status(text))
    if arguments.output is not None:
        from klpbuild.files.whole import write_file

        write_file(arguments.output, text.encode())
    else:
        sys.stdout.write(text)
    return 0
