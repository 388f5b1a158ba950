"""Print the manual page, for `man -l`, or the reference as Markdown.

Example:

    klpbuild manual > klpbuild.1
"""

from __future__ import annotations

import argparse
import sys

from klpbuild.terminal.manual import man_page, markdown


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's words."""
    parser.add_argument(
        "--format", choices=("man", "markdown"), default="man", help="default: %(default)s"
    )


def run(arguments: argparse.Namespace) -> int:
    """Print the manual page or the reference."""
    make = man_page if arguments.format == "man" else markdown
    sys.stdout.write(make(arguments.parser))
    return 0
