"""Twins: what the compiler numbers anew is still the same variable or clone."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from klpbuild.elf.constants import SHF, SHT
from klpbuild.elf.reader import Section
from klpbuild.extract.names import base_name, cold_parent, source_name, static_number
from klpbuild.extract.sections import is_special_static
from tests.extract.pairs import Extracted, Pair
from tests.extract.program import run


@pytest.mark.parametrize(
    ("name", "base"),
    [
        ("count.12", "count"),
        ("f.isra.0", "f.isra"),
        ("f.constprop.3.isra.0", "f.constprop.isra"),
        ("f.part.2.cold", "f.part.cold"),
        ("f.cold.17", "f.cold"),
        ("f.llvm.1234567890", "f"),
        ("__UNIQUE_ID_ddebug241.3", "__UNIQUE_ID_ddebug"),
        ("__UNIQUE_ID_ddebug_1230.37", "__UNIQUE_ID_ddebug"),
        ("__UNIQUE_ID_addressable_ext4_init_512", "__UNIQUE_ID_addressable_ext4_init"),
        ("__initcall__kmod_a__338_165_start5", "__initcall__kmod_a__start5"),
        ("C.3.14", "C"),
        ("crc32_le", "crc32_le"),
        ("__x64_sys_dup2", "__x64_sys_dup2"),
    ],
)  # fmt: skip
def test_a_name_without_its_numbers(name: str, base: str) -> None:
    assert base_name(name) == base
    assert base_name(base) == base


@given(st.from_regex(r"[a-z_]{1,8}[0-9]?", fullmatch=True), st.integers(0, 10**6))
def test_numbers_do_not_change_a_base_name(name: str, number: int) -> None:
    assert base_name(f"{name}.{number}") == base_name(name)
    assert static_number(f"{name}.{number}") == number
    assert source_name(f"{name}.isra.{number % 9}.cold") == name
    assert cold_parent(f"{name}.cold") == name


@pytest.mark.parametrize(
    ("name", "section", "size"),
    [
        (".data..Lubsan_data181", ".data..Lubsan_data181", 16),
        ("__key.4", ".bss.__key.4", 0),
        ("__key.4", ".bss.__key.4", 16),
        ("_rs.0", ".data._rs.0", 40),
        ("__func__.12", ".rodata.__func__.12", 9),
        ("__already_done.1", ".data.once", 1),
        ("__already_done.1", ".data..once", 1),
        ("__warned.1", ".data.unlikely", 1),
        ("descriptor.3", "__dyndbg", 56),
        ("CSWTCH.7", ".rodata.CSWTCH.7", 64),
        ("foo.__warned.2", ".data.once", 1),
    ],
)
def test_statics_of_macros_are_copied(name: str, section: str, size: int) -> None:
    assert is_special_static(name, described(section), size)


@pytest.mark.parametrize(
    ("name", "section", "size"),
    [
        ("___done.4", ".data.once", 1),
        ("___once_key.1", ".data.___once_key.1", 16),
        ("__key", ".data.__key", 16),
        ("keys.4", ".data.keys.4", 8),
        ("__warned.4", ".bss.__warned.4", 4),
        ("_rs.4", ".bss._rs.4", 4),
        ("descriptor.2", ".data.descriptor.2", 64),
        ("foo._rs.4", ".bss.foo._rs.4", 8),
    ],
)
def test_other_statics_are_the_kernels(name: str, section: str, size: int) -> None:
    assert not is_special_static(name, described(section), size)


def described(name: str) -> Section:
    """A section of variables, by its name."""
    flags = SHF.ALLOC | (0 if name.startswith(".rodata") else SHF.WRITE)
    return Section(0, name, SHT.PROGBITS, flags, 0, 0, 0, 0, 0, 8, 0)


@pytest.mark.parametrize("name", ["__warned", "_rs", "descriptor", "__print_once"])
def test_state_under_a_name_that_macros_give(tmp_path: Path, name: str) -> None:
    code = f"""
        int warn(int);
        int check(int n) {{ static int {name}; {name} += n; return warn({name}); }}
    """
    made = Pair(tmp_path, code, {"return warn(": "return 1 + warn("}).extract()
    assert [r.name for r in made.references if r.is_defined] == [f"{name}.0"]


RENUMBERED = """
int note(const char *);
int first(void) { static int seen; return note("first") + seen++; }
int second(void) { static int seen = 40; return note("second") + seen++; }
"""


def test_a_renumbered_static_variable_is_the_kernels(tmp_path: Path) -> None:
    change = {
        "int first(void) { static int seen;": "int zeroth(void) { static int seen = 7;"
        " static int other; return seen++ + other++; }\n"
        "int first(void) { static int seen;",
        'note("second") + seen++': 'note("second") + 2 * seen++',
    }
    main = """
    int note(const char *text) { return 0; }
    int second(void), new_second(void), zeroth(void);
    int main(void)
    {
        int a = second(), b = new_second(), c = second(), d = zeroth();
        printf("%d %d %d %d", a, b, c, d);
        return 0;
    }
    """
    printed, extraction = run(Pair(tmp_path, RENUMBERED, change), main)
    assert printed == "40 82 42 7"
    assert [function.name for function in extraction.changed] == ["second"]


def test_renumbering_alone_is_no_change(tmp_path: Path) -> None:
    change = {"int first(void)": "static int unused(void) { static int seen; return seen++; }\n"
              "int first(void)"}  # fmt: skip
    text = Pair(tmp_path, RENUMBERED, change, ["-Wno-unused"]).refusal()
    assert text.startswith("code.c:code.o: the patch changes no code that runs")


def test_static_variables_of_one_name_in_one_function_keep_their_order(tmp_path: Path) -> None:
    source = """
    int both(int n)
    {
        if (n) { static int seen = 1; return seen++; }
        else { static int seen = 100; return seen++; }
    }
    int other(void) { return 1; }
    """
    change = {"return 1;": "static int seen; return 1 + seen++;", "if (n) {": "if (n > 1) {"}
    main = """
    int both(int), new_both(int);
    int main(void) { both(1); both(0); printf("%d %d", new_both(2), new_both(0)); return 0; }
    """
    printed, _ = run(Pair(tmp_path, source, change), main)
    assert printed == "2 101"


def test_a_static_variable_that_may_be_old_or_new_is_refused(tmp_path: Path) -> None:
    source = "int count(int n) { static int seen; return n + seen++; }"
    change = {"return n + seen++;": "if (n) { static int seen; return seen += n; }"
              " return n + seen++;"}  # fmt: skip
    assert Pair(tmp_path, source, change).refusal() == (
        "code.c:code.o:seen.0: seen (in count) may be the running kernel's seen (in count)\n"
        "  Of the kernel's seen (in count) and the patch's seen (in count) and seen (in count)"
        " it cannot be told which is which.\n"
        "  Keep its name and its place if it is.  If it is new, give it another name, and keep"
        " seen (in count) declared, with __used."
    )


def test_a_static_variable_of_a_function_that_is_now_inlined_is_the_kernels(
    tmp_path: Path,
) -> None:
    source = """
    static noinline int count(void) { static int seen; return seen++; }
    int use(void) { return count(); }
    """
    change = {"static noinline int": "static inline __attribute__((always_inline)) int"}
    main = """
    int use(void), new_use(void);
    int main(void) { use(); printf("%d", new_use()); return 0; }
    """
    printed, extraction = run(Pair(tmp_path, source, change), main)
    assert printed == "1"
    assert extraction.removed == ("count",)


def test_constants_of_one_content_are_one(tmp_path: Path) -> None:
    source = """
    int pick(const int *);
    int first(void) { static const int table[] = { 1, 2, 3, 4 }; return pick(table); }
    int second(void) { static const int table[] = { 5, 6, 7, 8 }; return pick(table); }
    """
    change = {"return pick(table); }\n    int second": "return pick(table + 1); }\n    int second"}
    made = Extracted(Pair(tmp_path, source, change).extract())
    assert made.changed == ["first"]
    (reference,) = [r for r in made.extraction.references if r.is_local]
    assert reference.name.startswith("table.")


def test_special_statics_are_copied_with_their_content(tmp_path: Path) -> None:
    source = """
    int warn(const char *, int *);
    static int __attribute__((section(".data.once"))) before;
    int get_before(void) { return before++; }
    int check(int n)
    {
        static int __attribute__((section(".data.once"))) __already_done;
        if (n > 3 && !__already_done) return warn(__func__, &__already_done);
        return n;
    }
    """
    made = Extracted(Pair(tmp_path, source, {"n > 3": "n > 4"}).extract())
    names = {name.split(".")[0] for name in made.defined}
    assert names == {"check", "__func__", "__already_done"}
    assert len(made.contents(".data.once")) == 4
    assert made.undefined == {"__fentry__", "warn"}


def test_clones_with_other_numbers_are_the_same(tmp_path: Path) -> None:
    source = """
    int out(int);
    static noinline int scale(int n, int by) { return out(n) * by + out(by); }
    int one(int n) { return scale(n, 3); }
    """
    change = {"return out(n) * by": "return out(n) + by"}
    pair = Pair(tmp_path, source, change)
    made = Extracted(pair.extract())
    assert made.changed == ["scale.constprop.0"]
    assert made.undefined == {"__fentry__", "out"}


def test_one_of_two_folded_functions_changes_under_another_name(tmp_path: Path) -> None:
    """As the refusal of the change under its own name advises."""
    source = """
    int out(int);
    static noinline int one(int n) { out(n); return out(n + 1); }
    static noinline int two(int n) { out(n); return out(n + 1); }
    int first(int n) { return one(n) + 1; }
    int second(int n) { return two(n) + 2; }
    """
    change = {"int two(int n) { out(n); return out(n + 1);": "int new(int n) { return out(n + 3);"}
    flags = ["-fipa-icf"]
    text = Pair(tmp_path, source, {k: v.replace("new", "two") for k, v in change.items()}, flags)
    assert "shares its code with another function" in text.refusal()
    change["return two(n)"] = "return new(n)"
    made = Extracted(Pair(tmp_path, source, change, flags).extract())
    assert made.changed == ["second"]


def test_an_alias_in_one_version_only_is_refused(tmp_path: Path) -> None:
    source = """
    int one(int n) { return n * 3; }
    extern int two(int) __attribute__((alias("one")));
    """
    change = {'extern int two(int) __attribute__((alias("one")));': "int two(int n) { return n; }"}
    text = Pair(tmp_path, source, change).refusal()
    assert "shares its code with another function" in text
    assert "a livepatch replaces all names of an address: one, two" in text
    assert text.endswith("another name: its callers are replaced, and call that.")


UBSAN = """
int note(int);
static const char names[4][8] = { "one", "two" };
int first(int n) { return note(names[n & 255][1]); }
int second(int n) { return note(1 << n); }
static int __init setup(int n) { return note(2 << n); }
int (*const run_once)(int) __attribute__((section(".initcall6.init"), used)) = setup;
"""


@pytest.mark.parametrize("lines", ["", "\n\n"])
def test_data_of_the_sanitizer_is_compared_by_what_it_says_of_types(
    tmp_path: Path, lines: str
) -> None:
    """A check before the others gives each of them another number, and perhaps another line."""
    flags = ["-fsanitize=bounds-strict", "-fsanitize=shift"]
    changed = f"{lines}int first(int n) {{ note(3 << n); return"
    pair = Pair(tmp_path, UBSAN, {"int first(int n) { return": changed}, flags)
    assert [each.symbol for each in pair.extract().changed] == ["first"]


def test_a_check_of_another_type_is_a_change(tmp_path: Path) -> None:
    pair = Pair(tmp_path, UBSAN, {"note(1 << n)": "note(1U << n)"}, ["-fsanitize=shift"])
    assert [each.symbol for each in pair.extract().changed] == ["second"]
