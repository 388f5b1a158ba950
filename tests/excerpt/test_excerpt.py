"""A function with what it needs of its file."""

from __future__ import annotations

from pathlib import Path

from klpbuild.excerpt.excerpt import Excerpt, Place, Reach, Source, excerpt

FILE = """\
/* SPDX-License-Identifier: GPL-2.0-only */
#define pr_fmt(fmt) "x: " fmt
#define CREATE_TRACE_POINTS
#include <linux/mm.h>
#include "../../include/linux/swap.h"
#include "internal.h"
#define KB(pages) ((pages) << SHIFT)
#define SHIFT 2
#define UNUSED 1
struct unused { int a; };
struct entry { int value; };
static DEFINE_MUTEX(lock);
static struct entry entries[4] = { { 1 } };
static const int sizes[] = { 1, 2 };
static int hidden;
#ifdef CONFIG_A
static int helper(struct entry *e) { return KB(e->value); }
#else
static int helper(struct entry *e) { return 0; }
#endif
static int far(int a)
{
	return unused_elsewhere(a);
}
static noinline int show(int a)
{
	mutex_lock(&lock);
	if (a)
		return show(a - 1);
	hidden = far(a) + sizes[0];
	return helper(&entries[0]);
}
"""

IN_THE_KERNEL = {"lock", "entries", "sizes", "far"}


def place(name: str, static_code: bool) -> Place:
    if name == "entries":
        return Place(Reach.RELOCATION, " KLP_RELOC_SYMBOL(vmlinux, vmlinux, entries, 2)")
    return Place(Reach.RELOCATION if name in IN_THE_KERNEL else Reach.COPY)


def taken(directory: Path, local_headers: bool) -> Excerpt:
    (directory / "fs/proc").mkdir(parents=True)
    (directory / "fs/proc/show.c").write_text(FILE)
    (directory / "fs/proc/internal.h").touch()
    source = Source("fs/proc/show.c", directory)
    new = {"show": "livepatch_show"}
    return excerpt(source, new, place, heading="Heading.", local_headers=local_headers)


def test_what_is_taken(tmp_path: Path) -> None:
    found = taken(tmp_path, local_headers=True)
    assert (
        found.text
        == """\
// SPDX-License-Identifier: GPL-2.0-only
/*
 * Heading.
 */
#define pr_fmt(fmt) "x: " fmt

#include <linux/mm.h>
#include <linux/swap.h>
#include "fs/proc/internal.h"

#define KB(pages) ((pages) << SHIFT)
#define SHIFT 2

struct entry { int value; };

extern struct mutex lock;
extern struct entry entries[4] KLP_RELOC_SYMBOL(vmlinux, vmlinux, entries, 2);
static const int sizes[] = { 1, 2 };
extern int hidden;

#ifdef CONFIG_A
static int helper(struct entry *e) { return KB(e->value); }
#endif
#ifdef CONFIG_A
#else
static int helper(struct entry *e) { return 0; }
#endif
extern int far(int a);

noinline int livepatch_show(int a)
{
	mutex_lock(&lock);
	if (a)
		return livepatch_show(a - 1);
	hidden = far(a) + sizes[0];
	return helper(&entries[0]);
}
"""
    )
    assert found.doubts == ("hidden is not in the kernel's symbols: the build cannot find it",)


def test_headers_beside_the_source_are_left_out_on_request(tmp_path: Path) -> None:
    assert "internal.h" not in taken(tmp_path, local_headers=False).text


def test_an_include_can_be_left_out(tmp_path: Path) -> None:
    (tmp_path / "a.c").write_text("#include <asm/tlb.h>\n#include <linux/mm.h>\nint f(void) {}\n")
    made = excerpt(
        Source("a.c", tmp_path),
        {"f": "g"},
        place,
        heading="",
        local_headers=True,
        without=frozenset(["#include <asm/tlb.h>"]),
    )
    assert "asm/tlb.h" not in made.text
    assert "#include <linux/mm.h>\n\nint g(void) {}\n" in made.text


def test_a_header_of_a_directory_above(tmp_path: Path) -> None:
    for name in ("arch/kvm/mmu/a.c", "arch/kvm/irq.h", "arch/kvm/include/deep.h"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    source = Source("arch/kvm/mmu/a.c", tmp_path)
    (tmp_path / source.path).write_text(
        '#include "irq.h"\n#include "deep.h"\n#include "none.h"\nint f(void) {}\n'
    )
    made = excerpt(source, {"f": "g"}, place, heading="", local_headers=True)
    includes = [line for line in made.text.splitlines() if line.startswith("#include")]
    assert includes == [
        '#include "arch/kvm/irq.h"',
        '#include "arch/kvm/include/deep.h"',
        '#include "none.h"',
    ]
