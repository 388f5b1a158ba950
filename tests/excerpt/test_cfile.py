"""C files of the kernel, split into their items."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from klpbuild.excerpt.cfile import Kind, items, renamed, signature, words

FILE = """\
// SPDX-License-Identifier: GPL-2.0
#define pr_fmt(fmt) "x: " fmt
#include <linux/mm.h>

enum state { IDLE, BUSY = 3 };
struct pair { int a, b; } one;
typedef int (*handler_t)(struct pair *p);
typedef struct pair pair_t;
static const char * const texts[] = { [IDLE] = "idle;", [BUSY] = "}" };
static unsigned long limit __read_mostly = 500, other[2], *none = NULL;
static DEFINE_MUTEX(lock);
static DEFINE_PER_CPU(struct pair, pairs);
static int (*hook)(int);
static int later(int a);
EXPORT_SYMBOL(no_semicolon)
static int __init later(int a)
{
	if (a) { /* } */ return ')'; }
	return 0;
}
#ifdef CONFIG_A
static __always_inline struct pair *
find(int a)
#else
static struct pair *nothing(void)
#endif
{
#ifdef CONFIG_B
	if (a) {
#else
	if (!a) {
#endif
		return &one;
	}
	return NULL;
}
#if 1
__printf(1, 2)
void say(const char *f, ...) {}
#elif 2
int two;
#else
SYSCALL_DEFINE1(close, unsigned int, fd)
{
	return 0;
}
#endif
static SIMPLE_DEV_PM_OPS(button_pm, suspend, resume);
"""


def test_every_kind() -> None:
    found = [(item.kind, sorted(item.names)) for item in items(FILE)]
    assert found == [
        (Kind.MACRO, ["pr_fmt"]),
        (Kind.INCLUDE, []),
        (Kind.TYPE, ["BUSY", "IDLE", "state"]),
        (Kind.TYPE, ["one", "pair"]),
        (Kind.TYPE, ["handler_t"]),
        (Kind.TYPE, ["pair_t"]),
        (Kind.DATA, ["texts"]),
        (Kind.DATA, ["limit", "none", "other"]),
        (Kind.DATA, ["lock"]),
        (Kind.DATA, ["pairs"]),
        (Kind.DATA, ["hook"]),
        (Kind.PROTOTYPE, ["later"]),
        (Kind.OTHER, []),
        (Kind.FUNCTION, ["later"]),
        (Kind.FUNCTION, ["find"]),
        (Kind.OTHER, []),
        (Kind.FUNCTION, ["say"]),
        (Kind.DATA, ["two"]),
        (Kind.FUNCTION, ["SYSCALL_DEFINE1"]),
        (Kind.OTHER, []),
    ]


def test_conditions_and_lines() -> None:
    by_name = {name: item for item in items(FILE) for name in item.names}
    assert by_name["two"].conditions == (("#if 1", "#elif 2"),)
    assert by_name["SYSCALL_DEFINE1"].conditions == (("#if 1", "#elif 2", "#else"),)
    assert FILE.splitlines()[by_name["two"].line - 1] == "int two;"


def test_two_heads_of_one_body_stay_together() -> None:
    by_name = {name: item for item in items(FILE) for name in item.names}
    assert by_name["find"].text.startswith("#ifdef CONFIG_A\nstatic __always_inline")
    assert by_name["find"].conditions == ()


def test_a_signature() -> None:
    by_name = {name: item for item in items(FILE) for name in item.names}
    assert signature(by_name["later"]) == "static int __init later(int a)"


def test_words_are_not_members_strings_or_comments() -> None:
    text = "a.b->c = d(\"e\", 'f'); /* g */ // h\n#ifdef I\n#define J k"
    assert words(text) == {"a", "d", "ifdef", "I", "define", "J", "k"}


def test_renaming_leaves_the_rest_alone() -> None:
    text = 'f(a.f, "f", f /* f */);'
    assert renamed(text, {"f": "g"}) == 'g(a.f, "f", g /* f */);'


@given(st.text(alphabet='ab(){};,="#/*\n \\', max_size=60))
def test_any_text_gives_items_of_that_text_in_order(text: str) -> None:
    at = 0
    for item in items(text):
        at = text.index(item.text, at) + len(item.text)
