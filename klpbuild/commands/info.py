"""Read back what is in a livepatch module: what it patches, who signed it, where it is from.

It reads .ko, .ko.xz, .ko.zst and .ko.gz, signed or not, and compares the module with the
provenance file beside it.  Exit status: 0 nothing contradicts, 1 the provenance is not
the module's, 2 it could not be read.

Example:

    klpbuild info build/6.1.0-47-cloud-amd64/livepatch-fix.ko
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from klpbuild.commands.check import show
from klpbuild.errors import KlpError

MATCHES, DIFFERS, NOT_READ = 0, 1, 2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's words."""
    parser.add_argument("module", type=Path, metavar="MODULE.ko")
    parser.add_argument(
        "--provenance",
        type=Path,
        metavar="FILE",
        help="its provenance (default: MODULE.provenance.json beside it, if it is there)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace) -> int:
    """Read, compare, show; the exit status."""
    from klpbuild.report.comparison import compare, provenance_beside
    from klpbuild.report.contents import read_contents
    from klpbuild.report.file import read_file
    from klpbuild.report.provenance import as_json
    from klpbuild.report.text import as_document, as_text

    try:
        file = read_file(arguments.module)
        contents = read_contents(file.data, str(arguments.module))
        path = arguments.provenance or provenance_beside(file)
        comparison = compare(path, file, contents) if path else None
    except KlpError as error:
        show(error)
        return NOT_READ
    if arguments.json:
        sys.stdout.write(as_json(as_document(file, contents, comparison)).decode())
    else:
        sys.stdout.write(as_text(file, contents, comparison))
    return MATCHES if comparison is None or comparison.matches else DIFFERS
