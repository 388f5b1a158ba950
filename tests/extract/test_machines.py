"""Extraction for other machines than x86-64: their tables, relocations and branches."""

from __future__ import annotations

import re
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from klpbuild.arch import ARM64, S390X, Architecture
from klpbuild.elf.reader import ElfFile
from klpbuild.errors import KlpError
from klpbuild.extract.objects import CodeObject
from klpbuild.proof.fidelity import compare
from klpbuild.proof.shipped import ShippedBinary
from klpbuild.proof.staying import may_stay
from tests.extract.pairs import SIZES, Extracted, extract
from tests.machines.objects import MACROS, compile_for

#: As 6.12 and 7.3 have them.
_SIZES = {
    "s390x": replace(SIZES, alt_instr=13, alt_replacement_length=12),
    "aarch64": replace(SIZES, alt_instr=12, alt_replacement_length=11),
}
_FLAGS = {
    "s390x": (
        "-Os", "-mindirect-branch=thunk-extern", "-mfunction-return=thunk-extern",
        "-mindirect-branch-table",
    ),
    "aarch64": ("-Os", "-mgeneral-regs-only", "-fno-optimize-sibling-calls", "-fno-unwind-tables"),
}  # fmt: skip

_SOURCE = r"""
extern int print(const char *text, int), counted;
extern struct static_key key;
int (*handler)(int);
static int own, far __attribute__((section(".data..read_mostly"))) = 7;
static noinline int helper(int a) { own += a; return print("helper", a) + 1; }
int first(int a) { far += a; return helper(a) + print("first", own) + counted++; }
int second(long *p) { long v; LOAD_SAFELY(v, *p); if (v > 3) WARN(); ALTERNATE(7); return v; }
int third(int a) { if (static_branch(&key)) return print("third", a); return handler(a) + a; }
__sched noinline int waits(int a) { return print("waits", a) + 3; }
__sched int sleeps(int a) { own = waits(a) * 5; return waits(own) + own; }
"""


class _Pair:
    """A source file in two versions, compiled for a machine."""

    def __init__(self, arch: Architecture, directory: Path, *, clang: bool = False) -> None:
        self.arch, self.directory, self.clang = arch, directory, clang

    def compile(self, text: str, *flags: str) -> ElfFile:
        source = f"{MACROS[self.arch.name]}{text}"
        words = (*self.flags, *flags)
        data = compile_for(self.arch.name, self.directory, source, *words, clang=self.clang)
        return ElfFile(data, "code.o")

    @property
    def flags(self) -> tuple[str, ...]:
        return _FLAGS[self.arch.name]

    @property
    def sections(self) -> tuple[str, ...]:
        own = () if self.clang else self.arch.section_flags
        return ("-ffunction-sections", "-fdata-sections", *own)

    def extract(self, old: str, new: str, source: str = _SOURCE) -> Extracted:
        assert source.count(old) == 1
        elfs = [self.compile(t, *self.sections) for t in (source, source.replace(old, new))]
        return Extracted(extract(*elfs, entry_sizes=_SIZES[self.arch.name], arch=self.arch))

    def refusal(self, old: str, new: str, source: str = _SOURCE) -> str:
        with pytest.raises(KlpError) as caught:
            self.extract(old, new, source)
        return re.sub(r"\+0x[0-9a-f]+", "+N", str(caught.value))


@pytest.fixture(params=["s390x", "aarch64", "aarch64 with landing pads"])
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> _Pair:
    name, _, clang = request.param.partition(" ")
    return _Pair({"s390x": S390X, "aarch64": ARM64}[name], tmp_path, clang=bool(clang))


def test_a_function_comes_alone_and_refers_to_what_the_kernel_has(pair: _Pair) -> None:
    made = pair.extract('"first"', '"changed"')
    assert made.changed == ["first"]
    assert {"print", "counted", "helper", "own", "far"} <= made.undefined
    assert made.defined.keys() & {"first", "second", "helper"} == {"first"}
    texts = b"".join(bytes(made.elf.contents(s)) for s in made.elf.sections if "rodata" in s.name)
    assert b"changed\0" in texts
    assert b"helper\0" not in texts


def test_the_entries_of_included_code_come_along(pair: _Pair) -> None:
    made = pair.extract("v > 3", "v > 4")
    tables = (".altinstructions", "__bug_table", "__ex_table", *pair.arch.entry_sections)
    assert made.changed == ["second"]
    for table in tables:
        assert {name for name, _ in made.targets(table)} & {"second", ".text.second"}
    assert "__jump_table" not in made.section_names
    assert len(made.contents(".altinstructions")) == (_SIZES[pair.arch.name].alt_instr)
    other = pair.extract("handler(a) + a", "handler(a) - a")
    assert [name for name, _ in other.targets("__jump_table")].count("key") == 1
    assert other.section_names.isdisjoint({".altinstructions", "__bug_table", "__ex_table"})


def test_an_entry_of_a_table_is_a_change(pair: _Pair) -> None:
    for new in ("ALTERNATE(8)", "ALTERNATE(7); ALTERNATE(7)"):
        (changed,) = pair.extract("ALTERNATE(7)", new).extraction.changed
        assert changed.name == "second"
    (changed,) = pair.extract("ALTERNATE(7)", "ALTERNATE(8)").extraction.changed
    assert changed.why == "an entry of .altinstructions differs"


def test_the_address_of_a_replaced_function_stays_the_kernel_s(pair: _Pair) -> None:
    source = """\
extern void keep(int (*f)(int)), other(void);
static noinline int taken(int a) { other(); return a + 2; }
int first(int a) { keep(taken); return taken(a) + taken(a + 1); }
"""
    made = pair.extract(
        "{ other(); return a + 2; }\nint first(int a) {",
        "{ other(); return a + 3; }\nint first(int a) { other();",
        source,
    )
    assert sorted(made.changed) == ["first", "taken"]
    assert "original.taken" in made.undefined
    called = [name.removeprefix(".text.") for name, _ in made.targets(".text.first")]
    assert called.count("taken") == 2


def test_replacements_behind_other_functions_are_refused(tmp_path: Path) -> None:
    source = (
        _SOURCE
        + """\
__sched int asleep(int a) { ALTERNATE(7); return print("asleep", a) + 3; }
__sched int awake(int a) { return print("awake", a) + 4; }
"""
    )
    pair = _Pair(ARM64, tmp_path)
    assert pair.refusal('"asleep"', '"changed"', source) == (
        "code.c:code.o:asleep: asleep shares code with its neighbour in .sched.text\n"
        "  What replaces its instructions stands behind other functions of the section."
    )
    assert pair.extract('"awake"', '"changed"', source).changed == ["awake"]


def test_the_first_address_of_a_function_without_a_landing_pad_is_its_copy_s(
    tmp_path: Path,
) -> None:
    """With BTI a branch to an address needs a ``bti c`` there."""
    source = """\
extern void keep(int (*f)(int)), other(void);
static noinline int leaf(int a) { asm(""); return a + 1; }
static noinline int taken(int a) { asm(""); return a + 2; }
int first(int a) { keep(taken); return leaf(a) + taken(a); }
"""
    pair = _Pair(ARM64, tmp_path)
    made = pair.extract("keep(taken);", "keep(taken); keep(leaf);", source)
    assert {"leaf", "original.taken"} & made.undefined == set()
    assert "leaf" in made.defined
    assert "taken" in made.undefined


def test_lines_of_warnings_are_no_change(pair: _Pair) -> None:
    with pytest.raises(KlpError, match="the patch changes no code that runs"):
        pair.extract("int second(", "\n\nint second(")


def test_branches_within_a_section_lead_to_the_kernel(pair: _Pair) -> None:
    made = pair.extract("waits(a) * 5", "waits(a) * 6")
    assert made.changed == ["sleeps"]
    assert "waits" in made.undefined
    assert [name for name, _ in made.targets(".text.sleeps")].count("waits") == 2
    moved = pair.extract('"waits"', '"longer text"')
    assert moved.changed == ["waits"]


def test_pointers_that_only_the_linker_writes_are_no_state(pair: _Pair) -> None:
    source = """\
extern int print(const char *text, int);
static const char *const names[] = { "one", "two" };
int first(int a) { return print(names[a & 1], a); }
"""
    made = pair.extract('"two"', '"three"', source)
    assert made.changed == ["first"]
    assert "names" in made.defined


def test_a_changed_table_of_functions_is_refused(pair: _Pair) -> None:
    source = """\
extern int one(int), two(int), three(int), take(const void *);
static int (*const handlers[])(int) = { one, two };
int first(int a) { return take(handlers) + handlers[a & 1](a); }
"""
    assert pair.refusal("one, two }", "one, three }", source).startswith(
        "code.c:code.o:handlers: data handlers changed: content at +N refers to three instead of"
        " two\n  It holds addresses of functions, and first may pass on its own."
    )


def _linked(pair: _Pair, text: str, *options: str) -> ShippedBinary:
    directory = pair.directory
    other = pair.compile(
        "int counted; struct static_key key; int print(const char *t, int a) { return a; }"
        "void __s390_indirect_jump_r1(void) {} void __s390_indirect_jump_r14(void) {}",
    )
    (directory / "other.o").write_bytes(bytes(other.data))
    (directory / "text.o").write_bytes(bytes(pair.compile(text).data))
    program = f"{pair.arch.name}-linux-gnu-ld"
    command = [program, "-o", "vmlinux", *options, "other.o", "text.o"]
    subprocess.run(command, cwd=directory, check=True)
    return ShippedBinary(ElfFile.read(directory / "vmlinux"))


_GOT = """\
extern int print(const char *text, int);
int table[4] = { 1, 2, 3, 4 };
int first(int a) { void *p; TAKE; return print("first", a) + *(int *)p; }
"""


def test_an_entry_of_the_got_has_a_symbol_of_its_own(tmp_path: Path) -> None:
    """It holds a symbol's address, and an addend would be another entry's."""
    take = (
        r'asm(".pushsection .rodata.mine,\"a\"; .quad 1; .Lmine: .quad 2; .popsection;"'
        r' "lgrl %0,.Lmine@GOTENT" : "=d" (p))'
    )
    made = _Pair(S390X, tmp_path).extract('"first"', '"other"', _GOT.replace("TAKE", take))
    rows = made.elf.relocations(made.elf.relocation_sections[0])
    (symbol,) = {int(r["r_sym"]) for r in rows if r["r_type"] == 26 and r["r_addend"] == 2} - {
        int(r["r_sym"]) for r in rows if made.elf.symbol(int(r["r_sym"])).name.startswith(".LC")
    }
    found = made.elf.symbol(symbol)
    assert (found.st_value, made.elf.sections[found.st_shndx].name) == (8, ".rodata.mine")
    assert not [r for r in rows if r["r_type"] == 26 and r["r_addend"] != 2]


def test_an_entry_of_the_got_cannot_hold_a_place_that_the_kernel_does_not_name(
    tmp_path: Path,
) -> None:
    take = (
        r'asm(".pushsection .data.table,\"aw\"; .Lmine = table + 4; .popsection;"'
        r' "lgrl %0,.Lmine@GOTENT" : "=d" (p))'
    )
    assert _Pair(S390X, tmp_path).refusal('"first"', '"other"', _GOT.replace("TAKE", take)) == (
        "code.o: first takes the address of a place in table from the GOT\n"
        "  An entry of it holds the address of a symbol, and the kernel has none there."
    )


def test_words_of_accepted_data_are_read_as_numbers(pair: _Pair) -> None:
    """By ``struct klpbuild_word`` of klpbuild/module/words.c.j2."""
    source = "int limit = 50; unsigned short two[2] = { 1, 2 }; int get(void) { return limit; }"
    old, new = (pair.compile(text, *pair.sections) for text in (source, source.replace("50", "60")))
    found = extract(
        old, new, entry_sizes=_SIZES[pair.arch.name], arch=pair.arch,
        accepted_data=("limit",),
    )  # fmt: skip
    data = Extracted(found).contents(".data.klpbuild_words")
    assert [int.from_bytes(data[at : at + 8], pair.arch.order) for at in (0, 8, 16)] == [0, 50, 60]
    assert int.from_bytes(data[28:30], pair.arch.order) == 4


_LINKS = (("-Ttext=0x100000", "-e", "first", "-z", "noexecstack"), ("-r",))


@pytest.mark.parametrize("options", _LINKS)
def test_what_is_compiled_is_found_in_what_was_linked(
    pair: _Pair, options: tuple[str, ...]
) -> None:
    shipped = _linked(pair, _SOURCE, *options)
    found = compare(pair.compile(_SOURCE), shipped)
    assert found.differences == ()
    assert found.proven >= {"first", "second", "third", "helper", "waits", "sleeps"}
    for name in ("first", "own", "counted"):
        place = found.located[name].place
        assert [s.place for s in shipped.named(name)] == [place]


def test_pointers_of_a_kernel_that_moves_are_in_its_relocations(tmp_path: Path) -> None:
    """arm64's kernel is linked as a shared object, which does not hold its own addresses."""
    pair = _Pair(ARM64, tmp_path)
    source = _SOURCE + "int (*const volatile pointers[])(int) = { helper, waits };"
    options = ("-shared", "-Bsymbolic", "-z", "notext", "--no-apply-dynamic-relocs", "-Ttext=65536")
    shipped = _linked(pair, source, *options)
    found = compare(pair.compile(source), shipped)
    assert found.differences == ()
    assert found.proven >= {"first", "third", "pointers"}
    other = compare(pair.compile(source.replace("{ helper, waits }", "{ waits, helper }")), shipped)
    assert "pointers" in {difference.symbol for difference in other.differences}


@pytest.mark.parametrize("options", _LINKS)
@pytest.mark.parametrize(
    ("old", "new", "symbol"),
    [
        ("+ counted++", "- counted++", "first"),
        ("counted++", "own++", "first"),
        ("v > 3", "v > 5", "second"),
        ('"waits", a) + 3', '"waits", a) + 4', "waits"),
    ],
)
def test_what_was_compiled_otherwise_differs(
    pair: _Pair, options: tuple[str, ...], old: str, new: str, symbol: str
) -> None:
    shipped = _linked(pair, _SOURCE, *options)
    found = compare(pair.compile(_SOURCE.replace(old, new)), shipped)
    assert symbol in {difference.symbol for difference in found.differences}
    assert symbol not in found.proven


_THREADS = """\
extern int kthread_create_on_node(int (*f)(void *)), kthread_should_stop(void);
extern void schedule(void), other(void);
static noinline void waits(void) { schedule(); other(); }
static int serve(void *p) { for (;;) { waits(); other(); } }
static int stops(void *p) { while (!kthread_should_stop()) other(); return 0; }
static noinline int plain(int a) { other(); return a; }
int begin(void) { return kthread_create_on_node(serve) + kthread_create_on_node(stops); }
int end(int a) { return plain(a) + 1; }
"""


@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("waits", "its file starts threads by kthread_create_on_node(), and it sleeps"),
        ("serve", "its file starts threads by kthread_create_on_node(), and it sleeps"),
        ("stops", "it may be asked by kthread_should_stop() whether its thread is to end"),
        ("schedule", "all that wait do so in it"),
        ("begin", "it may be asked by kthread_should_stop() whether its thread is to end"),
        ("plain", ""),
        ("end", ""),
        ("nothing", ""),
    ],
)
def test_threads_are_told_by_names(pair: _Pair, name: str, how: str) -> None:
    code = CodeObject(pair.compile(_THREADS, *pair.sections), _SIZES[pair.arch.name])
    assert may_stay(code, name) == how
