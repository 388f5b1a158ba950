"""What counts as a change, and what does not."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.extract.pairs import Extracted, Pair

NOTHING = """code.c:code.o: the patch changes no code that runs
  Both versions compile to the same functions and variables."""

SOURCE = """
int out(const char *, int);
static int limit = 3;
static const char *const names[] = { "zero", "one" };
int first(int n) { if (n > limit) WARN(); return out("first", n); }
int second(int n) { ALTERNATIVE("nop", "stac", 42); return out(names[n & 1], n); }
int third(ulong *p) { ulong v; LOAD_SAFELY(v, *p); return out("third", v & limit); }
"""


@pytest.mark.parametrize(
    "change",
    [
        {"int first": "\n\n/* a comment */\nint first"},
        {'out("first", n)': 'out("fir" "st", n)'},
        {"int first": 'static inline int nobody(void) { return out("more text", 1); }\nint first'},
        {"static int limit = 3;": "static const int more[] = { 0 };\nstatic int limit = 3;"},
    ],
)  # fmt: skip
def test_no_change(tmp_path: Path, change: dict[str, str]) -> None:
    assert Pair(tmp_path, SOURCE, change).refusal() == NOTHING


@pytest.mark.parametrize(
    ("change", "function", "why"),
    [
        ({"n > limit": "n >= limit"}, "first", "code at +0x"),
        ({'out("first", n)': 'out("1st", n)'}, "first", "refers to '1st' instead of 'first'"),
        ({'"stac"': '"clac"'}, "second", "an entry of .altinstructions differs"),
        ({'"stac", 42': '"stac", 43'}, "second", "an entry of .altinstructions differs"),
        ({"v & limit": "v & 1"}, "third", "differs"),
    ],
)
def test_a_change(tmp_path: Path, change: dict[str, str], function: str, why: str) -> None:
    made = Extracted(Pair(tmp_path, SOURCE, change).extract())
    assert made.changed == [function]
    assert why in made.extraction.changed[0].why


AUXILIARY = """
int out(int);
extern int features, more[4];
static inline int has(void)
{
    asm goto("jmp 6f\\n.pushsection .altinstr_aux, \\"ax\\"\\n6: testb $8, features\\n"
             "jnz %l[yes]\\njmp %l[no]\\n.popsection" :::: yes, no);
yes:
    return 1;
no:
    return 0;
}
int asks(int n) { return has() ? out(n) : 7; }
double scaled(int n) { return n * 1.5; }
int taken(void) { return more[1]; }
"""


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"testb $8": "testb $4"}, "refers to another .altinstr_aux"),
        ({"n * 1.5": "n * 2.5"}, "refers to another constant"),
        ({"more[1]": "more[2]"}, "refers to another place in more"),
    ],
)
def test_no_message_names_the_same_thing_twice(
    tmp_path: Path, change: dict[str, str], why: str
) -> None:
    (changed,) = Pair(tmp_path, AUXILIARY, change).extract().changed
    assert changed.why.endswith(why), changed.why


def test_the_handler_of_an_exception_counts(tmp_path: Path) -> None:
    source = SOURCE.replace("LOAD_SAFELY(v, *p)", "HANDLED(v, *p)")
    macro = '#define HANDLED(to, from) asm volatile("1: mov %1, %0\\n2:\\n.pushsection __ex_table,\\"a\\"\\n.long 1b - ., 2b - ., 3\\n.popsection" : "=r" (to) : "m" (from))\n'  # noqa: E501
    made = Extracted(Pair(tmp_path, macro + source, {"2b - ., 3": "2b - ., 4"}).extract())
    assert made.changed == ["third"]
    assert made.extraction.changed[0].why == "an entry of __ex_table differs"


COLD = """
int out(int);
void __attribute__((cold)) complain(int);
int work(int n)
{
    if (n > 100) { complain(n); n = out(n) + 7; }
    return out(n) * 3;
}
"""


@pytest.mark.parametrize("change", [{"out(n) + 7": "out(n) + 8"}, {"out(n) * 3": "out(n) * 5"}])
def test_a_function_and_its_cold_part_go_together(tmp_path: Path, change: dict[str, str]) -> None:
    made = Extracted(Pair(tmp_path, COLD, change).extract())
    assert made.changed == ["work"]
    assert {"work", "work.cold"} <= made.defined.keys()
    assert made.undefined == {"__fentry__", "out", "complain"}


def test_a_cold_part_that_comes_or_goes(tmp_path: Path) -> None:
    gone = Extracted(Pair(tmp_path, COLD, {"complain(n); ": ""}).extract())
    assert (gone.changed, gone.extraction.removed) == (["work"], ("work.cold",))
    source = COLD.replace("complain(n); ", "")
    new = Extracted(Pair(tmp_path, source, {"n = out(n) + 7": "complain(n); n = 1"}).extract())
    assert (new.changed, new.extraction.new) == (["work"], ("work.cold",))


FUNCTIONS = 8


@settings(max_examples=12, deadline=None)
@given(st.sets(st.integers(0, FUNCTIONS - 1), min_size=1), st.booleans())
def test_exactly_the_changed_functions(changed: set[int], local: bool) -> None:
    def function(i: int, factor: int) -> str:
        kind = "static noinline" if local and i % 2 else "noinline"
        return (
            f"{kind} int f{i}(int n) {{ static int calls; calls += n;"
            f' return out("f{i}", calls * {factor}); }}'
        )

    head = "int out(const char *, int);\n"
    body = {i: function(i, 1000 + i) for i in range(FUNCTIONS)}
    uses = "int all(int n) { return " + " + ".join(f"f{i}(n)" for i in body) + "; }"
    source = head + "\n".join(body.values()) + "\n" + uses
    change = {f"calls * {1000 + i})": f"calls * {2000 + i})" for i in changed}
    with tempfile.TemporaryDirectory() as directory:
        made = Extracted(Pair(Path(directory), source, change).extract())
    assert sorted(made.changed) == [f"f{i}" for i in sorted(changed)]
    assert {f"f{i}" for i in changed} == made.defined.keys()


#: Code and data that give functions' addresses to others, which may keep them.
STORES = """
void set_timer(void *, int (*)(int)), drop_timer(int (*)(int));
int out(int);
struct ops { int (*run)(int); };
void use(const struct ops *);
static noinline int expire(int n) { return out(n) + 1; }
static noinline int run(int n) { return out(n) + 2; }
static noinline int only_called(int n) { return out(n) + 3; }
static const struct ops ops = { run };
int begin(void *p) { set_timer(p, expire); return 0; }
int direct(int n) { return only_called(n) + 4; }
int table(int n) { use(&ops); return n; }
void __exit end(void) { drop_timer(expire); }
"""


def test_a_function_under_another_name_whose_address_may_be_stored(tmp_path: Path) -> None:
    change = {
        "int expire(int n) { return out(n) + 1": "int expired(int n) { return out(n) + 5",
        "(p, expire)": "(p, expired)",
        "drop_timer(expire)": "drop_timer(expired)",
    }
    assert Pair(tmp_path, STORES, change).refusal() == (
        "code.c:code.o:expire: expire is gone, and the running kernel may have stored its address\n"
        "  begin handed it on, and expired now:"
        " who has it goes on to call the function as it was.\n"
        "  Keep its name, so that it is replaced."
    )


def test_a_function_under_another_name_in_a_table_under_another_name(tmp_path: Path) -> None:
    """Only an entry that the kernel has read refers to the table, as for a parameter."""
    entry = '\nstatic const void *p_{0} __used __attribute__((section("__param"))) = &{0};\n'
    source = STORES.replace("use(&ops); ", "") + entry.format("ops")
    change = {
        "int run(int n) { return out(n) + 2; }": "int walk(int n) { return out(n) + 9; }",
        "ops ops = { run };": "ops more = { walk };",
        entry.format("ops"): entry.format("more"),
        "return only_called(n) + 4": "return only_called(n) + 5",
    }
    assert (
        Pair(tmp_path, source, change)
        .refusal()
        .startswith(
            "code.c:code.o:run: run is gone, and the running kernel may have stored its address\n"
            "  ops handed it on, and walk now:"
        )
    )


@pytest.mark.parametrize(
    ("change", "name", "user"),
    [
        # what nothing starts any more
        (
            {
                "static noinline int expire(int n) { return out(n) + 1; }": "",
                "set_timer(p, expire); return 0": "return 1",
                "drop_timer(expire);": "",
            },
            "expire",
            "begin",
        ),
        # with the table that has it
        (
            {
                "static noinline int run(int n) { return out(n) + 2; }": "",
                "static const struct ops ops = { run };": "",
                "use(&ops); return n": "return n + 1",
            },
            "run",
            "ops",
        ),
    ],
)
def test_a_function_that_goes_without_successor(
    tmp_path: Path, change: dict[str, str], name: str, user: str
) -> None:
    assert Pair(tmp_path, STORES, change).extract().notices[0] == (
        f"code.c:code.o:{name}: is gone;"
        f" what has its address from {user} goes on to call it as it was"
    )


@pytest.mark.parametrize(
    "change",
    [
        {"int only_called(int n)": "int called(int n)", "return only_called": "return called"},
        # the same under another name
        {
            "int expire(int n)": "int expired(int n)",
            "(p, expire); return 0": "(p, expired); return 1",
            "drop_timer(expire)": "drop_timer(expired)",
        },
        # kept, and nothing takes it
        {
            "static noinline int expire": "static noinline __used int expire",
            "set_timer(p, expire); return 0": "return 1",
        },
    ],
)
def test_a_function_that_goes_and_is_not_missed(tmp_path: Path, change: dict[str, str]) -> None:
    assert Pair(tmp_path, STORES, change).extract().changed


def test_the_address_of_a_new_function_is_handed_on(tmp_path: Path) -> None:
    change = {
        "static const": "static noinline int more(int n) { return out(n) + 9; }\nstatic const",
        "set_timer(p, expire);": "set_timer(p, expire); set_timer(p, more);",
    }
    assert Pair(tmp_path, STORES, change).extract().notices == (
        "code.c:code.o:more: is new, and begin hands its address on: what keeps it must be gone"
        " before the livepatch is unloaded",
    )


def test_a_new_function_is_handed_on_instead_of_one_that_stays(tmp_path: Path) -> None:
    change = {
        "static const": "static noinline int more(int n) { return expire(n) + 9; }\nstatic const",
        "set_timer(p, expire);": "set_timer(p, more);",
    }
    assert Pair(tmp_path, STORES, change).extract().notices == (
        "code.c:code.o:more: is new, and begin hands its address on: what keeps it must be gone"
        " before the livepatch is unloaded",
        "code.c:code.o:more: is handed on instead of expire:"
        " what has that one's address goes on to call it",
    )


def test_a_table_under_another_name_whose_address_may_be_stored(tmp_path: Path) -> None:
    new = "static noinline int walk(int n) { return out(n) + 7; }\n"
    change = {
        "static const struct ops ops = { run };": f"{new}static const struct ops more = {{ walk }};"
        "int other(int n) { return run(n); }",
        "use(&ops)": "use(&more)",
    }
    assert Pair(tmp_path, STORES, change).refusal() == (
        "code.c:code.o:ops: ops is gone, and the running kernel may have stored its address\n"
        "  table passed it on, and more now: who has it goes on with its functions.\n"
        "  Keep its name and its content, or give callbacks what to write to it."
    )
