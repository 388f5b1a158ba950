"""Patches are applied exactly or refused with the line of the patch that is at fault."""

from __future__ import annotations

import difflib
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from klpbuild.errors import KlpError
from klpbuild.patch.fix import Fault, Standing
from klpbuild.patch.patchfile import apply_patches, without_comments

OPEN_C = """\
#include "open.h"

static int limit = 3;

int open_file(int number)
{
\tif (number > limit)
\t\treturn -1;
\treturn number;
}

int close_file(int number)
{
\treturn 0;
}
"""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    tree = tmp_path / "source"
    (tree / "fs").mkdir(parents=True)
    (tree / "fs/open.c").write_text(OPEN_C)
    (tree / "fs/open.h").write_text("int open_file(int number);\n")
    return tree


def diff(path: str, old: str, new: str, context: int = 3) -> str:
    lines = difflib.unified_diff(
        old.splitlines(keepends=True),
        new.splitlines(keepends=True),
        f"a/{path}",
        f"b/{path}",
        n=context,
    )
    return "".join(lines)


def write(tmp_path: Path, text: str, name: str = "fix.patch") -> Path:
    path = tmp_path / name
    path.write_bytes(text.encode())
    return path


def refusal(source: Path, *patches: Path) -> str:
    with pytest.raises(KlpError) as caught:
        apply_patches(patches, source)
    return str(caught.value)


def test_a_patch_changes_the_file_in_memory_only(source: Path, tmp_path: Path) -> None:
    new = OPEN_C.replace("number > limit", "number >= limit")
    patched = apply_patches([write(tmp_path, diff("fs/open.c", OPEN_C, new))], source)
    assert [file.path for file in patched.files] == ["fs/open.c"]
    assert patched.files[0].patched.decode() == new
    assert patched.files[0].original == OPEN_C.encode()
    assert patched.notes == ()
    assert (source / "fs/open.c").read_text() == OPEN_C


def test_lines_know_where_they_come_from(source: Path, tmp_path: Path) -> None:
    new = OPEN_C.replace("{\n\tif", "{\n\tnumber++;\n\tif")
    file = apply_patches([write(tmp_path, diff("fs/open.c", OPEN_C, new))], source).files[0]
    added = [line for line in file.lines if line.old is None]
    assert [(line.text, line.origin) for line in added] == [(b"\tnumber++;\n", "fix.patch:7")]
    assert file.lines[7].old == 7
    assert file.origin(8) == "fix.patch:7"


def test_a_line_that_repeats_keeps_its_own_number(source: Path, tmp_path: Path) -> None:
    (source / "fs/open.c").write_text("a\n}\n}\nb\n")
    patch = write(tmp_path, "--- a/fs/open.c\n+++ b/fs/open.c\n@@ -1,4 +1,3 @@\n a\n-}\n }\n b\n")
    file = apply_patches([patch], source).files[0]
    assert [line.old for line in file.lines] == [1, 3, 4]


def test_patches_apply_in_order(source: Path, tmp_path: Path) -> None:
    second = OPEN_C.replace("limit = 3", "limit = 4")
    third = second.replace("limit = 4", "limit = 5")
    one = write(tmp_path, diff("fs/open.c", OPEN_C, second), "1.patch")
    two = write(tmp_path, diff("fs/open.c", second, third), "2.patch")
    assert apply_patches([one, two], source).files[0].patched.decode() == third
    assert refusal(source, two, one) == (
        "2.patch:3: needs 1.patch\n"
        "  With 1.patch before it, it applies.\n"
        "  Put 2.patch behind 1.patch, in the order of the names or in the file series."
    )


def test_two_patches_that_change_the_same_lines(source: Path, tmp_path: Path) -> None:
    one = write(
        tmp_path, diff("fs/open.c", OPEN_C, OPEN_C.replace("limit = 3", "limit = 4")), "1.patch"
    )
    two = write(
        tmp_path, diff("fs/open.c", OPEN_C, OPEN_C.replace("limit = 3", "limit = 5")), "2.patch"
    )
    assert refusal(source, one, two) == (
        "2.patch:3: hunk 1 of fs/open.c conflicts with 1.patch:3\n"
        "  1.patch changes these lines before.\n"
        "  It expects:\n"
        "    2.patch:6: static int limit = 3;\n"
        "  There is:\n"
        "    1.patch:7: static int limit = 4;\n"
        "  Make 2.patch again on top of 1.patch, or leave one of them out."
    )


def test_two_patches_that_do_the_same(source: Path, tmp_path: Path) -> None:
    text = diff("fs/open.c", OPEN_C, OPEN_C.replace("limit = 3", "limit = 4"))
    one, two = write(tmp_path, text, "1.patch"), write(tmp_path, text, "2.patch")
    assert refusal(source, one, two) == (
        "2.patch:3: hunk 1 of fs/open.c does what 1.patch:3 does\n  Leave one of them out."
    )


def test_lines_that_an_earlier_patch_takes_away(source: Path, tmp_path: Path) -> None:
    gone = OPEN_C.replace("static int limit = 3;\n", "")
    one = write(tmp_path, diff("fs/open.c", OPEN_C, gone), "1.patch")
    two = write(
        tmp_path, diff("fs/open.c", OPEN_C, OPEN_C.replace("limit = 3", "limit = 5")), "2.patch"
    )
    assert "2.patch:3: hunk 1 of fs/open.c conflicts with 1.patch:3\n" in refusal(source, one, two)


def test_a_patch_that_does_not_apply_leaves_the_others_as_they_are(
    source: Path, tmp_path: Path
) -> None:
    """The third would conflict with what the second had done to another file."""
    (source / "fs/other.c").write_text(OPEN_C)
    stale = diff("fs/open.c", OPEN_C.replace("limit", "bound"), "x\n")
    good = diff("fs/other.c", OPEN_C, OPEN_C.replace("limit = 3", "limit = 4"))
    two = write(tmp_path, good + stale, "2.patch")
    three = write(tmp_path, good, "3.patch")
    text = refusal(source, two, three)
    assert [line for line in text.splitlines() if not line.startswith(" ")] == [
        f"2.patch:{good.count(chr(10)) + 3}: hunk 1 of fs/open.c does not apply"
    ]


def test_a_hunk_may_stand_at_another_line_and_that_is_noted(source: Path, tmp_path: Path) -> None:
    text = diff("fs/open.c", OPEN_C, OPEN_C.replace("return 0", "return 1"))
    (source / "fs/open.c").write_text("/* one line more */\n" + OPEN_C)
    patched = apply_patches([write(tmp_path, text)], source)
    assert patched.notes == ("fix.patch:3: hunk 1 of fs/open.c applies +1 lines off",)
    assert b"return 1" in patched.files[0].patched


def test_two_places_that_fit_are_one_too_many(source: Path, tmp_path: Path) -> None:
    (source / "fs/open.c").write_text("\n\n\nx\ny\n\n\nx\ny\n")
    patch = write(tmp_path, "--- a/fs/open.c\n+++ b/fs/open.c\n@@ -1,2 +1,2 @@\n x\n-y\n+z\n")
    assert refusal(source, patch) == (
        "fix.patch:3: hunk 1 of fs/open.c fits at 2 places (lines 4, 8) and not at its own\n"
        "  Make the patch again against this kernel's source."
    )


def test_fuzz_is_refused(source: Path, tmp_path: Path) -> None:
    text = diff("fs/open.c", OPEN_C, OPEN_C.replace("return 0", "return 1"))
    (source / "fs/open.c").write_text(OPEN_C.replace("}\n\nint close", "}\n/* new */\nint close"))
    assert refusal(source, write(tmp_path, text)) == (
        "fix.patch:3: hunk 1 of fs/open.c applies only with fuzz 1\n"
        "  The lines around the change differ: it may end up in the wrong place.\n"
        "  It expects:\n"
        "    fix.patch:4:\n"
        "  There is:\n"
        "    fs/open.c:11: /* new */\n"
        "  Make the patch again against this kernel's source."
    )


def test_a_change_that_is_there_already(source: Path, tmp_path: Path) -> None:
    new = OPEN_C.replace("return 0", "return 1")
    (source / "fs/open.c").write_text(new)
    assert refusal(source, write(tmp_path, diff("fs/open.c", OPEN_C, new))) == (
        "fix.patch:3: hunk 1 of fs/open.c is in the kernel's source already\n"
        "  Leave it out, or choose the kernel that lacks it."
    )


def test_a_file_that_is_elsewhere_in_the_source_is_named(source: Path, tmp_path: Path) -> None:
    """As in a patch that git diff --relative made, or one for the version before a move."""
    (source / "fs/smb/client").mkdir(parents=True)
    (source / "fs/smb/client/link.c").write_text("int x;\n")
    hunk = "@@ -1 +1 @@\n-int x;\n+int y;\n"
    for name in ("link.c", "client/link.c", "fs/cifs/link.c"):
        patch = write(tmp_path, f"--- a/{name}\n+++ b/{name}\n{hunk}")
        assert refusal(source, patch) == (
            f"fix.patch:1: changes {name}, which the kernel's source does not have\n"
            "  Names in this patch are taken as by patch -p1.\n"
            "  There is fs/smb/client/link.c.\n"
            "  Names in a patch begin at the source tree's top directory, for this kernel's"
            " version."
        )


def test_a_wrong_number_of_directories_in_the_series_file(source: Path, tmp_path: Path) -> None:
    text = diff("fs/open.c", OPEN_C, OPEN_C.replace("return 0", "return 1"))
    (tmp_path / "series").write_text("fix.patch -p2\n")
    assert refusal(source, write(tmp_path, text)) == (
        "fix.patch:1: changes open.c, which the kernel's source does not have\n"
        "  Names in this patch are taken as by patch -p2.\n"
        "  By patch -p1 it is fs/open.c: all names of a patch need the same number, also in the"
        " series file."
    )


def test_all_that_is_wrong_is_told_together(source: Path, tmp_path: Path) -> None:
    missing = "--- a/fs/close.c\n+++ b/fs/close.c\n@@ -1 +1 @@\n-x\n+y\n"
    other = "--- a/fs/open.c\n+++ b/fs/open.c\n@@ -1 +1 @@\n-x\n+y\n"
    text = refusal(source, write(tmp_path, missing + other))
    assert "fix.patch:1: changes fs/close.c, which the kernel's source does not have" in text
    assert "fix.patch:8: hunk 1 of fs/open.c does not apply" in text


@pytest.mark.parametrize(
    "name",
    ["/etc/passwd", "a/../../etc/passwd", "a/fs/../../x.c", "a//etc/passwd", "open.c"],
)
def test_names_outside_of_the_tree(source: Path, tmp_path: Path, name: str) -> None:
    patch = write(tmp_path, f"--- {name}\n+++ {name}\n@@ -1 +1 @@\n-x\n+y\n")
    assert refusal(source, patch) == (
        f"fix.patch:1: names {name}, which is not a file below the source tree\n"
        "  Names in a patch are like a/fs/open.c: relative, without '..'.\n"
        "  Make the patch in the source tree's top directory, for patch -p1."
    )


def test_a_symbolic_link_is_not_followed(source: Path, tmp_path: Path) -> None:
    (source / "linked").symlink_to(tmp_path)
    patch = write(tmp_path, "--- a/linked/x.c\n+++ b/linked/x.c\n@@ -1 +1 @@\n-x\n+y\n")
    assert refusal(source, patch) == (
        "fix.patch:1: linked/x.c is reached through the symbolic link linked\n"
        "  Name the file that the link stands for."
    )


@pytest.mark.parametrize(
    ("path", "what"),
    [
        ("arch/x86/entry/entry_64.S", "is assembly"),
        ("arch/x86/entry/vdso/vma.c", "is part of the vDSO"),
        ("lib/vdso/gettimeofday.c", "is part of the vDSO"),
        ("arch/x86/boot/main.c", "is part of the boot code"),
        ("arch/x86/realmode/rm/wakemain.c", "is part of the real-mode code"),
        ("arch/x86/purgatory/purgatory.c", "is part of kexec's purgatory"),
        ("drivers/firmware/efi/libstub/file.c", "is part of the EFI stub"),
        ("scripts/mod/modpost.c", "is part of the build"),
        ("fs/Kconfig.binfmt", "decides how the kernel is built"),
        ("arch/x86/kernel/vmlinux.lds.S", "decides how the kernel is built"),
        ("rust/kernel/lib.rs", "is not a C file or a header"),
    ],
)
def test_files_that_no_livepatch_can_change(
    source: Path, tmp_path: Path, path: str, what: str
) -> None:
    (source / path).parent.mkdir(parents=True, exist_ok=True)
    (source / path).write_text("x\n")
    patch = write(tmp_path, f"--- a/{path}\n+++ b/{path}\n@@ -1 +1 @@\n-x\n+y\n")
    assert refusal(source, patch).startswith(f"fix.patch:1: {path} {what}\n")


PATH_NAMES = [
    ("linux-6.1.orig/fs/open.c", "linux-6.1/fs/open.c", ()),
    ("a/fs/open.c", "b/fs/open.c", ()),
    ("linux/fs/open.c.orig", "linux/fs/open.c", ()),
    ("a/fs/open.c", "a/fs/open.c~", ()),
    ("fs/open.c", "fs/open.c", ("fix.patch: its names are taken as by patch -p0",)),
    ("./fs/open.c.orig", "./fs/open.c", ("fix.patch: its names are taken as by patch -p0",)),
    ("a/linux/fs/open.c", "b/linux/fs/open.c", ("fix.patch: its names are taken as by patch -p2",)),
    ("x/y/z/fs/open.c", "x/y/z/fs/open.c", ("fix.patch: its names are taken as by patch -p3",)),
]


@pytest.mark.parametrize(("old", "new", "notes"), PATH_NAMES)
def test_directories_before_a_name(
    source: Path, tmp_path: Path, old: str, new: str, notes: tuple[str, ...]
) -> None:
    text = diff("fs/open.c", OPEN_C, OPEN_C.replace("return 0", "return 1"))
    text = text.replace("a/fs/open.c", old).replace("b/fs/open.c", new)
    patched = apply_patches([write(tmp_path, text)], source)
    assert [file.path for file in patched.files] == ["fs/open.c"]
    assert patched.notes == notes


def test_all_files_of_a_patch_have_one_number_of_directories(source: Path, tmp_path: Path) -> None:
    """A new file goes where the others are; what is not there is said as the others are named."""
    text = diff("fs/open.c", OPEN_C, OPEN_C.replace("return 0", "return 1"))
    new = "--- /dev/null\n+++ b/fs/new/x.h\n@@ -0,0 +1 @@\n+int x;\n"
    text = (text + new).replace(" a/", " ").replace(" b/", " ")
    assert [file.path for file in apply_patches([write(tmp_path, text)], source).files] == [
        "fs/new/x.h",
        "fs/open.c",
    ]
    missing = text + "--- fs/none.c\n+++ fs/none.c\n@@ -1 +1 @@\n-x\n+y\n"
    assert refusal(source, write(tmp_path, missing)) == (
        "fix.patch:14: changes fs/none.c, which the kernel's source does not have\n"
        "  Names in this patch are taken as by patch -p0.\n"
        "  Use a patch for this kernel's version."
    )


def test_a_name_that_leads_to_two_files(source: Path, tmp_path: Path) -> None:
    (source / "tools/fs").mkdir(parents=True)
    (source / "tools/fs/open.c").write_text(OPEN_C)
    text = diff("tools/fs/open.c", OPEN_C, OPEN_C.replace("return 0", "return 1"))
    (file,) = apply_patches([write(tmp_path, text)], source).files  # a/ is no directory there
    assert file.path == "tools/fs/open.c"
    assert refusal(source, write(tmp_path, text.replace(" a/", " ").replace(" b/", " "))) == (
        "fix.patch: names tools/fs/open.c, which may be tools/fs/open.c (-p0) or fs/open.c (-p1)\n"
        "  The kernel's source has files of both names.\n"
        "  Make the patch with git diff, whose names begin with a/ and b/."
    )


def test_names_of_several_kinds(source: Path, tmp_path: Path) -> None:
    text = diff("fs/open.c", OPEN_C, OPEN_C.replace("return 0", "return 1"))
    new = "--- /dev/null\n+++ fs/new.c\n@@ -0,0 +1 @@\n+int x;\n"
    assert refusal(source, write(tmp_path, text + new)) == (
        "fix.patch: names files with different numbers of directories before their names\n"
        "  patch -p0 and patch -p1 lead to some each.\n"
        "  Make the patch with git diff, whose names begin with a/ and b/."
    )


def test_two_names_that_are_two_files(source: Path, tmp_path: Path) -> None:
    text = diff("fs/open.c", OPEN_C, OPEN_C.replace("return 0", "return 1"))
    assert refusal(source, write(tmp_path, text.replace("b/fs/open.c", "b/fs/open.h"))) == (
        "fix.patch:1: names fs/open.c and fs/open.h\n"
        "  Both are in the kernel's source: which one it changes cannot be told."
    )


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("x" * 300 + ".c", "a/fs/" + "x" * 115 + "..."),
        ("d/" * 500 + "x.c", "a/fs/" + "d/" * 57 + "d..."),
        ('"\\033[31m.c"', "a/fs/\\x1b[31m.c"),
        ('"\\377.c"', "a/fs/\\xff.c"),
        ('"\\000.c"', "a/fs/\\x00.c"),
        ('"\\n.c"', "a/fs/\\n.c"),
        ("\x7f.c", "a/fs/\\x7f.c"),
    ],
)
def test_names_that_no_file_has(source: Path, tmp_path: Path, name: str, shown: str) -> None:
    name = f'"a/fs/{name[1:]}' if name[0] == '"' else f"a/fs/{name}"
    assert refusal(source, write(tmp_path, f"--- {name}\n+++ {name}\n@@ -0,0 +1 @@\n+x\n")) == (
        f"fix.patch:1: names {shown}, which no file of the kernel is called\n"
        "  Names in a patch are printable text, each part with at most 255 characters."
    )


def test_a_path_through_a_file(source: Path, tmp_path: Path) -> None:
    new = "--- /dev/null\n+++ b/{}\n@@ -0,0 +1 @@\n+int x;\n"
    assert refusal(source, write(tmp_path, new.format("fs/open.c/x.h"))) == (
        "fix.patch:1: fs/open.c/x.h is below fs/open.c, which is a file"
    )
    both = new.format("fs/new.h"), new.format("fs/new.h/x.h")
    assert refusal(source, write(tmp_path, "".join(both))) == (
        "fix.patch:5: fs/new.h/x.h is below fs/new.h, which is a file"
    )
    assert refusal(source, write(tmp_path, "".join(reversed(both)))) == (
        "fix.patch:5: fs/new.h is a directory"
    )
    (source / "fs/dir.h").mkdir()
    assert refusal(source, write(tmp_path, new.format("fs/dir.h"))) == (
        "fix.patch:1: fs/dir.h is a directory"
    )


def test_hunks_are_in_the_order_of_the_lines(source: Path, tmp_path: Path) -> None:
    (source / "fs/open.c").write_text("a\nb\nc\nd\n")
    head = "--- a/fs/open.c\n+++ b/fs/open.c\n"
    later, first = "@@ -3,2 +3,2 @@\n c\n-d\n+D\n", "@@ -1,2 +1,2 @@\n-a\n+A\n b\n"
    assert refusal(source, write(tmp_path, head + later + first)) == (
        "fix.patch:7: hunk 2 of fs/open.c stands before the end of the hunk above it\n"
        "  Hunks are in the order of the file's lines."
    )
    # Two sections are two patches, and context that both hunks show is no change.
    apply_patches([write(tmp_path, head + later + head + first)], source)
    shared = "@@ -1,3 +1,3 @@\n-a\n+A\n b\n c\n@@ -2,3 +2,3 @@\n b\n c\n-d\n+D\n"
    (file,) = apply_patches([write(tmp_path, head + shared)], source).files
    assert file.patched == b"A\nb\nc\nD\n"


def test_a_hunk_without_context(source: Path, tmp_path: Path) -> None:
    """Where it adds lines only, nothing would show that it stands in the right place."""
    head = "--- a/fs/open.c\n+++ b/fs/open.c\n"
    (file,) = apply_patches(
        [write(tmp_path, f"{head}@@ -3 +3 @@\n-static int limit = 3;\n+int limit;\n")], source
    ).files
    assert b"\nint limit;\n" in file.patched
    assert refusal(source, write(tmp_path, f"{head}@@ -3,0 +4 @@\n+int more;\n")) == (
        "fix.patch:3: hunk 1 of fs/open.c has no line that tells where it belongs\n"
        "  Make the patch with lines of context: diff -u, not diff -U0."
    )


def test_only_some_of_many_faults_are_told(source: Path, tmp_path: Path) -> None:
    wrong = "@@ -1,1 +1,1 @@\n-no\n+yes\n" * 100
    text = refusal(source, write(tmp_path, f"--- a/fs/open.c\n+++ b/fs/open.c\n{wrong}"))
    assert text.count("does not apply") == 20


def test_a_patch_with_the_line_ends_of_a_mailer(source: Path, tmp_path: Path) -> None:
    new = OPEN_C.replace("return 0", "return 1")
    text = diff("fs/open.c", OPEN_C, new).replace("\n", "\r\n")
    assert apply_patches([write(tmp_path, text)], source).files[0].patched.decode() == new


def test_a_series_with_a_cover_letter(source: Path, tmp_path: Path) -> None:
    second, third = OPEN_C.replace("= 3", "= 4"), OPEN_C.replace("= 3", "= 5")
    letter = write(tmp_path, "Subject: [PATCH 0/2] two\n\nWords.\n", "0000-cover-letter.patch")
    one = write(tmp_path, diff("fs/open.c", OPEN_C, second), "0001-one.patch")
    two = write(tmp_path, diff("fs/open.c", second, third), "0002-two.patch")
    patched = apply_patches([letter, one, two], source)
    assert patched.files[0].patched.decode() == third
    assert patched.notes == ("0000-cover-letter.patch: is a cover letter; left out",)
    assert refusal(source, letter).startswith(
        "the patch changes nothing in this kernel: it changes no code\n  0000-cover-letter.patch"
    )


def test_what_git_can_do_besides(source: Path, tmp_path: Path) -> None:
    head = "diff --git a/fs/open.c b/fs/open.c\n"
    link = head.replace("open", "link") + "new file mode 120000\nindex 0..1\n"
    link += "--- /dev/null\n+++ b/fs/link.c\n@@ -0,0 +1 @@\n+/etc/passwd\n\\ No newline at end\n"
    assert refusal(source, write(tmp_path, link)) == (
        "fix.patch:4: makes fs/link.c a symbolic link"
    )
    copy = "diff --git a/fs/open.c b/fs/new.c\ncopy from fs/open.c\ncopy to fs/new.c\n"
    assert refusal(source, write(tmp_path, copy)) == (
        "fix.patch:1: copies fs/open.c\n"
        "  A loaded kernel has no file names; a patch for it changes lines.\n"
        "  Make the patch with git format-patch --no-renames, or leave this out."
    )
    mode = head + "old mode 100644\nnew mode 100755\n"
    code = diff("fs/open.c", OPEN_C, OPEN_C.replace("return 0", "return 1"))
    assert apply_patches([write(tmp_path, mode + head + code)], source).notes == (
        "fix.patch:1: no line of fs/open.c changes; left out",
    )
    deleted = head + "deleted file mode 100644\nindex 1..0\n"
    assert refusal(source, write(tmp_path, deleted)).startswith("fix.patch:1: deletes fs/open.c\n")
    empty = head.replace("open", "new") + "new file mode 100644\nindex 0..e69de29\n"
    files = apply_patches([write(tmp_path, empty + head + code)], source).files
    assert (files[0].path, files[0].patched) == ("fs/new.c", b"")


def test_a_file_of_one_tree_only(source: Path, tmp_path: Path) -> None:
    code = diff("fs/open.c", OPEN_C, OPEN_C.replace("return 0", "return 1"))
    assert apply_patches([write(tmp_path, "Only in b/fs: open.o\n" + code)], source).notes == (
        "fix.patch:1: fs/open.o is in one of the two trees only; left out",
    )
    assert refusal(source, write(tmp_path, "Only in b/fs: new.c\n" + code)) == (
        "fix.patch:1: fs/new.c is in one of the two trees only\n"
        "  The diff does not say what is in it.\n"
        "  Make the diff with diff -N, or take this line out."
    )


def test_an_emptied_file_is_a_deletion(source: Path, tmp_path: Path) -> None:
    text = diff("fs/open.h", "int open_file(int number);\n", "")
    assert refusal(source, write(tmp_path, text)).startswith("fix.patch:1: deletes fs/open.h\n")


def test_deleted_renamed_and_binary_files(source: Path, tmp_path: Path) -> None:
    deleted = "--- a/fs/open.h\n+++ /dev/null\n@@ -1 +0,0 @@\n-int open_file(int number);\n"
    assert refusal(source, write(tmp_path, deleted)).startswith("fix.patch:1: deletes fs/open.h\n")
    renamed = (
        "diff --git a/fs/open.c b/fs/new.c\nsimilarity index 100%\n"
        "rename from fs/open.c\nrename to fs/new.c\n"
    )
    assert refusal(source, write(tmp_path, renamed)).startswith("fix.patch:1: renames fs/open.c\n")
    text = diff("fs/open.c", OPEN_C, OPEN_C.replace("return 0", "return 1"))
    documented = renamed.replace("fs/open.c", "Documentation/a.rst").replace("fs/new.c", "NEW")
    for new, told in (("Documentation/b.rst", ""), ("fs/b.c", "fix.patch:1: renames fs/b.c\n")):
        path = write(tmp_path, documented.replace("NEW", new) + text)
        if told:
            assert refusal(source, path).startswith(told)
        else:
            assert apply_patches([path], source).notes == (
                "fix.patch:1: Documentation/b.rst is not part of the kernel; left out",
            )
    binary = (
        "diff --git a/fs/open.c b/fs/open.c\nindex 1..2 100644\n"
        "Binary files a/fs/open.c and b/fs/open.c differ\n"
    )
    assert refusal(source, write(tmp_path, binary)) == (
        "fix.patch:1: fs/open.c is changed as a binary file"
    )


def test_a_new_header(source: Path, tmp_path: Path) -> None:
    new = "--- /dev/null\n+++ b/fs/new.h\n@@ -0,0 +1,2 @@\n+int a;\n+int b;\n"
    file = apply_patches([write(tmp_path, new)], source).files[0]
    assert (file.path, file.original, file.patched) == ("fs/new.h", None, b"int a;\nint b;\n")
    assert refusal(source, write(tmp_path, new.replace("new.h", "open.h"))) == (
        "fix.patch:1: adds fs/open.h, which is there already"
    )


def test_text_beside_code_is_left_out(source: Path, tmp_path: Path) -> None:
    document = "--- a/Documentation/x.rst\n+++ b/Documentation/x.rst\n@@ -1 +1 @@\n-x\n+y\n"
    selftest = document.replace("Documentation/x.rst", "tools/testing/Makefile")
    code = diff("fs/open.c", OPEN_C, OPEN_C.replace("return 0", "return 1"))
    others = [
        document.replace("Documentation/x.rst", name) for name in ("fs/.gitignore", "fs/TODO")
    ]
    patched = apply_patches([write(tmp_path, "".join([document, selftest, *others, code]))], source)
    assert [file.path for file in patched.files] == ["fs/open.c"]
    assert patched.notes == (
        "fix.patch:1: Documentation/x.rst is not part of the kernel; left out",
        "fix.patch:6: tools/testing/Makefile is not part of the kernel; left out",
        "fix.patch:11: fs/.gitignore is not part of the kernel; left out",
        "fix.patch:16: fs/TODO is text; left out",
    )
    assert refusal(source, write(tmp_path, document)).startswith(
        "the patch changes nothing in this kernel: it changes no code\n"
    )


def test_a_comment_is_no_code(source: Path, tmp_path: Path) -> None:
    new = OPEN_C.replace("static int limit = 3;", "/* how many */\nstatic int  limit = 3; // yes")
    assert refusal(source, write(tmp_path, diff("fs/open.c", OPEN_C, new))) == (
        "fix.patch:1: the patch changes nothing in this kernel: only comments and white space\n"
        "  There is nothing that a livepatch could replace."
    )


def test_what_is_not_a_patch(source: Path, tmp_path: Path) -> None:
    assert refusal(source, write(tmp_path, "")).startswith("fix.patch: holds no patch\n")
    assert refusal(source, write(tmp_path, "hello\n")).startswith("fix.patch: holds no patch\n")
    cut = diff("fs/open.c", OPEN_C, OPEN_C.replace("return 0", "return 1"))[:-20]
    assert refusal(source, write(tmp_path, cut)).startswith("fix.patch:7: the hunk of line 3 is")
    missing = tmp_path / "none.patch"
    assert refusal(source, missing) == f"{missing}: cannot be read: No such file or directory"
    for name in ("/dev/zero", str(tmp_path)):
        assert refusal(source, Path(name)) == f"{name}: is not a file"


def test_a_mail_with_a_signature(source: Path, tmp_path: Path) -> None:
    mail = (
        "From 0123 Mon Sep 17 00:00:00 2001\nFrom: A <a@b.c>\nSubject: [PATCH] fs: fix\n\n"
        "---\n fs/open.c | 2 +-\n 1 file changed\n\n"
        "diff --git a/fs/open.c b/fs/open.c\nindex 1111111..2222222 100644\n"
    )
    body = diff("fs/open.c", OPEN_C, OPEN_C.replace("return 0", "return 1"))
    patched = apply_patches([write(tmp_path, mail + body + "-- \n2.39.5\n\n")], source)
    assert patched.files[0].patched.decode() == OPEN_C.replace("return 0", "return 1")
    assert patched.files[0].where == "fix.patch:11"


def test_line_ends_are_kept(source: Path, tmp_path: Path) -> None:
    (source / "fs/open.c").write_bytes(b"int a;\r\nint b;")
    text = (
        "--- a/fs/open.c\n+++ b/fs/open.c\n@@ -1,2 +1,2 @@\n-int a;\r\n+int c;\r\n int b;\n"
        "\\ No newline at end of file\n"
    )
    patched = apply_patches([write(tmp_path, text)], source)
    assert patched.files[0].patched == b"int c;\r\nint b;"
    assert "does not apply" in refusal(source, write(tmp_path, text.replace("\r\n", "\n")))


LINES = st.lists(st.sampled_from(["a\n", "b\n", "}\n", "\n", "\tx();\n"]), max_size=30)


@settings(max_examples=150, deadline=None)
@given(old=LINES, new=LINES, context=st.integers(0, 3))
def test_what_diff_makes_is_undone_by_applying_it(
    tmp_path_factory: pytest.TempPathFactory, old: list[str], new: list[str], context: int
) -> None:
    tree = tmp_path_factory.mktemp("tree")
    (tree / "source/fs").mkdir(parents=True)
    before, after = "int f(void);\n" + "".join(old), "int g(void);\n" + "".join(new)
    (tree / "source/fs/open.c").write_text(before)
    patch = write(tree, diff("fs/open.c", before, after, max(context, 1)))
    file = apply_patches([patch], tree / "source").files[0]
    assert file.patched.decode() == after
    kept = [line.old for line in file.lines if line.old is not None]
    assert kept == sorted(set(kept))
    lines = before.splitlines(keepends=True)
    assert all(line.old is None or lines[line.old - 1].encode() == line.text for line in file.lines)


def test_comments_are_cut_as_the_compiler_cuts_them() -> None:
    text = b'a = "/* no */"; /* yes\n */ b = \'"\'; // end\nc   =  1;\n\n'
    assert without_comments(text) == b'a = "/* no */"; b = \'"\';\nc = 1;'


def test_git_makes_the_same_of_it(source: Path, tmp_path: Path) -> None:
    new = OPEN_C.replace("limit = 3", "limit = 4").replace("return 0", "return limit")
    patch = write(tmp_path, diff("fs/open.c", OPEN_C, new))
    subprocess.run(["git", "apply", "--unsafe-paths", str(patch)], cwd=source, check=True)
    expected = (source / "fs/open.c").read_bytes()
    (source / "fs/open.c").write_text(OPEN_C)
    assert apply_patches([patch], source).files[0].patched == expected


@pytest.mark.parametrize(
    "text",
    [
        "--- a/fs/Kconfig\n+++ b/fs/Kconfig\n@@ -1 +1 @@\n-x\n+y\n",
        "--- a/fs/open.c\n+++ /dev/null\n@@ -1 +0,0 @@\n-x\n",
        "diff --git a/fs/open.c b/fs/o.c\nsimilarity index 100%\nrename from fs/open.c\n"
        "rename to fs/o.c\n",
    ],
    ids=["Kconfig", "deletion", "rename"],
)
def test_what_no_livepatch_can_do_is_refused(tmp_path: Path, text: str) -> None:
    """That is no question of whether it applies."""
    (tmp_path / "fs").mkdir()
    (tmp_path / "fs/open.c").write_text("x\n")
    (tmp_path / "fs/Kconfig").write_text("x\n")
    with pytest.raises(KlpError) as caught:
        apply_patches([write(tmp_path, text)], tmp_path)
    assert [f.standing for f in caught.value.problems if isinstance(f, Fault)] == [Standing.REFUSED]
