"""What makes code of a livepatch run; the converter and the check find it each in its own way."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from klpbuild.check.loaders import LOADERS
from klpbuild.check.reach import Reach as CheckedReach
from klpbuild.check.subject import Subject
from klpbuild.check.tables import read_tables
from klpbuild.elf.constants import STT
from klpbuild.elf.reader import ElfFile
from klpbuild.graph.tables import read_entries
from klpbuild.resolve.reach import Reach
from tests.machines.objects import FLAGS, compile_for
from tests.objects import compile_c
from tests.tables import livepatch_c

F_AND_G = "int f(int a) { return helper(a) + 1; } int g(int a) { return a; }"
TWO = {"ext4": "f", "vmlinux": "g"}

#: Source, objects, flags, and with which objects which functions and variables run.
CASES: dict[str, tuple[str, Mapping[str, str], str, str]] = {
    "a static function of the same section": (
        "static noinline int helper(int a) { return a * 3; }" + F_AND_G, TWO, "",
        "f:ext4 g:vmlinux helper:ext4"),
    "sections of their own": (
        "static noinline int helper(int a) { return a * 3; }" + F_AND_G, TWO,
        "-ffunction-sections -fdata-sections", "f:ext4 g:vmlinux helper:ext4"),
    "two functions on": (
        "static noinline int last(int a) { return a * 3; }"
        "static noinline int helper(int a) { return last(a) + 7; }" + F_AND_G, TWO, "",
        "helper:ext4 last:ext4"),
    "the last thing that a function does": (
        "static noinline int helper(int a) { return a * 3; }"
        "int f(int a) { return helper(a + 1); } int g(int a) { return a ? helper(a) : 5; }",
        TWO, "", "helper:ext4,vmlinux"),
    "functions that call each other": (
        "static int other(int a); "
        "static noinline int helper(int a) { return a ? other(a - 1) + 1 : 0; }"
        "static noinline int other(int a) { return a ? helper(a - 2) * 2 : 1; }" + F_AND_G,
        TWO, "", "helper:ext4 other:ext4"),
    "an address given away": (
        "void queue(int (*)(int)); static noinline int helper(int a) { return a * 3; }"
        "int f(int a) { queue(helper); return a; } int g(int a) { return a; }",
        TWO, "", "helper:ext4"),
    "an address that the assembler computes": (
        "void queue(void *); static int __attribute__((used)) helper(int a) { return a * 3; }"
        'int f(int a) { void *p; asm("lea helper(%%rip), %0" : "=r" (p)); queue(p); return a; }'
        "int g(int a) { return a; }",
        TWO, "", "helper:ext4"),
    "a table of functions": (
        "static noinline int one(int a) { return a * 3; } static int two(int a) { return a; }"
        "static int (*table[])(int) = { one, two };"
        "int f(int a) { return table[a](a); } int g(int a) { table[a] = 0; return a; }",
        TWO, "", "table:ext4,vmlinux one:ext4,vmlinux two:ext4,vmlinux"),
    "a constant table of functions": (
        "static noinline int one(int a) { return a * 3; } static int two(int a) { return a; }"
        "static int (*const volatile table[])(int) = { one, two };"
        "int f(int a) { return table[a](a); } int g(int a) { return a; }",
        TWO, "", "table:ext4 one:ext4 two:ext4"),
    "a table whose indexes begin at 1": (
        "static int one(int a) { return a * 3; } int before[1] = { 7 };"
        "static int (*table[2])(int) = { one, one }; static int after = 8;"
        "int f(int a) { return table[a - 1](a); } int g(int a) { return before[a] + after++; }",
        TWO, "", "one:ext4 table:ext4"),
    "a pointer to a pointer": (
        "static int one(int a) { return a * 3; } struct ops { int (*call)(int); };"
        "static struct ops ops = { one }; static struct ops *volatile holder = &ops;"
        "int f(int a) { return a; } int g(int a) { return holder->call(a); }",
        TWO, "", "holder:vmlinux ops:vmlinux one:vmlinux"),
    "neighbours in data": (
        "static int one(int a) { return a * 3; } static int two(int a) { return a * 5; }"
        "static int (*volatile first)(int) = one; static int (*volatile second)(int) = two;"
        "int f(int a) { return first(a); } int g(int a) { return second(a); }",
        TWO, "", "first:ext4 one:ext4 second:vmlinux two:vmlinux"),
    "callbacks": (
        "int sink(int); static noinline int helper(int a) { return sink(a) * 3; } "
        "int f(int a) { return a; } int g(int a) { return a; }"
        "int before(void *o) { return helper(1); } void behind(void *o) { helper(2); }"
        "void first(void *o) { } void last(void *o) { }",
        {"ext4": "f pre_patch=before post_patch=first", "btrfs": "pre_unpatch=last",
         "vmlinux": "g post_unpatch=behind"}, "",
        "before:ext4 first:ext4 last:btrfs behind:vmlinux helper:ext4,vmlinux f:ext4 g:vmlinux"),
    "a replacement that another one calls": (
        "int f(int a) { return a * 3; } int g(int a) { return f(a) + 2; }",
        TWO, "-fno-inline", "f:ext4,vmlinux g:vmlinux"),
    "code that nothing uses": (
        "int dead(int a) { return a * 3; } int f(int a) { return a; } int g(int a) { return a; }",
        TWO, "", "dead: f:ext4 g:vmlinux"),
    "an unlikely part": (
        "int sink(int); __attribute__((cold)) static noinline int helper(int a)"
        "{ return sink(a) * 3; }"
        "int f(int a) { if (a == 5) return helper(a); return a; } int g(int a) { return a; }",
        TWO, "", "helper:ext4"),
    "a parameter of the module": (
        "static noinline int helper(int a) { return a * 3; } "
        "static int set(int a) { return helper(a); } struct ops { int (*set)(int); };"
        "static const struct ops ops = { set };"
        "const struct ops *param __attribute__((section(\"__param\"), used)) = &ops;" + F_AND_G,
        TWO, "-fno-inline", "set: helper:,ext4 ops:"),
    "an alternative": (
        "static noinline int helper(int a) { return a * 3; } int sink(int);"
        "int f(int a) { return a; } int g(int a) {"
        'asm volatile("1: call sink\\n2:\\n.pushsection .altinstructions,\\"a\\"\\n'
        ".long 1b - .\\n.long 3f - .\\n.long 0\\n.byte 5, 5\\n.popsection\\n"
        '.pushsection .altinstr_replacement,\\"ax\\"\\n3: call helper\\n.popsection"'
        ' : : "i" (helper)); return a; }',
        TWO, "", "helper:vmlinux"),
    "alternatives of two functions": (
        "static noinline int one(int a) { return a * 3; } static int two(int a) { return a * 5; }"
        "int sink(int);" + "".join(
        f"int {f}(int a) {{"
        'asm volatile("1: call sink\\n2:\\n.pushsection .altinstructions,\\"a\\"\\n'
        ".long 1b - .\\n.long 3f - .\\n.long 0\\n.byte 5, 5\\n.popsection\\n"
        f'.pushsection .altinstr_replacement,\\"ax\\"\\n3: call {to}\\n.popsection"'
        f' : : "i" ({to})); return a; }}' for f, to in (("f", "one"), ("g", "two"))),
        TWO, "", "one:ext4 two:vmlinux"),
    "code out of line of two functions": (
        "static noinline int one(int a) { return a * 3; } static int two(int a) { return a * 5; }"
        + "".join(
        f"int {f}(int a) {{"
        'asm volatile("jmp 6f\\n1:\\n.pushsection .altinstr_aux,\\"ax\\"\\n'
        f'6: testb $8, sink(%%rip)\\njnz {to}\\njmp 1b\\n.popsection" : : "i" ({to}));'
        "return a; }" for f, to in (("f", "one"), ("g", "two"))),
        TWO, "", "one:ext4 two:vmlinux"),
    "a table that leads amid an alternative": (
        "static noinline int helper(int a) { return a * 3; } int sink(int);"
        "int f(int a) { return a; } int g(int a) {"
        'asm volatile("1: call sink\\n2:\\n.pushsection .altinstructions,\\"a\\"\\n'
        ".long 1b - .\\n.long 3f - .\\n.long 0\\n.byte 6, 6\\n.popsection\\n"
        '.pushsection .altinstr_replacement,\\"ax\\"\\n3: nop\\n4: call helper\\n.popsection\\n'
        '.pushsection .call_sites,\\"a\\"\\n.long 4b - .\\n.popsection"'
        ' : : "i" (helper)); return a; }',
        TWO, "", "helper:vmlinux"),
    "a function of assembly without a size": (
        "static noinline int helper(int a) { return a * 3; } int sink(int); int inner(int);"
        'asm(".section .text.inner,\\"ax\\"\\n.globl inner\\n'
        '.type inner, @function\\ninner: test %edi, %edi\\n'
        '2: call helper\\nret\\n.section .smp_locks,\\"a\\"\\n.long 2b - .\\n.text");'
        "int f(int a) { return inner(a) + 1; } int g(int a) { return a; }"
        'void *kept(void) { void *p; asm("" : "=r" (p) : "r" (helper)); return p; }',
        TWO, "", "helper:ext4"),
    "a static branch that is not taken yet": (
        "int sink(int); static noinline int helper(int a) { return sink(a); }"
        'asm(".section .text.unlikely,\\"ax\\"\\n.type f.cold, @function\\n'
        'f.cold: call helper\\n1: jmp 1b\\n.size f.cold, . - f.cold\\n.text");'
        "int f(int a) {"
        'asm volatile("1: .byte 0x0f, 0x1f, 0x44, 0, 0\\n.pushsection __jump_table,\\"aw\\"\\n'
        '.long 1b - .\\n.long f.cold - .\\n.quad static_key - .\\n.popsection" : : "i" (helper));'
        "return a; } int g(int a) { return a; }", TWO, "", "helper:ext4 f.cold:ext4"),
    "code that a fault leads to": (
        "int sink(int); static noinline int helper(int a) { return sink(a); }"
        'asm(".section .fixup,\\"ax\\"\\n.type mend, @function\\n'
        'mend: call helper\\n.size mend, . - mend\\n.text");'
        'int f(int a) { asm volatile("1: nop\\n.pushsection __ex_table,\\"a\\"\\n'
        '.long 1b - .\\n.long mend - .\\n.long 0\\n.popsection" : : "i" (helper)); return a; }'
        "int g(int a) { return a; }", TWO, "", "helper:ext4 mend:ext4"),
    "an alias": (
        "int f(int a) { return a * 3; } int other(int a) __attribute__((alias(\"f\")));"
        "static int x; int g(int a) { return other(a) + x++; }", TWO, "-fno-inline",
        "f:ext4,vmlinux x:vmlinux"),
}  # fmt: skip


def _checked(elf: ElfFile) -> CheckedReach:
    patched = read_tables(elf)
    assert patched is not None
    return CheckedReach(Subject(elf, elf.name, None), patched, LOADERS.get(elf.e_machine))


@pytest.mark.parametrize(
    ("arch", "case"),
    [("x86_64", case) for case in CASES]
    + [(arch, case) for arch in FLAGS for case, made in CASES.items() if "asm" not in made[0]],
)
def test_users(tmp_path: Path, arch: str, case: str) -> None:
    source, objects, flags, wanted = CASES[case]
    text, words = livepatch_c(source, objects), flags.split()
    if arch == "x86_64":
        elf = ElfFile.read(compile_c(tmp_path, text, *words))
    else:
        elf = ElfFile(compile_for(arch, tmp_path, text, *words), "livepatch.o")
    reach, checked = Reach(elf, read_entries(elf)), _checked(elf)
    found: dict[str, set[str]] = {}
    second = {}
    for symbol in elf.symbol_list:
        if symbol.is_defined and symbol.type in (STT.FUNC, STT.OBJECT):
            place = symbol.st_shndx, symbol.st_value
            if reach.traced:
                found[symbol.name] = {entry.object for entry in reach.entries(*place)}
            second[symbol.name] = set(checked.users(*place))
    pairs = (word.partition(":") for word in wanted.split())
    expected = {name: set(users.split(",")) if users else set() for name, _, users in pairs}
    if case == "a parameter of the module":
        expected |= {"set": {""}, "ops": {""}}
    if arch == "x86_64":
        assert {name: found[name] for name in expected} == expected
        assert found == second
    else:  # addresses of static variables are not followed
        assert all(second[name] <= users for name, users in expected.items())
        if "(*" not in source:
            known = expected.keys() - {"x"}
            assert {name: second[name] for name in known} == {n: expected[n] for n in known}


def test_who_leads_there_is_told(tmp_path: Path) -> None:
    source = "int sink(int); static noinline int helper(int a) { return sink(a); }" + F_AND_G
    elf = ElfFile.read(compile_c(tmp_path, livepatch_c(source, TWO, "helper(1);")))
    symbol = next(s for s in elf.symbol_list if s.name == "helper")
    place = symbol.st_shndx, symbol.st_value + 2
    entries = Reach(elf, read_entries(elf)).entries(*place)
    assert [(e.object, e.name) for e in entries] == [("", "init_module"), ("ext4", "f")]
    reach = _checked(elf)
    assert reach.users(*place) == {"": "init_module", "ext4": "f"}
    assert reach.name(*place) == "helper"
