"""A patch that adds a member becomes one with a shadow variable."""

from __future__ import annotations

import difflib
from pathlib import Path

import pytest

from klpbuild.excerpt.shadowed import with_shadows
from klpbuild.patch.patchfile import apply_patches
from klpbuild.pipeline.begin import begin_with_patches
from tests.patch.small_kernel import make_kernel

SOURCE = """\
#include <linux/slab.h>
#include "item.h"

struct item {
	int fd;
	long rest;
};

struct item *find(int fd);

static int modify(struct item *item, int fd)
{
	item->fd = fd;
	return 0;
}

static int show(struct item *item, int n)
{
	return item->fd;
}

static void release(struct item *item)
{
	if (item->rest)
		kfree(item);
	kfree(item);
}
"""
CHANGES = (
    ("\tlong rest;\n", "\tlong rest;\n\tunsigned int changes:3; /* so many */\n"),
    ("\titem->fd = fd;\n", "\titem->fd = fd;\n\titem->changes = find(fd)->changes + 1;\n"
     "\titem->changes++;\n\tfind(2)->changes |= 4;\n"),
    ("\treturn item->fd;", "\tif (n && item->changes > 1)\n\t\treturn count(&item->changes);\n"
     "\treturn item->fd;"),
)  # fmt: skip
EXPECTED = """\
+#include <linux/livepatch.h>
+
+/*
+ * In place of a member changes of struct item: data beside each one, which is 0 until it is
+ * set, and if there is no memory for it.
+ */
+typedef unsigned int klp_item_changes_t;
+	klp_item_changes_set(item, klp_item_changes(find(fd)) + 1);
+	klp_item_changes_set(item, klp_item_changes(item) + 1);
+	klp_item_changes_set(find(2), klp_item_changes(find(2)) | (4));
+	if (n && klp_item_changes(item) > 1)
+		return count(&item->changes);
+	klp_shadow_free(item, KLP_ITEM_CHANGES, NULL);
+void klp_item_changes_end(struct klp_object *object)
+	klp_shadow_free_all(KLP_ITEM_CHANGES, NULL);
"""


def patch_of(source: Path, path: str, old: str, new: str) -> Path:
    (source / path).parent.mkdir(parents=True, exist_ok=True)
    (source / path).write_text(old)
    before, after = (text.splitlines(keepends=True) for text in (old, new))
    patch = source.parent / "fix.patch"
    patch.write_text("".join(difflib.unified_diff(before, after, f"a/{path}", f"b/{path}")))
    return patch


def test_a_member_becomes_a_shadow_variable(tmp_path: Path) -> None:
    new = SOURCE
    for change in CHANGES:
        new = new.replace(*change, 1)
    patch = patch_of(tmp_path / "source", "fs/item.c", SOURCE, new)
    files = apply_patches([patch], tmp_path / "source").files
    done = with_shadows(files, ["struct item"])
    written = done.patch(files).decode()
    lines = [line for line in written.splitlines() if line.startswith("+")]
    assert [line for line in EXPECTED.splitlines() if line not in lines] == []
    assert "changes:3" not in written
    assert done.ends == [("klp_item_changes_end", "fs/item.c")]
    said = [doubt.partition(": ")[2] for doubt in done.doubts]
    assert said == [
        "changes of struct item is left as it is",
        "frees a struct item under a condition: free it there",
        "frees a struct item, and what is beside it now",
    ]
    again = tmp_path / "again.patch"
    again.write_text(written)
    (file,) = apply_patches([again], tmp_path / "source").files
    assert file.patched == done.texts["fs/item.c"]


def test_what_is_no_number_is_left_to_the_author(tmp_path: Path) -> None:
    new = SOURCE.replace("\tlong rest;\n", "\tlong rest;\n\tchar text[8];\n\tstruct list one;\n")
    patch = patch_of(tmp_path / "source", "fs/item.c", SOURCE, new)
    files = apply_patches([patch], tmp_path / "source").files
    done = with_shadows(files, ["struct item"])
    assert done.texts["fs/item.c"].decode() == new
    assert done.doubts == [
        "struct item: char text[8]; is left as it is",
        "struct item: struct list one; is left as it is",
    ]


@pytest.mark.slow
def test_a_livepatch_begins_with_it(tmp_path: Path) -> None:
    small = make_kernel(tmp_path / "kernel")
    path = small.source / "fs/read.c"
    old = "struct item { int a; };\nstruct item kept;\n".replace("{ ", "{\n\t").replace(
        "; }", ";\n}"
    )
    old += "int read_item(struct item *item)\n{\n\treturn item->a;\n}\n"
    path.write_text(old)
    new = old.replace("\tint a;\n", "\tint a;\n\tint more;\n").replace("item->a", "item->more")
    patch = tmp_path / "fix.patch"
    patch.write_text("Subject: more items\n\n" + small.patch("fs/read.c", old, new))
    begun = begin_with_patches(small.kernel, tmp_path / "fixes/more", [patch])
    assert begun.files["fix.patch"] == "changes fs/read.c; shadow variables beside struct item"
    assert begun.doubts == ("where else a struct item is freed",)
    written = (begun.directory / "fix.patch").read_text()
    assert written.startswith("Subject: more items\n\n--- a/fs/read.c\n")
    assert "+\treturn klp_item_more(item);" in written
    described = (begun.directory / "livepatch.toml").read_text()
    assert described.endswith(
        '[[object]]\nname = "vmlinux"\ncallbacks = { post_unpatch = "klp_item_more_end" }\n'
    )
