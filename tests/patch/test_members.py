"""New members of structures stand behind the others where their place matters to nothing."""

from __future__ import annotations

import difflib
from pathlib import Path

import pytest

from klpbuild.elf.reader import ElfFile
from klpbuild.patch.effect import patch_effects
from klpbuild.patch.members import in_place
from klpbuild.patch.pair import ObjectPair
from klpbuild.patch.patched import PatchedFile
from klpbuild.patch.patchfile import apply_patches
from tests.patch.small_kernel import SmallKernel, make_kernel
from tests.patch.test_holes import OBJECTS, SOURCE
from tests.patch.test_holes import patched as filter_patch
from tests.patch.test_pair import compiled, refusal

TEXT = """\
struct other;
struct filter {
	int handle; /* one; two */
	union { int a; long b; };
	struct filter *next;
#ifdef MORE
	int more;
#endif
};
int f(struct filter *f) { return f->handle; }
"""
MIDDLE = ("\tunion {", "\tlong fresh[2]; /* new */\n\tint (*call)(int,\n\t\t    long);\n\tunion {")


def changed(directory: Path, text: str, change: tuple[str, str], path: str = "f.h") -> PatchedFile:
    assert text.count(change[0]) == 1
    source = directory / "source"
    (source / path).parent.mkdir(parents=True, exist_ok=True)
    (source / path).write_text(text)
    before, after = (t.splitlines(keepends=True) for t in (text, text.replace(*change)))
    patch = directory / "fix.patch"
    patch.write_text("".join(difflib.unified_diff(before, after, f"a/{path}", f"b/{path}")))
    (file,) = apply_patches([patch], source, "x86").files
    return file


def moved(file: PatchedFile, user: str = "") -> str | None:
    found = in_place(file, "struct filter", [user.encode()])
    attribute = "__attribute__((__designated_init__))"
    return None if found is None else found.patched.decode().replace(attribute, "DESIGNATED")


def test_they_stand_behind_the_others(tmp_path: Path) -> None:
    file = changed(tmp_path, TEXT, MIDDLE)
    end = "#endif\n\tlong fresh[2];\n\tint (*call)(int, long);\n} DESIGNATED;"
    assert moved(file) == TEXT.replace("#endif\n};", end)


@pytest.mark.parametrize(
    ("text", "change"),
    [
        (TEXT, ("#endif\n", "#endif\n\tint last;\n")),  # there already
        (TEXT, ("\tint more;\n", "\tint more;\n\tint fresh;\n")),  # under a condition
        (TEXT, ("int handle;", "int handle, fresh;")),  # beside another one
        (TEXT, ("\tunion { int a; long b; };\n", "\tint fresh;\n")),  # one goes, one comes
        (TEXT, ("\tunion { int a; long b; };\n", "")),  # it has several names
        (TEXT.replace("handle;", "handle, last;"), ("\tint handle, last; /* one; two */\n", "")),
        (TEXT, ("#ifdef MORE\n\tint more;\n#endif\n", "")),  # under what condition?
        (TEXT, ("\tunion { int a;", "\tunion { int fresh; int a;")),  # within one
        (TEXT.replace("};\nint f", "} __packed;\nint f"), MIDDLE),
        (TEXT.replace("#endif\n", "#endif\n\tchar text[];\n"), MIDDLE),
        (TEXT.replace("#endif\n", "#endif\n\tDECLARE_FLEX_ARRAY(char, text);\n"), MIDDLE),
        (TEXT.replace("struct other;", "struct filter { int b; };"), MIDDLE),  # twice
        (TEXT.replace("\tunion", "\tstruct_group(all, int x;);\n\tunion"),
         ("\tunion", "\tint y;\n\tunion")),
        (TEXT.replace("struct filter {", "struct another {"), MIDDLE),
    ],
)  # fmt: skip
def test_where_they_stay(tmp_path: Path, text: str, change: tuple[str, str]) -> None:
    assert moved(changed(tmp_path, text, change)) is None


@pytest.mark.parametrize(
    ("gone", "kept"),
    [
        ("\tstruct filter *next;\n", "\tstruct filter *klpbuild_kept_next;\n"),
        ("\tint handle; /* one; two */\n", "\tint klpbuild_kept_handle;\n"),
        ("\tint more;\n", "\tint klpbuild_kept_more;\n"),
        ("\tchar bits:3;\n\tlong many[2][4];\n",
         "\tchar klpbuild_kept_bits:3;\n\tlong klpbuild_kept_many[2][4];\n"),
        ("\tint (*call)(int a,\n\t\tlong b);\n", "\tint (*klpbuild_kept_call)(int a, long b);\n"),
    ],
)  # fmt: skip
def test_a_lost_member_keeps_its_place(tmp_path: Path, gone: str, kept: str) -> None:
    text = TEXT.replace("#ifdef", "\tchar bits:3;\n\tlong many[2][4];\n#ifdef")
    text = text.replace("\tint more;\n", "\tint most;\n\tint more;\n")
    text = text.replace("\tunion", "\tint (*call)(int a,\n\t\tlong b);\n\tunion")
    text = text.replace("f->handle", "1").replace("long b; };", "long b; }; /* a\n\t * b */")
    kept_text = text.replace(gone, kept).replace("};\nint f", "} DESIGNATED;\nint f")
    assert moved(changed(tmp_path, text, (gone, ""))) == kept_text


@pytest.mark.parametrize(
    ("user", "stays"),
    [
        ("memset(f, 0, offsetof(struct filter, next));", True),
        ("memcpy(f, g, sizeof(*f) - offsetofend(struct filter, a));", True),
        ("memset_after(f, 0, handle);", True),
        ("int length = offsetof(struct filter, next);", True),
        ("x = { .head = offsetof(struct filter, next), };", False),
        ("memset(f, 0, offsetof(struct others, next));", False),
        ("struct filter one = { 1, 2 };", True),
        ("static const struct filter all[] = {\n\t{ 1 },\n};", True),
        ("f = (struct filter) { n };", True),
        ("struct filter one = { .handle = 1 }, two = {}, three = { 0 };", False),
    ],
)
def test_code_that_counts_on_their_order(tmp_path: Path, user: str, stays: bool) -> None:
    assert (moved(changed(tmp_path, TEXT, MIDDLE), user) is None) is stays


def test_what_programs_see_stays(tmp_path: Path) -> None:
    assert moved(changed(tmp_path, TEXT, MIDDLE, "include/uapi/f.h")) is None


@pytest.fixture
def small(tmp_path: Path) -> SmallKernel:
    return make_kernel(tmp_path / "kernel")


FIRST = ("\tint handle;\n", "\tlong more;\n\tint handle;\n")


def test_a_member_before_the_others(small: SmallKernel, tmp_path: Path) -> None:
    result = compiled(small, tmp_path, filter_patch(small, SOURCE, FIRST, "more"))
    assert result.notes[-2:] == (
        "0.patch:1: new members stand behind the others of their structures: nothing else moves",
        "struct filter gets more where nothing was: taken to be zero in each one that exists,"
        " since all of them are allocated as zeros",
    )
    (pair,) = result.pairs
    assert result.patched.files[0].patched.count(b"long more;") == 1
    assert pair.source == "fs/read.c"


SENT = "void send(void *, unsigned long);\n" + SOURCE.replace(
    "\tf->handle = n;", "\tf->handle = n;\n\tsend(f, sizeof(*f));"
)


def test_a_member_before_others_that_code_hands_out(small: SmallKernel, tmp_path: Path) -> None:
    text = refusal(small, tmp_path, filter_patch(small, SENT, FIRST, "more"))
    assert "struct filter gets more, moves or resizes handle, next, kind, has 56 bytes" in text
    assert f"It cannot just have that behind the others: make_filter() {READS}." in text


def test_the_refusal_is_of_what_the_patch_does(small: SmallKernel, tmp_path: Path) -> None:
    source = SOURCE.replace("= kzalloc(sizeof(*f)", "= kmalloc(sizeof(*f)")
    text = refusal(small, tmp_path, filter_patch(small, source, FIRST, "more"))
    assert "struct filter gets more, moves or resizes handle, next, kind, has 56 bytes" in text


@pytest.mark.slow
@pytest.mark.parametrize("value", ["FILTER(3)", "{ .f = { 3 } }"])
def test_values_without_the_names_of_members(
    small: SmallKernel, tmp_path: Path, value: str
) -> None:
    kind = "struct outer" if "." in value else "struct filter"
    source = SOURCE.replace("\tint handle;\n", "\tint handle;\n\tint gone;\n") + (
        "\nstruct outer {\n\tstruct filter f;\n};\n#define FILTER(n) { n }\n"
        f"int made(void)\n{{\n\t{kind} made = {value};\n\n\tadd(&made);\n\treturn 0;\n}}\n"
    )
    text = refusal(small, tmp_path, lost(small, source, ("\tint gone;\n", "")))
    assert "struct filter loses gone" in text


def test_what_is_moved_is_not_blamed_for_another_patch(small: SmallKernel, tmp_path: Path) -> None:
    other = "struct pair {\n\tint a;\n\tint b;\n};\nstruct pair kept;\n"
    other += "int both(void)\n{\n\treturn kept.a + kept.b + sizeof(kept);\n}\n"
    (small.source / "fs/open.c").write_text(other)
    loses = small.patch(
        "fs/open.c", other, other.replace("\tint a;\n", "").replace("kept.a + ", "")
    )
    text = refusal(small, tmp_path, filter_patch(small, SOURCE, FIRST, "more"), loses)
    assert "struct pair loses a, moves or resizes b, has 4 bytes instead of 8" in text
    assert "struct filter" not in text


LOSES = ("\tchar kind[24];\n", "")
USES = ("return f->handle;", "return f->handle + 1;")


def lost(small: SmallKernel, source: str, change: tuple[str, str] = LOSES) -> str:
    (small.source / "fs/read.c").write_text(source)
    return small.patch("fs/read.c", source, source.replace(*change).replace(*USES))


def test_a_lost_member_is_proven_never_to_be_read(small: SmallKernel, tmp_path: Path) -> None:
    result = compiled(small, tmp_path, lost(small, SOURCE))
    assert result.notes[-1] == (
        "0.patch:1: struct filter keeps the place of kind: the livepatch's code does not write"
        " there, and the kernel's own reads it again when the livepatch is disabled"
    )
    before, after = (ElfFile.read(path) for path in (result.pairs[0].original,
                                                     result.pairs[0].patched))  # fmt: skip
    assert len(result.pairs) == 1
    assert before.contents(before.section(".text.make_filter")) == after.contents(
        after.section(".text.make_filter")
    )


LOST = "struct filter loses kind, moves or resizes last, has 24 bytes instead of 48"
READS = "of fs/read.o may read all of it"
OTHERWISE = "fs/read.c may have it in another type, or ask for its size in a way that is not read"


def with_user(body: str) -> str:
    user = "extern struct packet { char cb[48]; } *SKB;\nint sum(void *, int);\n\n"
    user += f"int all(struct filter *f, int n)\n{{\n\t{body}\n}}\n"
    return SOURCE.replace("struct pool", f"{user}\nstruct pool")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("body", "why"),
    [
        ("add(kzalloc(1, 1));\n\treturn sum(f, sizeof(*f));", f"all() {READS}"),
        ("return sum(f, sizeof *f);", f"all() {READS}"),
        ("extern const struct filter g[2];\n\n\treturn sum((void *)g, sizeof(g));",
         f"all() {READS}"),
        ("struct { struct filter f; } g = { *f };\n\n\treturn sum(&g, sizeof(g));", OTHERWISE),
        ("struct { typeof(*f) f; } g = { *f };\n\n\treturn sum(&g, sizeof(g));", OTHERWISE),
        ("struct filter g[2][2];\n\n\treturn sum(g, sizeof(g));", OTHERWISE),
        ("return sum(f, sizeof f[0]);", OTHERWISE),
        ("struct filter *g = kmalloc(sizeof(*g), 1);\n\n\tadd(g);\n\treturn 0;", f"all() {READS}"),
        ("memcpy(n ? f : 0, SKB->cb, sizeof(*f));\n\treturn 0;", f"all() {READS}"),
        ("struct other *g = 0;\n\n\tmemcpy(g, SKB->cb, sizeof(*f));\n\treturn 0;",
         f"all() {READS}"),
        ("memset(f, n, sizeof(*f));\n\treturn 0;", f"all() {READS}"),
        ("static int m = sizeof(*f);\n\n\treturn m++;", f".data.m.0 {READS}"),
    ],
)  # fmt: skip
def test_code_that_may_read_a_lost_member(
    small: SmallKernel, tmp_path: Path, body: str, why: str
) -> None:
    memset = "void *memset(void *, int, unsigned long);\n"
    text = refusal(small, tmp_path, lost(small, memset + with_user(body)))
    assert LOST in text
    assert f"It cannot just keep what it loses: {why}." in text


@pytest.mark.slow
@pytest.mark.parametrize(
    "body",
    [
        "add(f + 1);\n\treturn 0;",
        "struct filter g = *f;\n\n\treturn sum(&g.handle, sizeof(g.handle));",
        "struct filter *g = kzalloc_obj(*g);\n\n\tmemset(g, 0, sizeof *g);\n\treturn g->handle;",
        "static struct filter kept;\n\n\treturn kept.last++;",
        "struct filter g;\n\n\tmemcpy(&g, SKB->cb, sizeof(g));\n"
        "\tmemcpy(SKB->cb, f, sizeof(*f));\n\treturn g.handle;",
        "BUILD_BUG_ON(sizeof(*f) > 99);\n\treturn sum(__FILE__, 1);",
    ],
)
def test_code_that_has_it_and_asks_for_no_size(
    small: SmallKernel, tmp_path: Path, body: str
) -> None:
    before = (
        "void *memset(void *, int, unsigned long);\n"
        + OBJECTS
        + (
            "#define BUILD_BUG_ON_MSG(c, m) do { __attribute__((error(m))) void no(void);"
            ' if (c) no(); } while (0)\n#define BUILD_BUG_ON(c) BUILD_BUG_ON_MSG(c, "no")\n'
        )
    )
    result = compiled(small, tmp_path, lost(small, before + with_user(body)))
    assert "struct filter keeps the place of kind" in result.notes[-1]


def test_a_lost_member_that_leaves_a_hole(small: SmallKernel, tmp_path: Path) -> None:
    source = SOURCE.replace("\tint handle;\n", "\tint handle;\n\tint gone;\n")
    source += (
        "\nint sum(void *, int);\nint all(struct filter *f)\n{\n\treturn sum(f, sizeof(*f));\n}\n"
    )
    (pair,) = compiled(small, tmp_path, lost(small, source, ("\tint gone;\n", ""))).pairs
    assert pair.source == "fs/read.c"


RECORD = "struct record {\n\tint at;\n\tchar junk;\n\tchar flags;\n\tshort size;\nMORE};\n"


def loses_junk(small: SmallKernel, more: str = "") -> str:
    code = "int sum(void *, int);\nint one(struct record *r)\n{\n\treturn sum(r, sizeof(*r));\n}\n"
    return lost(small, RECORD.replace("MORE", more) + code + SOURCE, ("\tchar junk;\n", ""))


def test_a_lost_member_moves_others_that_code_reads_at_once(
    small: SmallKernel, tmp_path: Path
) -> None:
    text = refusal(small, tmp_path, loses_junk(small))
    assert "struct record loses junk, moves or resizes flags\n" in text
    assert f"It cannot just keep what it loses: one() {READS}." in text


@pytest.mark.slow
@pytest.mark.parametrize(
    ("member", "stays"),
    [
        ("struct list_head list;", True),
        ("struct list_head *list;", False),
        ("raw_spinlock_t lock;", True),
        ("\n#ifdef MORE\n\tspinlock_t lock;\n#endif\n", False),
    ],
)
def test_what_has_a_lock_or_a_list_is_never_read_at_once(
    small: SmallKernel, tmp_path: Path, member: str, stays: bool
) -> None:
    types = "struct list_head { void *next, *prev; };\ntypedef struct { int n; } raw_spinlock_t;\n"
    patch = loses_junk(small, f"\t{member}\n")
    path = small.source / "fs/read.c"
    text = types + path.read_text()
    path.write_text(text)
    patch = small.patch("fs/read.c", text, text.replace("\tchar junk;\n", "").replace(*USES))
    if stays:
        assert "struct record keeps the place" in compiled(small, tmp_path, patch).notes[-1]
    else:
        assert f"one() {READS}" in refusal(small, tmp_path, patch)


def test_a_lost_member_that_code_still_uses(small: SmallKernel, tmp_path: Path) -> None:
    text = refusal(small, tmp_path, lost(small, SOURCE, ("\tint handle;\n", "")))
    assert "has no member named 'handle'" in text
    assert "klpbuild_kept" not in text


KIND = "int kind(struct filter *f)\n{\n\treturn f->kind[1];\n}\n"


def changes(pair: ObjectPair) -> frozenset[str]:
    """Stands for an extraction: the functions with other code."""
    found = [
        {s.name: bytes(elf.contents(s)) for s in elf.sections if s.name.startswith(".text.")}
        for elf in map(ElfFile.read, (pair.original, pair.patched))
    ]
    return frozenset(name[len(".text.") :] for name, _ in found[0].items() ^ found[1].items())


def test_each_patch_has_its_own_functions(small: SmallKernel, tmp_path: Path) -> None:
    source = SOURCE + "\n" + KIND
    first = filter_patch(small, source, FIRST, "more")
    second = small.patch("fs/read.c", "kind[1]", "kind[2]")
    compiled_both = compiled(small, tmp_path, first, second)
    used = {pair.target: ["make_filter", "use_filter", "kind"] for pair in compiled_both.pairs}
    patches = [tmp_path / "0.patch", tmp_path / "1.patch"]
    effects = patch_effects(compiled_both, patches, used, changes, "x86")
    assert [effect.functions for effect in effects.values()] == [
        ("vmlinux:make_filter", "vmlinux:use_filter"),
        ("vmlinux:kind",),
    ]
