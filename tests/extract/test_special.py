"""The kernel's tables: exactly the entries of the included functions."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from klpbuild.arch import X86_64
from klpbuild.arch.x86_64 import X86Instructions
from klpbuild.elf.reader import ElfFile
from klpbuild.errors import KlpError
from klpbuild.extract.result import Key, KeyKind, KeyUse
from klpbuild.extract.sizes import PROBE, EntrySizes
from tests.extract.pairs import SIZES, Extracted, Pair, extract
from tests.extract.program import run

TABLES = """
int out(const char *, int);
void nothing(void);
static struct static_key enabled;
extern struct static_key elsewhere;
int a(int n) { if (n > 3) WARN(); return n; }
int b(int n) { ALTERNATIVE("nop", "", 1); ALTERNATIVE("nop", "clac", 2); return n + 2; }
int c(ulong *p) { ulong v; LOAD_SAFELY(v, *p); return v; }
int d(int n) { if (static_branch(&enabled)) return out("on", n); return n; }
int e(int n) { if (static_branch(&elsewhere)) return out("far", n); return n; }
int f(int n) { ALTERNATIVE("call out", "call nothing", 3); return n; }
int switch_it(void) { enabled.enabled++; return 0; }
"""


def test_a_bug_entry(tmp_path: Path) -> None:
    made = Extracted(Pair(tmp_path, TABLES, {"n > 3": "n > 4"}).extract())
    assert len(made.contents("__bug_table")) == 12
    (code, _), (file, _) = made.targets("__bug_table")
    assert code == ".text.a"
    assert made.defined.keys() == {"a"}
    assert made.section_names.isdisjoint({".altinstructions", "__ex_table", "__jump_table"})
    assert file.startswith(".LC")


def test_an_exception_entry(tmp_path: Path) -> None:
    made = Extracted(Pair(tmp_path, TABLES, {"return v;": "return v + 1;"}).extract())
    assert [name for name, _ in made.targets("__ex_table")] == [".text.c", ".text.c"]
    assert made.contents("__ex_table")[8:] == (3).to_bytes(4, "little")


def test_alternatives_with_an_empty_replacement(tmp_path: Path) -> None:
    made = Extracted(Pair(tmp_path, TABLES, {"return n + 2;": "return n + 3;"}).extract())
    assert made.contents(".altinstr_replacement") == b"\x0f\x01\xca"
    entries = made.contents(".altinstructions")
    assert (len(entries), entries[11], entries[23]) == (24, 0, 3)
    replaced = [
        row for row in made.targets(".altinstructions") if row[0] == ".altinstr_replacement"
    ]
    assert replaced[1] == (".altinstr_replacement", 0)


def test_the_replacement_of_an_alternative_keeps_its_call(tmp_path: Path) -> None:
    change = {'ALTERNATIVE("call out", "call nothing", 3); return n;':
              'ALTERNATIVE("call out", "call nothing", 3); return 2 * n;'}  # fmt: skip
    made = Extracted(Pair(tmp_path, TABLES, change).extract())
    assert made.targets(".altinstr_replacement") == [("nothing", -4)]


def test_the_entry_call_table_has_each_function_once(tmp_path: Path) -> None:
    change = {"n > 3": "n > 4", "return v;": "return v + 1;"}
    made = Extracted(Pair(tmp_path, TABLES, change).extract())
    assert made.targets("__mcount_loc") == [(".text.a", 0), (".text.c", 0)]


def test_a_jump_label_keeps_the_kernels_key(tmp_path: Path) -> None:
    change = {'out("on", n)': 'out("On", n)', 'out("far", n)': 'out("Far", n)'}
    made = Extracted(Pair(tmp_path, TABLES, change).extract())
    keys = made.targets("__jump_table")[2::3]
    assert keys == [("enabled", 2), ("elsewhere", 2)]
    other, local = (key for key, _ in made.extraction.keys)
    assert (local.kind, local.name, local.is_defined) == (KeyKind.STATIC_BRANCH, "enabled", True)
    assert (other.name, other.is_defined) == ("elsewhere", False)


def test_a_detached_key_is_off_for_ever(tmp_path: Path) -> None:
    def policy(key: Key) -> KeyUse:
        return KeyUse.DETACHED if key.name == "elsewhere" else KeyUse.SWITCHED

    change = {'out("on", n)': 'out("On", n)', 'out("far", n)': 'out("Far", n)'}
    made = Extracted(Pair(tmp_path, TABLES, change).extract(key_policy=policy))
    names = [name for name, _ in made.targets("__jump_table")[2::3]]
    assert names == ["enabled", "klpbuild_key_off"]
    assert "elsewhere" not in made.undefined
    off = made.defined["klpbuild_key_off"]
    assert off.st_size == 16
    assert made.elf.sections[off.st_shndx].name == ".bss.klpbuild_key_off"


def test_a_key_that_cannot_be_used_is_refused(tmp_path: Path) -> None:
    def policy(key: Key) -> KeyUse | str:
        return "Its owner may load later." if key.name == "elsewhere" else KeyUse.SWITCHED

    text = Pair(tmp_path, TABLES, {'out("far", n)': 'out("Far", n)'}).refusal(key_policy=policy)
    assert text == (
        "code.c:code.o:e: e uses static branch key elsewhere\n  Its owner may load later."
    )


STATIC_CALL = """
extern int __SCT__work(int);
extern void *__SCK__work;
static void *__used keep = &__SCK__work;
int call_it(int n) { return __SCT__work(n) + 1; }
"""


@pytest.mark.parametrize("use", list(KeyUse))
def test_a_static_call_is_switched_or_goes_through_its_trampoline(
    tmp_path: Path, use: KeyUse
) -> None:
    pair = Pair(tmp_path, STATIC_CALL, {"+ 1": "+ 2"})
    made = Extracted(pair.extract(key_policy=lambda key: use))
    ((key, answer),) = made.extraction.keys
    assert (key.kind, key.name, answer) == (KeyKind.STATIC_CALL, "__SCK__work", use)
    trampoline = next(r for r in made.extraction.references if r.name == "__SCT__work")
    if use is KeyUse.SWITCHED:
        assert made.undefined == {"__fentry__", "__SCT__work", "__SCK__work"}
    else:
        # objtool makes a site of every call of __SCT__*
        assert trampoline.symbol == "original.__SCT__work"
        assert made.undefined == {"__fentry__", "original.__SCT__work"}


def test_hints_for_objtool_are_kept(tmp_path: Path) -> None:
    source = """
    #define REACHABLE() asm volatile("1:\\n.pushsection .discard.reachable\\n" \\
        ".long 1b - .\\n.popsection")
    int one(int n) { REACHABLE(); return n; }
    int two(int n) { REACHABLE(); return n * 2; }
    """
    made = Extracted(Pair(tmp_path, source, {"n * 2": "n * 3"}).extract())
    assert [name for name, _ in made.targets(".discard.reachable")] == [".text.two"]


RUNTIME = """
ulong limit = 1000;
static __attribute__((always_inline)) inline ulong runtime_limit(void)
{
    ulong value;
    asm("mov %1,%0\\n1:\\n.pushsection runtime_ptr_limit,\\"a\\"\\n"
        ".long 1b - 8 - .\\n.popsection" : "=r" (value) : "i" (0x0123456789abcdef));
    return value;
}
static __attribute__((always_inline)) inline ulong runtime_shift(ulong value)
{
    asm("shr $12,%q0\\n1:\\n.pushsection runtime_shift_bits,\\"a\\"\\n"
        ".long 1b - 1 - .\\n.popsection" : "+r" (value));
    return value;
}
ulong check(ulong a, ulong b) { return a * runtime_limit() + b * 2; }
ulong both(ulong a) { return (a + runtime_limit()) * (runtime_limit() - a); }
ulong shift(ulong a) { return runtime_shift(a) + 1; }
"""


def test_a_constant_that_the_kernel_writes_at_boot_is_loaded(tmp_path: Path) -> None:
    main = """
    extern unsigned long limit, new_check(long, long), new_both(long);
    int main(void) { limit = 5000; printf("%ld %ld", new_check(2, 3), new_both(10)); return 0; }
    """
    pair = Pair(tmp_path, RUNTIME, {"b * 2": "b * 4", "(a + runtime": "(2 * a + runtime"})
    printed, extraction = run(pair, main)
    assert printed == f"10012 {5020 * 4990}"
    assert "runtime_ptr_limit" not in {
        s.name for s in ElfFile(extraction.object, "code.o").sections
    }


def test_a_shift_that_the_kernel_writes_at_boot_is_refused(tmp_path: Path) -> None:
    assert (
        Pair(tmp_path, RUNTIME, {"runtime_shift(a) + 1": "runtime_shift(a) + 2"}).refusal()
        == """\
code.c:code.o:shift: shift uses runtime_shift_bits
  The kernel writes this constant into the code of vmlinux at boot.
  Use the variable itself in the function."""
    )


def test_an_unknown_table_about_included_code_is_refused(tmp_path: Path) -> None:
    source = """
    int one(int n)
    {
        asm volatile("mov $1, %eax\\n1:\\n.pushsection unknown_places, \\"a\\"\\n"
                     ".long 1b - .\\n.popsection");
        return n;
    }
    int two(int n) { return n * 2; }
    """
    made = Extracted(Pair(tmp_path, source, {"n * 2": "n * 3"}).extract())
    assert made.changed == ["two"]
    assert (
        Pair(tmp_path, source, {"return n;": "return n + 1;"}).refusal()
        == """\
code.c:code.o:one: table unknown_places has an entry for it that klpbuild does not know
  The kernel changes the code that such a table names, at boot or when a module is loaded."""
    )


@pytest.mark.parametrize(
    ("sizes", "told"),
    [
        (replace(SIZES, bug_entry=16), "table __bug_table of 12 bytes does not consist of entries"
         " of 16 bytes"),
        (replace(SIZES, bug_entry=6), "table __bug_table of 12 bytes does not consist of entries"
         " of 6 bytes"),
        (EntrySizes(), "table __bug_table has entries of unknown size"),
    ],
)  # fmt: skip
def test_entry_sizes_that_do_not_fit(tmp_path: Path, sizes: EntrySizes, told: str) -> None:
    pair = Pair(tmp_path, "int a(int n) { if (n) WARN(); return n; }", {})
    elf = ElfFile.read(pair.compile("original", pair.source))
    with pytest.raises(KlpError) as caught:
        extract(elf, elf, entry_sizes=sizes, arch=X86_64)
    assert told in str(caught.value)


@pytest.mark.parametrize(
    ("arch", "members", "sizes"),
    [
        ("X86", "short c; unsigned char instrlen, replacementlen;", (12, 11)),
        ("S390", "unsigned feature; unsigned char instrlen;", (13, 12)),
        ("ARM64", "short c; unsigned char orig_len, alt_len;", (12, 11)),
        ("MIPS", "int c;", (None, None)),
    ],
)
def test_sizes_are_read_from_the_probe(
    tmp_path: Path, arch: str, members: str, sizes: tuple[int | None, int | None]
) -> None:
    (tmp_path / "linux").mkdir()
    (tmp_path / "asm").mkdir()
    for name in ("version", "kconfig", "module", "bug", "jump_label"):
        (tmp_path / f"linux/{name}.h").touch()
    (tmp_path / "linux/bug.h").write_text(
        "struct bug_entry { int addr, file; unsigned short line, flags; };"
    )
    (tmp_path / "asm/alternative.h").write_text(
        "struct alt_instr { int a, b; " + members + " } __attribute__((packed));"
    )
    (tmp_path / "linux/version.h").write_text(
        "#define LINUX_VERSION_CODE 6\n#define KERNEL_VERSION(a, b, c) (a)\n"
    )
    config = ["-DCONFIG_GENERIC_BUG", "-DCONFIG_DEBUG_BUGVERBOSE", f"-I{tmp_path}"]
    config.append(f"-DCONFIG_{arch}")
    (tmp_path / "probe.c").write_text(PROBE)
    command = ["gcc", *config, "-c", "probe.c", "-o", "probe.o"]
    subprocess.run(command, cwd=tmp_path, check=True)
    assert EntrySizes.from_probe(ElfFile.read(tmp_path / "probe.o")) == EntrySizes(
        alt_instr=sizes[0], alt_replacement_length=sizes[1], bug_entry=12, bug_line=8
    )
    with pytest.raises(KlpError, match="does not hold the sizes of the kernel's tables"):
        EntrySizes.from_probe(ElfFile.read(Pair(tmp_path, "int x;", {}).compile("x", "int x;")))


@pytest.mark.parametrize("register", range(16))
def test_a_load_goes_to_the_same_register(register: int) -> None:
    rex, number = 0x48 | register >> 3, register & 7
    constant = bytes([rex, 0xB8 | number]) + (0x0123456789ABCDEF).to_bytes(8, "little")
    load = X86Instructions().as_load(b"\x90" + constant, 3)
    assert load is not None
    (_, _, _, before), *_ = X86Instructions().decode(constant)
    (_, size, name, after), (_, rest, nop, _) = X86Instructions().decode(load)
    assert (name, nop, size + rest) == ("mov", "nop", len(constant))
    assert before.split(",")[0] == after.split(",")[0]
    assert after.endswith("qword ptr [rip]")


def test_only_a_constant_becomes_a_load() -> None:
    assert X86Instructions().as_load(b"\x90\x48\x8b" + bytes(8), 3) is None
    assert X86Instructions().as_load(bytes(8), 0) is None


#: A WARN() with a format, as Linux 6.19 and later have it: the code hands its entry over.
TRAPS = r"""
#define WARN_WITH(fmt) do { void *bug; asm volatile("lea (2f)(%%rip), %0\n1:\n" \
    ".pushsection __bug_table, \"aw\"\n2: .long 1b - .\n .long %c1 - .\n" \
    ".word %c2\n .word 0\n .org 2b + 12\n.popsection" \
    : "=r" (bug) : "i" (fmt), "i" (__LINE__)); trap(bug); } while (0)
void trap(void *bug);
int first(int n) { if (n) WARN(); return n + 1; }
int second(int n) { if (n > 7) WARN_WITH("second"); return n + 2; }
int third(int n) { if (n > 8) WARN_WITH("third"); if (n > 9) WARN_WITH("also"); return n + 3; }
"""


@pytest.mark.parametrize(
    ("old", "new", "changed"),
    [
        ("return n + 1", "WARN(); return n + 1", "first"),
        ('"second"', '"other"', "second"),
        ("return n + 3", "return n - 3", "third"),
    ],
)
def test_code_that_hands_over_its_entry(tmp_path: Path, old: str, new: str, changed: str) -> None:
    """Entries move with others of the file; each reference leads to the copy of its own."""
    found = Pair(tmp_path, TRAPS, {old: new}).extract()
    assert [each.symbol for each in found.changed] == [changed]
    elf = ElfFile(found.object, "code.o")
    table = elf.section("__bug_table")
    assert table is not None
    symbols, texts = elf.symbol_list, {}
    entries = {}
    for section in elf.relocation_sections:
        for row in elf.relocations(section):
            symbol = symbols[int(row["r_sym"])]
            place = symbol.st_value + int(row["r_addend"])
            if section.sh_info == table.index:
                entries[int(row["r_offset"])] = symbol.st_shndx, place
            elif symbol.is_defined and symbol.st_shndx == table.index:
                texts[int(row["r_offset"]) + 4] = place + 4
    # The code behind the lea is where its entry says that it is.
    assert texts == {entries[entry][1]: entry for entry in texts.values()}
    assert len(texts) == {"first": 0, "second": 1, "third": 2}[changed]
