"""Read a patch file as text, and refuse what no tool takes for a patch's."""

from __future__ import annotations

import re
from pathlib import Path

from klpbuild.errors import KlpError, printable
from klpbuild.files.given import PATCH_MAX, read_given_file

#: A CR before another line of a diff, and not before the LF that ends its own.
_OLD_LINE_END = re.compile(
    rb"\r(?=diff --git |--- |\+\+\+ |@@ -\d)|^[-+ ][^\n]*?\r(?=[-+ ])", re.MULTILINE
)


def read_text(path: Path) -> bytes:
    """Read a patch file, without the mark that some editors put before UTF-8.

    :raises KlpError: when it cannot be read, or is no text of lines.
    """
    data = read_given_file(path, PATCH_MAX)
    name = printable(path.name)
    before, zero, _ = data.partition(b"\0")
    if zero:
        number = before.count(b"\n") + 1
        raise KlpError(
            "holds a zero byte",
            where=f"{name}:{number}",
            why="A patch is text: UTF-8, or any other encoding that ASCII is a part of.",
            hint="Make it again with git format-patch or diff -u.",
        )
    if b"\r" in data and (old_end := _OLD_LINE_END.search(data)):
        number = data.count(b"\n", 0, old_end.end()) + 1
        raise KlpError(
            "has lines that end in a CR alone",
            where=f"{name}:{number}",
            why="Lines of a patch end in LF or in CR LF.",
            hint="GNU sed makes LF of them: sed -i 's/\\r$//; s/\\r/\\n/g' FILE",
        )
    return data.removeprefix(b"\xef\xbb\xbf")
