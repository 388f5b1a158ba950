"""Words of the kernel's variables that callbacks write, where the author accepts that."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from tests.extract.pairs import Extracted, Pair

SOURCE = """
int out(int);
void register_them(const void *);
static int first(int n) { return n + 1; }
static int second(int n) { return out(n); }
struct operations { int (*open)(int), (*close)(int); const char *name; int flags; char kind[3]; };
static const struct operations table = { first, second, "it", 5, "ab" };
int limit = 3;
static unsigned char small[5] = { 1, 2, 3, 4, 5 };
static int per_cpu __attribute__((section(".data..percpu"))) = 4;
void setup(void) { register_them(&table); }
int use(int n) { return out(limit + small[n] + per_cpu) + second(n); }
int change(int n) { limit = n; small[n & 3]++; return per_cpu++; }
"""
TABLE = 'table = { first, second, "it", 5, "ab" }'
#: struct klpbuild_word: place, old, new, variable, size, whether it is writable, written.
WORD = struct.Struct("<QQQIHBB")


def listed(made: Extracted) -> list[tuple[int, ...]]:
    """Old and new value, number of the variable, size and whether it is writable."""
    rows = WORD.iter_unpack(made.contents(".data.klpbuild_words"))
    return [(old, new, number, size, writable) for _, old, new, number, size, writable, _ in rows]


def test_values_are_written_in_aligned_words(tmp_path: Path) -> None:
    change = {"limit = 3": "limit = -4", "{ 1, 2, 3, 4, 5 }": "{ 1, 2, 3, 9, 5 }"}
    extraction = Pair(tmp_path, SOURCE, change).extract(accepted_data=("limit", "small"))
    made = Extracted(extraction)
    assert extraction.words == 2
    assert not extraction.stays
    assert sorted(listed(made)) == [(3, 0xFFFFFFFC, 1, 4, 1), (4, 9, 0, 1, 1)]
    assert made.targets(".data.klpbuild_words") == [("small", 3), ("limit", 0)]
    assert not extraction.changed
    assert extraction.notices[1] == (
        "code.c:code.o:limit: content at +0x0 differs: accepted; written before the transition,"
        " and restored after the livepatch is disabled"
    )


def test_pointers_lead_to_what_the_kernel_has_and_to_new_functions(tmp_path: Path) -> None:
    change = {
        "return n + 1;": "return n + 2;",
        "static const struct operations": "static int third(int n) { return second(n); }\n"
        "static const struct operations",
        TABLE: 'table = { second, third, "it", 7, "ac" }',
    }
    extraction = Pair(tmp_path, SOURCE, change).extract(accepted_data=("table",))
    made = Extracted(extraction)
    assert extraction.stays
    assert "third" in made.defined
    assert made.targets(".data.klpbuild_words") == [
        ("table", 0), ("first", 0), ("second", 0),
        ("table", 8), ("second", 0), (".text.third", 0),
        ("table", 24),
    ]  # fmt: skip
    olds, news = (
        5 | int.from_bytes(b"ab", "little") << 32,
        7 | int.from_bytes(b"ac", "little") << 32,
    )
    assert listed(made)[2] == (olds, news, 0, 8, 0)


def test_a_replaced_function_stays_the_kernels_in_a_table(tmp_path: Path) -> None:
    change = {"return out(n);": "return out(n) + 3;", TABLE: TABLE.replace("first", "second")}
    extraction = Pair(tmp_path, SOURCE, change).extract(accepted_data=("table",))
    made = Extracted(extraction)
    assert "second" in made.changed
    pointers = {r.symbol for r in extraction.references if r.is_function_pointer}
    targets = [name for name, _ in made.targets(".data.klpbuild_words")]
    assert targets == ["table", "first", "original.second"]
    assert pointers == {"original.second"}


@pytest.mark.parametrize(
    "change",
    [
        {TABLE: TABLE.replace("it", "at")},  # a text has no name
        {"per_cpu __attribute__((section(\".data..percpu\"))) = 4":
         "per_cpu __attribute__((section(\".data..percpu\"))) = 5"},
        {"small[5] = { 1,": "small[6] = { 2,"},
    ],
)  # fmt: skip
def test_what_no_callback_can_write_stays_refused(tmp_path: Path, change: dict[str, str]) -> None:
    text = Pair(tmp_path, SOURCE, change).refusal(
        accepted_data=("table", "per_cpu", "small", "limit")
    )
    assert "--accept-data" not in text


def test_another_name_accepts_nothing(tmp_path: Path) -> None:
    text = Pair(tmp_path, SOURCE, {"limit = 3": "limit = 4"}).refusal(accepted_data=("small",))
    assert text.endswith('--accept-data limit, or accept_data = ["limit"] in livepatch.toml.')
