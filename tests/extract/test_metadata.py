"""Entries that something else reads: nothing of a patch is left out without a word."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.extract.pairs import Extracted, Pair

SOURCE = """
#define SECTION(name) __attribute__((used, section(name)))
#define PASTE2(a, b) a##b
#define PASTE(a, b) PASTE2(a, b)
int out(int);
static int table_entry SECTION("a_table") = 1;
static int PASTE(__UNIQUE_ID_more, __COUNTER__) SECTION("more") = 2;
asm(".pushsection .BTF_ids, \\"a\\"\\n__BTF_ID__func__work__7: .long 0\\n.popsection");
static const char PASTE(__UNIQUE_ID_alias, __COUNTER__)[] SECTION(".modinfo") = "alias=one";
int work(int n) { return out(n); }
/* here */
"""
WORK = {"return out(n);": "return out(n + 1);"}


def refusal(tmp_path: Path, new: str, **more: str) -> str:
    return Pair(tmp_path, SOURCE, {**WORK, "/* here */": new, **more}).refusal()


def notices(tmp_path: Path, new: str) -> tuple[str, ...]:
    made = Pair(tmp_path, SOURCE, {**WORK, "/* here */": new}).extract()
    assert [function.name for function in made.changed] == ["work"]
    return made.notices


def test_numbers_in_names_are_no_change(tmp_path: Path) -> None:
    change = {"int out(int);": "int out(int);\nenum { SHIFT = __COUNTER__ };", "work__7": "work__8"}
    made = Pair(tmp_path, SOURCE, {**WORK, **change}).extract()
    assert made.notices == ()


def test_a_new_entry_in_a_section_of_entries(tmp_path: Path) -> None:
    assert refusal(tmp_path, 'static int more_entry SECTION("a_table") = 2;') == (
        "code.c:code.o:more_entry: more_entry is new in a_table\n"
        "  Something may collect the entries of this section, and a livepatch comes too late.\n"
        "  Do from a callback of the livepatch what the entry asks for."
    )


@pytest.mark.parametrize(
    "new",
    [
        'int visible SECTION("mine") = 1;',
        'static const int fixed SECTION("mine") = 1;',
        'static int zero SECTION("mine");',
        'static int (*hook)(int) SECTION("mine") = work;',
        'static int PASTE(__UNIQUE_ID_more, __COUNTER__) SECTION("more") = 3;',
        'static int PASTE(__UNIQUE_ID_more, __COUNTER__) SECTION("more") = 2;',
        'asm(".pushsection .BTF_ids, \\"a\\"\\n__BTF_ID__func__other__9: .long 0\\n.popsection");',
    ],
)
def test_new_entries_of_any_form(tmp_path: Path, new: str) -> None:
    assert " is new in " in refusal(tmp_path, new)


def test_an_entry_that_goes_or_changes(tmp_path: Path) -> None:
    text = Pair(
        tmp_path, SOURCE, {**WORK, 'static int table_entry SECTION("a_table") = 1;': ""}
    ).refusal()
    assert text.startswith("code.c:code.o:table_entry: table_entry goes from a_table\n")
    changed = Pair(tmp_path, SOURCE, {**WORK, 'SECTION("a_table") = 1': 'SECTION("a_table") = 3'})
    assert changed.refusal().startswith("code.c:code.o:table_entry: data table_entry changed")


def test_a_table_without_names_that_comes_or_goes(tmp_path: Path) -> None:
    table = 'asm(".pushsection mine, \\"a\\"\\n.long 1\\n.popsection");'
    assert refusal(tmp_path, table).startswith("code.c:code.o: table mine changed\n")
    source = SOURCE.replace("/* here */", table)
    assert (
        Pair(tmp_path, source, {**WORK, table: ""})
        .refusal()
        .startswith("code.c:code.o: table mine changed\n")
    )


CALLBACK = """
static int before(void *object) { return 0; }
struct callback { int (*fn)(void *object); char *objname; };
"""


@pytest.mark.parametrize("when", ["pre_patch", "post_patch", "pre_unpatch", "post_unpatch"])
def test_kpatch_s_callbacks_are_said_otherwise_here(tmp_path: Path, when: str) -> None:
    """KPATCH_PRE_PATCH_CALLBACK() and its kin, as kpatch-macros.h has them."""
    new = f'{CALLBACK}struct callback data SECTION(".kpatch.callbacks.{when}") = {{ before }};'
    assert refusal(tmp_path, new) == (
        f"code.c:code.o:data: data is new in .kpatch.callbacks.{when}\n"
        "  Something may collect the entries of this section, and a livepatch comes too late.\n"
        "  Take kpatch's macro out, make before() a global function, and say in livepatch.toml:\n"
        f'  callbacks = {{ {when} = "before" }}'
    )


@pytest.mark.parametrize(
    ("new", "hint"),
    [
        (
            'void *__kpatch_force_func_work __attribute__((section(".kpatch.force"))) = work;',
            "Take KPATCH_FORCE_UNSAFE out: the kernel itself waits until no task runs the old",
        ),
        (
            'char *ignored __attribute__((section(".kpatch.ignore.sections"))) = ".data";',
            "Take it out, and the change that it would have ignored.",
        ),
        (
            'void *ignored __attribute__((section(".kpatch.ignore.functions"))) = work;',
            "Take it out, and the change that it would have ignored.",
        ),
        ('static int hook SECTION(".kpatch.hooks.load");', "klpbuild does not read kpatch's"),
    ],
)
def test_kpatch_s_other_macros(tmp_path: Path, new: str, hint: str) -> None:
    assert hint in refusal(tmp_path, new)


@pytest.mark.parametrize(
    ("section", "new"),
    [
        (".discard.mine", 'static int mine SECTION(".discard.mine") = 1;'),
        (".discard.mine", 'static int (*mine)(int) SECTION(".discard.mine") = work;'),
        ("mine", 'asm(".pushsection mine\\n.long 1\\n.popsection");'),
        (".note.mine", 'asm(".pushsection .note.mine, \\"a\\", @note\\n.long 1\\n.popsection");'),
        (".init_array", "static void __attribute__((constructor)) begin(void) { out(7); }"),
    ],
)
def test_a_section_that_nothing_is_taken_from(tmp_path: Path, section: str, new: str) -> None:
    assert refusal(tmp_path, new) == (
        f"code.c:code.o: section {section} changed\n"
        "  klpbuild does not know what reads it, and leaves it out.\n"
        "  Take its new entries out of the patch."
    )


def test_hints_for_objtool_are_no_entries(tmp_path: Path) -> None:
    new = """
    static noinline int fresh(int n) { return out(n) - 1; }
    static void *hint SECTION(".discard.addressable") = fresh;"""
    assert notices(tmp_path, new) == (
        "code.c:code.o:fresh: is new, and nothing that runs uses it; left out",
    )


@pytest.mark.parametrize(
    ("new", "said"),
    [
        (
            'static int fresh SECTION("__param") = 1;',
            "code.c:code.o:fresh: a new module parameter has no effect in a livepatch",
        ),
        (
            'static void *fresh SECTION("_ftrace_events") = work;',
            "code.c:code.o:fresh: a new trace event has no effect in a livepatch",
        ),
        (
            'static void *fresh SECTION("_kprobe_blacklist") = work;',
            "code.c:code.o:fresh: NOKPROBE_SYMBOL() has no effect in a livepatch",
        ),
        (
            'static void *fresh SECTION("__bpf_raw_tp_map") = work;',
            "code.c:code.o:fresh: a new entry in __bpf_raw_tp_map has no effect in a livepatch",
        ),
        (
            'static const char fresh[] SECTION(".modinfo") = "alias=two";',
            "code.c:code.o: new module information has no effect in a livepatch: alias=two",
        ),
        (
            "static int fresh __used = 4;",
            "code.c:code.o:fresh: is new, and nothing that runs uses it; left out",
        ),
        (
            'static int SECTION("my_text") fresh(int n) { return out(n) + 5; }',
            "code.c:code.o:fresh: is new, and nothing that runs uses it; left out",
        ),
    ],
)
def test_what_has_no_effect_is_said(tmp_path: Path, new: str, said: str) -> None:
    assert notices(tmp_path, new) == (said,)


def test_what_the_kernel_reads_early_is_refused(tmp_path: Path) -> None:
    new = 'static void *fresh SECTION("___srcu_struct_ptrs") = work;'
    assert refusal(tmp_path, new) == (
        "code.c:code.o:fresh: fresh is new in ___srcu_struct_ptrs\n"
        "  The kernel has read it when it or the module started.\n"
        "  Do from a callback of the livepatch what its new entries ask for."
    )


def test_new_variables_that_are_used_come_along(tmp_path: Path) -> None:
    change = {"int work(int n)": "static int fresh __used = 4;\nint work(int n)"}
    made = Pair(
        tmp_path, SOURCE, {**change, "return out(n);": "return out(n + fresh++);"}
    ).extract()
    assert "fresh" in Extracted(made).defined
    assert [n for n in made.notices if "has its own" not in n] == []


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"int"', '"unsigned int"'),
        ('"fd"', '"file"'),
        ('"int" }', '"int", "long" }'),
        ("{ 1, ", "{ 2, "),
    ],
)
def test_parameters_of_a_system_call_that_are_described_otherwise(
    tmp_path: Path, old: str, new: str
) -> None:
    """The kernel's trace events go on as they are; the call itself changes."""
    code = """
        int out(int);
        struct syscall_metadata { int nb_args; const char **types, **args; };
        static const char *types__dup[] = { "int" };
        static const char *args__dup[] = { "fd" };
        static struct syscall_metadata __used __syscall_meta__dup = { 1, types__dup, args__dup };
        static struct syscall_metadata __used __attribute__((section("__syscalls_metadata")))
            *__p_syscall_meta__dup = &__syscall_meta__dup;
        int call(int fd) { return out(fd); }
    """
    made = Pair(tmp_path, code, {old: new, "out(fd)": "out(fd + 1)"}).extract()
    assert [f.name for f in made.changed] == ["call"]
    assert made.notices == ("code.c:code.o: the trace events of system call dup stay the kernel's",)
