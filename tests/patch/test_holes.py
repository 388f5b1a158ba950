"""New members of structures where nothing was."""

from __future__ import annotations

from pathlib import Path

import pytest

from klpbuild.elf.types import Layout, Member
from klpbuild.patch.holes import new_members
from tests.patch.small_kernel import SmallKernel, make_kernel
from tests.patch.test_pair import compiled, refusal

SOURCE = """\
void *kzalloc(unsigned long size, int flags);
void *kmalloc(unsigned long size, int flags);
void *kcalloc(unsigned long n, unsigned long size, int flags);
void *memcpy(void *to, const void *from, unsigned long size);
void add(void *what);

struct filter {
	int handle;
	struct filter *next;
	char kind[24];
	int last;
};

struct pool {
	int n;
};

struct filter *make_filter(int n)
{
	struct filter *f = kzalloc(sizeof(*f), 3);

	f->handle = n;
	return f;
}

int use_filter(struct filter *f)
{
	return f->handle;
}
"""
HOLE = ("\tint handle;\n", "\tint handle;\n\tchar dying;\n")
SLACK = ("\tint last;\n", "\tint last;\n\tint more;\n\tlong rest[2];\n")
USE = ("return f->handle;", "return f->handle + f->NEW;")
MAKE = "struct filter *make_filter("


@pytest.fixture
def small(tmp_path: Path) -> SmallKernel:
    return make_kernel(tmp_path / "kernel")


def patched(small: SmallKernel, source: str, change: tuple[str, str], new: str) -> str:
    path = small.source / "fs/read.c"
    path.write_text(source)
    text = source.replace(*change).replace(USE[0], USE[1].replace("NEW", new))
    return small.patch("fs/read.c", source, text)


@pytest.mark.parametrize(
    ("change", "new", "told"),
    [(HOLE, "dying", "dying"), (SLACK, "more", "more, rest")],
    ids=["hole", "slack"],
)
def test_it_is_zero_where_all_are_allocated_as_zeros(
    small: SmallKernel, tmp_path: Path, change: tuple[str, str], new: str, told: str
) -> None:
    result = compiled(small, tmp_path, patched(small, SOURCE, change, new))
    assert (
        f"struct filter gets {told} where nothing was: taken to be zero in each one that exists,"
        " since all of them are allocated as zeros"
    ) in result.notes


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("= kzalloc(sizeof(*f)", "= kmalloc(sizeof(*f)", "make_filter() depends on its size, and"),
        (MAKE, "struct filter *other(void)\n{\n\treturn kmalloc(sizeof(struct filter), 1);\n}\n\n"
         + MAKE, "other() depends on its size, and allocates none"),
        # through a function that is inlined
        (MAKE, "static void *get(unsigned long size)\n{\n\treturn kmalloc(size, 1);\n}\n\n"
         "void *both(int n)\n{\n\tadd(kzalloc(n, 1));\n\treturn get(sizeof(struct filter));\n}\n\n"
         + MAKE,
         "both() uses kmalloc()"),
        (MAKE, "void copy(struct filter *f)\n{\n\tstruct filter *g = kzalloc(sizeof(*g), 1);\n\n"
         "\tmemcpy(g, f, sizeof(*g));\n\tadd(g);\n}\n\n" + MAKE, "copy() uses memcpy()"),
        (MAKE, "void all(struct filter *f, int n)\n{\n\tadd(f + n);\n}\n\n" + MAKE,
         "all() depends on its size, and allocates none"),
        (MAKE, "void stack(void)\n{\n\tstruct filter one;\n\n\tone.next = 0;\n\tadd(&one);\n}\n\n"
         + MAKE,
         "one is on the stack, or copied whole"),
        ("\tf->handle = n;\n", "\t__auto_type one = *f->next;\n\n\tadd(&one);\n",
         "one is on the stack, or copied whole"),
        (MAKE, "void take(int n, struct filter one)\n{\n\tadd(kzalloc(n, 1)), add(&one);\n}\n\n"
         + MAKE, "one is on the stack, or copied whole"),
        (MAKE, "struct filter kept;\n\n" + MAKE, ".bss.kept of fs/read.o depends on its size"),
        ("\tint n;\n", "\tstruct filter f;\n\tint n;\n", "it is part of struct pool"),
    ],
)  # fmt: skip
def test_it_is_refused_where_it_may_be_anything(
    small: SmallKernel, tmp_path: Path, old: str, new: str, why: str
) -> None:
    assert SOURCE.count(old) == 1
    source = SOURCE.replace(old, new)
    text = refusal(small, tmp_path, patched(small, source, HOLE, "dying"))
    assert "struct filter gets dying" in text
    assert f"  What it gets may hold anything in those: {why}" in text


@pytest.mark.parametrize(
    ("old", "new"),
    [
        # a function that is read along, and one that knows no sizes
        ("= kzalloc(sizeof(*f), 3);", "= filter_alloc();"),
        ("\tf->handle = n;\n", "\tf->handle = alloc_number(n + sizeof(long));\n"),
        # a text's copy, and a member that counts allocations
        ("\tf->handle = n;\n", "\tadd(kstrdup(f->kind));\n\tf->handle = f->next->allocated;\n"),
    ],
)
def test_other_allocations_of_which_the_size_is_another(
    small: SmallKernel, tmp_path: Path, old: str, new: str
) -> None:
    assert SOURCE.count(old) == 1
    source = (
        SOURCE.replace(old, new)
        .replace(
            MAKE,
            "static struct filter *filter_alloc(void)\n{\n"
            f"\treturn kzalloc(sizeof(struct filter), 1);\n}}\n\n"
            f"int alloc_number(long n);\nvoid *kstrdup(const char *text);\n\n{MAKE}",
        )
        .replace("\tchar kind[24];\n", "\tchar kind[16];\n\tlong allocated;\n")
    )
    result = compiled(small, tmp_path, patched(small, source, HOLE, "dying"))
    assert any("struct filter gets dying where nothing was" in note for note in result.notes)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("call", "why"),
    [
        ("alloc_number(sizeof(f->kind))", ""),
        ("alloc_number(sizeof(*f->next))", "make_filter() uses alloc_number()"),
        ("alloc_number(sizeof(struct filter[2]))", "make_filter() uses alloc_number()"),
    ],
)
def test_the_compiler_tells_of_which_type_a_size_is(
    small: SmallKernel, tmp_path: Path, call: str, why: str
) -> None:
    source = "int alloc_number(long n);\n" + SOURCE.replace(
        "f->handle = n;", f"f->handle = {call};"
    )
    patch = patched(small, source, HOLE, "dying")
    if why:
        assert f"in those: {why}" in refusal(small, tmp_path, patch)
    else:
        assert "allocated as zeros" in compiled(small, tmp_path, patch).notes[-1]


@pytest.mark.parametrize(
    "call",
    [
        "alloc_number(sizeof(*f))",
        "ALLOC_ONE(f)",
        "alloc_number((long)sizeof *f)",
        "alloc_number(struct_size(f))",
        "vmalloc(SIZE)",
    ],
)
def test_other_allocations_that_may_know_its_size(
    small: SmallKernel, tmp_path: Path, call: str
) -> None:
    source = SOURCE.replace("\tf->handle = n;\n", f"\tf->handle = {call};\n").replace(
        MAKE,
        "int alloc_number(long n), vmalloc(long n);\n#define struct_size(f) sizeof(*(f))\n"
        "#define SIZE sizeof(struct filter)\n#define ALLOC_ONE(f) alloc_number(sizeof(*(f)))\n\n"
        + MAKE,
    )
    text = refusal(small, tmp_path, patched(small, source, HOLE, "dying"))
    assert f"make_filter() uses {call.partition('(')[0]}()" in text


def test_slack_is_there_behind_one_only(small: SmallKernel, tmp_path: Path) -> None:
    source = SOURCE.replace("kzalloc(sizeof(*f), 3)", "kcalloc(n, sizeof(*f), 3)")
    text = refusal(small, tmp_path, patched(small, source, SLACK, "more"))
    assert "make_filter() may allocate more than one of it" in text


def test_what_programs_know(small: SmallKernel, tmp_path: Path) -> None:
    """They were made with another header, and may leave anything in a hole."""
    declared, code = SOURCE.split("struct pool")
    header = small.source / "include/uapi/filter.h"
    header.parent.mkdir(parents=True)
    header.write_text(declared)
    old = "#include <uapi/filter.h>\nstruct pool" + code
    (small.source / "fs/read.c").write_text(old)
    texts = (
        small.patch("include/uapi/filter.h", *HOLE),
        small.patch("fs/read.c", USE[0], USE[1].replace("NEW", "dying")),
    )
    assert "in those: programs know it, too" in refusal(small, tmp_path, *texts)


OBJECTS = """\
#define kmalloc_obj(P, ...) ((typeof(P) *)kmalloc(sizeof(P), 3))
#define kzalloc_obj(P, ...) ((typeof(P) *)kzalloc(sizeof(P), 3))
#define kzalloc_objs(P, COUNT, ...) ((typeof(P) *)kzalloc(sizeof(P) * (COUNT), 3))
#define kvzalloc_obj(P, ...) ((typeof(P) *)kzalloc(sizeof(P), 3))

"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("call", "change", "why"),
    [
        ("kzalloc_obj(*f)", HOLE, ""),
        ("kzalloc_obj(struct filter, 3)", SLACK, ""),
        ("kzalloc_objs(*f, n)", HOLE, ""),
        ("kvzalloc_obj(*f)", HOLE, ""),
        ("kzalloc_objs(*f, n)", SLACK, "make_filter() may allocate more than one of it"),
        ("kvzalloc_obj(*f)", SLACK, "make_filter() may allocate more than one of it"),
        ("kmalloc_obj(*f)", HOLE, "make_filter() depends on its size, and allocates none"),
        ("n ? kmalloc_obj(*f) : kzalloc_obj(*f)", HOLE, "make_filter() uses kmalloc_obj()"),
    ],
)
def test_allocators_that_are_told_a_variable_or_type(
    small: SmallKernel, tmp_path: Path, call: str, change: tuple[str, str], why: str
) -> None:
    source = OBJECTS + SOURCE.replace("kzalloc(sizeof(*f), 3)", call)
    patch = patched(small, source, change, "dying" if change == HOLE else "more")
    if why:
        assert f"in those: {why}" in refusal(small, tmp_path, patch)
    else:
        assert "allocated as zeros" in compiled(small, tmp_path, patch).notes[-1]


@pytest.mark.parametrize("option", ["KASAN", "KFENCE", "SLUB_DEBUG_ON"])
def test_slack_that_the_kernel_watches(small: SmallKernel, tmp_path: Path, option: str) -> None:
    config = small.kernel.config
    config.write_text(f"{config.read_text()}\nCONFIG_{option}=y\n")
    text = refusal(small, tmp_path, patched(small, SOURCE, SLACK, "more"))
    assert f"{option} watches the memory behind it" in text


def layout(size: int, *members: tuple[int, str, int]) -> Layout:
    return Layout(size, tuple(Member(8 * at, name, size) for at, name, size in members))


@pytest.mark.parametrize(
    ("after", "names"),
    [
        (layout(24, (0, "a", 4), (4, "b", 4), (8, "c", 8), (16, "d", 4)), ["b"]),
        (layout(24, (0, "a", 4), (8, "c", 8), (16, "d", 4), (20, "e", 4)), ["e"]),
        (layout(32, (0, "a", 4), (8, "c", 8), (16, "d", 4), (24, "e", 8)), ["e"]),
        (layout(40, (0, "a", 4), (8, "c", 8), (16, "d", 4), (24, "e", 16)), []),  # kmalloc-64
        (layout(24, (0, "a", 4), (8, "c", 8), (12, "b", 4), (16, "d", 4)), []),  # in another one
        (layout(24, (0, "a", 4), (8, "c", 8), (16, "d", 8)), []),  # one grows
        (layout(24, (0, "a", 4), (4, "b", 4), (16, "d", 4)), []),  # one goes
    ],
)
def test_what_counts_as_a_place_where_nothing_was(after: Layout, names: list[str]) -> None:
    before = layout(24, (0, "a", 4), (8, "c", 8), (16, "d", 4))
    assert [member.name for member in new_members(before, after)] == names


@pytest.mark.parametrize("change", [HOLE, SLACK], ids=["hole", "slack"])
@pytest.mark.parametrize(
    "code",
    [
        "make_cache(sizeof(*f));",
        "make_cache(sizeof(struct filter));",
        "make_cache(SIZE);",
        "f->next->handle = sizeof(*f->next);",
    ],
)
def test_what_else_the_size_is_for(
    small: SmallKernel, tmp_path: Path, code: str, change: tuple[str, str]
) -> None:
    """A cache of objects, say, which are not zero, in a function that allocates one that is."""
    source = SOURCE.replace("\tf->handle = n;\n", f"\tf->handle = n;\n\t{code}\n").replace(
        MAKE,
        f"void make_cache(long n);\n#define SIZE sizeof(struct filter)\n\n{MAKE}",
    )
    new = "dying" if change == HOLE else "more"
    text = refusal(small, tmp_path, patched(small, source, change, new))
    assert "in those: make_filter() may ask for its size, and not to clear as much" in text
