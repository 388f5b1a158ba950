"""Tables about code: each entry leads where it must, and what needs an entry has one."""

from __future__ import annotations

import re
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from klpbuild.check.kernelside import KernelSide
from klpbuild.check.memory import Code, Memory
from klpbuild.check.module import check_bytes
from klpbuild.check.rule import Effect
from klpbuild.elf.constants import SHF, SHT, STB, STT
from klpbuild.elf.tables import rela_dtype
from klpbuild.elf.writer import WritableSection
from tests.check.breaks import SWAPINFO
from tests.check.editor import R_NONE, Edit, Editor, edited, section_header
from tests.check.kernels import KERNEL_KEY, make_from

PC32 = 2
CODE = SHF.ALLOC | SHF.EXECINSTR
RULES = {"KLP119", *(f"KLP42{n}" for n in range(2, 9))}
NEW = "livepatch_meminfo_proc_show"


def found(side: KernelSide | None, data: bytes) -> list[tuple[str, str]]:
    """Rule and text of what is found in tables."""
    report = check_bytes(data, "livepatch.ko", side)
    sites = [each for each in report.findings if each.rule.identifier in RULES]
    assert {each.effect for each in sites} <= {Effect.UNFORESEEN, Effect.ACCEPTED}
    return [(each.rule.identifier, masked(each.what)) for each in sites]


def masked(text: str) -> str:
    """A text without offsets in the code, which differ between compilers."""
    return re.sub(r"(?<=\.text)[+]0x[0-9a-f]+|(?<=call) 0x[0-9a-f]+", " N", text)


def row(table: str, number: int = 0, /, **fields: int) -> Edit:
    """Change a relocation of a table; `addend` is added to its own."""

    def edit(e: Editor) -> None:
        section = f".rela{table}"
        more = fields.get("addend", 0) + int(e.rows(section)[number]["r_addend"])
        values = {name: value for name, value in fields.items() if name != "addend"}
        e.change_row(section, number, **{"r_addend": more, **values})

    return edit


def to_alternative(e: Editor) -> None:
    """Let a fixup lead behind the first byte of code that may be replaced."""
    replaced = e.rows(".rela.altinstructions")[0]
    place = int(replaced["r_sym"]), int(replaced["r_addend"])
    e.change_row(".rela__ex_table", 1, r_sym=place[0], r_addend=place[1] + 1)


def key(addend: int) -> Edit:
    """Another addend of the kernel's static key."""
    return lambda e: e.change_row(".klp.rela.vmlinux.__jump_table", 0, r_addend=addend)


def names(table: str, number: int, symbol: str) -> Edit:
    """Let a relocation of a table lead to another symbol."""
    return lambda e: e.change_row(f".rela{table}", number, r_sym=e.symbol(symbol), r_addend=0)


def poke(section: str, at: int, *data: int) -> Edit:
    return lambda e: e.poke(section, at, bytes(data))


def shorter(section: str, by: int) -> Edit:
    """Take bytes off the end of a table, and the relocations that change them."""

    def edit(e: Editor) -> None:
        table = e.section(section)
        table.data = bytes(table.data)[:-by]
        rows = e.rows(f".rela{section}")
        e.set_rows(f".rela{section}", rows[rows["r_offset"] < len(table.data)])

    return edit


def aside(section: str) -> Edit:
    def edit(e: Editor) -> None:
        e.section(section).sh_flags &= ~int(SHF.ALLOC)

    return edit


def twice(e: Editor) -> None:
    """One return in two entries."""
    e.section(".return_sites").data = bytes(8)
    rows = np.repeat(e.rows(".rela.return_sites"), 2)
    rows["r_offset"] = 0, 4
    e.set_rows(".rela.return_sites", rows)


#: What is done to a livepatch with one entry or two in each table, the rule, and what is said.
BAD: dict[str, tuple[Edit, str, str]] = {
    "bug inside": (row("__bug_table", addend=1), "KLP422",
                   "an entry of __bug_table leads to .text+0x22, where no instruction begins"),
    "bug elsewhere": (row("__bug_table", addend=2), "KLP422",
                      "an entry of __bug_table leads to .text+0x23, which is no ud2"),
    "bug gone": (shorter("__bug_table", 12), "KLP425", "a ud2 is in no entry of __bug_table"),
    "bug aside": (aside("__bug_table"), "KLP422", "__bug_table is not loaded"),
    "bug cut": (shorter("__bug_table", 2), "KLP426", "__bug_table ends in a part of an entry"),
    "bug flags": (poke("__bug_table", 10, 2), "KLP422",
                  "an entry of __bug_table has the flags 0x902"),
    "text inside": (row("__bug_table", 1, addend=1), "KLP424",
                    "an entry of __bug_table leads to .rodata.str+0x1, where no text begins"),
    "jump inside": (row("__jump_table", addend=1), "KLP422",
                    "an entry of __jump_table leads to .text+0x1b, where no instruction begins"),
    "jump elsewhere": (row("__jump_table", addend=7), "KLP422",
                       "an entry of __jump_table leads to .text+0x21,"
                       " which is neither a jump nor a nop"),
    "jump target": (row("__jump_table", 4, addend=4), "KLP422",
                    "an entry of __jump_table leads to .text+0x3c, where no instruction begins"),
    "jump other target": (row("__jump_table", 4, addend=3), "KLP422",
                          "an entry of __jump_table leads to .text+0x3b, and the jump elsewhere"),
    "jump relocation": (row("__jump_table", r_type=R_NONE), "KLP422",
                        "an entry of __jump_table has no relocation of type R_X86_64_PC32"),
    "jump offset": (row("__jump_table", r_offset=6), "KLP422",
                    "an entry of __jump_table has an address where none belongs"),
    "own key far": (row("__jump_table", 2, addend=1 << 20), "KLP424",
                    "an entry of __jump_table leads to .bss+0x100000, where no static key is"),
    "own key's second word": (row("__jump_table", 2, addend=8), "KLP424",
                              "an entry of __jump_table leads to .bss+0x8,"
                              " where no static key is"),
    "own key's bits": (row("__jump_table", 2, addend=1), "KLP424",
                       "an entry of __jump_table is for a key that begins in the other state"
                       " than .bss+0x0"),
    "own key's mark": (row("__jump_table", 2, addend=-2), "KLP424",
                       "an entry of __jump_table is marked as a jump"),
    "another key's state": (names("__jump_table", 2, "true_key"), "KLP424",
                            "an entry of __jump_table is marked as a jump"),
    "key far": (key(1 << 20), "KLP424",
                "an entry of __jump_table leads to kernel_key+0x100000, where no static key is"),
    "key beside": (key(16), "KLP424",
                   "an entry of __jump_table leads to kernel_key+0x10, where no static key is"),
    "no key": (row("__jump_table", 2, r_sym=0), "KLP424",
               "an entry of __jump_table leads to an absolute address+0x0, where no static key is"),
    "key's bits": (key(1), "KLP424", "an entry of __jump_table is for a key that begins in the"
                   " other state than kernel_key+0x0"),
    "call elsewhere": (row(".static_call_sites", addend=5), "KLP422",
                       "an entry of .static_call_sites leads to .text+0x2c,"
                       " which does not call a trampoline"),
    "call is a file": (names(".static_call_sites", 0, "livepatch-meminfo.c"), "KLP422",
                       "an entry of .static_call_sites leads to livepatch-meminfo.c+0x0,"
                       " which is no code"),
    "call's key": (lambda e: e.rename(".klp.sym.vmlinux.__SCK__call,0",
                                      ".klp.sym.vmlinux.__SCK__other,0"), "KLP424",
                   "an entry of .static_call_sites calls call, and has the key __SCK__other+0x0"),
    "call's kind": (lambda e: e.change_row(".klp.rela.vmlinux.static_call_sites", 0, r_addend=1),
                    "KLP424", "an entry of .static_call_sites is marked as another kind of call"),
    "call of start code": (
        lambda e: e.change_row(".klp.rela.vmlinux.static_call_sites", 0, r_addend=2), "KLP424",
        "an entry of .static_call_sites is marked as start code, whose call the kernel never"
        " changes"),
    "fault inside": (row("__ex_table", addend=1), "KLP422",
                     "an entry of __ex_table leads to .text+0x24, where no instruction begins"),
    "no fault": (row("__ex_table", addend=0x16), "KLP422", "an entry of __ex_table leads to"
                 " .text+0x38, an instruction that does not fault"),
    "fixup": (row("__ex_table", 1, addend=1), "KLP422",
              "an entry of __ex_table leads to .text+0x5b, where no instruction begins"),
    "fixup in code replaced": (to_alternative, "KLP422", "an entry of __ex_table leads to"
                               " .text N, amid code that may be replaced"),
    "fixup of another function": (names("__ex_table", 1, "init_module"), "KLP422",
                                  "an entry of __ex_table leads from livepatch_meminfo_proc_show"
                                  " to .init.text+0x0, which is in init_module"),
    "jump to another function": (names("__jump_table", 1, "init_module"), "KLP422",
                                 "an entry of __jump_table leads from livepatch_meminfo_proc_show"
                                 " to .init.text+0x0, which is in init_module"),
    "fixup's data": (names("__ex_table", 1, "patch"), "KLP422",
                     "an entry of __ex_table leads to .data+0x2c0, which is no code"),
    "type": (poke("__ex_table", 8, 0x40), "KLP422", "an entry of __ex_table has the type 64,"
             " which is not for mov dword ptr [rdi], 0"),
    "another's type": (poke("__ex_table", 8, 11), "KLP422", "an entry of __ex_table has the type"
                       " 11, which is not for mov dword ptr [rdi], 0"),
    "lock": (row(".smp_locks", addend=1), "KLP426",
             "an entry of .smp_locks leads to .text+0x2d, which is no lock prefix"),
    "replacement": (row(".altinstructions", 1, addend=1), "KLP422",
                    "an entry of .altinstructions leads to .altinstr_replacement+0x1,"
                    " where no instruction begins"),
    "unwind": (row(".orc_unwind_ip", addend=1), "KLP428",
               "an entry of .orc_unwind_ip leads to .init.text+0x1, where no instruction begins"),
    "fault gone": (shorter("__ex_table", 12), "KLP425",
                   "nothing leads to this code of livepatch_meminfo_proc_show,"
                   " so an entry of a table is missing"),
    "replacement gone": (shorter(".altinstructions", 12), "KLP425",
                         ".altinstr_replacement+0x0 is in no entry of .altinstructions"),
    "unwind data aside": (aside(".orc_unwind"), "KLP428", ".orc_unwind is not loaded"),
    "unwind data's number": (poke(".orc_unwind", 0, 16), "KLP428",
                             "unwind data do not begin with a function"),
    "unwind data cut": (shorter(".orc_unwind_ip", 4), "KLP428",
                        "has 0 bytes of .orc_unwind_ip for 6 of .orc_unwind"),
    "call's type": (row(".text", 4, r_type=11), "KLP427",
                    "a relocation R_X86_64_32S changes call 0x55, which wants R_X86_64_PC32"),
    "call's offset": (row(".text", 4, r_offset=0x52), "KLP427",
                      "a relocation R_X86_64_PLT32 stands in the middle of call 0x55"),
    "call gone": (row(".text", 4, r_type=R_NONE), "KLP427",
                  "the instruction call 0x55 refers to itself"),
    "call elsewhere of the module": (row(".text", 4, addend=1), "KLP423",
                                     "a call leads to .text+0x1, where no function begins"),
    "pointer": (row(".gnu.linkonce.this_module", 0, addend=1), "KLP423",
                "a pointer leads to .init.text+0x1, where no function begins"),
    "code aside": (aside(".text"), "KLP119", "section .text has functions, and is not loaded"),
    "data not written": (lambda e: setattr(e.section("__bug_table"), "sh_flags", SHF.ALLOC),
                         "KLP119", "section __bug_table is not writable"),
    "relocations of no type": (lambda e: setattr(e.section(".rela.text"), "sh_type", SHT.PROGBITS),
                               "KLP119", "section .rela.text is of type 1: nobody applies it"),
    "a name twice": (lambda e: setattr(e.section(".altinstr_replacement"), "name", "__ex_table"),
                     "KLP119", "there are two sections __ex_table, and one is read"),
    "return twice": (twice, "KLP422", ".return_sites names .text.return+0x0 twice"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_entries(miniature: KernelSide, good: dict[str, bytes], name: str) -> None:
    edit, rule, what = BAD[name]
    assert (rule, masked(what)) in found(miniature, edited(edit)(good["tables"]))


def test_a_label_of_assembly_begins_no_function(
    miniature: KernelSide, good: dict[str, bytes]
) -> None:
    """sha1-ssse3 of 6.1 has some where the stack is in use."""

    def edit(e: Editor) -> None:
        poke(".orc_unwind", 0, 16)(e)
        e.object.symbols[e.symbol("init_module")]["st_info"] = STB.GLOBAL << 4
        e.object.symbols[e.symbol("init_module")]["st_size"] = 0

    assert "KLP428" not in dict(found(miniature, edited(edit)(good["tables"])))


def test_code_goes_on_in_a_cold_part(miniature: KernelSide, good: dict[str, bytes]) -> None:
    """It has the kernel's name where the livepatch's function has one of its own."""

    def edit(e: Editor) -> None:
        names("__ex_table", 1, "init_module")(e)
        e.rename("init_module", "meminfo_proc_show.cold")

    texts = [text for _, text in found(miniature, edited(edit)(good["tables"]))]
    assert [text for text in texts if "which is in" in text] == []


BRANCH = r"""
extern char kernel_key[];
int livepatch_meminfo_proc_show(void *m)
{
    asm goto(".skip 16, 0x90; 1: .byte %(code)s; %(entry)s" : : : : yes);
yes:
    return si_meminfo(m) + klp_si_swapinfo(m);
}
static struct klp_func functions_vmlinux[] = {
    { "meminfo_proc_show", livepatch_meminfo_proc_show }, { }
};
static struct klp_object objects[] = { { .funcs = functions_vmlinux }, { } };
"""
ENTRY = r"""
    .pushsection __jump_table, \"aw\"; .balign 8;
    .long 1b - .; .long %l[yes] - .; .quad kernel_key - .; .popsection
""".replace("\n", "")


@pytest.mark.parametrize(
    ("code", "entry", "said"),
    [
        ("0xeb, 0", False, ""),  # an assembler makes branches short where it can
        ("0xeb, 0", True, ""),
        ("0x74, 0", False, ""),
        ("0xe9, 0, 0, 0, 0", True, ""),
        ("0xe9, 0, 0, 0, 0", False, "jmp"),
        ("0x0f, 0x84, 0, 0, 0, 0", False, "je"),
        ("0xe8, 0, 0, 0, 0", False, "call"),
    ],
)
def test_branches_to_what_follows(
    miniature: KernelSide, tmp_path: Path, code: str, entry: bool, said: str
) -> None:
    """A long one lacks its relocation, if no entry for a static key says that it leads there."""
    text = BRANCH % {"code": code, "entry": ENTRY if entry else ""}
    symbols = {"klp_si_swapinfo": SWAPINFO, **({"kernel_key": KERNEL_KEY} if entry else {})}
    data = make_from(tmp_path, "meminfo", text, symbols, "vmlinux")
    wanted = [f"the instruction {said} refers to itself"] if said else []
    assert [re.sub(" (N|0x[0-9a-f]+)", "", what) for _, what in found(miniature, data)] == wanted


NULL = r"""
int livepatch_meminfo_proc_show(void *m)
{
    asm("mov 0(,%%r12,8), %%rdi" : : "r" (m));
    return si_meminfo(m) + klp_si_swapinfo(m);
}
static struct klp_func functions_vmlinux[] = {
    { "meminfo_proc_show", livepatch_meminfo_proc_show }, { }
};
static struct klp_object objects[] = { { .funcs = functions_vmlinux }, { } };
"""
OF_NULL, OF_A_TABLE = b"\x4b\x8b\x04\xe5\0\0\0\0", b"\x4a\x8b\x04\xe5\0\0\0\x81"


@pytest.mark.parametrize(("shipped", "number"), [(OF_NULL, 0), (OF_A_TABLE, 1), (b"\x90", 1)])
def test_an_index_is_added_to_null_where_the_kernel_does(
    miniature: KernelSide,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    shipped: bytes,
    number: int,
) -> None:
    code = Code("vmlinux", "meminfo_proc_show", 0xFFFFFFFF81000000, shipped + b"\xc3")
    monkeypatch.setattr(Memory, "shipped", lambda *_: code)
    data = make_from(tmp_path, "meminfo", NULL, {"klp_si_swapinfo": SWAPINFO}, "vmlinux")
    said = ("KLP427", "the instruction mov rdi, qword ptr [r12*8] refers to itself")
    assert found(miniature, data).count(said) == number


OWN = r"""
volatile int own[2], behind;
int livepatch_meminfo_proc_show(void *m)
{
    own[1] = 3;
    asm(".pushsection __trace_printk_fmt, \"aw\"; .quad 1f; .popsection;"
        ".pushsection .rodata.str, \"a\"; 1: .asciz \"seen %%d\\n\"; .popsection" : : "r" (m));
    return si_meminfo(m) + klp_si_swapinfo(m);
}
static struct klp_func functions_vmlinux[] = {
    { "meminfo_proc_show", livepatch_meminfo_proc_show }, { }
};
static struct klp_object objects[] = { { .funcs = functions_vmlinux }, { } };
"""


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (0, ""),
        (-4, ""),
        (1, "reaches for .bss+0x5 and over the variable's end"),
        (0x100, "reaches for .bss+0x104 and over the variable's end"),
    ],
)
def test_variables_of_the_module(
    miniature: KernelSide, tmp_path: Path, change: int, said: str
) -> None:
    data = make_from(tmp_path, "meminfo", OWN, {"klp_si_swapinfo": SWAPINFO}, "vmlinux")
    editor = Editor(data)
    own = editor.symbol("own")
    (number,) = np.flatnonzero(editor.rows(".rela.text")["r_sym"] == own)
    made = edited(row(".text", int(number), addend=change))(data)
    assert [re.sub(".*3 rea", "rea", what) for _, what in found(miniature, made)] == (
        [said] if said else []
    )


@pytest.mark.parametrize(
    ("code", "variable", "said"),
    [
        ("incl %%gs:klp_variable(%%rip)", "of_processor", ""),
        ("mov $klp_variable, %%rax", "of_processor", ""),
        ("lea klp_variable(%%rip), %%rax", "of_processor", ""),
        ("incl klp_variable(%%rip)", "kernel_key", ""),
        ("incl klp_variable(%%rip)", "of_processor", "is a per-CPU variable, without gs"),
        ("incl %%gs:klp_variable(%%rip)", "kernel_key", "is no per-CPU variable"),
        ("incl %%gs:klp_variable", "of_processor", ""),
        ("incw %%gs:klp_variable+2(%%rip)", "of_processor", ""),
        ("incq %%gs:klp_variable(%%rip)", "of_processor", "has 4 bytes, and over its end"),
        ("incw %%gs:klp_variable+3(%%rip)", "of_processor", "has 4 bytes, and over its end"),
    ],
)
def test_variables_of_each_processor(
    miniature: KernelSide, tmp_path: Path, code: str, variable: str, said: str
) -> None:
    symbols = {"klp_si_swapinfo": SWAPINFO, "klp_variable": f".klp.sym.vmlinux.{variable},0"}
    code = OWN.replace("own[1] = 3;", f'asm volatile("{code}" : : "r" (m) : "rax");')
    told = [
        what for _, what in found(miniature, make_from(tmp_path, "x", code, symbols, "vmlinux"))
    ]
    assert [re.sub(".* reach for ", "", what) for what in told] == (
        [f"{variable}, which {said}"] if said else []
    )


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (row("__trace_printk_fmt", addend=1), "leads to .rodata.str+0x1, where no text begins"),
        (row("__trace_printk_fmt", r_type=R_NONE), "has no relocation of type R_X86_64_64"),
        (row("__trace_printk_fmt"), ""),
    ],
)
def test_formats_of_trace_printk(
    miniature: KernelSide, tmp_path: Path, edit: Edit, said: str
) -> None:
    data = make_from(tmp_path, "meminfo", OWN, {"klp_si_swapinfo": SWAPINFO}, "vmlinux")
    told = [what for _, what in found(miniature, edited(edit)(data))]
    assert told == ([f"an entry of __trace_printk_fmt {said}"] if said else [])


@pytest.mark.parametrize("symbol", ["", ".type 1f, @object; .size 1f, 9;"])
def test_a_text_behind_a_table_that_does_not_end_in_zero(
    miniature: KernelSide, tmp_path: Path, symbol: str
) -> None:
    """A variable tells where it begins: des3_ede-x86_64 has a parameter's name there."""
    code = OWN.replace("1: .asciz", f".byte 7; {symbol} text: .asciz").replace("1f", "text")
    data = make_from(tmp_path, "x", code, {"klp_si_swapinfo": SWAPINFO}, "vmlinux")
    told = ["an entry of __trace_printk_fmt leads to .rodata.str+0x1, where no text begins"]
    assert [what for _, what in found(miniature, data)] == ([] if symbol else told)


@pytest.mark.parametrize("at", [0x40, 0x48])
def test_code_that_a_test_of_an_index_guards(
    miniature: KernelSide, tmp_path: Path, at: int
) -> None:
    """The module's own code names the first place, too, as kvm_intel's does."""
    code = OWN.replace("own[1] = 3;", f'asm("testb $0, klp_table+{at}(%%rip)" : : "r" (m));')
    symbols = {"klp_si_swapinfo": SWAPINFO, "klp_table": ".klp.sym.button.lid_table,0"}
    data = make_from(tmp_path, "x", code, symbols, "vmlinux")
    beyond = f"test byte ptr [rip], 0 reaches for lid_table+{at:#x}, which has 8 bytes"
    told = [what for rule, what in found(miniature, data) if rule == "KLP423"]
    assert told == [beyond] * (at != 0x40)


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("incl klp_variable(%%rip)", ["inc dword ptr [rip] write si_limit"]),
        ("movb $1, klp_variable+3(%%rip)", ["mov byte ptr [rip], 1 write si_limit"]),
        ("cmpl $1, klp_variable(%%rip)", []),
        ("mov klp_variable(%%rip), %%eax", []),
        ("incl klp_variable-4(%%rip)", []),
    ],
)
def test_variables_that_are_read_only_once_the_kernel_runs(
    miniature: KernelSide, tmp_path: Path, code: str, said: list[str]
) -> None:
    """The last one is what the replaced function does itself: it runs at the start, too."""
    symbols = {"klp_si_swapinfo": SWAPINFO, "klp_variable": ".klp.sym.vmlinux.si_limit,0"}
    code = OWN.replace("own[1] = 3;", f'asm volatile("{code}" : : "r" (m) : "rax");')
    data = make_from(tmp_path, "x", code, symbols, "vmlinux")
    told = [what for rule, what in found(miniature, data) if rule == "KLP427"]
    assert len(told) == len(said) and all(one in what for one, what in zip(said, told, strict=True))


def test_a_section_without_contents(miniature: KernelSide, good: dict[str, bytes]) -> None:
    number = Editor(good["tables"]).number(".rodata.str")
    data = section_header(number, sh_type=int(SHT.NOBITS))(good["tables"])
    assert ("KLP119", "section .rodata.str has no contents") in found(miniature, data)


@pytest.mark.parametrize("name", ["key beside", "key's bits"])
def test_only_the_kernels_code_tells(good: dict[str, bytes], name: str) -> None:
    """Without it another key of an array, or its other state, may be meant."""
    assert found(None, edited(BAD[name][0])(good["tables"])) == []


def test_a_return_that_is_in_no_table(miniature: KernelSide, good: dict[str, bytes]) -> None:
    """Linux 6.9 and later warn when such a function returns."""
    data = edited(shorter(".return_sites", 4))(good["tables"])
    side = KernelSide(replace(miniature.kernel, version=(6, 12, 0)), None)
    missing = ("KLP425", "a jump to __x86_return_thunk is in no entry of .return_sites")
    assert missing in found(side, data)
    assert missing not in found(miniature, data)


def test_a_return_with_a_prefix(miniature: KernelSide, good: dict[str, bytes]) -> None:
    """clang puts one before each (-mindirect-branch-cs-prefix)."""

    def prefixed(e: Editor) -> None:
        code = e.section(".text.return")
        code.data = b"\x2e" + bytes(code.data)
        e.change_row(".rela.text.return", 0, r_offset=2)

    side = KernelSide(replace(miniature.kernel, version=(6, 12, 0)), None)
    data = edited(prefixed)(good["tables"])
    assert found(side, data) == found(side, good["tables"])
    missing = "a jump to __x86_return_thunk is in no entry of .return_sites"
    assert ("KLP425", missing) in found(side, edited(shorter(".return_sites", 4))(data))


@pytest.mark.parametrize("name", [".kcfi_traps", "__kcfi_traps"])
def test_a_trap_of_a_checked_call(miniature: KernelSide, good: dict[str, bytes], name: str) -> None:
    """Its ud2 is in clang's own table, which module.lds.S renames, and not in __bug_table."""

    def renamed(name: str) -> Edit:
        def edit(e: Editor) -> None:
            e.section("__bug_table").name = name

        return edit

    missing = ("KLP425", "a ud2 is in no entry of __bug_table")
    assert missing not in found(miniature, edited(renamed(name))(good["tables"]))
    assert missing in found(miniature, edited(renamed(".other"))(good["tables"]))


def formatted(flags: int, addend: int = 0, text: bytes = b"bad mode: %u\n\0") -> Edit:
    """Give struct bug_entry a format before the file's name, as Linux 6.19 and later have.

    :param addend: is added to where the code is.
    :param text: the format.
    """

    def edit(e: Editor) -> None:
        table, rows = e.section("__bug_table"), e.rows(".rela__bug_table")
        assert rows["r_offset"].tolist() == [0, 4]
        table.data = bytes(12) + struct.pack("<HH", 7, flags)
        rows = rows[[0, 1, 1]]
        rows["r_offset"] = 0, 4, 8
        rows["r_addend"][0] += addend
        rows["r_sym"][1], rows["r_addend"][1] = e.add_data("format", text), 0
        e.set_rows(".rela__bug_table", rows)

    return edit


@pytest.mark.parametrize(
    ("flags", "addend", "said"),
    [
        (0x901, 0, []),
        (0, 0, []),
        (0x911, 2, []),  # BUGFLAG_ARGS: the code goes on from there
        (0x911, 1, ["an entry of __bug_table leads to .text N, where no instruction begins"]),
        (0x901, 2, ["an entry of __bug_table leads to .text N, which is no ud2"]),
        (0x921, 0, ["an entry of __bug_table has the flags 0x921"]),
    ],
)
def test_entries_of_bugs_that_have_a_format(
    miniature: KernelSide, good: dict[str, bytes], flags: int, addend: int, said: list[str]
) -> None:
    side = KernelSide(replace(miniature.kernel, version=(7, 3, 4)), None)
    data = edited(formatted(flags, addend))(good["tables"])
    what = [masked(what) for _, what in found(side, data) if "__bug_table" in what]
    assert [each for each in what if "in no entry" not in each] == [masked(each) for each in said]


@pytest.mark.parametrize(("text", "count"), [(b"\0", 0), (b"\x90\0", 1), (b"%u", 1)])
def test_formats_of_bugs(
    miniature: KernelSide, good: dict[str, bytes], text: bytes, count: int
) -> None:
    side = KernelSide(replace(miniature.kernel, version=(7, 3, 4)), None)
    data = edited(formatted(0x901, text=text))(good["tables"])
    assert sum("where no text begins" in what for _, what in found(side, data)) == count


def alternatives(
    lengths: tuple[int, int] = (5, 3), size: int = 12, at: int = 0, number: int = 2
) -> Edit:
    """Two entries with three bytes of replacement each.

    :param lengths: of the second entry: the bytes replaced, and by how many.
    :param size: of struct alt_instr.
    :param at: where the second entry's replaced code begins.
    :param number: how many bytes of replacements there are for it.
    """

    def edit(e: Editor) -> None:
        replacements = b"\x90" * (3 + number + 1)
        index = e.object.add_section(
            WritableSection(".altinstr_replacement", SHT.PROGBITS, CODE, data=replacements)
        )
        new = e.object.add_symbol("new", bind=STB.GLOBAL, type=STT.FUNC, st_shndx=index)
        old = e.symbol(NEW)
        start = size - (3 if size == 13 else 2)
        data = bytearray(2 * size)
        for entry, pair in enumerate(((5, 3), lengths)):
            struct.pack_into("<BB", data, entry * size + start, *pair)
        table = e.object.add_section(
            WritableSection(".altinstructions", SHT.PROGBITS, SHF.ALLOC, data=bytes(data))
        )
        rows = np.zeros(4, rela_dtype("<"))
        rows["r_offset"] = 0, 4, size, size + 4
        rows["r_sym"], rows["r_type"], rows["r_addend"] = (old, new, old, new), PC32, (0, 0, at, 3)
        e.object.add_relocations(".rela.altinstructions", table, rows, SHF.INFO_LINK)

    return edit


@pytest.mark.parametrize(
    ("size", "version"), [(13, (5, 10, 0)), (12, (6, 1, 0)), (14, (6, 12, 0)), (14, None)]
)
def test_good_alternatives(
    miniature: KernelSide, good: dict[str, bytes], size: int, version: tuple[int, int, int] | None
) -> None:
    """Of kernels before 5.13, since, and since 6.3."""
    kernel = replace(miniature.kernel, version=version or (0, 0, 0))
    side = KernelSide(kernel, None) if version else None
    data = edited(alternatives(size=size))(good["meminfo"])
    assert [what for _, what in found(side, data) if ".altinstructions" in what] == []


BAD_ALTERNATIVES = {
    "longer": (alternatives((3, 5), number=5), "replaces 3 bytes by 5"),
    "too long": (alternatives((255, 3)), "replaces 255 bytes by 3"),
    "past the code": (alternatives((200, 2)), "leads to 200 bytes at .text+0x0, past its end"),
    "inside": (alternatives((4, 2)), "leads to 4 bytes at .text+0x0, which end inside of an"
               " instruction"),
    "past the replacements": (
        alternatives((5, 5)),
        "leads to 5 bytes at .altinstr_replacement+0x3, past its end",
    ),
    "not code": (alternatives(at=0x10000), "leads to .text+0x10000, which is no code"),
    "another struct": (alternatives(size=16), "has no relocation of type R_X86_64_PC32"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_ALTERNATIVES)
def test_bad_alternatives(miniature: KernelSide, good: dict[str, bytes], name: str) -> None:
    edit, what = BAD_ALTERNATIVES[name]
    said = ("KLP422", masked(f"an entry of .altinstructions {what}"))
    assert said in found(miniature, edited(edit)(good["meminfo"]))


def test_stripped_of_local_symbols(miniature: KernelSide, good: dict[str, bytes]) -> None:
    """Where static functions and variables begin, no symbol tells: nothing is made of that."""

    def edit(e: Editor) -> None:
        rows = e.object.symbols
        local = np.isin(rows["st_info"], (STT.FUNC, STT.OBJECT))
        rows["st_info"][local], rows["st_size"][local] = STT.SECTION, 0

    for name in ("tables", "button"):
        assert found(miniature, edited(edit)(good[name])) == []
