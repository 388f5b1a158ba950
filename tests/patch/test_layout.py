"""Layouts of structures are compared as the compiler made them."""

from __future__ import annotations

import difflib
import subprocess
from pathlib import Path

import pytest

from klpbuild.elf.reader import ElfFile
from klpbuild.errors import KlpError
from klpbuild.patch.layout import (
    BTF_FLAGS,
    CLANG_FLAGS,
    Compared,
    Layout,
    changed_enumerators,
    changed_layouts,
    compare_layouts,
    enumerators,
    kept_local_types,
    layouts,
    may_change_layouts,
    may_declare_variables,
    type_lines,
)
from klpbuild.patch.patchfile import apply_patches
from tests.patch.small_kernel import SmallKernel, make_kernel
from tests.patch.test_pair import compiled, refusal

SOURCE = """\
struct inner { char a; long b; };
typedef struct { int x, y; } point;
typedef const unsigned long word;
enum kind { FIRST, SECOND };
struct list { struct list *next; };
struct page {
	struct list list;
	union { int number; struct { short low, high; }; };
	unsigned int bits : 3, more : 5;
	struct inner inner[4];
	point where;
	word flags;
	enum kind kind;
	void (*call)(int);
	char name[];
};
int f(struct page *p) { return p->number; }
"""


def layouts_of(tmp_path: Path, text: str) -> dict[str, frozenset[Layout]]:
    return layouts(with_types(tmp_path, text))


def with_types(tmp_path: Path, text: str) -> ElfFile:
    (tmp_path / "x.c").write_text(text)
    command = ["gcc", *BTF_FLAGS, "-c", "-o", tmp_path / "x.o", tmp_path / "x.c"]
    subprocess.run(command, check=True)
    return ElfFile.read(tmp_path / "x.o")


def test_clangs_flags_give_the_same(tmp_path: Path) -> None:
    """Where the compiler writes no BTF, DWARF tells; it has types inside of functions, too."""
    as_btf = with_types(tmp_path, SOURCE)
    command = ["gcc", *CLANG_FLAGS, "-c", "-o", tmp_path / "y.o", tmp_path / "x.c"]
    subprocess.run(command, check=True)
    as_dwarf = ElfFile.read(tmp_path / "y.o")
    assert layouts(as_btf) == layouts(as_dwarf)
    assert enumerators(as_btf) == enumerators(as_dwarf)


def test_members_have_the_compiler_s_offsets_and_sizes(tmp_path: Path) -> None:
    found = layouts_of(tmp_path, SOURCE)
    ((size, members),) = found["struct page"]
    by_name = {member.name: (member.offset, member.size) for member in members}
    checks = [f'_Static_assert(sizeof(struct page) == {size}, "");']
    bit_fields = {"bits": (0, -3), "more": (3, -5)}
    assert by_name["name[]"] == (by_name["name"][0], 1)
    for name, (offset, width) in by_name.items():
        if name.endswith("[]"):
            continue
        if name in bit_fields:
            assert (offset % 32, width) == bit_fields[name]
            continue
        checks.append(
            f'_Static_assert(__builtin_offsetof(struct page, {name}) * 8 == {offset}, "");'
        )
        if name != "name":
            checks.append(f'_Static_assert(sizeof(((struct page *)0)->{name}) == {width}, "");')
    assert set(by_name) >= {"list", "number", "low", "high", "inner", "where", "call", "name"}
    layouts_of(tmp_path, SOURCE + "\n".join(checks) + "\n")
    assert "point" in found


@pytest.mark.parametrize(
    ("old", "new", "changes"),
    [
        (
            "point where;",
            "point where; int fresh;",
            [("struct page", "gets fresh, moves or resizes")],
        ),
        ("char name[];", "short name[];", [("struct page", "moves or resizes name")]),
        ("char a; long b;", "long b; char a;", [("struct inner", "moves or resizes a, b")]),
        (
            "int x, y;",
            "int x;",
            [("point", "loses y, has 4 bytes instead of 8"), ("struct page", "")],
        ),
        (
            "bits : 3, more : 5",
            "bits : 2, more : 5",
            [("struct page", "moves or resizes bits, more")],
        ),
        # The numbers of bytes and of bits are the same.
        ("char a; long b;", "char a : 1; long b;", [("struct inner", "moves or resizes a")]),
        ("return p->number;", "struct fresh { int a; } n = { 1 }; return n.a;", []),
        ("FIRST, SECOND", "FIRST, SECOND, THIRD", []),
        ("struct list *next;", "struct page *next;", []),
    ],
)
def test_what_changes_is_told(
    tmp_path: Path, old: str, new: str, changes: list[tuple[str, str]]
) -> None:
    before = layouts_of(tmp_path, SOURCE)
    assert old in SOURCE
    found = changed_layouts(before, layouts_of(tmp_path, SOURCE.replace(old, new, 1)))
    assert [name for name, _ in found] == [name for name, _ in changes]
    for (_, told), (_, expected) in zip(found, changes, strict=True):
        assert told.startswith(expected)


ENUMS = """\
enum state { IDLE, BUSY, NR_STATES };
enum { BELOW = -2, ABOVE };
enum state s; int below = BELOW;
"""


@pytest.mark.parametrize(
    ("old", "new", "changes"),
    [
        ("BUSY, NR", "BUSY, GONE, NR", []),
        ("IDLE, BUSY", "IDLE, READY, BUSY", [("enum state", "BUSY is 2 instead of 1")]),
        (
            "BELOW = -2",
            "BELOW = -3",
            [
                ("enumerator ABOVE", "ABOVE is -2 instead of -1"),
                ("enumerator BELOW", "BELOW is -3 instead of -2"),
            ],
        ),
        (
            "IDLE, BUSY",
            "BUSY, IDLE",
            [("enum state", "BUSY is 0 instead of 1, IDLE is 1 instead of 0")],
        ),
    ],
)
def test_enumerators(tmp_path: Path, old: str, new: str, changes: list[tuple[str, str]]) -> None:
    before = enumerators(with_types(tmp_path, ENUMS))
    after = enumerators(with_types(tmp_path, ENUMS.replace(old, new, 1)))
    assert changed_enumerators(before, after) == changes


def test_an_object_without_btf(tmp_path: Path) -> None:
    (tmp_path / "x.c").write_text("int a;\n")
    subprocess.run(["gcc", "-c", "-o", tmp_path / "x.o", tmp_path / "x.c"], check=True)
    with pytest.raises(KlpError, match="has no debug information"):
        layouts(ElfFile.read(tmp_path / "x.o"))


def test_lines_of_declarations() -> None:
    text = b"""int a;
struct s {
	int x; /* } */
	struct {
		int y;
	};
} __packed;
static struct s instance = {
	.x = 1,
};
struct s *make(int a)
{
	return 0;
}
typedef union u {
	char *text; // "{"
} u_t;
enum e { A, B };
typedef unsigned long
	word;
HOOK(int, a,
     int b)
	HOOK(int, c);
"""
    assert type_lines(text) == {2, 3, 4, 5, 6, 7, 15, 16, 17, 18, 19, 20, 21, 22}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> SmallKernel:
    small = make_kernel(tmp_path_factory.mktemp("kernel"))
    header = small.source / "include/linux/kernel.h"
    header.write_text(header.read_text() + "struct file {\n\tint number;\n\tlong size;\n};\n")
    return small


def test_a_patch_that_makes_a_structure_larger(small: SmallKernel, tmp_path: Path) -> None:
    texts = (
        small.patch("include/linux/kernel.h", "long size;", "long size;\n\tlong time;"),
        small.patch("fs/open.c", "return count++;", "return sizeof(struct file);"),
        small.patch("kernel/warn.c", "void warn", "struct none { int a; };\nvoid warn"),
        small.patch("kernel/warn.c", "line + *file", "line + sizeof(struct file)"),
    )
    assert refusal(small, tmp_path, *texts) == (
        "0.patch:7: struct file gets time, has 24 bytes instead of 16\n"
        "  Each struct file that exists when the livepatch is loaded keeps its old layout.\n"
        "  Keep new data in a shadow variable (klp_shadow_get_or_alloc), or give the new layout "
        "another name if only new code uses it.\n"
        "  If none outlives the replaced functions, accept it: "
        '--accept-layout "struct file", or accept_layouts = ["struct file"] in livepatch.toml.'
    )


def test_a_patch_that_renumbers_an_enumeration(small: SmallKernel, tmp_path: Path) -> None:
    old = (small.source / "fs/read.c").read_text()
    (small.source / "fs/read.c").write_text(f"enum state {{\n\tIDLE,\n\tBUSY\n}} now;\n{old}")
    patch = small.patch("fs/read.c", "\tBUSY", "\tREADY,\n\tBUSY").replace("READ +", "BUSY +")
    body = small.patch("fs/read.c", "READ +", "BUSY +")
    assert refusal(small, tmp_path, patch, body) == (
        "0.patch:6: enum state is numbered otherwise: BUSY is 2 instead of 1\n"
        "  What the running kernel has stored keeps its old numbers.\n"
        "  Add new enumerators behind the others.\n"
        "  If no such number outlives the replaced functions, accept it: "
        '--accept-layout "enum state", or accept_layouts = ["enum state"] in livepatch.toml.'
    )


def test_macros_that_are_other_numbers(small: SmallKernel, tmp_path: Path) -> None:
    path = small.source / "fs/read.c"
    old = (
        "#define READY (1 << 2) /* and */\n#define TEXT 3x\n#define WIDE BIT(4)\n#define SAME 0x3\n"
    )
    path.write_text(old + path.read_text())
    new = old.replace("1 << 2", "1 << 3").replace("3x", "4x").replace("0x3", "0x3 // one")
    made = compiled(small, tmp_path, small.patch("fs/read.c", old, new.replace("BIT(4)", "0x20U")))
    assert [note for note in made.notes if "instead" in note] == [
        "0.patch:8: READY is (1 << 3) instead of (1 << 2):"
        " what the running kernel has stored by it stays as it is",
        "0.patch:10: WIDE is 0x20U instead of BIT(4):"
        " what the running kernel has stored by it stays as it is",
    ]


LOCAL = """\
int count(void)
{
	struct pass {
		int a;
		int b;
	} on_stack = { 1, 2 };
	struct kept {
		int a;	/* first */
		int b;
	};
	static struct kept state;
	static struct { int x, y; } nameless;
	static struct pass *none;

	return state.a + nameless.x + on_stack.b + !none;
}
"""


@pytest.mark.parametrize(
    ("old", "new", "names"),
    [
        ("int a;\t/* first */\n\t\tint b;", "int b;\n\t\tint a;", ["struct kept"]),
        ("int a;\t/* first */", "int   a;", []),
        ("int x, y;", "int y, x;", ["struct of nameless"]),
        ("struct pass {\n\t\tint a;\n", "struct pass {\n\t\tlong a;\n", []),
        ("return state.a", "return state.b", []),
    ],
)
def test_types_inside_of_functions(tmp_path: Path, old: str, new: str, names: list[str]) -> None:
    assert old in LOCAL
    (tmp_path / "x.c").write_text(LOCAL)
    lines = [
        text.splitlines(keepends=True)
        for text in (LOCAL, LOCAL.replace(old, new, 1) + "int more;\n")
    ]
    (tmp_path / "fix.patch").write_text(
        "".join(difflib.unified_diff(lines[0], lines[1], "a/x.c", "b/x.c"))
    )
    source = apply_patches([tmp_path / "fix.patch"], tmp_path)
    assert kept_local_types(source.files[0]) == names


def test_a_static_variable_of_another_type(small: SmallKernel, tmp_path: Path) -> None:
    path = small.source / "fs/sub/write.c"
    path.write_text(
        "int write_file(int n)\n{\n\tstatic struct {\n\t\tint a, b;\n\t} last;\n\n"
        "\tlast.a = n;\n\treturn last.b;\n}\n"
    )
    assert refusal(small, tmp_path, small.patch("fs/sub/write.c", "int a, b", "int b, a")) == (
        "0.patch:8: struct of last, which a static variable of a function has, "
        "is declared otherwise\n"
        "  The variable is the running kernel's and keeps its old layout.\n"
        "  Give the type and the variable other names.\n"
        '  If the layout is the same, accept it: --accept-layout "struct of last", '
        'or accept_layouts = ["struct of last"] in livepatch.toml.'
    )


@pytest.mark.parametrize(
    ("old", "new", "may"),
    [
        ("} all;", "} all, more;", True),
        ("\tint a", "\tlong a", True),
        ("static int once", "static long once", True),
        ("\tDEFINE_MUTEX(lock);", "\tDEFINE_SPINLOCK(lock);", True),
        ("\t} kept;", "\t} kept = { 1 };", True),
        ("return n;", "return n + 1;", False),
        ("int n)", "long n)", True),  # outside of the braces
        ("return n;", "return -n; /* static int said; */", False),
    ],
)
def test_where_variables_are_declared(tmp_path: Path, old: str, new: str, may: bool) -> None:
    text = (
        "static struct {\n\tint a;\n} all;\n\n/* said */\nint f(int n)\n{\n\tstatic int once;\n"
        "\tDEFINE_MUTEX(lock);\n\tstatic struct {\n\t\tint b;\n\t} kept;\n\n\treturn n;\n}\n"
    )
    (tmp_path / "x.c").write_text(text)
    assert text.count(old) == 1
    changed = text.replace(old, new).splitlines(keepends=True)
    diff = difflib.unified_diff(text.splitlines(keepends=True), changed, "a/x.c", "b/x.c")
    (tmp_path / "fix.patch").write_text("".join(diff))
    file = apply_patches([tmp_path / "fix.patch"], tmp_path).files[0]
    assert may_declare_variables(file) is may


def test_a_new_structure_is_no_change(small: SmallKernel, tmp_path: Path) -> None:
    new = "struct fresh {\n\tint a;\n};\n\nstatic int count = 1;\n"
    patch = small.patch("fs/open.c", "static int count;\n", new)
    (tmp_path / "fix.patch").write_text(patch)
    file = apply_patches([tmp_path / "fix.patch"], small.source).files[0]
    assert may_change_layouts(file) == "fix.patch:7"
    result = compiled(small, tmp_path, patch)
    assert [pair.target for pair in result.pairs] == ["fs/open.o"]


def test_that_nothing_differs_is_kept_by_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (kept := tmp_path / "kept").mkdir()
    before, after = with_types(tmp_path, SOURCE), with_types(tmp_path, SOURCE + "int g;\n")
    other = with_types(tmp_path, SOURCE.replace("int x, y;", "int y, x;"))
    for _ in range(2):
        assert compare_layouts(before, other, kept).layouts == (("point", "moves or resizes x, y"),)
    assert list(kept.iterdir()) == []
    assert compare_layouts(before, after, kept) == Compared()

    def refuse(elf: ElfFile) -> object:
        raise AssertionError

    monkeypatch.setattr("klpbuild.patch.layout.layouts", refuse)
    assert compare_layouts(before, after, kept) == Compared()
    with pytest.raises(AssertionError):
        compare_layouts(before, other, kept)
