"""Show a patched function beside the one that it replaces, and where each reference leads.

Example:

    klpbuild explain livepatch-fix.ko --kernel 6.1.0-47-cloud-amd64 --changes
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from klpbuild.commands.check import add_kernel_arguments, find_kernel, find_symbols


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's words."""
    parser.add_argument("module", type=Path, metavar="MODULE.ko")
    parser.add_argument(
        "functions",
        nargs="*",
        metavar="FUNCTION",
        help="new or old name (default: each function that is replaced)",
    )
    add_kernel_arguments(parser, required=True)
    parser.add_argument(
        "--changes", action="store_true", help="leave out instructions that did not change"
    )
    parser.add_argument("--json", action="store_true", help="write JSON")


def run(arguments: argparse.Namespace) -> int:
    """Explain; 1 when an unchanged reference leads elsewhere."""
    from klpbuild.check.explain import Explainer
    from klpbuild.check.kernelside import KernelSide
    from klpbuild.check.module import open_module
    from klpbuild.check.transcript import as_record, lines

    kernel = find_kernel(arguments.kernel, arguments.further)
    side = KernelSide(kernel, find_symbols(kernel, arguments.symbols))
    explainer = Explainer(open_module(arguments.module, side))
    found = [explainer.explain(name) for name in arguments.functions or explainer.functions]
    if arguments.json:
        told = [as_record(each, changes_only=arguments.changes) for each in found]
        print(json.dumps(told, indent=1))
    for explanation in () if arguments.json else found:
        text = "\n".join(lines(explanation, changes_only=arguments.changes))
        sys.stdout.write(text + "\n\n")
    return 1 if any(explanation.mismatches for explanation in found) else 0
