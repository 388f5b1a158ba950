"""Patches to damage, and all that is done with one before a compiler sees it."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from random import Random

from klpbuild.errors import KlpError
from klpbuild.patch.csource import without_comments
from klpbuild.patch.diff import read_diff
from klpbuild.patch.layout import kept_local_types, may_change_layouts
from klpbuild.patch.patchfile import apply_patches
from klpbuild.patch.shadow import make_shadow
from klpbuild.report.references import read_patch_header

OPEN_C = """\
#include "open.h"

static int limit = 3;

int open_file(int number)
{
\tstatic struct { int last; } state;
\tif (number > limit) /* never */
\t\treturn -1;
\treturn number;
}
"""
TREE = {
    "fs/open.c": OPEN_C,
    "fs/open.h": "int open_file(int number);\n",
    "fs/Makefile": "obj-y := open.o\n",
    "tools/fs/open.c": OPEN_C,
    "Documentation/fs.rst": "Files\n",
}
HUNKS = """\
@@ -2,5 +2,6 @@

-static int limit = 3;
+static int limit = 4;
+static int more;

 int open_file(int number)
 {
@@ -9,3 +10,3 @@
 \t\treturn -1;
-\treturn number;
+\treturn number + 1;
 }
"""
GOOD = (
    f"--- a/fs/open.c\n+++ b/fs/open.c\n{HUNKS}",
    "Index: linux/fs/open.c\n====\n--- linux.orig/fs/open.c\t2024-01-01\n"
    f"+++ linux/fs/open.c\n{HUNKS}",
    "From 0123456789012345678901234567890123456789 Mon Sep 17 00:00:00 2001\n"
    "From: A <a@b.c>\nSubject: [PATCH 1/2] =?utf-8?q?fs?=: fix\n\nCVE-2024-1234\n\n"
    "    @@ -1 +1 @@\n---\n fs/open.c | 3 ++-\n\n"
    f"diff --git a/fs/open.c b/fs/open.c\nindex 1111111..2222222 100644\n--- a/fs/open.c\n"
    f"+++ b/fs/open.c\n{HUNKS}-- \n2.39.5\n\n",
    f"diff -urN x/fs/open.c y/fs/open.c\n--- fs/open.c\n+++ fs/open.c\n{HUNKS}",
    "diff --git a/fs/new.c b/fs/new.c\nnew file mode 100644\nindex 0..1\n--- /dev/null\n"
    "+++ b/fs/new.c\n@@ -0,0 +1 @@\n+int x;\n\\ No newline at end of file\n"
    "--- a/fs/Makefile\n+++ b/fs/Makefile\n@@ -1 +1,2 @@\n-obj-y := open.o\n"
    "+obj-y := open.o new.o\n+CFLAGS_new.o := -DX=1\n",
    "diff --git a/fs/open.c b/fs/read.c\nsimilarity index 90%\nrename from fs/open.c\n"
    'rename to "fs/r\\303\\244d.c"\nold mode 100644\nnew mode 100755\nOnly in a/fs: x.o\n',
    "diff --git a/x.png b/x.png\nindex 1..2 100644\nGIT binary patch\nliteral 1\nIcmZPo00\n\n"
    "literal 0\nHcmV?d00001\n\nBinary files a/logo and b/logo differ\n",
)
#: Words that mean something in a patch, or that readers often do not expect.
WORDS = (
    "--- ", "+++ ", "@@ -1,3 +1,3 @@", "@@@ -1 -1 +1 @@@", "@@ -0,0 +0,0 @@", "\\ No newline",
    "diff --git a/x b/x", "diff --cc x", "*** 1,3 ****", "> ", "\t", " ", "+", "-", "-- ",
    "/dev/null", "/", "..", ".", "a/", "fs/open.c", "fs/open.c/x.h", "tools/fs/open.c", "x" * 300,
    "9" * 5000, "0", "4294967296", "\0", "\r", "\x1b[2J", "\udcff", "\ufeff", '"\\777\\', "'\\",
    "/*", "*/", '#include "open.c"', "{", "}", ")", "struct x {", "typedef", "$(shell false)",
    "new file mode 120000", "deleted file mode 100644", "GIT binary patch", "CVE-2024-1",
    "Subject: [PATCH 0/2]", "Content-Transfer-Encoding: base64", "=?utf-8?b?x?=", "commit 01234567",
)  # fmt: skip


@cache
def _source() -> tempfile.TemporaryDirectory[str]:
    directory = tempfile.TemporaryDirectory(prefix="klpbuild-fuzz-")
    for name, text in TREE.items():
        path = Path(directory.name, "source", name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return directory


def use(data: bytes) -> None:
    """Do with a patch all that is done before a compiler sees it.

    :raises KlpError: when it does not apply; whatever else is raised is a fault.
    """
    top = Path(_source().name)
    source, patch = top / "source", top / "fix.patch"
    patch.write_bytes(data)
    try:
        read_patch_header(patch)
        patched = apply_patches([patch], source, "x86")
    except KlpError as error:
        _check_message(str(error))
        raise
    for note in patched.notes:
        _check_message(note)
    for file in (*patched.files, *patched.makefiles):
        kept = [line.old for line in file.lines if line.old is not None]
        assert kept == sorted(set(kept)), "a line of the original stands twice, or elsewhere"
        assert without_comments(file.patched) == without_comments(
            b"".join(x.text for x in file.lines)
        )
        kept_local_types(file)
        may_change_layouts(file)
        file.origin(1)
    make_shadow(top / "shadow", source, [*patched.files, *patched.makefiles])
    assert {path.name for path in top.iterdir()} == {"source", "fix.patch", "shadow"}
    assert sum(1 for path in source.rglob("*") if path.is_file()) == len(TREE)
    # All lines that the patch adds or takes away are accounted for.
    hunks = [hunk for file in read_diff(patch).files for hunk in file.hunks]
    assert any(hunk.old != hunk.new for hunk in hunks) or any(
        f.original is None for f in patched.files
    )


def _check_message(text: str) -> None:
    assert text.isprintable() or all(line.expandtabs().isprintable() for line in text.split("\n"))
    assert len(text) < 100_000
    text.encode()


def of_patch(chance: Random, whole: Sequence[bytes]) -> bytes:
    """Change lines, numbers, words and bytes of one or more patches after each other."""
    patches = [each.decode(errors="surrogateescape") for each in whole]
    text = "".join(chance.choices(patches, k=chance.choice((1, 1, 1, 2, 3))))
    for _ in range(chance.choice((0, 1, 1, 2, 3, 8))):
        text = _changed(text, chance)
    data = text.encode(errors="surrogateescape")
    if chance.random() < 0.1:
        data = data.replace(b"\n", b"\r\n")
    if data and chance.random() < 0.2:
        at = chance.randrange(len(data))
        data = data[:at] + bytes([chance.randrange(256)]) + data[at + chance.randrange(3) :]
    return data


def _changed(text: str, chance: Random) -> str:
    lines = text.split("\n")
    at, other = chance.randrange(len(lines)), chance.randrange(len(lines))
    match chance.randrange(8) if chance.randrange(50) else 8:
        case 0:
            del lines[at : at + chance.choice((1, 1, 1, 5))]
        case 1:
            lines.insert(at, lines[other])
        case 2:
            lines[at], lines[other] = lines[other], lines[at]
        case 3:
            lines[at] = chance.choice(WORDS) + lines[at]
        case 4:
            lines.insert(at, chance.choice(WORDS) + chance.choice(("", chance.choice(WORDS))))
        case 5:
            numbers = [*re.finditer(r"\d+", text)] or [re.match("", text)]
            found = chance.choice(numbers)
            assert found is not None
            number = str(int(found[0][:9] or 0) + chance.choice((-1, 1, 10**6)))
            return text[: found.start()] + number + text[found.end() :]
        case 6:
            spot = chance.randrange(len(text) + 1)
            return text[:spot] + chance.choice(WORDS) + text[spot + chance.randrange(4) :]
        case 7:
            mark = chance.choice(("> ", "\t", "  ", "+", "-", ""))
            lines[at:other] = [mark + line for line in lines[at:other]]
        case 8:  # what takes quadratic time takes too long
            start = chance.randrange(len(text) + 1)
            piece = text[start : start + chance.choice((1, 2, 3, 20, 300))]
            return text[:start] + piece * (100_000 // max(len(piece), 1)) + text[start:]
    return "\n".join(lines)
