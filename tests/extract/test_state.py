"""Written variables that a patch renames or takes along with their code."""

from __future__ import annotations

from pathlib import Path

import pytest

from klpbuild.arch import X86_64
from klpbuild.errors import KlpError
from klpbuild.extract.extraction import extract_part
from tests.extract.pairs import Pair, Patch
from tests.extract.program import run

HEADER = """
int out(int);
void use(void *);
struct list { struct list *next, *prev; };
struct mutex { int owner; struct list wait; };
struct limit { int lock, interval, burst, missed; };
struct waiting { int lock; struct list head; };
struct ratelimit_state { int lock, interval, burst, missed; };
struct hook { void (*call)(void); struct hook *next; };
struct hooks { struct hook *first; int lock; };
typedef struct { int counter; } atomic_t;
#define __percpu __attribute__((section(".data..percpu")))
#define __ro_after_init __attribute__((section(".data..ro_after_init")))
"""

ACCEPT = (
    "\n  If the running kernel's holds what the new code expects, accept it:\n"
    '  --accept-data {0}, or accept_data = ["{0}"] in livepatch.toml.'
)


def versions(old: str, new: str, expression: str, name: str, other: str) -> tuple[str, str]:
    """Two functions that use a variable, of which the first changes besides."""
    code = "{0}\nint f(int n) {{ use((void *){1}L); return out(n) + ({2}); }}\n"
    code += "int g(int n) {{ return out(2 * n) + ({2}); }}\n"
    before, after = (expression.replace("VAR", word) for word in (name, other))
    return (
        code.format(old.replace("VAR", name), 1, before),
        code.format(new.replace("VAR", other), 2, after),
    )


def kernels(pair: Pair) -> set[str]:
    """What an extraction takes from the kernel's own object."""
    return {r.name for r in pair.extract().references if r.is_defined}


@pytest.mark.parametrize(
    ("declared", "expression"),
    [
        ("static int VAR;", "VAR++"),
        ("int VAR;", "VAR++"),
        ("static struct list VAR = { &VAR, &VAR };", "(int)(long)VAR.next"),
        ("static struct mutex VAR = { 0, { &VAR.wait, &VAR.wait } };", "(use(&VAR), 1)"),
        ("static __percpu int VAR;", "VAR++"),
        ("static int VAR[8];", "VAR[n & 7]++"),
        ("static struct limit VAR = { 0, 5000, 10 };", "VAR.missed++"),
        ("static struct static_key VAR;", "static_branch(&VAR) ? out(1) : 2"),
        ("static __ro_after_init int VAR;", "VAR"),
        ("static int VAR = 7; int *held[] = { &VAR };", "VAR"),
        ("static const int VAR[] = { 3, 4 };", "(use((void *)VAR), 1)"),
    ],
)
def test_a_renamed_variable_is_the_kernels(tmp_path: Path, declared: str, expression: str) -> None:
    old, new = versions(declared, declared, expression, "former", "latter")
    pair = Pair(tmp_path, HEADER + old, {old: new})
    assert kernels(pair) == {"former"}
    made = pair.extract()
    assert [f.name for f in made.changed] == [i.name for i in made.included] == ["f"]
    assert made.notices == ("code.c:code.o:latter: is the running kernel's former",)


@pytest.mark.parametrize(
    ("old", "new", "expression", "told"),
    [
        (
            "static int VAR;", "static int VAR = 1;", "VAR++",
            "The initial values differ.",
        ),
        (
            "static int VAR[8];", "static int VAR[16];", "VAR[n & 7]++",
            "The type was int[8] and is int[16].",
        ),
        (
            "static int VAR;", "static atomic_t VAR;", "(use(&VAR), 1)",
            "The type was int and is struct {int counter}.",
        ),
        (
            "static __ro_after_init int VAR;", "static int VAR;", "VAR++",
            "It was in .data..ro_after_init and is in .bss.latter.",
        ),
        (
            "static int VAR;", "static int VAR;", "VAR++",
            "Code uses it in another way: f, g.",
        ),
    ],
)  # fmt: skip
def test_a_variable_that_may_be_renamed_is_refused(
    tmp_path: Path, old: str, new: str, expression: str, told: str
) -> None:
    before, after = versions(old, new, expression, "former", "latter")
    if "another way" in told:
        after = after.replace("latter++", "latter > 3 ? latter : 7", 1)
    text = Pair(tmp_path, HEADER + before, {before: after}).refusal()
    assert text == (
        "code.c:code.o:latter: latter may be the running kernel's former\n"
        f"  {told}\n"
        "  Keep its name and its place if it is.  If it is new, give it another name, and keep"
        " former declared, with __used." + ACCEPT.format("latter") * ("Code" in told or "{" in told)
    )


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("static int VAR;", "static struct list VAR = { &VAR, &VAR };"),
        ("static int VAR;", "static struct mutex VAR;"),
        ("static int VAR;", "static struct ratelimit_state VAR;"),
        ("static struct mutex VAR;", "static struct list VAR = { &VAR, &VAR };"),
    ],
)
def test_a_variable_of_another_type_is_new(tmp_path: Path, old: str, new: str) -> None:
    before, after = versions(old, new, "(use(&VAR), 1)", "former", "latter")
    made = Pair(tmp_path, HEADER + before, {before: after}).extract()
    assert {i.name for i in made.included} == {"f", "g", "latter"}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("static int VAR;", "static unsigned long VAR;"),
        ("static int VAR;", "static _Bool VAR;"),
        ("static struct semaphore { int n; } VAR;", "static struct mutex VAR;"),
        ("static int VAR;", "static struct static_key VAR;"),
        ("static int VAR;", "static struct limit VAR;"),
        ("static int VAR;", "static struct { unsigned a : 1, b : 2; } VAR;"),
        ("static __percpu int VAR;", "static long VAR;"),
        ("static atomic_t VAR;", "static struct { long counter; } VAR;"),
        ("static unsigned long VAR;", "static unsigned long VAR[4];"),
        ("static int VAR[4][2];", "static long VAR[8];"),
        ("static void *VAR;", "static unsigned long VAR;"),
        ("static struct hook *VAR;", "static struct list VAR = { &VAR, &VAR };"),
        ("static struct hook VAR;", "static struct hooks VAR;"),
        ("static struct list VAR = { &VAR, &VAR };", "static struct hook *VAR[16];"),
        ("static struct list VAR = { &VAR, &VAR };", "static struct waiting VAR;"),
    ],
)
def test_a_variable_that_may_hold_the_same_is_refused(tmp_path: Path, old: str, new: str) -> None:
    before, after = versions(old, new, "(use(&VAR), 1)", "former", "latter")
    text = Pair(tmp_path, HEADER + before, {before: after}).refusal()
    assert text.startswith("code.c:code.o:latter: latter may be the running kernel's former\n")


def test_a_declared_variable_is_not_given_up(tmp_path: Path) -> None:
    before, after = versions("static int VAR;", "static int VAR;", "VAR++", "former", "latter")
    kept = after.replace("static int latter;", "static int latter; static int __used former;")
    made = Pair(tmp_path, HEADER + before, {before: kept}).extract()
    assert {i.name for i in made.included} == {"f", "g", "latter"}


def test_a_constant_with_another_content_is_new(tmp_path: Path) -> None:
    old, new = "static const int VAR[] = { 3, 4 };", "static const int VAR[] = { 3, 5 };"
    before, after = versions(old, new, "(use((void *)VAR), 1)", "former", "latter")
    made = Pair(tmp_path, HEADER + before, {before: after}).extract()
    assert {i.name for i in made.included} == {"f", "g", "latter"}


LOCAL = "int f(int n) { static int seen; use((void *)1L); return n + seen++; }"


@pytest.mark.parametrize(
    "new",
    [
        "int f(int n) { static int met; use((void *)2L); return n + met++; }",
        "static int seen; int f(int n) { use((void *)2L); return n + seen++; }",
        "static noinline int h(int n) { static int seen; use((void *)2L); return n + seen++; }"
        " int f(int n) { return h(n); }",
        "noinline int h(int n) { static int met; use((void *)2L); return n + met++; }"
        " int f(int n) { return h(n); }",
    ],
)
def test_a_static_variable_of_a_function_is_the_kernels(tmp_path: Path, new: str) -> None:
    assert kernels(Pair(tmp_path, HEADER + LOCAL, {LOCAL: new})) == {"seen.0"}


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        (
            LOCAL,
            "int f(int n) { use((void *)1L); return n; }"
            " int g(int n) { static int seen; return out(n) + seen++; }",
            "seen (in g) may be the running kernel's seen (in f)\n"
            "  Other functions use it: g instead of f.",
        ),
        (
            "static int a, b; int f(int n) { use((void *)1L); return n + a++ - b++; }",
            "static int c, d; int f(int n) { use((void *)2L); return n + c++ - d++; }",
            "c may be the running kernel's a and b\n"
            "  Of the kernel's a and b and the patch's c and d it cannot be told which is which.",
        ),
        (
            "static int a; int f(int n) { use((void *)1L); return n + a++; }",
            "static int c, d; int f(int n) { use((void *)2L); return n + c++ - d++; }",
            "c may be the running kernel's a\n"
            "  Of the kernel's a and the patch's c and d it cannot be told which is which.",
        ),
        (
            "static int a, b; int f(int n) { use((void *)1L); return n + a++ - b++; }",
            "static int b, c; int f(int n) { use((void *)1L); return n + b++ - c++; }",
            "c may be the running kernel's a\n  Code uses it in another way: f.",
        ),
        (
            "static int a, b; int f(int n) { use((void *)1L); return n + a++ - b++; }",
            "static struct { int a, b; } s;"
            " int f(int n) { use((void *)1L); return n + s.a++ - s.b++; }",
            "s may be the running kernel's a and b\n",
        ),
        (
            "static struct list *a; int f(int n) { use(a); a = (void *)(long)n; return n; }",
            "static struct { int n; struct list *l; } s;"
            " int f(int n) { use(s.l); s.l = (void *)(long)n; return n + 1; }",
            "s may be the running kernel's a\n"
            "  The type was struct list * and is struct {int n, struct list * l}.",
        ),
        (
            "static int a; int f(int n) { use((void *)1L); return n + a++; }",
            "static struct { long n, m; int k; } s; int f(int n) { return n + s.k++; }",
            "s may be the running kernel's a\n",
        ),
        (
            "static int a; int f(int n) { use((void *)1L); return n + a++; }",
            "static long b; static noinline int h(int n) { return n + b++; }"
            " int f(int n) { use((void *)2L); return h(n); }",
            "b may be the running kernel's a\n  The type was int and is long int.",
        ),
        (
            "static int a; static noinline int h(int n) { return n + a++; }"
            " int f(int n) { use((void *)1L); return h(n); }",
            "static long b; int f(int n) { use((void *)2L); return n + b++; }",
            "b may be the running kernel's a\n  The type was int and is long int.",
        ),
        (
            "static int a; static noinline int h(int n) { return n + a++; }"
            " int f(int n) { return h(n) + 1; }",
            "static long b; static noinline int k(int n) { return n + b++; }"
            " int f(int n) { return k(n) + 2; }",
            "b may be the running kernel's a\n  The type was int and is long int.",
        ),
        (
            "static struct list *a; int f(int n) { use(a); a = (void *)(long)n; return n; }",
            "static void *b; int f(int n) { use(b); b = (void *)(long)n; return n + 1; }",
            "b may be the running kernel's a\n  The type was struct list * and is void *.",
        ),
    ],
)  # fmt: skip
def test_state_that_cannot_be_told_is_refused(
    tmp_path: Path, old: str, new: str, told: str
) -> None:
    assert told in Pair(tmp_path, HEADER + old, {old: new}).refusal()


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("static int VAR;", "static __percpu int VAR;", "from .bss.same to .data..percpu"),
        ("static const int VAR = 3;", "static int VAR = 3;", "from .rodata.same to .data.same"),
        (
            "static __ro_after_init int VAR;", "static int VAR;",
            "from .data..ro_after_init to .bss.same",
        ),
    ],
)  # fmt: skip
def test_memory_that_allows_more_is_refused(tmp_path: Path, old: str, new: str, told: str) -> None:
    before, after = versions(old, new, "(use((void *)&VAR), VAR)", "same", "same")
    text = Pair(tmp_path, HEADER + before, {before: after}).refusal()
    assert f"code.c:code.o:same: data same changed: it moved {told}\n" in text


def test_a_renamed_variable_goes_on(tmp_path: Path) -> None:
    source = """
    static int count = 40;
    int next(int n) { return n + count++; }
    int show(void) { return count; }
    """
    change = {
        source: """
    static int total = 40;
    int next(int n) { return 2 * n + total++; }
    int show(void) { return total; }
    """
    }
    main = """
    int next(int), new_next(int), show(void);
    int main(void)
    {
        int a = next(1), b = new_next(1);
        printf("%d %d %d", a, b, show());
        return 0;
    }
    """
    printed, extraction = run(Pair(tmp_path, source, change), main)
    assert printed == "41 43 42"
    assert [function.name for function in extraction.changed] == ["next"]


BLOCKS = {
    "A": "if (n & 1) { static int seen; n += out(seen++); }",
    "B": "if (n & 2) { static int seen; n ^= out(seen--); }",
    "C": "if (n & 4) { static int seen; n *= out(seen *= 3); }",
    "L": "if (n & 8) { static long seen; n |= out(seen /= 3); }",
}


def blocks(names: str, number: int) -> str:
    """A function that has static variables of one name, each with its own code."""
    inside = " ".join(BLOCKS[name] for name in names)
    return f"int f(int n) {{ use((void *){number}L); {inside} return n; }}"


def test_statics_of_one_name_that_stay_in_order_are_the_kernels(tmp_path: Path) -> None:
    pair = Pair(tmp_path, HEADER + blocks("AB", 1), {blocks("AB", 1): blocks("AB", 2)})
    assert kernels(pair) == {"seen.0", "seen.1"}


@pytest.mark.parametrize(("old", "new"), [("AB", "BA"), ("AB", "BC"), ("ABC", "BCA"), ("AL", "LA")])
def test_statics_of_one_name_that_change_their_order_are_refused(
    tmp_path: Path, old: str, new: str
) -> None:
    pair = Pair(tmp_path, HEADER + blocks(old, 1), {blocks(old, 1): blocks(new, 2)})
    assert "seen (in f) may be the running kernel's seen (in f)" in pair.refusal()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("static int VAR;", "static unsigned int VAR;"),
        ("static int VAR;", "static atomic_t VAR;"),
        ("static int VAR;", "static int VAR[1];"),
        ("static struct { int a, b; } VAR;", "static struct { int a, c; } VAR;"),
        ("static struct { int a, b; } VAR;", "static struct two { unsigned a, b; } VAR;"),
        ("static void *VAR;", "static struct list *VAR;"),
        ("static void *VAR[2];", "static struct list *VAR[2];"),
        ("static char *VAR;", "static unsigned char *VAR;"),
        ("static long VAR;", "static struct { long long counter; } VAR;"),
    ],
)
def test_a_variable_that_keeps_what_it_holds(tmp_path: Path, old: str, new: str) -> None:
    before, after = versions(old, new, "(use(&VAR), 1)", "same", "same")
    assert kernels(Pair(tmp_path, HEADER + before, {before: after})) == {"same"}


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("int VAR", "short VAR[2]", "Its type was int and is short int[2]."),
        ("struct list *VAR", "struct mutex *VAR",
         "Its type was struct list * and is struct mutex *."),
        ("int *VAR", "long *VAR", "Its type was int * and is long int *."),
        ("struct { int a; long b; } VAR", "struct { long a, b; } VAR",
         "Its members were int a, long int b\n  and are long int a, long int b."),
        ("void *VAR", "unsigned long VAR", "Its type was void * and is long unsigned int."),
        ("int (*VAR)(int)", "int (*VAR)(long)",
         "Its type was int (int) * and is int (long int) *."),
        ("struct { int lock, count; } VAR", "struct { int count, lock; } VAR",
         "Its members were int lock, int count\n  and are int count, int lock."),
        ("struct { int a; void *p; } VAR", "struct { int a; long p; } VAR",
         "Its members were int a, void * p\n  and are int a, long int p."),
        ("struct { int a : 3, b : 5; } VAR", "struct { int a : 4, b : 4; } VAR",
         "Its members were int : 3 a, int : 5 b\n  and are int : 4 a, int : 4 b."),
        ("struct { struct { int a : 3, b : 5; } in; } VAR",
         "struct { struct { int b : 5, a : 3; } in; } VAR",
         "Its members were struct {int a : 3, int b : 5} in"
         "\n  and are struct {int b : 5, int a : 3} in."),
        ("struct { int a, b; } VAR", "struct { long a; } VAR",
         "Its members were int a, int b\n  and are long int a."),
    ],
)  # fmt: skip
def test_a_variable_that_holds_something_else_is_refused(
    tmp_path: Path, old: str, new: str, why: str
) -> None:
    before, after = versions(f"static {old};", f"static {new};", "(use(&VAR), 1)", "it", "it")
    assert Pair(tmp_path, HEADER + before, {before: after}).refusal() == (
        "code.c:code.o:it: it has another type than the running kernel's\n"
        f"  {why}\n  The running kernel's holds what the old code put there.\n"
        "  Keep its type.  If it is new, give it another name, and keep it declared, with __used."
        + ACCEPT.format("it")
    )


def test_an_author_knows_that_a_variable_is_the_kernels(tmp_path: Path) -> None:
    """A structure has another name, and so have a pointer to it and its variable."""
    header = "struct one { int n; };\nstruct other { int n; };\n"
    for name, note in (("it", "has another type"), ("that", "is the running kernel's it")):
        before, after = versions(
            "static struct one *VAR;",
            "static struct other *VAR;",
            "(use(&VAR), VAR->n)",
            "it",
            name,
        )
        (tmp_path / name).mkdir()
        pair = Pair(tmp_path / name, HEADER + header + before, {before: after})
        assert "struct one * and is struct other *" in pair.refusal()
        found = pair.extract(accepted_data=(name,))
        assert note in found.notices[0]
        assert {r.name for r in found.references if r.is_defined} == {"it"}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("static int a; static int b;", "static long c;"),
        ("static int a = 1;", "static int c;"),
        ("static int a;", "static long c;"),
        ("static __percpu int a;", "static int c;"),
    ],
)
def test_an_author_cannot_know_better_than_what_both_hold(
    tmp_path: Path, old: str, new: str
) -> None:
    used = "a + b" if " b" in old else "a"
    before = f"{old}\nint f(int n) {{ use(&a); return out(n) + {used}; }}\n"
    after = before.replace(old, new).replace("&a", "&c").replace(used + ";", "c + 1;")
    pair = Pair(tmp_path, HEADER + before, {before: after})
    assert pair.refusal(accepted_data=("c",)) == pair.refusal()
    assert "accept it" not in pair.refusal()


def test_it_is_refused_each_time_that_the_object_is_extracted(tmp_path: Path) -> None:
    before, after = versions("static int *it;", "static long *it;", "(use(&it), 1)", "it", "it")
    part = Patch(tmp_path, {"code.c": (HEADER + before, HEADER + after)}).part("code.c")
    for _ in range(2):
        with pytest.raises(KlpError, match="it has another type than the running kernel's"):
            extract_part(part, X86_64)


def test_new_state_is_told(tmp_path: Path) -> None:
    source = "static int limit;\nint f(int n) { return limit += n; }\n"
    change = {
        "static int limit;": "static int limit, calls;\nstatic const int step = 2;",
        "limit += n": "limit += n * step + ++calls",
    }
    assert Pair(tmp_path, source, change).extract().notices == (
        "code.c:code.o:calls: is new, and holds state: each version of the livepatch has its own",
    )
