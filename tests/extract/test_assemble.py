"""The extracted object: what is in it, what it refers to, and that it works."""

from __future__ import annotations

import subprocess
from pathlib import Path

from klpbuild.elf.constants import SHF, STB
from klpbuild.elf.reader import ElfFile
from tests.extract.pairs import Extracted, Pair
from tests.extract.program import run

COUNTER = """
static int total;
noinline int add(int n)
{
	static int calls;
	calls++;
	total += n;
	return total * 100 + calls;
}
int get(void) { return total; }
"""


def test_a_changed_function_works_on_the_kernels_own_state(tmp_path: Path) -> None:
    pair = Pair(tmp_path, COUNTER, {"total += n;": "total += 2 * n;"})
    main = """
    int add(int), new_add(int), get(void);
    int main(void) { add(1); add(1); int n = new_add(5); printf("%d %d", n, get()); return 0; }
    """
    printed, extraction = run(pair, main)
    assert printed == "1203 12"
    assert [function.name for function in extraction.changed] == ["add"]
    assert {r.name for r in extraction.references if r.is_local} == {"total", "calls.0"}


def test_unchanged_functions_and_data_are_not_copied(tmp_path: Path) -> None:
    pair = Pair(tmp_path, COUNTER, {"total += n;": "total += 2 * n;"})
    made = Extracted(pair.extract())
    assert made.defined.keys() == {"add"}
    assert made.undefined == {"__fentry__", "total", "calls.0"}


def test_a_replaced_global_is_local_and_a_new_one_stays_global(tmp_path: Path) -> None:
    pair = Pair(
        tmp_path,
        COUNTER,
        {"total += n;": "total += twice(n);", "static int total;": "static int total;\n"
         "noinline int twice(int n) { return 2 * n; }"},
    )  # fmt: skip
    made = Extracted(pair.extract())
    assert made.defined["add"].bind == STB.LOCAL
    assert made.defined["twice"].bind == STB.GLOBAL
    assert made.extraction.new == ("twice",)


def test_new_functions_and_data_come_along_with_what_they_need(tmp_path: Path) -> None:
    pair = Pair(
        tmp_path,
        COUNTER,
        {"total += n;": "total += scaled(n);", "static int total;": """
static int total;
static int factors[] = { 3, 5 };
static noinline int pick(int i) { static int picks; return factors[(i + picks++) & 1]; }
static noinline int scaled(int n) { return n * pick(n); }
"""},
    )  # fmt: skip
    main = """
    int add(int), new_add(int);
    int main(void) { int a = new_add(2), b = new_add(2); printf("%d %d", a, b); return 0; }
    """
    printed, extraction = run(pair, main)
    assert printed == "601 1602"
    assert set(extraction.new) == {"scaled", "pick"}
    assert {item.name for item in extraction.included} >= {"factors", "picks.0", "scaled", "pick"}


def test_strings_come_along_and_only_those_used(tmp_path: Path) -> None:
    source = """
    int show(const char *text);
    int one(void) { return show("one of many"); }
    int two(void) { return show("another text"); }
    """
    made = Extracted(Pair(tmp_path, source, {'"one of many"': '"one or more"'}).extract())
    strings = b"".join(made.contents(name) for name in made.section_names if ".str1." in name)
    assert strings == b"one or more\0"


POINTERS = """
typedef int handler(int);
handler *installed;
noinline int handle(int n) { return n + 1; }
noinline int is_ours(handler *h) { return h == handle; }
noinline int install(void) { installed = handle; return handle(1); }
"""


def test_the_address_of_a_replaced_function_is_that_of_the_original(tmp_path: Path) -> None:
    pair = Pair(
        tmp_path,
        POINTERS,
        {
            "return n + 1": "return n + 2",
            "installed = handle; return": "installed = handle; return 10 *",
        },
    )
    main = """
    int handle(int), new_install(void); extern int (*installed)(int);
    int main(void) { int n = new_install(); printf("%d %d", n, installed == handle); return 0; }
    """
    printed, extraction = run(pair, main)
    assert printed == "30 1"
    pointers = [r for r in extraction.references if r.is_function_pointer]
    assert [(r.symbol, r.name) for r in pointers] == [("original.handle", "handle")]


def test_the_address_of_a_new_function_is_its_own(tmp_path: Path) -> None:
    pair = Pair(
        tmp_path,
        POINTERS,
        {
            "noinline int install": "static int other(int n) { return 7; }\nnoinline int install",
            "installed = handle; return": "installed = other; return",
        },
    )
    made = Extracted(pair.extract())
    assert not [r for r in made.extraction.references if r.is_function_pointer]
    assert "other" in made.defined


def test_a_new_table_of_functions_holds_the_originals(tmp_path: Path) -> None:
    source = """
    typedef int handler(int);
    int register_all(handler *const *);
    noinline int first(int n) { return n; }
    static noinline int second(int n) { return n * 3; }
    int use(int n) { return first(n) + second(n); }
    noinline int setup(void) { return 0; }
    """
    change = {
        "noinline int setup(void) { return 0; }": "static handler *const all[] = { first, second };"
        "\nnoinline int setup(void) { return register_all(all); }",
        "return n * 3;": "return n * 4;",
    }
    made = Extracted(Pair(tmp_path, source, change).extract())
    assert made.targets(".rodata.all") == [("first", 0), ("original.second", 0)]
    assert made.changed == ["second", "setup"]


def test_padding_before_a_function_comes_along(tmp_path: Path) -> None:
    """As Linux 6.2 and later compile with CONFIG_CALL_PADDING and CONFIG_X86_KERNEL_IBT."""
    flags = ["-fcf-protection=branch", "-fpatchable-function-entry=16,16"]
    change = {
        "return n + 1": "return n + 2",
        "installed = handle; return": "installed = handle; return 10 *",
    }
    made = Extracted(Pair(tmp_path, POINTERS, change, flags).extract())
    assert made.changed == ["handle", "install"]
    assert made.defined["handle"].st_value == 16
    assert made.contents(".text.handle")[:20] == b"\x90" * 16 + b"\xf3\x0f\x1e\xfa"
    assert [r.name for r in made.extraction.references if r.is_function_pointer] == ["handle"]
    tables = [s for s in made.elf.sections if s.name == "__patchable_function_entries"]
    linked = sorted(made.elf.sections[s.sh_link].name for s in tables)
    assert linked == [".text.handle", ".text.install"]
    assert all(s.sh_flags & SHF.LINK_ORDER for s in tables)


SHARED = """
int out(int);
static __sched noinline int inner(int n) { return out(n) + 1; }
static __sched noinline int unchanged(int n) { return out(n) + 5; }
__sched int outer(int n) { int m = inner(n) + unchanged(n); return m * 2; }
__sched int neighbour(int n) { return inner(n); }
static int __read_mostly first = 1;
static int __read_mostly second = 2;
int get_first(void) { return first++; }
int get_second(void) { return second++ + second; }
"""


def test_the_hash_of_a_functions_type_comes_along(tmp_path: Path) -> None:
    """clang's KCFI puts it before the padding: who calls through a pointer compares it."""
    twice = r"""static int total;
    int twice(int);
    asm(".pushsection .text.twice, \"ax\"\n.p2align 4\n.globl __cfi_twice, twice\n"
        ".type __cfi_twice, @function\n.type twice, @function\n"
        "__cfi_twice: mov $0x12345678, %eax\n.skip 11, 0x90\n.size __cfi_twice, . - __cfi_twice\n"
        "twice: lea (%rdi,%rdi), %eax\nret\n.size twice, . - twice\n.popsection");
    """
    change = {"total += n;": "int (*volatile go)(int) = twice; total += go(n);",
              "static int total;": twice}  # fmt: skip
    made = Extracted(Pair(tmp_path, COUNTER, change).extract())
    assert made.extraction.new == ("twice",)
    hashed, function = made.defined["__cfi_twice"], made.defined["twice"]
    assert hashed.st_shndx == function.st_shndx and function.st_value - hashed.st_value == 16
    code = bytes(made.elf.contents(made.elf.sections[function.st_shndx]))
    assert code[hashed.st_value :][:16] == b"\xb8\x78\x56\x34\x12" + 11 * b"\x90"


def test_functions_of_a_shared_section_get_their_own(tmp_path: Path) -> None:
    pair = Pair(tmp_path, SHARED, {"return m * 2": "return m * 3"})
    main = """
    int out(int n) { return n; }
    int outer(int), new_outer(int);
    int main(void) { printf("%d %d", outer(1), new_outer(1)); return 0; }
    """
    printed, extraction = run(pair, main)
    assert printed == "16 24"
    assert [i.section for i in extraction.included] == [".text.outer"]


def test_a_variable_of_a_shared_section_is_found_by_its_place(tmp_path: Path) -> None:
    pair = Pair(tmp_path, SHARED, {"second++ + second": "second++ + 2 * second"})
    printed, extraction = run(
        pair,
        """
    int out(int n) { return n; }
    int get_second(void), new_get_second(void);
    int main(void) { get_second(); printf("%d", new_get_second()); return 0; }
    """,
    )
    assert printed == "11"
    assert {r.name for r in extraction.references if r.is_local} == {"second"}


def test_a_call_that_does_not_return_is_marked_for_objtool(tmp_path: Path) -> None:
    source = """
    void stop(void);
    static noinline void give_up(void) { stop(); for (;;) asm volatile("hlt"); }
    int check(int n) { if (n > 3) give_up(); return n; }
    """
    made = Extracted(Pair(tmp_path, source, {"n > 3": "n > 4"}).extract())
    assert "give_up" in made.undefined
    (where, place) = made.targets(".discard.unreachable")[0]
    code = made.contents(where)
    assert code[place - 5] == 0xE8
    call = [row for row in made.targets(where) if row[0] == "give_up"]
    assert call == [("give_up", -4)]


def test_a_jump_table_comes_along(tmp_path: Path) -> None:
    cases = "".join(f"case {i}: return out({i * i + 1}) + {i};" for i in range(12))
    source = f"int out(int); int pick(int n) {{ switch (n) {{ {cases} }} return 0; }}"
    pair = Pair(tmp_path, source, {"out(26) + 5": "out(26) + 500"}, ["-fjump-tables"])
    main = """
    int out(int n) { return n; }
    int new_pick(int);
    int main(void) { printf("%d %d %d", new_pick(5), new_pick(6), new_pick(99)); return 0; }
    """
    printed, extraction = run(pair, main)
    assert printed == "526 43 0"
    assert not [r for r in extraction.references if r.is_function_pointer]
    assert ".rodata.pick" in {s.name for s in ElfFile(extraction.object, "code.o").sections}


def test_an_initialiser_without_a_name_comes_along(tmp_path: Path) -> None:
    source = """
    struct table { long v[12]; };
    int out(struct table *);
    int fill(int i)
    {
        struct table t = { { 3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8 } };
        t.v[i] = 7;
        return out(&t);
    }
    """
    main = """
    struct table { long v[12]; };
    int out(struct table *t) { return t->v[2] * 100 + t->v[11]; }
    int new_fill(int);
    int main(void) { printf("%d", new_fill(11)); return 0; }
    """
    pair = Pair(tmp_path, source, {"t.v[i] = 7": "t.v[i] = 9"}, ["-mno-sse"])
    assert run(pair, main)[0] == "409"


def test_the_linker_takes_it_beside_another(tmp_path: Path) -> None:
    one = Pair(tmp_path, COUNTER, {"total += n;": "total += 2 * n;"}).extract()
    two = Pair(tmp_path, POINTERS, {"return n + 1": "return n + 2"}).extract()
    (tmp_path / "one.o").write_bytes(one.object)
    (tmp_path / "two.o").write_bytes(two.object)
    command = ["ld", "-r", "--fatal-warnings", "-o", "both.o", "one.o", "two.o"]
    subprocess.run(command, cwd=tmp_path, check=True)
    shown = subprocess.run(["nm", "both.o"], cwd=tmp_path, check=True, capture_output=True)
    assert b"t add" in shown.stdout
    assert b"t handle" in shown.stdout


def test_the_same_inputs_give_the_same_bytes(tmp_path: Path) -> None:
    pair = Pair(tmp_path, SHARED, {"return m * 2": "return m * 3"})
    first, second = pair.extract(), pair.extract()
    assert first.object == second.object


LANDING = """
int out(int (*)(int));
static noinline int callback(int n) { return n + 1; }
int later(int (*)(int));
int direct(int n) { return callback(n) + 1; }
int other(int n) { return n; }
"""
IBT = ["-fcf-protection=branch"]


def test_an_address_that_the_kernel_never_took(tmp_path: Path) -> None:
    """The kernel's version has no endbr64: an indirect call of it would be a fault."""
    change = {"int other(int n) { return n; }": "int other(int n) { return out(callback); }"}
    made = Extracted(Pair(tmp_path, LANDING, change, IBT).extract())
    assert made.changed == ["callback", "other"]
    assert not [r for r in made.extraction.references if r.is_function_pointer]
    assert made.contents(".text.callback")[:4] == b"\xf3\x0f\x1e\xfa"
    assert (".text.callback", 0) in made.targets(".text.other")
    assert made.extraction.notices == (
        "code.c:code.o:callback: had no address before, and other hands its address on: what keeps"
        " it must be gone before the livepatch is unloaded",
    )
    taken = LANDING + "int (*pointer)(int) = callback;\n"
    made = Extracted(Pair(tmp_path, taken, {**change, "n + 1": "n + 2"}, IBT).extract())
    assert [r.symbol for r in made.extraction.references if r.is_function_pointer] == [
        "original.callback"
    ]


def test_references_tell_addresses_from_calls(tmp_path: Path) -> None:
    change = {
        "int other(int n) { return n; }": "int other(int n) { return out(later) + later(0); }"
    }
    change |= {"later(int (*)(int))": "later(int)"}
    made = Pair(tmp_path, LANDING, change, IBT).extract()
    taken = {r.name: r.is_address for r in made.references}
    assert taken["later"]
    assert not taken["out"]
