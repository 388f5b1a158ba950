"""What a patch moves between files, and what it makes global for another file."""

from __future__ import annotations

from pathlib import Path

import pytest

from klpbuild.extract.result import Extraction
from tests.extract.pairs import Extracted, Patch

HEADER = "int out(int); void use(void *);\n"
#: A function that changes, and one that is there for no reason.
USER = "int u(int n) { return out(n) + 1; }\n"


def patch(directory: Path, **files: tuple[str, str]) -> Patch:
    """A patch of some files of vmlinux."""
    texts = {f"{n}.c": (HEADER + old, HEADER + new) for n, (old, new) in files.items()}
    return Patch(directory, texts)


def taken(extraction: Extraction) -> set[tuple[str, int | None]]:
    """What is taken from the original objects, and the number of another object that has it."""
    return {
        (r.name, r.origin.part if r.origin else None) for r in extraction.references if r.is_defined
    }


def replaced(extraction: Extraction) -> dict[str, int | None]:
    """Replaced functions, and the number of another object that they were in."""
    return {f.name: f.origin.part if f.origin else None for f in extraction.changed}


@pytest.mark.parametrize(
    ("old", "new", "kernels"),
    [
        ("static int x; int f(void) { return x++; }", "int x; int f(void) { return x++; }", "x"),
        ("int f(void) { static int x; return x++; }", "int x; int f(void) { return x++; }", "x.0"),
        ("static int y; int f(void) { return y++; }", "int x; int f(void) { return x++; }", "y"),
        (
            "static struct static_key x; int f(void) { use(&x); return 1; }",
            "struct static_key x; int f(void) { use(&x); return 1; }",
            "x",
        ),
    ],
)
def test_a_variable_made_global_is_the_kernels(
    tmp_path: Path, old: str, new: str, kernels: str
) -> None:
    kind = "struct static_key" if "key" in old else "int"
    use = "static_branch(&x)" if "key" in old else "x++"
    user = f"extern {kind} x; int u(int n) {{ return out(n) + {use}; }}"
    found = patch(tmp_path, a=(old, new), b=(USER, user)).extract()
    assert not found["a.c"].included
    assert taken(found["b.c"]) == {(kernels, 0)}
    assert replaced(found["b.c"]) == {"u": None}


def test_a_function_made_global_is_called_where_it_is(tmp_path: Path) -> None:
    old = "static noinline int f(int n) { return out(n); } int g(int n) { return f(n) + 1; }"
    new = old.replace("static ", "").replace("return out(n)", "return out(n) + 7")
    user = "int f(int); int u(int n) { return f(n); }"
    found = patch(tmp_path, a=(old, new), b=(USER, user)).extract()
    assert replaced(found["a.c"]) == {"f": None}
    assert Extracted(found["a.c"]).defined["f"].is_local
    assert taken(found["b.c"]) == {("f", 0)}


def test_a_function_of_vmlinux_that_a_module_may_use_now(tmp_path: Path) -> None:
    old = "static noinline int f(int n) { return out(n); } int g(int n) { return f(n) + 1; }"
    user = "int f(int); int u(int n) { return f(n); }"
    made = patch(tmp_path, a=(old, old.replace("static ", "")), b=(USER, user))
    made.owners["b.c"] = "module"
    assert taken(made.extract()["b.c"]) == {("f", 0)}


FUNCTION = "noinline int f(int n) { return out(n); }\n"
CALLER = "int f(int); int g(int n) { return n + f(n); } int (*held(void))(int) { return f; }\n"


@pytest.mark.parametrize("body", ["return out(n);", "return out(n) + 1;"])
@pytest.mark.parametrize("linkage", ["", "static "])
def test_a_moved_function_replaces_the_old_one(tmp_path: Path, body: str, linkage: str) -> None:
    old = FUNCTION.replace("int f", "__attribute__((noipa)) int f") + CALLER
    old = old.replace("noinline", f"{linkage}noinline") if linkage else old
    old = old.replace("int f(int);", "") if linkage else old
    new = (
        USER
        + FUNCTION.replace("return out(n);", body)
        + CALLER.replace("g(", "h(").replace("held", "kept")
    )
    found = patch(tmp_path, a=(old, CALLER), b=(USER, new)).extract()
    assert not found["a.c"].included
    assert replaced(found["b.c"]) == {"f": 0}
    assert Extracted(found["b.c"]).defined["f"].is_local
    (address,) = [r for r in found["b.c"].references if r.is_function_pointer]
    assert (address.name, address.symbol) == ("f", "original.f")
    assert found["b.c"].new == ("h", "kept")


def test_a_moved_function_that_is_static_now_replaces_the_old_one(tmp_path: Path) -> None:
    found = patch(tmp_path, a=(FUNCTION, ""), b=(USER, USER + f"static __used {FUNCTION}"))
    assert replaced(found.extract()["b.c"]) == {"f": 0}


def test_what_was_init_is_new(tmp_path: Path) -> None:
    found = patch(tmp_path, a=(f"__init {FUNCTION}", ""), b=(USER, USER + FUNCTION))
    found.kernel["f"] = False
    assert found.extract()["b.c"].globals == ("f",)


@pytest.mark.parametrize(
    ("old", "old_user", "new", "new_user"),
    [
        ("int x;", "extern int x;", "extern int x;", "int x;"),
        ("static int x;", "", "extern int x;", "int x;"),
        ("int x;", "extern int x;", "", "static int x;"),
        ("const int x = 4;", "extern const int x;", "extern const int x;", "const int x = 4;"),
    ],
)
def test_a_moved_variable_is_the_kernels(
    tmp_path: Path, old: str, old_user: str, new: str, new_user: str
) -> None:
    first = "int f(int n) { use((void *)&x); return n; }" if new else ""
    second = "int u(int n) { use((void *)&x); return out(n) + NUMBER; }"
    was = second.replace("NUMBER", "1") if old_user else USER
    found = patch(
        tmp_path,
        a=(old + first, new + first),
        b=(old_user + was, new_user + second.replace("NUMBER", "2")),
    ).extract()
    assert not found["a.c"].included
    assert taken(found["b.c"]) == {("x", 0)}
    assert [i.name for i in found["b.c"].included] == ["u"]


STATE = "static int x; int f(int n) { return out(n) + x++; }\n"


LOCAL = "int f(int n) { static int x; use((void *)1L); return n + x++; }\n"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("", LOCAL.replace("1L", "2L")),
        ("int h(int); int f(int n) { return h(n); }\n", LOCAL.replace("f(", "h(")),
        (
            "int h(int); int f(int n) { use((void *)1L); return h(n); }\n",
            "int h(int n) { static int y; return n + y++; }\n",
        ),
    ],
)
def test_static_state_of_a_function_moves_with_its_code(tmp_path: Path, old: str, new: str) -> None:
    found = patch(tmp_path, a=(LOCAL, old), b=(USER, USER + new)).extract()
    assert taken(found["b.c"]) == {("x.0", 0)}


@pytest.mark.parametrize("name", ["x", "y"])
def test_static_state_moves_with_its_code(tmp_path: Path, name: str) -> None:
    moved = STATE.replace("x", name)
    rest = "int g(int n) { return n; }\n"
    found = patch(tmp_path, a=(STATE + rest, rest), b=(USER, USER + moved)).extract()
    assert replaced(found["b.c"]) == {"f": 0}
    assert taken(found["b.c"]) == {("x", 0)}


def test_state_that_may_have_moved_is_refused(tmp_path: Path) -> None:
    gone = "int f(int n) { return out(n); }"
    come = "static int x; int u(int n) { return out(n) + x++; }"
    text = patch(tmp_path, a=(STATE, gone), b=(USER, come)).refusal()
    assert text.startswith(
        "b.c:b.o:x: x may be the running kernel's x\n  Other functions use it: u instead of f.\n"
    )


def test_a_global_renamed_and_moved_is_refused(tmp_path: Path) -> None:
    """A function of a third name uses it, but the users that stay tell of it."""
    text = patch(
        tmp_path,
        a=("int x; int f(void) { return x++; }", "extern int y; int f(void) { return y++; }"),
        b=("extern int x; int u(void) { return x; }", "int y; int u(void) { return y; }"),
    ).refusal()
    assert text.startswith(
        "b.c:b.o:y: y may be the running kernel's x\n  Other functions use it: u instead of f.\n"
    )


def test_a_global_renamed_in_its_place_is_the_kernels(tmp_path: Path) -> None:
    texts = "int {0}; int f(int n) {{ use((void *){1}L); return {0}++; }}"
    user = "extern int {0}; int u(void) {{ return {0}; }}"
    found = patch(
        tmp_path,
        a=(texts.format("x", 1), texts.format("y", 2)),
        b=(user.format("x"), user.format("y")),
    ).extract()
    assert taken(found["a.c"]) == {("x", None)}
    assert not found["b.c"].included


def test_a_renamed_global_that_its_own_object_does_not_use_is_refused(tmp_path: Path) -> None:
    user = "extern int {0}; int u(void) {{ return {0}; }}"
    text = patch(tmp_path, a=("int x;", "int y;"), b=(user.format("x"), user.format("y"))).refusal()
    assert text.startswith(
        "a.c:a.o:y: y may be the running kernel's x\n"
        "  Other objects use it, and code of this one does not tell what it is.\n"
    )


def test_new_state_in_another_file_is_new(tmp_path: Path) -> None:
    gone = "int f(int n) { return out(n); }"
    come = "static int y; int u(int n) { return out(n) + y++; }"
    found = patch(tmp_path, a=(STATE, gone), b=(USER, come)).extract()
    assert [i.name for i in found["b.c"].included] == ["u", "y"]


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("int x = 3;", "int x = 4;", "its initial value differs"),
        ("int x;", "long x;", "its size was 4 bytes and is 8"),
        ("int x;", "short x[2];", "its type was int and is short int[2]"),
        (
            "int x;",
            'int __attribute__((section(".data..percpu"))) x;',
            "it was in .bss.x and is in .data..percpu",
        ),
        ("const int x = 3;", "const int x = 4;", "its initial value differs"),
    ],
)
def test_a_variable_that_moves_and_changes_is_refused(
    tmp_path: Path, old: str, new: str, told: str
) -> None:
    text = patch(tmp_path, a=(old, ""), b=(USER, USER + new)).refusal()
    assert text == (
        f"b.c:b.o:x: x moves from a.c:a.o, and changes: {told}\n"
        "  The running kernel has its own, with the content and the layout that it has.\n"
        "  Move it as it is, or give the new variable another name."
    )


def test_one_variable_for_several_is_refused(tmp_path: Path) -> None:
    text = "{} int x; int f{}(void) {{ return x++; }}"
    files = {n: (text.format("static", n), text.format("extern", n)) for n in "ab"}
    found = patch(tmp_path, **files, c=(USER, USER + "int x;")).refusal()
    assert found == (
        "c.c:c.o:x: x takes the place of several variables\n"
        "  The running kernel has one for each of a.c:a.o and b.c:b.o.\n"
        "  Give the new variable another name."
    )


def test_a_move_between_modules_is_refused(tmp_path: Path) -> None:
    moved = patch(tmp_path, a=(FUNCTION, ""), b=(USER, USER + FUNCTION))
    moved.owners |= {"a.c": "one", "b.c": "two"}
    assert moved.refusal() == (
        "b.c:b.o:f: f moves from one to two\n"
        "  What one has of it stays in use, and two may be loaded at other times.\n"
        "  Leave it where it is, or give the new one another name."
    )


WEAK = "__attribute__((weak)) int f(int n) { return out(n); }\n"


def test_a_strong_function_replaces_the_weak_one(tmp_path: Path) -> None:
    alone = patch(tmp_path / "1", b=(USER, USER + FUNCTION))
    alone.kernel["f"] = True
    assert [(f.name, f.original) for f in alone.extract()["b.c"].changed] == [("f", None)]
    changed = WEAK.replace("out(n)", "out(n) + 1")
    both = patch(tmp_path / "2", a=(WEAK, changed), b=(USER, USER + FUNCTION))
    both.kernel["f"] = True
    found = both.extract()
    assert replaced(found["b.c"]) == {"f": 0}
    assert not found["a.c"].included
    assert found["a.c"].notices == ("a.c:a.o:f: changes nothing: the patch adds one to b.c:b.o",)


def test_a_weak_function_that_the_kernel_overrides_changes_nothing(tmp_path: Path) -> None:
    changed = WEAK.replace("out(n)", "out(n) + 1")
    other = "int g(int n) { return f(n) + NUMBER; }"
    found = patch(
        tmp_path,
        a=(WEAK + other.replace("NUMBER", "1"), changed + other.replace("NUMBER", "2")),
        b=(USER, USER + WEAK),
    )
    found.kernel["f"] = False
    first, second = found.extract().values()
    assert replaced(first) == {"g": None}
    assert first.notices == (
        "a.c:a.o:f: changes nothing: vmlinux has another object's, which is not weak",
    )
    assert not second.included
    assert second.notices == ("b.c:b.o:f: changes nothing: vmlinux has it already, and it is weak",)


def test_a_function_that_the_kernel_has_elsewhere_is_refused(tmp_path: Path) -> None:
    found = patch(tmp_path, b=(USER, USER + "int x(void) { return 3; }"))
    found.kernel["x"] = False
    assert found.refusal() == (
        "b.c:b.o:x: x is defined anew, and vmlinux has it already\n"
        "  Neither is weak, so that the kernel could not be linked.\n"
        "  Give the new function another name."
    )


def test_a_variable_that_the_kernel_has_elsewhere_is_refused(tmp_path: Path) -> None:
    found = patch(tmp_path, b=(USER, USER + "int x;"))
    found.kernel["x"] = True
    assert found.refusal() == (
        "b.c:b.o:x: x is defined anew, and vmlinux has it already\n"
        "  The rest of the running kernel keeps its own variable.\n"
        "  Give the new variable another name."
    )


def test_a_weak_function_that_nothing_overrides_any_more_is_refused(tmp_path: Path) -> None:
    found = patch(tmp_path, a=(FUNCTION + USER, USER))
    found.kernel["f"] = False
    found.weak["f"] = "lib/f.c"
    assert found.refusal() == (
        "a.c:a.o:f: f is gone, so that the weak one of lib/f.c takes its place\n"
        "  The running kernel has not got that one: the linker left it out.\n"
        "  Let f do what the weak one does."
    )


INLINE = "static inline int h(int n) { static int x; return x += n; }\n"
CALLS_H = "int h(int n);\nint f(int n) { use((void *)1L); return h(n); }\n"
COUNTS = "int {0}(int n) {{ return out(n + x++); }}\n"


@pytest.mark.parametrize(
    ("a", "b", "told"),
    [
        (
            (INLINE + CALLS_H.partition("\n")[2], CALLS_H),
            (INLINE + "int u(int n) { return out(h(n)); }",
             INLINE.removeprefix("static inline ") + "int u(int n) { return out(h(n)); }"),
            "b.c:b.o:x.0: x (in h, u) takes the place of several variables\n"
            "  The running kernel has one for each of a.c:a.o and b.c:b.o.\n"
            "  Leave each its own.  If what the others hold does not matter, keep them declared,"
            " with __used.",
        ),
        (
            ("static int x;" + COUNTS.format("f"), "int x;" + COUNTS.format("f")),
            ("static int x;" + COUNTS.format("u"), "extern int x;" + COUNTS.format("u")),
            "a.c:a.o:x: x takes the place of several variables",
        ),
        (
            (CALLS_H, INLINE + CALLS_H.partition("\n")[2]),
            (INLINE.removeprefix("static inline ") + "int u(int n) { return out(h(n)); }",
             INLINE + "int u(int n) { return out(h(n)); }"),
            "a.c:a.o:x.0: x (in f) may be the running kernel's x (in h, u)\n"
            "  f used that of another object.",
        ),
        (
            ("int x;" + COUNTS.format("f"), "static int x;" + COUNTS.format("f")),
            ("extern int x;" + COUNTS.format("u"), "static int x;" + COUNTS.format("u")),
            "b.c:b.o:x: x may be the running kernel's x\n",
        ),
        (
            (USER, USER),
            ("extern int x;" + COUNTS.format("v"), "int v(int n) { static int x; return x++; }"),
            "b.c:b.o:x.0: x (in v) may be the running kernel's x\n",
        ),
    ],
)  # fmt: skip
def test_one_variable_for_several_and_several_for_one_are_refused(
    tmp_path: Path, a: tuple[str, str], b: tuple[str, str], told: str
) -> None:
    assert told in patch(tmp_path, a=a, b=b).refusal()


@pytest.mark.parametrize(
    ("old", "new", "use"),
    [
        ("static int x;", "static long x;", "x += n"),
        ("static int x;", "static struct { int x, more; } s;", "s.x += n"),
        ("static int *x;", "static struct { int *next, *prev; } s;", "(use(&s), n)"),
        ("static struct { int n, m; } x;", "static struct { int m, n, k; } s;", "s.n += n"),
    ],
)
def test_state_of_another_type_in_the_file_that_its_code_moved_to(
    tmp_path: Path, old: str, new: str, use: str
) -> None:
    was = "(use(&x), n)" if "*" in old else "x.n += n" if "{" in old else "x += n"
    before = f"{old} int f(int n) {{ return out({was}); }}"
    after = "int moved(int); int f(int n) { return moved(n); }"
    there = f"{new} int moved(int n) {{ return out({use}); }}"
    text = patch(tmp_path, a=(before, after), b=(USER, USER + there)).refusal()
    assert "may be the running kernel's x\n  The type was " in text


@pytest.mark.parametrize("kind", ["int", "struct { long first, second; }"])
def test_state_in_a_function_that_was_there(tmp_path: Path, kind: str) -> None:
    """The one that had it calls that one, in another file or its own."""
    before = "int k(int); static int x; int f(int n) { x += n; return k(x); }"
    after = "int k(int); int f(int n) { return k(n); }"
    callee = "noinline int k(int n) { return out(n); }"
    use = "y += n" if kind == "int" else "y.second += n"
    new = f"static {kind} y; " + callee.replace("out(n)", f"out({use})")
    files = ({"a": (before, after), "b": (callee, new)}, {"a": (callee + before, new + after)})
    for number, texts in enumerate(files):
        text = patch(tmp_path / f"{number}", **texts).refusal()
        assert ":y: y may be the running kernel's x\n" in text


@pytest.mark.parametrize("new", [WEAK, WEAK.removeprefix("__attribute__((weak)) ")])
def test_an_overridden_function_that_another_one_makes_way_for(tmp_path: Path, new: str) -> None:
    strong = "int f(int n) { return out(n - 1); }\n"
    made = patch(tmp_path, a=(WEAK, new), b=(USER + strong, USER))
    made.kernel["f"] = False
    assert made.refusal().startswith(
        "b.c:b.o:f: f is gone, so that the weak one of a.c:a.o takes its place\n"
    )


def test_an_overridden_function_that_is_no_longer_weak(tmp_path: Path) -> None:
    made = patch(tmp_path, a=(WEAK, WEAK.removeprefix("__attribute__((weak)) ")))
    made.kernel["f"] = False
    assert "Neither is weak, so that the kernel could not be linked." in made.refusal()


def test_a_function_with_a_weak_name_that_another_object_overrides(tmp_path: Path) -> None:
    old = 'int one(int n) { return out(n); } int also(int) __attribute__((weak, alias("one")));'
    made = patch(tmp_path, a=(old, old.replace("out(n)", "out(n) + 1")))
    made.kernel["also"] = False
    assert replaced(made.extract()["a.c"]) == {"one": None}
