"""Changed ``__init`` code beside other changes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.extract.pairs import Extracted, Pair

SOURCE = """
int out(int), apart(int), outside;
void hand_on(int (*)(int), int), say(const char *);
struct driver { int (*probe)(int); int flags; };
void add_driver(struct driver *, int), drop_driver(struct driver *);
static int counter, other;
static int __initdata scale = 3;
static noinline int count(int n) { return counter += n; }
static noinline int work(int n) { return out(n); }
int sum(int n) { return count(n) + 1; }
int watch(int n) { return outside + n; }
static struct driver driver = { work };
int __init start(void)
{
	say("version 1");
	other = out(scale);
	add_driver(&driver, 1);
	return other;
}
int __init begin(void) { return outside = out(3); }
int __init fill(void) { return count(1); }
int reset(int n) { return other = n; }
int look(void) { return other + 1; }
int labour(int n) { return out(n) + work(n); }
int apart(int n) { return out(n + 4); }
"""
APART = {"out(n + 4)": "out(n + 5)"}
NOTE = "code.c:code.o:{}: {}; left out: it has run, and nothing of the livepatch depends on it"


@pytest.mark.parametrize(
    ("name", "told", "change"),
    [
        ("start", "__init code changed", {"other = out(scale)": "other = out(scale + 1)"}),
        ("start", "__init code changed", {"version 1": "version 2"}),
        ("start", "__init code changed", {"return other;\n}": "drop_driver(&driver); return 1; }"}),
        ("begin", "__init code changed", {"outside = out(3)": "outside = out(4)"}),
        ("scale", "data scale changed: content at +0x0 differs", {"scale = 3": "scale = 4"}),
    ],
)
def test_init_code_beside_an_independent_change_is_left_out(
    tmp_path: Path, name: str, told: str, change: dict[str, str]
) -> None:
    extraction = Pair(tmp_path, SOURCE, change | APART).extract()
    assert Extracted(extraction).changed == ["apart"]
    assert extraction.notices == (NOTE.format(name, told),)


def test_other_messages_never_matter(tmp_path: Path) -> None:
    change = {"version 1": "version 2", "other = n": "other = n + 1"}
    extraction = Pair(tmp_path, SOURCE, change).extract()
    assert Extracted(extraction).changed == ["reset"]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        # one variable, through functions and by another object's name
        ({"out(scale)": "out(1)", "other = n": "other = n + 1"}, "uses other, too."),
        ({"count(1)": "count(2)", "count(n) + 1": "count(n) + 2"}, "uses counter, too."),
        ({"out(3)": "out(4)", "outside + n": "outside - n"}, "uses outside, too."),
        # a function that is handed on otherwise
        ({"&driver, 1": "&driver, 2", "{ return out(n); }": "{ return out(n + 1); }"},
         "uses work, too."),
        ({"&driver, 1": "&driver, 2", "out(n) + work(n)": "out(n) - work(n)"}, "uses work, too."),
        # something that it did not do
        ({"return other;\n}": "hand_on(apart, 1); return 0; }", **APART}, "uses apart, too."),
        ({"out(3)": "out(counter)", **APART}, "It uses counter, which it did not."),
        ({"int __init begin": "static int fresh(int n) { return n; }\nint __init begin",
          "outside = out(3)": "hand_on(fresh, 1), 2", **APART},
         "It uses fresh, which it did not."),
        ({"int __init begin": "static int room[3];\nint __init begin",
          "outside = out(3)": "hand_on((void *)room, 3), 2", **APART},
         "It uses room, which it did not."),
    ],
)  # fmt: skip
def test_init_code_that_the_change_depends_on_is_refused(
    tmp_path: Path, change: dict[str, str], why: str
) -> None:
    text = Pair(tmp_path, SOURCE, change).refusal()
    assert ": __init code changed\n  It is in .init.text, which is freed" in text
    assert text.splitlines()[2].endswith(why)
    assert text.endswith("\n  Leave it out of the patch, or do in a callback what it would do.")


LATE = (
    "static {0}noinline int f(int n) {{ return out(n); }} int g(int n) {{ return f(n) + f(2); }}\n"
)
TABLE = "static const int t[4]{0} = {{ 1, 2, 3, 4 }}; int g(int n) {{ return out(t[n & 3]); }}\n"
INIT_DATA = ' __attribute__((section(".init.rodata")))'


@pytest.mark.parametrize(
    ("source", "mark", "new"),
    [(LATE, "__init ", "f"), (LATE, "__exit ", "f"), (TABLE, INIT_DATA, "t")],
)
@pytest.mark.parametrize("linkage", ["static ", ""])
def test_what_runs_later_than_it_was_marked_for_is_new(
    tmp_path: Path, source: str, mark: str, new: str, linkage: str
) -> None:
    """The kernel's is gone once it has started; the functions that use it are replaced."""
    old, later = (source.format(m).replace("static ", linkage) for m in (mark, ""))
    extraction = Pair(tmp_path, f"int out(int);\n{old}", {old: later}).extract()
    assert [f.name for f in extraction.changed] == ["g"]
    assert {i.name for i in extraction.included} == {"g", new}
    assert not [r for r in extraction.references if r.is_defined]
