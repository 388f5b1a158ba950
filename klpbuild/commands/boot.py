"""Boot a kernel in QEMU with livepatches and show what they change.

Modules that they patch are loaded before the livepatches, and once more after them.
Needs neither root nor KVM.  KLPBUILD_ACCEL=tcg or kvm overrides the choice of the accelerator.

Examples:

    klpbuild boot build/6.1.0-47-cloud-amd64/livepatch-fix.ko --kernel 6.1.0-47-cloud-amd64
    klpbuild boot livepatch-fix.ko --kernel 6.1.0-47-cloud-amd64 --watch /proc/meminfo
"""

from __future__ import annotations

import argparse
import json
from contextlib import nullcontext
from pathlib import Path

from klpbuild.commands.check import add_modules_argument
from klpbuild.errors import printable
from klpbuild.files.locks import working_in
from klpbuild.kernel.further import with_modules
from klpbuild.kernel.locate import locate
from klpbuild.vm.redirected import targets_of
from klpbuild.vm.transcript import as_json, transcript
from klpbuild.vm.trial import Wanted, boot_livepatch


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's words."""
    parser.add_argument("modules", nargs="+", type=Path, metavar="MODULE.ko")
    parser.add_argument(
        "--kernel", required=True, help="release of a fetched kernel, or path of a kernel tree"
    )
    for option, metavar, text in (
        ("--watch", "FILE", "show this file of the guest before, with and after the livepatches"),
        ("--modprobe", "NAME", "load this module of the kernel before the livepatches"),
        ("--modprobe-after", "NAME", "load this module of the kernel after the livepatches"),
    ):
        parser.add_argument(
            option, action="append", default=[], metavar=metavar, help=f"{text} (repeatable)"
        )
    add_modules_argument(parser)
    parser.add_argument(
        "--expect",
        action="append",
        default=[],
        metavar="TEXT",
        help="fail unless a watched file shows TEXT with the livepatches, and only then",
    )
    parser.add_argument(
        "--must-change",
        action="store_true",
        help="fail unless each watched file changes in more than its numbers",
    )
    parser.add_argument(
        "--keep", type=Path, metavar="DIRECTORY", help="keep the guest's console log there"
    )
    parser.add_argument("--json", action="store_true", help="write JSON")


def run(arguments: argparse.Namespace) -> int:
    """Boot, show, and return 0 when all went as wanted."""
    build = Path("build")
    with working_in(build, writes=False) if (build / ".lock").exists() else nullcontext():
        kernel = with_modules(locate(arguments.kernel), arguments.further)
        others = (*arguments.modprobe, *arguments.modprobe_after)
        wanted = Wanted(
            arguments.modules,
            arguments.watch,
            arguments.modprobe,
            arguments.modprobe_after,
            arguments.expect,
            arguments.must_change,
            targets_of(kernel, arguments.modules, others),
        )
        trial = boot_livepatch(kernel, wanted, arguments.keep)
    if arguments.json:
        print(json.dumps(as_json(trial), indent=1))
    else:
        for line in transcript(trial):
            print(printable(line, keep="\t"))
    return 0 if trial.passed else 1
