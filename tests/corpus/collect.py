"""Make patches of what lies between two source trees."""

from __future__ import annotations

import filecmp
import subprocess
from pathlib import Path

from klpbuild.files.whole import write_file
from klpbuild.kernel.source import source_tree
from klpbuild.kernel.tree import Kernel
from klpbuild.patch.units import Units


def collect(kernel: Kernel, newer: Path, output: Path) -> int:
    """Write a patch for each C file of a kernel that a newer source tree has changed.

    :param newer: a source tree of a later version.
    :param output: gets ``fs__proc__stat.c.patch`` and the like.
    :returns: how many there are.
    """
    older, count = source_tree(kernel), 0
    for path in sorted(Units.read(kernel).sources):
        old, new = older / path, newer / path
        if old.suffix != ".c" or not (old.is_file() and new.is_file()):
            continue
        if filecmp.cmp(old, new, shallow=False):
            continue
        labels = ["--label", f"a/{path}", "--label", f"b/{path}"]
        done = subprocess.run(["diff", "-u", *labels, old, new], capture_output=True, check=False)
        write_file(output / f"{path.replace('/', '__')}.patch", done.stdout)
        count += 1
    return count
