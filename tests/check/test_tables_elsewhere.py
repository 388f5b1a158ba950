"""Tables about code of other machines: what compilers make is sound, and damage is found."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from klpbuild.check import catalogue
from klpbuild.check.loaders import check_loading
from klpbuild.check.subject import Subject
from klpbuild.check.vmlinux import Vmlinux
from klpbuild.elf.reader import ElfFile
from tests.check.editor import Edit, Editor
from tests.machines.objects import MACROS, compile_for

_FLAGS = {
    "s390x": (
        "-fno-toplevel-reorder", "-mindirect-branch=thunk-extern", "-mfunction-return=thunk-extern",
        "-mindirect-branch-table",
    ),
    "aarch64": ("-fno-toplevel-reorder", "-mgeneral-regs-only"),
    "powerpc64le": ("-fno-toplevel-reorder",),
}  # fmt: skip
#: One of a facility of s390x; a feature of the others.
_FEATURE = {"s390x": "0x10000007", "aarch64": "7", "powerpc64le": "7"}
_SOURCE = r"""
extern int print(const char *text, int);
extern struct static_key key;
struct static_key own = { 1, (void *)1 };
int (*handler)(int);
int first(int a) { if (static_branch(&own)) return 3; return handler(a) + print("first", a); }
int second(long *p) { long v; LOAD_SAFELY(v, *p); if (v > 3) WARN(); ALTERNATE(FEATURE); return v; }
int third(int a) { if (static_branch(&key)) return print("third", a); return first(a) + a; }
int (*pointer)(int) __attribute__((section(".data..read_mostly"))) = third;
"""


def _found(editor: Editor) -> set[tuple[str, str]]:
    subject = Subject(ElfFile(editor.data(), "x.ko"), "x.ko", None)
    check_loading(subject)
    return {
        (f.rule.identifier, f.what) for f in subject.findings if f.rule is not catalogue.NOT_FILLED
    }


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Editor]:
    """An editor of the object of an architecture, which is compiled once."""

    @cache
    def compiled(arch: str) -> bytes:
        source = MACROS[arch] + _SOURCE.replace("FEATURE", _FEATURE[arch])
        return compile_for(arch, tmp_path_factory.mktemp(arch), source, *_FLAGS[arch])

    return lambda arch: Editor(compiled(arch))


@pytest.mark.parametrize("arch", MACROS)
def test_what_the_compiler_makes_is_sound(arch: str, objects: Callable[[str], Editor]) -> None:
    assert _found(objects(arch)) == set()


def _row(table: str, number: int, by: int) -> Edit:
    """Let a relocation lead some bytes farther."""

    def edit(e: Editor) -> None:
        addend = int(e.rows(f".rela{table}")[number]["r_addend"]) + by
        e.change_row(f".rela{table}", number, r_addend=addend)

    return edit


def _to(table: str, number: int, symbol: str, by: int = 0) -> Edit:
    return lambda e: e.change_row(f".rela{table}", number, r_sym=e.symbol(symbol), r_addend=by)


def _poke(table: str, offset: int, *data: int) -> Edit:
    return lambda e: e.poke(table, offset, bytes(data))


def _emptied(table: str) -> Edit:
    def edit(e: Editor) -> None:
        e.set_rows(f".rela{table}", e.rows(f".rela{table}")[:0])
        e.section(table).data = b""

    return edit


def _shorter(table: str, by: int) -> Edit:
    def edit(e: Editor) -> None:
        e.section(table).data = bytes(e.section(table).data)[:-by]

    return edit


def _one_relocation_less(table: str) -> Edit:
    return lambda e: e.set_rows(f".rela{table}", e.rows(f".rela{table}")[1:])


_EACH = [
    (_row("__bug_table", 0, 4), "KLP422", "__bug_table leads to .text, which is no"),
    (_row("__bug_table", 1, 1), "KLP424", "__bug_table leads to .rodata.str, where no text begins"),
    (_to("__bug_table", 0, "print"), "KLP422", "__bug_table leads to print, which is no code"),
    (_poke("__bug_table", 10, 64, 64), "KLP422", "__bug_table has the flags 0x4040"),
    (_emptied("__bug_table"), "KLP425", "is in no entry of __bug_table"),
    (_one_relocation_less("__bug_table"), "KLP422", "__bug_table has no relocation of type"),
    (_shorter("__ex_table", 2), "KLP426", "__ex_table ends in a part of an entry"),
    (_row("__ex_table", 1, 3), "KLP422", "__ex_table leads to .text, where no instruction begins"),
    (_to("__ex_table", 1, "third"), "KLP422", "leads from second to .text, which is in third"),
    (_to("__jump_table", 0, "second"), "KLP422", "an entry of __jump_table leads "),
    (_to("__jump_table", 1, "second"), "KLP422", "leads from first to .text, which is in second"),
    (_row("__jump_table", 2, 8), "KLP424", "__jump_table leads to .data, where no static key is"),
    (_row("__jump_table", 5, 4), "KLP424", "__jump_table leads to key, where no static key is"),
    (_row(".data..read_mostly", 0, 4), "KLP423", "a pointer leads to .text, where no"),
]  # fmt: skip
_BOTH = [
    (_poke("__ex_table", 8, 99, 99), "KLP422", "__ex_table has the type 25443, which is none"),
    (_row(".altinstructions", 0, 1), "KLP422", ".altinstructions leads to .text, where no"),
]
_OF = {
    "powerpc64le": [
        (_row("__ex_table", 0, 4), "KLP422", "an instruction that does not fault"),
        (_row("__ftr_fixup", 0, 1), "KLP422", "__ftr_fixup is for .text to .text: no code"),
        (_to("__ftr_fixup", 0, "print", 16), "KLP422", "is for print to .text: no code"),
        (_row("__ftr_fixup", 1, -8), "KLP422", "__ftr_fixup replaces 0 bytes by 4"),
        (_row("__ftr_fixup", 2, -4), "KLP422", "is for __ftr_alt_97-0x4 to __ftr_alt_97: no"),
        (_row("__ftr_fixup", 3, 8), "KLP422", "is for __ftr_alt_97 to __ftr_alt_97: no code"),
        (_row("__spec_barrier_fixup", 0, 2), "KLP422", "where no instruction begins"),
        (_one_relocation_less("__spec_barrier_fixup"), "KLP422", "no relocation of type R_PPC64_"),
    ],
    "s390x": [
        *_BOTH,
        (_poke(".altinstructions", 12, 3), "KLP422", "which end inside of an instruction"),
        (_poke(".altinstructions", 8, 0), "KLP422", "is for the feature 0x7, which is none"),
        (_emptied(".altinstructions"), "KLP425",
         ".altinstr_replacement is in no entry of .altinstructions"),
        (_to("__jump_table", 1, "first"), "KLP422", "leads to .text, and the nop elsewhere"),
        (_row(".s390_indirect_call", 0, 2), "KLP422", "where no instruction begins"),
        (_to(".s390_indirect_call", 0, "third", 0), "KLP426", "does not branch to"),
    ],
    "aarch64": [
        *_BOTH,
        (_poke(".altinstructions", 10, 8), "KLP422", "replaces 8 bytes by 4"),
        (_poke(".altinstructions", 9, 0x80), "KLP422", "has a function and 4 bytes that replace"),
        (_poke(".altinstructions", 8, 0, 0x80, 4, 0), "KLP422", "no function of the kernel"),
        (_row("__ex_table", 0, 4), "KLP422", "an instruction that does not fault"),
    ],
}  # fmt: skip
_ALL = [(arch, *case) for arch in MACROS for case in (*_EACH, *_OF[arch])]


@pytest.mark.parametrize(("arch", "edit", "rule", "what"), _ALL)
def test_damage_is_found(
    arch: str, edit: Edit, rule: str, what: str, objects: Callable[[str], Editor]
) -> None:
    editor = objects(arch)
    edit(editor)
    said = [(r, re.sub(r"[+]0x[0-9a-f]+", "", w)) for r, w in _found(editor)]
    assert [w for r, w in said if r == rule and what in w], said


@pytest.mark.parametrize(
    ("text", "flags", "said"),
    [
        (b"\0", 0x0901, []),
        (b"%u\n\0", 0x0911, []),
        (b"\0", 0x0921, ["leads to .data.format+0x0, where no text begins"]),  # a line's number
        (b"\x90\0", 1, ["leads to .data.format+0x0, where no text begins"]),
    ],
)
def test_bugs_with_a_format_alone(
    text: bytes, flags: int, said: list[str], objects: Callable[[str], Editor]
) -> None:
    """As s390x has them since 7.0, without CONFIG_DEBUG_BUGVERBOSE."""
    editor = objects("s390x")
    rows = editor.rows(".rela__bug_table")
    rows["r_sym"][1], rows["r_addend"][1] = editor.add_data("format", text), 0
    editor.set_rows(".rela__bug_table", rows)
    _poke("__bug_table", 8, *flags.to_bytes(2, "big"), 0, 0)(editor)
    assert {what for _, what in _found(editor)} == {f"an entry of __bug_table {w}" for w in said}


@pytest.mark.parametrize("arch", MACROS)
def test_a_call_into_a_function_is_found(arch: str, objects: Callable[[str], Editor]) -> None:
    editor = objects(arch)
    rows = editor.rows(".rela.text")
    number = int(np.flatnonzero(rows["r_sym"] == editor.symbol("print"))[0])
    _row(".text", number, 4)(editor)
    assert ("KLP423", "a call leads to print and +0x4 bytes") in _found(editor)


_KEYS = _SOURCE + "struct static_key key; int print(const char *t, int a) { return a; }"
_LINKED = {
    "s390x": "-Ttext=0x3ffe0000000", "aarch64": "-Ttext=0xffff800080000000",
    "powerpc64le": "-Ttext=0xc000000000000000",
}  # fmt: skip


@pytest.mark.parametrize("arch", MACROS)
def test_the_keys_of_a_linked_kernel(arch: str, tmp_path: Path) -> None:
    source = MACROS[arch] + _KEYS.replace("FEATURE", _FEATURE[arch])
    (tmp_path / "v.o").write_bytes(compile_for(arch, tmp_path, source, *_FLAGS[arch][:1]))
    program = f"{arch}-linux-gnu-ld"
    link = [program, _LINKED[arch], "--defsym=_mcount=first", "-e", "first", "v.o", "-o", "vmlinux"]
    subprocess.run(link, cwd=tmp_path, check=True)
    elf = ElfFile.read(tmp_path / "vmlinux")
    table, text = elf.section("__jump_table"), elf.section(".text")
    assert table is not None
    assert text is not None
    known = {s.name: s.st_value for s in elf.symbol_list}
    known |= {"__start___jump_table": table.sh_addr, "_stext": text.sh_addr}
    known["__stop___jump_table"] = table.sh_addr + table.sh_size
    database: Any = SimpleNamespace(
        in_object=lambda _, name: [SimpleNamespace(address=known[name])]
    )
    keys = Vmlinux(tmp_path / "vmlinux", database).static_keys
    assert keys == {known["own"]: True, known["key"]: False}
