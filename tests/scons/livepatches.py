"""Livepatches that tests write."""

from __future__ import annotations

import difflib
from pathlib import Path

from tests.scons.checkout import ROOT


def add_patch(
    directory: Path,
    path: str = "fs/proc/meminfo.c",
    old: str = "MemFree: ",
    new: str = "MemUnused:",
) -> None:
    """Make a livepatch of one source patch of the miniature kernel.

    :param directory: is made, and is called as the livepatch.
    :param path: the file of the kernel that is patched.
    """
    before = (ROOT / "kernel-fixtures" / path).read_text()
    assert old in before
    after = before.replace(old, new)
    lines = difflib.unified_diff(
        before.splitlines(keepends=True), after.splitlines(keepends=True), f"a/{path}", f"b/{path}"
    )
    directory.mkdir(parents=True)
    (directory / "fix.patch").write_text("".join(lines))
