"""Add to a report page what the kernel said when it was booted with the livepatch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from klpbuild.errors import printable
from klpbuild.files.whole import write_file
from klpbuild.report.page import render

#: Between them is what a boot added.  No text of a page has them: it is escaped.
_BEGIN, _END = b"<!-- boot -->", b"<!-- end of boot -->"

#: The end of a longer log is left out.
_LINES_MAX = 2000


def add_boot(page: Path, lines: Sequence[str], *, passed: bool) -> None:
    """Put the lines of a boot into a page, in place of those of the boot before.

    :param lines: the transcript; its last ones say what came of it.
    """
    added = render(
        "boot.html.j2",
        passed=passed,
        verdict=lines[-1] if lines else "",
        lines=[printable(line, keep="\t") for line in lines[:_LINES_MAX]],
        cut=max(len(lines) - _LINES_MAX, 0),
    )
    before, _, rest = page.read_bytes().partition(_BEGIN)
    after = rest.partition(_END)[2]
    write_file(page, b"".join((before, _BEGIN, added, _END, after)))
