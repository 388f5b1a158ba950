"""Reading a patch takes time in proportion to its length, whatever is in it.

Four times the text may not take ten times as long; sixteen times is what a search
takes that begins again at each place.  Time counts that this process alone uses.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import pytest

from klpbuild.errors import KlpError
from klpbuild.patch.csource import code_alone, directive_lines, function_lines, without_comments
from klpbuild.patch.diff import read_diff
from klpbuild.patch.layout import kept_local_types, type_lines
from klpbuild.patch.makefiles import check_makefiles
from klpbuild.patch.patched import PatchedFile, SourceLine
from klpbuild.patch.patchfile import apply_patches
from klpbuild.patch.shadow import with_line_directives
from klpbuild.report.references import read_patch_header

#: Seconds that are too few to compare.
_LITTLE = 0.06
SIZE = 8_000
PIECES = (
    "x", " ", "\t\n", "\n", "\r", "\r\n", "\\\n", "'\\", '"\\', "'\n", '"\n', "/*", "//", "//\\",
    "#", "#\\\n", "# x\n", "(", ")", "{", "}", ";", "=", ",", "[", "[]", "[ ", "\\1", "> ", "../",
    ")\n{\n", ")\n{\n}\n", ")\n{\n#\n", "typedef ", "struct ", "struct a{", "struct{};", "static ",
    "static struct a ", "static struct a *", "static struct a{", "f(){\nstatic struct a b",
    "Subject: ", "=?a?q?x ", "upstream ", "CVE-2024-", "From ", "a and ", "Files x and ",
    "Only in x: y\n", "1,2c3\n", "@", "@@ ", "@@ -1 +1 @@\n", "--- a\n+++ b\n",
    "diff --git a/x b/x\n", "new file mode 100644\n",
    "CFLAGS_x.o := ", "-DX ", "$(x) ", "obj-y += x.o\n", "obj-y ",
)  # fmt: skip


def as_file(text: bytes, path: str = "fs/open.c", *, new: bool = True) -> PatchedFile:
    lines = tuple(
        SourceLine(line + b"\n", None if new else i, f"fix.patch:{i}" if new else "")
        for i, line in enumerate(text.split(b"\n"), 1)
    )
    return PatchedFile(path, text, lines, "fix.patch:1")


def origins(text: bytes) -> None:
    file = as_file(text)
    for number in range(1, len(file.lines)):
        file.origin(number)


READERS: tuple[Callable[[bytes], object], ...] = (
    without_comments,
    code_alone,
    directive_lines,
    function_lines,
    type_lines,
    origins,
    lambda text: kept_local_types(as_file(b"int f(int a)\n{\n" + text + b"\n}\n")),
    lambda text: with_line_directives(as_file(text, new=False).lines),
    lambda text: check_makefiles([as_file(text, "fs/Makefile")], []),
)


def seconds(read: Callable[[bytes], object], text: bytes) -> float:
    begin = time.process_time()
    with suppress(KlpError):
        read(text)
    return time.process_time() - begin


def check_growth(read: Callable[[bytes], object], texts: Sequence[bytes]) -> None:
    """Read a text and another one, four times as long."""
    for _ in range(3):  # what else this process does at times must not count
        first, second = (seconds(read, text) for text in texts)
        if second < _LITTLE or second < 10 * first:
            return
    pytest.fail(f"{first:.3f} s, then {second:.3f} s for four times the text")


def repeated(piece: str) -> Callable[[int], bytes]:
    return lambda size: (piece * (size // len(piece))).encode()


@pytest.mark.parametrize("piece", PIECES)
def test_source_of_a_patch(piece: str) -> None:
    texts = [repeated(piece)(size) for size in (SIZE, 4 * SIZE)]
    for read in READERS:
        check_growth(read, texts)


@pytest.mark.parametrize("piece", PIECES)
def test_text_of_a_patch(tmp_path: Path, piece: str) -> None:
    """Before a file, as a name, behind a file."""
    path = tmp_path / "fix.patch"

    def written(text: bytes) -> Path:
        path.write_bytes(text)
        return path

    file = b"--- a/x.c\n+++ b/x.c\n@@ -1 +1 @@\n-a\n+b\n"
    forms: tuple[Callable[[bytes], bytes], ...] = (
        lambda text: text + b"\n" + file,
        lambda text: b"Subject: " + text + b"\n\n" + file,
        lambda text: b"--- a/" + text + b"\n+++ b/x.c\n@@ -1 +1 @@\n-a\n+b\n",
        lambda text: b'diff --git "a/' + text + b'" "b/' + text + b'"\nold mode 100644\n',
        lambda text: file + b"-- \n" + text,
        lambda text: b"--- a/x.c\n+++ b/x.c\n@@ -0,0 +1,99999 @@\n+" + text.replace(b"\n", b"\n+"),
    )
    for form in forms:
        make = [form(repeated(piece)(size)) for size in (SIZE, 4 * SIZE)]
        for read in (read_diff, read_patch_header):
            check_growth(lambda text, read=read: read(written(text)), make)


#: Hunks that fit, are off by one line, fit at many places, fit nowhere, each for a line.
HUNKS = {
    "fit": "@@ -{n} +{n} @@\n-{n}\n+{n} new\n",
    "are off": "@@ -{m} +{m} @@\n-{n}\n+{n} new\n",
    "fit often": "@@ -{m},2 +{m} @@\n-x\n-x\n+y\n",
    "fit nowhere": "@@ -{n} +{n} @@\n-none\n+{n} new\n",
}


@pytest.mark.parametrize("kind", HUNKS)
def test_many_hunks(tmp_path: Path, kind: str) -> None:
    (tmp_path / "fs").mkdir()
    texts = []
    for count in (SIZE // 30, 4 * SIZE // 30):
        numbers = range(1, 3 * count, 6)
        hunks = [HUNKS[kind].format(n=n, m=n + 2) for n in numbers]
        texts.append(f"--- a/fs/x.c\n+++ b/fs/x.c\n{''.join(hunks)}".encode())

    def read(patch: bytes) -> None:
        lines = (f"{n}\nx\nx\n" for n in range(1, len(patch) // 10, 3))
        (tmp_path / "fs/x.c").write_text("".join(lines))
        (tmp_path / "fix.patch").write_bytes(patch)
        apply_patches([tmp_path / "fix.patch"], tmp_path)

    check_growth(read, texts)
