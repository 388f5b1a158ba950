"""What is said of damage that the kernel does not look for, or has no words for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from klpbuild.check.kernelside import KernelSide
from klpbuild.check.module import check_bytes
from klpbuild.check.rule import Effect
from klpbuild.elf.constants import SHF, SHT
from tests.check.breaks import BREAKS
from tests.check.editor import R_NONE, Edit, Editor, edited, section_header
from tests.check.test_check import newer

WORDS = {
    "KLP112": "the name of section 1 is not in the table of section names",
    "KLP114": "has more than one section .modinfo",
    "KLP115": "says that it is of ELF class 1 and byte order 1",
    "KLP116": "struct module has no init_module()",
    "KLP117": "struct module has no cleanup_module()",
    "KLP211": "section .text is writable and executable",
    "KLP212": "its signature has 2,130,706,432 bytes, more than there are",
    "KLP422": "an entry of .return_sites leads to .text.return+0x1, where no instruction begins",
    "KLP423": "a call leads to si_swapinfo and +0x5 bytes",
    "KLP513": "a table of the livepatch has the number 0x2e",
}


@pytest.mark.parametrize("rule", WORDS)
def test_what_is_said(miniature: KernelSide, good: dict[str, bytes], rule: str) -> None:
    (broken,) = [each for each in BREAKS if each.rule == rule]
    side = newer(miniature) if rule == "KLP114" else miniature
    report = check_bytes(broken.change(good[broken.base]), "livepatch.ko", side)
    assert WORDS[rule] in [f.what for f in report.findings if f.rule.identifier == rule]


@pytest.mark.parametrize(
    ("version", "said"),
    [((6, 12, 0), "is not marked as a livepatch symbol"), ((7, 3, 4), "at rela sec")],
)
def test_the_words_are_those_of_the_kernel(
    miniature: KernelSide, good: dict[str, bytes], version: tuple[int, int, int], said: str
) -> None:
    (broken,) = [each for each in BREAKS if each.rule == "KLP402"]
    side = KernelSide(replace(miniature.kernel, version=version), None)
    report = check_bytes(broken.change(good[broken.base]), "livepatch.ko", side)
    assert report.refused is not None
    assert report.refused.says == f"symbol .klp.sym.vmlinux.si_swapinfo,0 {said}"


MODULE = ".rela.gnu.linkonce.this_module"


def _row(section: str, symbol: str, **fields: int) -> Edit:
    """Change the relocation that names a symbol."""

    def edit(e: Editor) -> None:
        (number,) = np.flatnonzero(e.rows(section)["r_sym"] == e.symbol(symbol)).tolist()
        e.change_row(section, number, **fields)

    return edit


def _field(variable: str, offset: int, **fields: int) -> Edit:
    """Change the relocation that a variable has at an offset."""
    return lambda e: e.change_row(".rela.data", e.row_at(".rela.data", variable, offset), **fields)


def _poke(section: str, offset: int, data: bytes) -> Edit:
    return lambda e: e.poke(section, offset, data)


def _shifted(e: Editor) -> None:
    """The address of the array of functions stands where the object's name belongs."""
    start = int(e.object.symbols[e.symbol("objects")]["st_value"])
    _field("objects", 8, r_offset=start)(e)


def _align(e: Editor) -> None:
    e.section(".text").sh_addralign = 24


def _align_far(e: Editor) -> None:
    e.section(".text").sh_addralign = 1 << 31


def _flagged(section: str) -> Edit:
    def edit(e: Editor) -> None:
        e.section(section).sh_flags |= SHF.RELA_LIVEPATCH

    return edit


#: What is done, the rule, what the kernel does, and what is said.
DAMAGE: tuple[tuple[Edit, str, Effect, str], ...] = (
    (_row(MODULE, "init_module", r_addend=3), "KLP116", Effect.UNFORESEEN,
     "struct module leads to no function's beginning instead of init_module()"),
    (_row(MODULE, "cleanup_module", r_type=2), "KLP116", Effect.UNFORESEEN,
     "struct module has no whole address of cleanup_module()"),
    (_row(MODULE, "cleanup_module", r_offset=0x54), "KLP116", Effect.UNFORESEEN,
     "struct module has an address at 0x54, where none belongs"),
    (_poke(".gnu.linkonce.this_module", 200, b"x"), "KLP116", Effect.UNFORESEEN,
     "struct module is not zero at 0xc8"),
    (_poke(".gnu.linkonce.this_module", 24, b"x" * 56), "KLP116", Effect.UNFORESEEN,
     "struct module has no name of less than 56 bytes"),
    (_field("patch", 0, r_type=R_NONE), "KLP503", Effect.REFUSED, "struct klp_patch has no mod"),
    (_field("patch", 8, r_type=R_NONE), "KLP503", Effect.REFUSED, "struct klp_patch has no objs"),
    (_field("patch", 8, r_type=11), "KLP513", Effect.UNFORESEEN,
     "a table of the livepatch has a relocation of type 11"),
    (_field("functions_vmlinux", 8, r_addend=3), "KLP513", Effect.UNFORESEEN,
     "new_func of meminfo_proc_show is not the beginning of a function"),
    (_field("patch", 8, r_addend=(1 << 63) - 1), "KLP513", Effect.UNFORESEEN,
     "a table of the livepatch has an address that is no table's"),
    (_shifted, "KLP503", Effect.REFUSED, "vmlinux has no array of functions"),
    (_field("objects", 8, r_addend=4), "KLP513", Effect.UNFORESEEN,
     "a table of the livepatch has an address that is no table's"),
    (_align, "KLP118", Effect.ACCEPTED, "section .text has an alignment of 0x18"),
    (_align_far, "KLP110", Effect.UNFORESEEN, "section .text has an alignment of 0x80000000"),
    (_flagged(".data"), "KLP118", Effect.ACCEPTED, "section 3 is called '.data'"),
    (lambda e: e.change_row(".rela.return_sites", 0, r_type=R_NONE), "KLP422", Effect.UNFORESEEN,
     "an entry of .return_sites has no relocation of type R_X86_64_PC32"),
    (lambda e: e.change_row(".rela.text", 1, r_sym=e.symbol("livepatch-meminfo.c")), "KLP110",
     Effect.UNFORESEEN, ".rela.text leads to livepatch-meminfo.c, the name of a source file"),
)  # fmt: skip


@pytest.mark.parametrize(("edit", "rule", "effect", "what"), DAMAGE)
def test_damage(
    miniature: KernelSide,
    good: dict[str, bytes],
    edit: Callable[[Editor], None],
    rule: str,
    effect: Effect,
    what: str,
) -> None:
    report = check_bytes(edited(edit)(good["meminfo"]), "livepatch.ko", miniature)
    found = {(f.rule.identifier, f.effect, f.what) for f in report.findings}
    assert (rule, effect, what) in found
    if effect is Effect.UNFORESEEN:
        assert report.would_load is None
        assert report.summary.startswith("nobody can say what Linux 6.1.0-miniature would do")


def test_a_section_that_ends_before_its_symbols(
    miniature: KernelSide, good: dict[str, bytes]
) -> None:
    """What stands behind it in memory is taken for their content."""

    def cut(e: Editor) -> None:
        section = e.section(".data")
        ends.append(len(section.data))
        section.data = section.data[:8]

    ends: list[int] = []
    report = check_bytes(edited(cut)(good["meminfo"]), "livepatch.ko", miniature)
    found = {f.what for f in report.findings if f.rule.identifier == "KLP119"}
    assert f"section .data of 8 bytes has a symbol up to {ends[0]:#x}" in found
    assert report.would_load is None


@pytest.mark.parametrize(
    ("section", "field", "value", "what"),
    [
        (".rela.text", "sh_link", 1, "sh_link 0x"),
        (".rela.text", "sh_link", 99, "sh_link 0x"),
        (".rela.data", "sh_entsize", 7, "sh_entsize 0x"),
        (".klp.rela.vmlinux.text", "sh_entsize", 7, "sh_entsize 0x"),
        (".return_sites", "sh_type", 0x7000, "sh_type 0x"),
        (".symtab", "sh_entsize", 5, "sh_entsize 0x"),
    ],
)
def test_what_the_kernel_does_not_read(
    miniature: KernelSide, good: dict[str, bytes], section: str, field: str, value: int, what: str
) -> None:
    """Other programs do: a warning, and the rest of the file is checked."""
    number = Editor(good["meminfo"]).number(section)
    data = section_header(number, **{field: value})(good["meminfo"])
    report = check_bytes(data, "livepatch.ko", miniature)
    assert [f.rule.identifier for f in report.findings] == ["KLP118"]
    assert f"section {number} has {what}" in report.findings[0].what
    assert report.would_load


def test_the_kernel_passes_over_half_a_record(
    miniature: KernelSide, good: dict[str, bytes]
) -> None:
    editor = Editor(good["meminfo"])
    number = editor.number(".rela.data")
    size = len(editor.section(".rela.data").data) - 8
    data = section_header(number, sh_size=size)(good["meminfo"])
    report = check_bytes(data, "livepatch.ko", miniature)
    found = [f.what for f in report.findings if f.rule.identifier == "KLP110"]
    assert f"section {number} ends in half a record" in found


@pytest.mark.parametrize("type_", [14, 15])
def test_arrays_of_constructors_are_what_compilers_write(
    miniature: KernelSide, good: dict[str, bytes], type_: int
) -> None:
    number = Editor(good["meminfo"]).number(".comment")
    data = section_header(number, sh_type=type_)(good["meminfo"])
    assert check_bytes(data, "livepatch.ko", miniature).findings == ()


@pytest.mark.parametrize(
    ("variable", "offset", "harmless"),
    [("patch", 0xB8, True), ("patch", 80, False), ("objects", 64, True), ("objects", 160, False),
     ("functions_vmlinux", 125, True), ("functions_vmlinux", 144, False)],
)  # fmt: skip
def test_what_the_kernel_writes_over(
    miniature: KernelSide, good: dict[str, bytes], variable: str, offset: int, harmless: bool
) -> None:
    """Lists and locks are made anew; a kobject's name, `dynamic` and `nop` are read."""

    def edit(e: Editor) -> None:
        start = int(e.object.symbols[e.symbol(variable)]["st_value"])
        e.poke(".data", start + offset, b"\1")

    report = check_bytes(edited(edit)(good["meminfo"]), "livepatch.ko", miniature)
    wanted = "KLP426" if harmless else "KLP513"
    assert [f.rule.identifier for f in report.findings] == [wanted]


def test_the_names_of_symbols_are_loaded(miniature: KernelSide, good: dict[str, bytes]) -> None:
    def edit(e: Editor) -> None:
        e.section(".text").name = ".strtab"

    report = check_bytes(edited(edit)(good["meminfo"]), "livepatch.ko", miniature)
    (found,) = [f for f in report.findings if f.rule.identifier == "KLP120"]
    assert (found.what, found.effect) == (
        "there are two sections .strtab in memory",
        Effect.WARNED,
    )


def test_the_kernel_reads_modinfo_without_asking_for_its_type(
    miniature: KernelSide, good: dict[str, bytes]
) -> None:
    number = Editor(good["meminfo"]).number(".modinfo")
    data = section_header(number, sh_type=int(SHT.NOBITS))(good["meminfo"])
    report = check_bytes(data, "livepatch.ko", miniature)
    assert {f.rule.identifier for f in report.findings} <= {"KLP118", "KLP119"}


def test_the_kernel_reads_a_text_to_its_end(miniature: KernelSide, good: dict[str, bytes]) -> None:
    """Also where the section ends before."""
    editor = Editor(good["meminfo"])
    section = editor.section(".modinfo")
    shorter = section_header(editor.number(".modinfo"), sh_size=len(section.data) - 4)
    report = check_bytes(shorter(good["meminfo"]), "livepatch.ko", miniature)
    assert report.findings == ()
