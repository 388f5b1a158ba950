"""Load a livepatch on this machine and wait until every task runs it.

Needs root.  A livepatch that takes the place of others has their modules unloaded.

Before it loads anything, it looks what is in the way: another kernel, a missing signature,
functions that a kprobe, fail_function or a BPF program holds (the load would end with EBUSY),
too little memory, a transition that is under way.  --dry-run stops there.

When the transition has not ended in time, the tasks that hold it up are shown with their
stacks, and the kernel goes on trying: the same command waits on, `klpbuild unload` goes back.

Exit status: 0 enabled (--dry-run: nothing is in the way), 1 failed, 3 the transition has not
ended in time.

Examples:

    sudo klpbuild load --dry-run --json build/6.1.0-47-cloud-amd64/livepatch-fix.ko
    sudo klpbuild load livepatch-fix
    sudo klpbuild load build/6.1.0-47-cloud-amd64/livepatch-fix.ko --timeout 300
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from klpbuild.errors import KlpError

if TYPE_CHECKING:
    from klpbuild.running.obstacles import Wanted

_SUFFIXES = (".ko", ".ko.gz", ".ko.xz", ".ko.zst")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's words."""
    parser.add_argument(
        "module", metavar="NAME|FILE", help="an installed module, or the path of a file"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="only look what is in the way of the livepatch"
    )
    parser.add_argument("--json", action="store_true", help="with --dry-run: write JSON")
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
    """Check for obstacles, load, and return the exit status."""
    from klpbuild.errors import Problem
    from klpbuild.running.obstacles import Machine, find_obstacles
    from klpbuild.terminal.shown import show

    if arguments.json and not arguments.dry_run:
        raise KlpError("a load is not told as JSON", where="--json", hint="Add --dry-run.")
    path = _file(arguments.module)
    if path is None and arguments.dry_run:
        raise KlpError("there is no such module", where=arguments.module)
    wanted = _wanted(path) if path is not None else None
    found = find_obstacles(wanted, Machine.this()) if wanted is not None else ()
    stopped = any(each.stops for each in found)
    if wanted is not None and arguments.json:
        told = {"file": str(path), "module": wanted.name, "obstacles": [vars(o) for o in found]}
        print(json.dumps(told, indent=1))
        return int(stopped)
    for each in found:
        kind = "error" if each.stops else "warning"
        show(Problem(each.what, str(path), each.why, each.hint), "klpbuild", kind)
    if stopped:
        return 1
    if wanted is not None and arguments.dry_run:
        print(f"{wanted.name}: nothing stops it from being loaded")
    return 0 if arguments.dry_run else run_waiting("load", arguments)


def _file(module: str) -> Path | None:
    """Find the file of a module, named as `modprobe` takes it, or by its path; None without one."""
    if module.endswith(_SUFFIXES):
        return Path(module) if Path(module).exists() else None
    from klpbuild.run import run as run_to_end

    done = run_to_end(["modinfo", "-n", "--", module])
    return Path(done.stdout.strip()) if done.returncode == 0 and done.stdout.strip() else None


def _wanted(path: Path) -> Wanted:
    """Read from a module what the kernel will check or need.

    :raises KlpError: when it cannot be read.
    """
    from klpbuild.elf.constants import SHF
    from klpbuild.elf.modinfo import modinfo
    from klpbuild.elf.reader import ElfFile
    from klpbuild.graph.tables import read_patches
    from klpbuild.names import object_name
    from klpbuild.report.file import read_file
    from klpbuild.running.obstacles import Wanted

    file = read_file(path)
    elf = ElfFile(file.data, str(path))
    tags = modinfo(elf)
    release = " ".join(tags.get("vermagic", ())).partition(" ")[0]
    name = tags.get("name", [object_name(f"{file.stem}.ko")])[0]
    functions = tuple((p.object, p.function) for p in read_patches(elf) if p.function)
    size = sum(section.sh_size for section in elf.sections if section.sh_flags & SHF.ALLOC)
    return Wanted(name, release, functions, size, file.signature is not None)


def run_waiting(command: str, arguments: argparse.Namespace) -> int:
    """Run a command of the program ``livepatch`` and return its exit status."""
    from klpbuild.running.program import run_program

    module = arguments.module
    if command == "load" and module.endswith(_SUFFIXES):
        module = str(Path(module).absolute())
    words = [command, "--timeout", str(arguments.timeout)]
    words += ["--force"] if arguments.force else []
    return run_program([*words, module])
