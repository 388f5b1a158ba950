"""Each line of a patch is read, known to be no part of it, or refused with its number."""

from __future__ import annotations

from pathlib import Path

import pytest

from klpbuild.errors import KlpError
from klpbuild.patch.diff import Action, Diff, Side, read_diff

FILE = """\
--- a/fs/open.c
+++ b/fs/open.c
@@ -1,3 +1,3 @@
 one
-two
+TWO
 three
"""
OTHER = FILE.replace("open.c", "read.c")


def read(tmp_path: Path, text: str | bytes, name: str = "fix.patch") -> Diff:
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_diff(path)


def refusal(tmp_path: Path, text: str | bytes, name: str = "fix.patch") -> str:
    with pytest.raises(KlpError) as caught:
        read(tmp_path, text, name)
    return str(caught.value)


def test_a_file_s_hunks(tmp_path: Path) -> None:
    (file,) = read(tmp_path, FILE).files
    assert (file.number, file.old, file.new) == (1, b"a/fs/open.c", b"b/fs/open.c")
    (hunk,) = file.hunks
    assert (hunk.number, hunk.start) == (3, 0)
    assert [(line.side, line.text, line.number) for line in hunk.lines] == [
        (Side.BOTH, b"one\n", 4),
        (Side.OLD, b"two\n", 5),
        (Side.NEW, b"TWO\n", 6),
        (Side.BOTH, b"three\n", 7),
    ]


MERGE = """\
diff --cc fs/read.c
index 111,222..333
--- a/fs/read.c
+++ b/fs/read.c
@@@ -1,1 -1,1 +1,2 @@@
  one
++two
"""
CONTEXT = """\
*** a/fs/read.c\t2024-01-01
--- b/fs/read.c\t2024-01-01
***************
*** 1,3 ****
! one
--- 1,3 ----
! two
"""
NORMAL = "diff a/fs/read.c b/fs/read.c\n2c2\n< two\n---\n> TWO\n"


def shifted(mark: str) -> str:
    return "".join(f"{mark}{line}" for line in OTHER.splitlines(keepends=True))


@pytest.mark.parametrize(
    ("other", "line", "what"),
    [
        (MERGE, 1, "is part of a merge's diff"),
        (MERGE.partition("\n")[2].partition("\n")[2], 3, "is a malformed hunk header"),
        (MERGE.replace("--cc", "--combined"), 1, "is part of a merge's diff"),
        (CONTEXT, 1, "is part of a context diff"),
        (CONTEXT.replace("\t2024-01-01", ""), 4, "is part of a context diff"),
        (NORMAL, 2, "is part of a diff without context"),
        (shifted("> "), 1, "is an indented or quoted part of a diff"),
        (shifted(">"), 1, "is an indented or quoted part of a diff"),
        (shifted("| "), 1, "is an indented or quoted part of a diff"),
        (shifted("  "), 1, "is an indented or quoted part of a diff"),
        (shifted("\t"), 1, "is an indented or quoted part of a diff"),
        (shifted("- "), 1, "is an indented or quoted part of a diff"),
        (shifted("ab> "), 1, "is an indented or quoted part of a diff"),
        (shifted("// "), 1, "is an indented or quoted part of a diff"),
        (shifted("\u00a0"), 1, "is an indented or quoted part of a diff"),
        (shifted("12: "), 1, "is an indented or quoted part of a diff"),
        (shifted("+"), 1, "is an indented or quoted part of a diff"),
        ("line 12 of it: " + OTHER.partition("+++ b/fs/read.c\n")[2], 1, "is an indented or"),
        (shifted("> ").replace("a/", "").replace("b/", ""), 3, "is an indented or quoted part"),
        ("> diff --git a/x.c b/x.c\n", 1, "is an indented or quoted part of a diff"),
        (OTHER.replace("@@ -1,3 +1,3 @@", "@@ -1,3 +1,3"), 3, "is a malformed hunk header"),
        (OTHER.replace("@@ -1,3 +1,3 @@", "@@ -1,3 +1,x @@"), 3, "is a malformed hunk header"),
        (OTHER.replace("-1,3", "-1," + "3" * 5000), 3, "is a malformed hunk header"),
        (OTHER.replace("-1,3", "-1,-3"), 3, "is a malformed hunk header"),
        (OTHER.partition("+++")[0] + "@@ -1 +1 @@\n", 2, "is a hunk header that is malformed or"),
        (OTHER.replace("@@ -1,3 +1,3 @@\n", ""), 3, "does not begin a hunk, though the names of"),
        (OTHER.replace("-1,3 +1,3", "-0,0 +0,0"), 3, "is the header of a hunk without lines"),
        (OTHER.replace("-1,3 +1,3", "-1,3 +1,4"), 7, "the hunk of line 10 is not complete: the"),
        (OTHER.replace("-1,3 +1,3", "-1,9 +1,9"), 7, "the hunk of line 10 is not complete: the"),
        (OTHER.replace("-1,3 +1,3", "-1,4 +1,4") + OTHER, 8, "the hunk of line 10 is not complete"),
        (OTHER.replace(" three", "three"), 7, "the hunk of line 10 is not complete: this is none"),
        (OTHER.replace("-1,3 +1,3", "-1,2 +1,2"), 7, "is no line of the hunk above it, and no"),
        (OTHER.replace("-1,3 +1,3", "-1,3 +1,2"), 7, "the hunk of line 10 is longer than its"),
        (OTHER.replace("-1,3 +1,3", "-1,1 +1,1"), 5, "is no line of the hunk above it, and no"),
        (OTHER + "+more\n", 8, "is no line of the hunk above it, and no known text"),
        (OTHER + "\n\n\tmore\n", 10, "is no line of the hunk above it, and no known text"),
        (OTHER + "\\ No newline at end of file\n+x\n", 9, "is no line of the hunk above it, and"),
        (OTHER + "rest of a broken line\n", 8, "is no line of the hunk above it, and no known"),
        ("--- /dev/null\n+++ /dev/null\n@@ -1 +1 @@\n-a\n+b\n", 1, "names no file"),
        ("GIT binary patch\nliteral 0\nHcmV?d00001\n", 1, "is a binary file's change below no"),
        ("diff --git a/x.c b/y.c\nold mode 100644\n", 1, "names no file that can be told"),
        ("diff --git a/x.c b/x.c\nindex 1..2 100644\n", 1, "says that a file changes, and no line"),
        ("diff --git a/x.c b/x.c\nindex 1..2\n" + OTHER, 1, "says that a file changes, and no"),
        ("Binary file logo.png has changed\n", 1, "says that a file changes, and not how"),
        (f"commit {40 * '1'}\nSubmodule lib 1234567..89abcde:\n", 2, "says that a file"),
        (f"commit {40 * '1'}\n{CONTEXT}", 5, "is part of a context diff"),
        ("Submodule lib 1234567..89abcde:\n", 1, "says that a file changes, and not how"),
    ],
)  # fmt: skip
def test_what_is_not_understood_is_refused(
    tmp_path: Path, other: str, line: int, what: str
) -> None:
    """Behind a file that is read well; a blank line ends its text."""
    text = refusal(tmp_path, FILE + "-- \n2.39\n" + other)
    assert text.startswith(f"fix.patch:{line + 9}: "), text
    assert what.replace("line 10", "line 12") in text


def test_the_whole_message(tmp_path: Path) -> None:
    assert refusal(tmp_path, shifted("> ")) == (
        "fix.patch:1: is an indented or quoted part of a diff\n"
        "  Nobody can tell whether it belongs to the patch.\n"
        "  Take the marks before its lines away, or take it out."
    )
    assert refusal(tmp_path, FILE[:-8]) == (
        "fix.patch:6: the hunk of line 3 is not complete: the patch ends here\n"
        "  Its header counts more lines. The patch was cut off, or a mailer broke a line.\n"
        "  Make it again with git format-patch or diff -u."
    )


def test_a_hunk_that_a_mailer_cut(tmp_path: Path) -> None:
    """The signature does not fill the lines that are missing."""
    cut = FILE.replace(" three\n", "") + "-- \n2.39.5\n\n"
    assert refusal(tmp_path, cut).startswith("fix.patch:8: the hunk of line 3 is not complete")


@pytest.mark.parametrize(
    "text",
    [
        b"--- a/fs/\0x.h\n+++ b/fs/\0x.h\n",
        "--- a/fs/open.c\n".encode("utf-16"),
        FILE.encode().replace(b"TWO", b"\0"),
    ],
)
def test_a_zero_byte(tmp_path: Path, text: bytes) -> None:
    assert "holds a zero byte" in refusal(tmp_path, text)


def test_no_line_is_quoted(tmp_path: Path) -> None:
    """A file of a livepatch's directory may be a link to a secret."""
    secret = "root:$6$secret:19000:0:99999:7:::\n"
    for text in (secret, FILE + secret, FILE[:-7] + secret, f"--- {secret}+++ {secret}{secret}"):
        assert "secret" not in refusal(tmp_path, text)


MAIL = f"""\
From 0123456789012345678901234567890123456789 Mon Sep 17 00:00:00 2001
From: A <a@b.c>
Subject: [PATCH 1/2] fs: fix

It was

    @@ -1,2 +1,2 @@
    -that
    +this

> diff --git a/x b/x
@@
expression e;
@@
- f(e)
+ g(e)
---
 fs/open.c | 2 +-
 1 file changed

diff --git a/fs/open.c b/fs/open.c
index 1111111..2222222 100644
{FILE}-- 
2.39.5

"""  # noqa: W291


def test_mails_one_after_another(tmp_path: Path) -> None:
    """A commit's message may show diffs; git reads none in it."""
    files = read(tmp_path, MAIL + MAIL.replace("fs/open.c", "fs/read.c")).files
    assert [file.new for file in files] == [b"b/fs/open.c", b"b/fs/read.c"]
    assert files[0].number == 23


def test_an_indented_diff_below_the_message(tmp_path: Path) -> None:
    text = MAIL.replace(FILE, shifted("  ").replace("read.c", "open.c"))
    assert refusal(tmp_path, text).startswith("fix.patch:21: says that a file changes, and no line")
    text = text.replace("index 1111111..2222222 100644\n", "")
    assert refusal(tmp_path, text).startswith("fix.patch:22: is an indented or quoted part")


def test_the_log_of_git(tmp_path: Path) -> None:
    log = "commit 0123456789\nAuthor: A\n\n    It was:\n    @@ -1 +1 @@\n\n"
    assert (
        len(read(tmp_path, (log + "diff --git a/fs/open.c b/fs/open.c\n" + FILE + "\n") * 2).files)
        == 2
    )


@pytest.mark.parametrize(
    "between",
    [
        "",
        "\n\n",
        "Index: linux/fs/read.c\n" + "=" * 67 + "\n",
        "Index: fs/read.c\n" + "=" * 67 + "\nRCS file: /cvs/x,v\nretrieving revision 1.1\n",
        "diff -urN linux.orig/fs/read.c linux/fs/read.c\n",
        "diff --git a/fs/read.c b/fs/read.c\nindex 1..2\n",
        "Common subdirectories: linux.orig/fs and linux/fs\n",
        "-- \nsome words\n+ or others\n",
        "-----BEGIN PGP SIGNATURE-----\n\niQ\n",
        "_______________________________________________\nlist mailing list\n",
        "From a@b Mon Sep 17 00:00:00 2001\nSubject: more\n\n * words\n",
    ],
)
def test_what_may_stand_between_two_files(tmp_path: Path, between: str) -> None:
    for end in ("\n", "\r\n"):
        text = (FILE + between + OTHER).replace("\n", end)
        assert len(read(tmp_path, text).files) == 2


def test_line_ends_of_a_patch(tmp_path: Path) -> None:
    """As GNU patch has it: the header tells whether they are the patch's or the file's."""
    patch = FILE.replace("\n", "\r\n")
    (file,) = read(tmp_path, patch).files
    assert file.new == b"b/fs/open.c"
    assert file.hunks[0].new == (b"one\n", b"TWO\n", b"three\n")
    kept = FILE.replace("two", "two\r").replace("TWO", "TWO\r")
    assert read(tmp_path, kept).files[0].hunks[0].old == (b"one\n", b"two\r\n", b"three\n")


@pytest.mark.parametrize(
    ("text", "number"),
    [
        (FILE.replace("\n", "\r"), 1),
        ("A fix.\n\n" + FILE.replace("\n", "\r"), 3),
        (FILE.replace("one\n", "one\r"), FILE[: FILE.index(" one")].count("\n") + 1),
        ("old words\r" + FILE, 1),
    ],
)
def test_lines_that_end_in_a_cr_alone(tmp_path: Path, text: str, number: int) -> None:
    assert refusal(tmp_path, text) == (
        f"fix.patch:{number}: has lines that end in a CR alone\n"
        "  Lines of a patch end in LF or in CR LF.\n"
        "  GNU sed makes LF of them: sed -i 's/\\r$//; s/\\r/\\n/g' FILE"
    )


def test_a_cr_within_a_line_is_its_own(tmp_path: Path) -> None:
    text = "10%\r20%\r 30%\n" + FILE.replace("one", "o\rne").replace("TWO", "TWO\r\r")
    assert read(tmp_path, text).files[0].hunks[0].new == (b"o\rne\n", b"TWO\r\r\n", b"three\n")


def test_an_empty_line_without_its_blank(tmp_path: Path) -> None:
    text = FILE.replace(" one\n", "\n")
    assert read(tmp_path, text).files[0].hunks[0].old[0] == b"\n"


def test_the_end_of_a_file_without_a_line_end(tmp_path: Path) -> None:
    text = FILE.replace(" three\n", "-three\n\\ No newline at end of file\n+three\n")
    (hunk,) = read(tmp_path, text).files[0].hunks
    assert (hunk.old[-1], hunk.new[-1]) == (b"three", b"three\n")


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("a/fs/open.c\t2024-01-01 10:00:00.000000000 +0100", b"a/fs/open.c"),
        ("a/fs/open.c 2024-01-01", b"a/fs/open.c"),
        ("a/my dir/open.c\t", b"a/my dir/open.c"),
        ('"a/fs/\\303\\244\\t\\".c"', b'a/fs/\xc3\xa4\t".c'),
        ("a/fs/open.c\t(revision 7)", b"a/fs/open.c"),
    ],
)
def test_names(tmp_path: Path, name: str, meant: bytes) -> None:
    assert read(tmp_path, FILE.replace("a/fs/open.c", name)).files[0].old == meant


@pytest.mark.parametrize(
    ("text", "action", "mode", "names"),
    [
        ("old mode 100644\nnew mode 100755\n", Action.CHANGES, "100755", "x.c x.c"),
        ("new file mode 120000\nindex 0..1\n", Action.CHANGES, "120000", "None x.c"),
        ("deleted file mode 100644\nindex 1..0\n", Action.CHANGES, "", "x.c None"),
        ("similarity index 90%\nrename from x.c\nrename to y.c\n", Action.RENAMES, "", "x.c y.c"),
        ("similarity index 90%\ncopy from x.c\ncopy to y.c\n", Action.COPIES, "", "x.c y.c"),
        ("index 1..2 100644\nBinary files a/x.c and b/x.c differ\n", Action.BINARY, "", "x.c x.c"),
        ("index 1..2\nGIT binary patch\nliteral 1\nIcmZPo000310RR91\n\nliteral 0\nHcmV?d00001\n\n",
         Action.BINARY, "", "x.c x.c"),
    ],
)  # fmt: skip
def test_what_git_says_of_a_file(
    tmp_path: Path, text: str, action: Action, mode: str, names: str
) -> None:
    target = "y.c" if "y.c" in text else "x.c"
    first, second = read(
        tmp_path, f"diff --git a/x.c b/{target}\n{text}diff --git a/fs/open.c b/fs/open.c\n{FILE}"
    ).files
    assert (first.action, first.mode, first.hunks) == (action, mode, ())
    shown = [name.decode().partition("/")[2] if name else "None" for name in (first.old, first.new)]
    assert " ".join(shown) == names
    assert second.hunks


@pytest.mark.parametrize(
    ("text", "action", "mode"),
    [
        ("old mode 100644\nnew mode 100755\n", Action.CHANGES, "100755"),
        ("deleted file mode 100644\nindex e69de29..0000000\n", Action.CHANGES, ""),
        ("new file mode 120000\nindex 0000000..e69de29\n", Action.CHANGES, "120000"),
        ("rename from x.c\nrename to x.c\n", Action.RENAMES, ""),
        ("copy from x.c\ncopy to x.c\n", Action.COPIES, ""),
    ],
)
def test_a_file_without_lines_before_one_without_a_git_line(
    tmp_path: Path, text: str, action: Action, mode: str
) -> None:
    first, second = read(tmp_path, f"diff --git a/x.c b/x.c\n{text}{FILE}").files
    assert (first.names[0].endswith(b"/x.c"), first.action, first.mode) == (True, action, mode)
    assert (second.new, second.action, second.mode) == (b"b/fs/open.c", Action.CHANGES, "")
    assert not first.hunks
    assert second.hunks


def test_what_diff_says_of_a_directory(tmp_path: Path) -> None:
    text = "Only in linux/fs: x.o\nBinary files linux.orig/logo and linux/logo differ\n" + FILE
    files = read(tmp_path, text).files
    assert [file.action for file in files] == [Action.ONLY_HERE, Action.BINARY, Action.CHANGES]
    assert files[0].names == (b"linux/fs/x.o",) * 2


def test_a_cover_letter(tmp_path: Path) -> None:
    letter = (
        "From 0123456789012345678901234567890123456789 Mon Sep 17 00:00:00 2001\n"
        "Subject: [PATCH v2 00/12] *** SUBJECT HERE ***\n\n*** BLURB HERE ***\n\n"
        " fs/open.c | 2 +-\n-- \n2.39.5\n"
    )
    assert read(tmp_path, letter).is_cover_letter
    assert refusal(tmp_path, letter.replace("00/12", "01/12")).startswith("fix.patch: holds no")


def test_an_encoded_mail(tmp_path: Path) -> None:
    text = "Subject: fix\nContent-Transfer-Encoding: quoted-printable\n\n" + FILE
    assert refusal(tmp_path, text) == (
        "fix.patch:2: is of a mail whose text is encoded\n"
        "  git mailinfo MESSAGE PATCH < MAIL decodes it."
    )


def test_control_characters_of_a_patch_s_name_are_shown(tmp_path: Path) -> None:
    text = refusal(tmp_path, FILE + "+x\n", name="a\x1b[31m\n.patch")
    assert text.startswith("a\\x1b[31m\\n.patch:8: is no line of the hunk above it")
