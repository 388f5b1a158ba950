"""Static keys of modules, which code asks when it runs."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from klpbuild.elf.reader import ElfFile
from klpbuild.extract.keys import branch_keys, changed_functions, outline
from klpbuild.extract.part import Part
from klpbuild.kernel.tree import Kernel
from klpbuild.pipeline.from_patch import build_from_patches
from klpbuild.pipeline.keys import asked_keys, asking_header
from tests.extract.pairs import FLAGS, SIZES, Pair
from tests.pipeline.livepatches import written

#: As include/linux/jump_label.h and arch/x86/include/asm/jump_label.h have them.
JUMP_LABELS = r"""
#pragma once
typedef struct { int counter; } atomic_t;
struct static_key { atomic_t enabled; void *entries; };
struct static_key_true { struct static_key key; };
struct static_key_false { struct static_key key; };
#define __always_inline inline __attribute__((always_inline))
#define JUMP(name, op) \
static __always_inline _Bool name(struct static_key *const key, const _Bool branch) \
{ \
    asm goto("1: " op "\n.pushsection __jump_table, \"aw\"\n.balign 8\n" \
         ".long 1b - .\n .long %l[yes] - .\n .quad %c0 + %c1 - .\n.popsection" \
         :: "i" (key), "i" (branch) :: yes); \
    return 0; \
yes: \
    return 1; \
}
JUMP(arch_static_branch, ".byte 0x0f,0x1f,0x44,0x00,0x00")
JUMP(arch_static_branch_jump, "jmp %l[yes]")
static __always_inline _Bool static_key_false(struct static_key *key)
{
    return arch_static_branch(key, 0);
}
static __always_inline _Bool static_key_true(struct static_key *key)
{
    return !arch_static_branch(key, 1);
}
#define IS_TRUE(x) __builtin_types_compatible_p(typeof(*x), struct static_key_true)
#define static_branch_likely(x) \
    (IS_TRUE(x) ? !arch_static_branch(&(x)->key, 1) : !arch_static_branch_jump(&(x)->key, 1))
#define static_branch_unlikely(x) \
    (IS_TRUE(x) ? arch_static_branch_jump(&(x)->key, 0) : arch_static_branch(&(x)->key, 0))
"""

USES = [
    ("static_branch_unlikely(&asked)", "asked.key"),
    ("static_branch_likely(&asked)", "asked.key"),
    ("static_branch_unlikely(&on)", "on.key"),
    ("static_branch_likely(&on)", "on.key"),
    ("static_key_false(&plain)", "plain"),
    ("static_key_true(&plain)", "plain"),
    ("static_key_false(&asked.key)", "asked.key"),
]


def compiled(directory: Path, text: str, names: set[str]) -> Path:
    """Compile code that asks some keys."""
    (directory / "linux").mkdir(exist_ok=True)
    (directory / "linux" / "jump_label.h").write_text(JUMP_LABELS)
    (directory / "asking.h").write_text(asking_header(names))
    (directory / "code.c").write_text("#include <linux/jump_label.h>\n" + text)
    words = ["gcc", *FLAGS, "-I.", "-include", "asking.h", "-c", "code.c", "-o", "code.o"]
    subprocess.run(words, cwd=directory, check=True)
    return directory / "code.o"


@pytest.mark.parametrize(("use", "key"), USES)
def test_the_keys_that_are_named_are_read_when_the_code_runs(
    tmp_path: Path, use: str, key: str
) -> None:
    text = f"""
    struct static_key_false asked, other;
    struct static_key_true on;
    struct static_key plain;
    int ask(void) {{ return {use} ? 1 : 2; }}
    int switched(void) {{ return static_branch_unlikely(&other) ? 1 : 2; }}
    """
    path = compiled(tmp_path, text, {key.partition(".")[0]})
    elf = ElfFile.read(path)
    table = elf.section("__jump_table")
    assert table is not None
    assert table.sh_size == 16  # of the other key alone
    main = f"""
    #include <linux/jump_label.h>
    extern struct static_key_false asked; extern struct static_key_true on;
    extern struct static_key plain;
    int ask(void), printf(const char *, ...);
    asm(".globl __fentry__\\n__fentry__: ret\\n");
    int main(void)
    {{
        struct static_key *key = &{key};
        for (int n = -1; n < 3; n++) {{ key->enabled.counter = n; printf("%d", ask()); }}
    }}
    """
    (tmp_path / "main.c").write_text(main)
    words = ["gcc", "-I.", "-no-pie", "-w", "-z", "noexecstack", "main.c", "code.o", "-o", "run"]
    subprocess.run(words, cwd=tmp_path, check=True)
    printed = subprocess.run([tmp_path / "run"], check=True, capture_output=True, text=True)
    assert printed.stdout == "1211"  # on as well while it is being switched on


def test_no_key_that_is_not_named_is_read(tmp_path: Path) -> None:
    text = "struct static_key_false ask; int f(void) { return static_branch_likely(&ask); }"
    elf = ElfFile.read(compiled(tmp_path, text, {"asked", "as"}))
    assert elf.section("__jump_table") is not None


BRANCHES = """
struct static_key own;
extern struct static_key others;
int first(int n) { return static_branch(&own) ? n : 2; }
int second(int n) { return static_branch(&others) ? n + 1 : 2; }
int third(int n) { return static_branch(&own) ? n + 3 : 4; }
"""


def part_of(pair: Pair, **fields: Any) -> Part:
    """Both versions of a source file of a module."""
    return Part(
        number=0,
        owner="m",
        where="code.c:code.o",
        original=ElfFile.read(pair.compile("original", pair.source)),
        patched=ElfFile.read(pair.compile("patched", pair.patched_source())),
        source="code.c",
        sizes=SIZES,
        **fields,
    )


def test_the_keys_of_changed_functions_are_found(tmp_path: Path) -> None:
    pair = Pair(
        tmp_path,
        BRANCHES,
        {"n + 1": "n + 2", "int third": "struct static_key fresh;\n"
         "int new(int n) { return static_branch(&fresh) ? n : 7; }\nint third"},
    )  # fmt: skip
    part = part_of(pair)
    functions = changed_functions(part)
    assert sorted(functions.values()) == ["", "second"]
    assert {(key.name, key.is_defined) for key in branch_keys(part, functions)} == {
        ("others", False)
    }
    names, variables = outline(part.original)
    assert names == {"first", "second", "third"}
    assert variables == {("own", 16)}


def test_a_key_of_a_function_is_asked_by_its_name_in_the_text(tmp_path: Path) -> None:
    """DO_ONCE() has such a key; the compiler calls it ___once_key.0."""
    text = """
    int out(int);
    int first(int n)
    { static struct static_key ___once_key; return static_branch(&___once_key) ? out(n) : 2; }
    """
    part = part_of(Pair(tmp_path, text, {"out(n)": "out(n + 1)"}))
    keys = branch_keys(part, changed_functions(part))
    assert asked_keys(part, lambda key: "belongs to a module", lambda: keys) == {"___once_key"}


def test_what_changes_as_the_kernel_is_compiled_changes_here_too(tmp_path: Path) -> None:
    pair = Pair(tmp_path, BRANCHES, {"n + 1": "n + 2"})
    part = part_of(pair, known=frozenset({"second", "third", "gone"}))
    assert sorted(changed_functions(part).values()) == ["second", "third"]


#: The function that changes has sync_vmcs02_to_vmcs12_rare() inlined, or not, as keys are read.
LESS = {
    "\tif (guest_cpuid_has(vcpu, X86_FEATURE_SPEC_CTRL))\n"
    "\t\tindirect_branch_prediction_barrier();\n\n\t/* Update any": "\t/* Update any"
}


@pytest.mark.kernel
def test_a_function_that_is_inlined_otherwise_where_keys_are_asked(
    debian_source_kernel: Kernel, tmp_path: Path
) -> None:
    patch = written(debian_source_kernel, {"arch/x86/kvm/vmx/nested.c": LESS}, tmp_path)
    _, extracted = build_from_patches(debian_source_kernel, [patch], "fix", tmp_path)
    report = extracted.report
    (nested,) = (p.functions for p in extracted.functions if p.name == "kvm_intel")
    assert {function.old for function in nested} >= {
        "nested_vmx_vmexit",
        "sync_vmcs02_to_vmcs12_rare",
    }
    assert any("asks static keys of modules when it runs: enable_evmcs" in line for line in report)
