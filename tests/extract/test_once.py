"""Flags and keys of DO_ONCE(): they belong to what is done once."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.extract.pairs import Pair
from tests.extract.program import run

HEADER = """
int out(int);
void get_random_bytes(void *, int), set_up(void), mix(void *, int);
_Bool __do_once_start(_Bool *, ulong *);
void __do_once_done(_Bool *, struct static_key *, ulong *, void *);
extern char __this_module[];
#define DO_ONCE(call, ...) ({ \\
    static _Bool __attribute__((section(".data.once"))) ___done; \\
    static struct static_key ___once_key = { 1 }; \\
    if (static_branch(&___once_key)) { \\
        ulong flags; \\
        if (__builtin_expect(__do_once_start(&___done, &flags), 0)) { \\
            call(__VA_ARGS__); \\
            __do_once_done(&___done, &___once_key, &flags, __this_module); \\
        } \\
    } \\
})
#define get_random_once(buf) DO_ONCE(get_random_bytes, buf, sizeof(*buf))
int a = 'a', b = 'b';
"""
A, B, C = "get_random_once(&a);", "get_random_once(&b);", "get_random_once(&c);"
NEW, SET_UP = f"static int c = 'c'; {C} n += c;", "DO_ONCE(set_up);"
RENAMED = "static int d = 'c'; get_random_once(&d); n += d;"
MAIN = """
char __this_module[1];
int f(int), new_f(int);
int out(int n) { return n; }
void get_random_bytes(int *name, int size) { printf("%c", *name); }
void mix(int *name, int size) { printf("mixed %c", *name); }
void set_up(void) { printf("s"); }
_Bool __do_once_start(_Bool *done, long *flags) { return !*done; }
void __do_once_done(_Bool *done, void *key, long *flags, void *module) { *done = 1; }
int main(void) { f(1); printf(" "); new_f(1); return 0; }
"""


def function(inside: str, name: str = "f") -> str:
    return f"int {name}(int n) {{ {inside} return out(n + a + b); }}\n"


def pair(directory: Path, old: str, new: str) -> Pair:
    return Pair(directory, HEADER + function(old), {function(old): new})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("old", "new", "done"),
    [
        (A, function(f"out(1); {A}"), "a "),
        (A, function(A + B), "a b"),
        (A, function(B + A), "a b"),
        (A, function(A + NEW), "a c"),
        (A, function(NEW), "a c"),
        (NEW, function(RENAMED), "c "),
        (A + B, function(B), "ab "),
        (A + B, function(B + A), "ab "),
        (A + B, function(B + NEW), "ab c"),
        (A, function(A + SET_UP), "a s"),
        (SET_UP, function(SET_UP + A), "s a"),
        (A, f"static noinline {function(B + A, 'g')}{function('n = g(n);')}", "a b"),
    ],
)
def test_what_is_done_tells_which_flag_it_has(
    tmp_path: Path, old: str, new: str, done: str
) -> None:
    if "out(1)" not in new:
        new = new.replace("return out(", "return 1 + out(", 1)
    assert run(pair(tmp_path, old, new), MAIN)[0] == done


@pytest.mark.parametrize(
    ("old", "new", "now", "before"),
    [
        (A, "DO_ONCE(mix, &a, sizeof(a));", "a, mix", "a, get_random_bytes"),
        (A, A + "DO_ONCE(mix, &a, sizeof(a));", "a, mix", "a, get_random_bytes"),
        (A, A + A, "a, get_random_bytes", "a, get_random_bytes"),
        (A, "DO_ONCE((set_up(), get_random_bytes), &a, 4);",
         "a, get_random_bytes, set_up", "a, get_random_bytes"),
    ],
)  # fmt: skip
def test_what_is_done_otherwise_is_refused(
    tmp_path: Path, old: str, new: str, now: str, before: str
) -> None:
    text = pair(tmp_path, old, function(new)).refusal()
    assert text.partition(": ")[2] == (
        "___once_key (in f) may be the running kernel's ___once_key (in f)\n"
        f"  What is done once refers to {now}, and did to {before}.\n"
        "  Leave what is done once as it is; what is new needs its own variables."
    )
