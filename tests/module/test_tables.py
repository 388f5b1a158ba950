"""The generated tables, read from the object that they compile to."""

from __future__ import annotations

import dataclasses
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from klpbuild.compiler.driver import compile_source
from klpbuild.elf.reader import ElfFile
from klpbuild.elf.tables import string_at
from klpbuild.errors import KlpError
from klpbuild.kernel.tree import Kernel
from klpbuild.module.livepatch import Function, Livepatch, PatchedObject, State
from klpbuild.module.parts import merged_objects
from klpbuild.module.states import state_number
from klpbuild.module.tables import (
    LivepatchApi,
    c_string,
    generate_tables,
    livepatch_api,
    tables_source,
)

NEWEST = LivepatchApi(register=False, replace=True, callbacks=True, states=True)

LIVEPATCH = Livepatch(
    "fix",
    (),
    (
        PatchedObject(
            "vmlinux",
            (Function("f", "livepatch_f"), Function("g.isra.0", "livepatch_g", 2)),
            {"pre_patch": "before", "post_unpatch": "after"},
        ),
        PatchedObject("9p", (Function("f", "livepatch_f"),)),
        PatchedObject("ext4", (), {"post_patch": "announce"}),
    ),
    description='what "it" does',
    references=("CVE-2024-1", "CVE-2024-2"),
)

ABSOLUTE_64 = 1


def _compile(kernel: Kernel, directory: Path, livepatch: Livepatch = LIVEPATCH) -> ElfFile:
    source = directory / "tables.c"
    source.write_text(tables_source(livepatch, kernel))
    done = compile_source(kernel, source, directory / "tables.o", module_name="livepatch_fix")
    assert done.said == ""
    return ElfFile.read(done.output)


class _Data:
    """The .data section of the tables, pointers followed."""

    def __init__(self, elf: ElfFile) -> None:
        self.elf = elf
        section, rela = elf.section(".data"), elf.section(".rela.data")
        assert section is not None and rela is not None
        self.bytes = bytes(elf.contents(section))
        self.pointers = {
            int(row["r_offset"]): (elf.symbol(int(row["r_sym"])), int(row["r_addend"]))
            for row in elf.relocations(rela)
        }

    def text(self, offset: int) -> str | None:
        """The string that a pointer leads to."""
        if offset not in self.pointers:
            return None
        symbol, addend = self.pointers[offset]
        section = self.elf.sections[symbol.st_shndx]
        return string_at(bytes(self.elf.contents(section)), symbol.st_value + addend)

    def place(self, offset: int) -> int:
        """The offset in .data that a pointer leads to; past the end for .bss and none."""
        symbol, addend = self.pointers.get(offset, (None, 0))
        if symbol is None or self.elf.sections[symbol.st_shndx].name != ".data":
            return len(self.bytes)
        return symbol.st_value + addend

    def name(self, offset: int) -> str | None:
        """The symbol that a pointer leads to."""
        return self.pointers[offset][0].name if offset in self.pointers else None

    def number(self, offset: int) -> int:
        return int.from_bytes(self.bytes[offset : offset + 8], "little")


def _size(elf: ElfFile, name: str) -> tuple[int, int]:
    symbol = next(s for s in elf.symbol_list if s.name == name)
    return symbol.st_value, symbol.st_size


def test_tables_hold_what_the_description_says(fixtures_kernel: Kernel, tmp_path: Path) -> None:
    elf = _compile(fixtures_kernel, tmp_path)
    data = _Data(elf)
    start, size = _size(elf, "objects")
    stride = size // 4  # three objects and the end
    found = []
    for place in range(start, start + size, stride):
        functions = []
        # a pointer to the functions is a local symbol of .data
        at = data.place(place + 8) if place + 8 in data.pointers else None
        length = _size(elf, "functions_9p")[1] // 2
        while at is not None and data.text(at) is not None:
            functions.append((data.text(at), data.name(at + 8), data.number(at + 16)))
            at += length
        callbacks = [data.name(place + offset) for offset in (16, 24, 32, 40)]
        found.append((data.text(place), functions, callbacks))
    none = [None] * 4
    assert found == [
        (
            None,
            [("f", "livepatch_f", 0), ("g.isra.0", "livepatch_g", 2)],
            ["before", None, None, "after"],
        ),
        ("9p", [("f", "livepatch_f", 0)], none),
        ("ext4", [], [None, "announce", None, None]),
        (None, [], none),
    ]


def test_description_is_in_the_module_information(fixtures_kernel: Kernel, tmp_path: Path) -> None:
    elf = _compile(fixtures_kernel, tmp_path)
    section = elf.section(".modinfo")
    assert section is not None
    assert set(bytes(elf.contents(section)).decode().strip("\0").split("\0")) == {
        "livepatch=Y",
        "license=GPL",
        'description=what "it" does',
    }


def test_a_new_function_may_have_a_name_that_the_headers_declare(
    fixtures_kernel: Kernel, tmp_path: Path
) -> None:
    functions = (Function("klp_enable_patch", "klp_enable_patch"), Function("k", "memcpy"))
    livepatch = Livepatch("fix", (), (PatchedObject("vmlinux", functions),))
    elf = _compile(fixtures_kernel, tmp_path, livepatch)
    assert {"klp_enable_patch", "memcpy"} <= {s.name for s in elf.symbol_list}


@pytest.mark.parametrize("replace", [True, False])
def test_replace(replace: bool) -> None:
    text = generate_tables(dataclasses.replace(LIVEPATCH, replace=replace), NEWEST)
    assert (".replace = true" in text) is replace
    before = LivepatchApi(register=True, replace=False, callbacks=True)
    assert ".replace" not in generate_tables(LIVEPATCH, before)


#: The interface of v4.15 to v5.0, for programs without a kernel.
OLD_HEADER = """
#define MODULE_LICENSE(x)
#define MODULE_DESCRIPTION(x)
#define MODULE_INFO(tag, x)
#define module_init(f) int init_module(void) { return f(); }
#define module_exit(f) void cleanup_module(void) { f(); }
#define __init
#define __exit
#define THIS_MODULE ((void *)0)
#define WARN_ON(x) ({ if (x) __builtin_trap(); })
typedef _Bool bool;
struct klp_object;
struct klp_callbacks {
	int (*pre_patch)(struct klp_object *);
	void (*post_patch)(struct klp_object *), (*pre_unpatch)(struct klp_object *);
	void (*post_unpatch)(struct klp_object *);
};
struct klp_func { const char *old_name; void *new_func; unsigned long old_sympos; };
struct klp_object { const char *name; struct klp_func *funcs; struct klp_callbacks callbacks; };
struct klp_patch { void *mod; struct klp_object *objs; };
int klp_register_patch(struct klp_patch *), klp_unregister_patch(struct klp_patch *);
int klp_enable_patch(struct klp_patch *);
"""


def test_registration_before_v5_1(tmp_path: Path) -> None:
    text = generate_tables(LIVEPATCH, LivepatchApi(register=True, replace=False, callbacks=True))
    code = "".join(line for line in text.splitlines(True) if not line.startswith("#include"))
    (tmp_path / "old.c").write_text(OLD_HEADER + code)
    command = ["gcc", "-Wall", "-Werror", "-c", "old.c", "-o", "old.o"]
    subprocess.run(command, cwd=tmp_path, check=True)
    used = {s.name for s in ElfFile.read(tmp_path / "old.o").symbol_list if not s.st_shndx}
    assert {"klp_register_patch", "klp_enable_patch", "klp_unregister_patch"} <= used


def test_s390_forgets_where_a_module_was(tmp_path: Path) -> None:
    """The marks of each entry of the GOT are cleared when a module goes, and by no other object."""
    api = LivepatchApi(register=True, replace=False, callbacks=True, forget="forget.s390.c.j2")
    text = generate_tables(LIVEPATCH, api)
    code = "".join(line for line in text.splitlines(True) if not line.startswith("#include"))
    # arch/s390/include/asm/module.h, and a program that lets the module 9p go.
    module = """
#define THIS_MODULE (&module)
struct mod_arch_syminfo { unsigned long offsets[2]; int got_initialized, plt_initialized; };
struct mod_arch_specific { int nsyms; struct mod_arch_syminfo *syminfo; };
static struct mod_arch_syminfo infos[3] = { {{ 8, 9 }, 1, 1}, {{ 8, 9 }, 0, 1}, {{ 8, 9 }, 1, 0} };
static struct { struct mod_arch_specific arch; } module = { { 2, infos } };
"""
    program = """
int klp_register_patch(struct klp_patch *p) { return 0; }
int klp_unregister_patch(struct klp_patch *p) { return 0; }
int klp_enable_patch(struct klp_patch *p) { return 0; }
int livepatch_f, livepatch_g, before, after, announce;
int main(void) {
    if (objects[0].callbacks.post_unpatch == forget_relocations) return 1;
    objects[1].callbacks.post_unpatch(&objects[1]);
    for (int i = 0; i < 2; i++)
        if (infos[i].got_initialized || infos[i].plt_initialized) return 2;
    return infos[2].got_initialized && infos[0].offsets[0] == 8 ? 0 : 3;
}
"""
    old = OLD_HEADER.replace("#define THIS_MODULE ((void *)0)\n", module)
    (tmp_path / "old.c").write_text(old + code + program)
    subprocess.run(["gcc", "old.c", "-o", "old"], cwd=tmp_path, check=True)
    assert subprocess.run([tmp_path / "old"], check=False).returncode == 0


#: What the kernel does with one object; each callback says its name, one of them fails.
RUN = """
#include <stdio.h>
#include <string.h>
static const char *failing = "";
static int say(const char *name) { printf("%s ", name); return !strcmp(name, failing); }
static struct klp_patch *registered;
int klp_register_patch(struct klp_patch *patch) { registered = patch; return 0; }
int klp_unregister_patch(struct klp_patch *patch) { return 0; }
int klp_enable_patch(struct klp_patch *patch) { return 0; }
int main(int count, char **words)
{
	if (count > 1)
		failing = words[1];
	init_module();
	struct klp_callbacks *calls = &registered->objs->callbacks;
	if (calls->pre_patch && calls->pre_patch((void *)registered->objs))
		return 0;
	if (calls->post_patch)
		calls->post_patch((void *)registered->objs);
	if (calls->pre_unpatch)
		calls->pre_unpatch((void *)registered->objs);
	if (calls->post_unpatch)
		calls->post_unpatch((void *)registered->objs);
}
"""


def _run(directory: Path, *parts: dict[str, str], failing: str = "") -> list[str]:
    """The callbacks in the order in which the kernel's calls of the generated code reach them."""
    objects = merged_objects(PatchedObject("vmlinux", (), part) for part in parts)
    api = LivepatchApi(register=True, replace=False, callbacks=True)
    text = generate_tables(Livepatch("fix", (), objects), api)
    code = "".join(line for line in text.splitlines(True) if not line.startswith("#include"))
    called = "".join(
        f'int {name}(struct klp_object *object) {{ return say("{name}"); }}\n'
        for part in parts
        for name in part.values()
    )
    (directory / "run.c").write_text(OLD_HEADER + code + RUN + called)
    command = ["gcc", "-Wall", "-Wno-builtin-declaration-mismatch", "-Wno-attributes"]
    subprocess.run([*command, "-Werror", "run.c", "-o", "run"], cwd=directory, check=True)
    done = subprocess.run(
        [directory / "run", failing], check=True, stdout=subprocess.PIPE, text=True
    )
    return done.stdout.split()


FIRST = {"pre_patch": "a", "post_patch": "b", "pre_unpatch": "c", "post_unpatch": "d"}
SECOND = {"post_unpatch": "e"}
THIRD = {"pre_patch": "f", "post_patch": "g", "pre_unpatch": "h", "post_unpatch": "i"}


def test_callbacks_of_parts_are_called_in_order_and_undone_in_reverse(tmp_path: Path) -> None:
    assert _run(tmp_path, FIRST, SECOND, THIRD) == ["a", "f", "b", "g", "h", "c", "i", "e", "d"]


def test_a_part_that_fails_undoes_those_before_it(tmp_path: Path) -> None:
    assert _run(tmp_path, FIRST, SECOND, THIRD, failing="f") == ["a", "f", "e", "d"]
    assert _run(tmp_path, FIRST, SECOND, THIRD, failing="a") == ["a"]
    assert _run(tmp_path, SECOND, FIRST, failing="a") == ["a", "e"]
    assert _run(tmp_path, THIRD, failing="f") == ["f"]  # the kernel itself calls no more


def test_callbacks_that_the_kernel_does_not_know() -> None:
    with pytest.raises(KlpError) as caught:
        generate_tables(LIVEPATCH, LivepatchApi(register=True, replace=False, callbacks=False))
    assert str(caught.value) == (
        "object 'vmlinux' has callbacks, which this kernel does not know\n"
        "  They came with v4.15.\n"
        "object 'ext4' has callbacks, which this kernel does not know\n"
        "  They came with v4.15."
    )


def test_interface_is_read_from_the_kernels_header(fixtures_kernel: Kernel) -> None:
    assert livepatch_api(fixtures_kernel) == dataclasses.replace(NEWEST, states=False)


@pytest.mark.kernel
def test_interface_of_debians_kernel(debian_kernel: Kernel, tmp_path: Path) -> None:
    forget = "forget.c.j2" if debian_kernel.version < (6, 3) else ""
    assert livepatch_api(debian_kernel) == dataclasses.replace(NEWEST, forget=forget)
    _compile(debian_kernel, tmp_path)  # must compile


@given(st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=40))
def test_any_text_is_a_c_string(text: str) -> None:
    literal = c_string(text)
    assert literal[0] == literal[-1] == '"'
    body = literal[1:-1].replace("\\\\", "").replace('\\"', "")
    assert '"' not in body and "??" not in body and body.isascii() and body.isprintable()


def test_c_strings_mean_what_was_written(tmp_path: Path) -> None:
    texts = ['a"b\\c', "??/ trigraph ??=", "line\nbreak\ttab", "Ünïcode 1", "é7"]
    lines = ",\n".join(map(c_string, texts))
    program = f"#include <stdio.h>\nint main(void) {{ char *t[] = {{ {lines} }};"
    program += f"for (int i = 0; i < {len(texts)}; i++) fwrite(t[i], 1, __builtin_strlen(t[i]) + 1,"
    program += "stdout); }"
    (tmp_path / "p.c").write_text(program)
    subprocess.run(["gcc", "-std=c99", "p.c", "-o", "p"], cwd=tmp_path, check=True)
    out = subprocess.run([tmp_path / "p"], capture_output=True, check=True).stdout
    assert out.decode().split("\0")[:-1] == texts


def test_states_for_who_takes_its_place() -> None:
    states = (State("fix", 2), State("other", 0))
    livepatch = dataclasses.replace(LIVEPATCH, states=states)
    text = generate_tables(livepatch, NEWEST)
    number = f"{state_number(State('fix')):#x}ul"
    assert f"{{ .id = {number}, .version = 2 }}, /* fix */\n\t{{ }}\n" in text
    assert "\t.states = states,\n" in text
    assert ".states" not in generate_tables(livepatch, dataclasses.replace(NEWEST, states=False))
    assert ".states" not in generate_tables(LIVEPATCH, NEWEST)
