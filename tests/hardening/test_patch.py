"""Patches of any form: applied, or refused with a message; never a traceback.

`fuzz` takes any bytes; `mutated` makes them from good patches and a seed.  More than the
tests try: ``python -m tests.hardening.test_patch FIRST_SEED COUNT``.
"""

from __future__ import annotations

import random
import re
import sys
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from hypothesis import example, given, settings
from hypothesis import strategies as st

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


def fuzz(data: bytes) -> bool:
    """Do with a patch all that is done before a compiler sees it.

    :returns: whether it is applied; what else than `KlpError` is raised is a fault.
    """
    top = Path(_source().name)
    source, patch = top / "source", top / "fix.patch"
    patch.write_bytes(data)
    try:
        read_patch_header(patch)
        patched = apply_patches([patch], source, "x86")
    except KlpError as error:
        _check_message(str(error))
        return False
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
    return True


def _check_message(text: str) -> None:
    assert text.isprintable() or all(line.expandtabs().isprintable() for line in text.split("\n"))
    assert len(text) < 100_000
    text.encode()


def mutated(seed: int) -> bytes:
    """A good patch with a few changes of lines, numbers, words and bytes."""
    chance = random.Random(seed)
    text = "".join(chance.choices(GOOD, k=chance.choice((1, 1, 1, 2, 3))))
    for _ in range(chance.choice((0, 1, 1, 2, 3, 8))):
        text = _changed(text, chance)
    data = text.encode(errors="surrogateescape")
    if chance.random() < 0.1:
        data = data.replace(b"\n", b"\r\n")
    if data and chance.random() < 0.2:
        at = chance.randrange(len(data))
        data = data[:at] + bytes([chance.randrange(256)]) + data[at + chance.randrange(3) :]
    return data


def _changed(text: str, chance: random.Random) -> str:
    lines = text.split("\n")
    at, other = chance.randrange(len(lines)), chance.randrange(len(lines))
    match chance.randrange(8):
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
    return "\n".join(lines)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.integers(0, 2**32))
def test_mutations_of_good_patches(seed: int) -> None:
    fuzz(mutated(seed))


PIECES = st.one_of(
    st.sampled_from([word.encode(errors="surrogateescape") for word in WORDS]),
    st.sampled_from([line.encode() + b"\n" for text in GOOD for line in text.split("\n")]),
    st.binary(max_size=8),
    st.just(b"\n"),
)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.lists(PIECES, max_size=30))
@example([])
@example([b"--- a/fs/open.c\n+++ /dev/null\n@@ -1 +0,0 @@\n-x\n"])
def test_pieces_of_patches(pieces: list[bytes]) -> None:
    fuzz(b"".join(pieces))


def test_good_patches_are_applied() -> None:
    assert [fuzz(text.encode()) for text in GOOD[:5]] == [True, True, True, True, True]


def main(words: Sequence[str]) -> None:
    """Try the mutations of seeds FIRST_SEED to FIRST_SEED + COUNT."""
    first, count = int(words[0]), int(words[1])
    applied = 0
    for seed in range(first, first + count):
        try:
            applied += fuzz(mutated(seed))
        except Exception:
            print(f"seed {seed}: {mutated(seed)!r}", file=sys.stderr)
            raise
    print(f"{count} patches: {applied} applied, {count - applied} refused")


if __name__ == "__main__":
    main(sys.argv[1:])
