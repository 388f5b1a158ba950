"""Copies of patched functions in others: found, and counted as another DWARF reader does."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from elftools.dwarf.die import DIE
from elftools.dwarf.lineprogram import LineProgram
from elftools.elf.elffile import ELFFile

from klpbuild.check import catalogue
from klpbuild.check.inlined import Copy, copies
from klpbuild.check.kernelside import KernelSide
from klpbuild.check.module import check_bytes
from klpbuild.check.rule import Finding
from klpbuild.elf.dwarf import Dwarf
from klpbuild.elf.reader import ElfFile
from klpbuild.kernel.tree import Kernel
from tests.check.breaks import INLINED, SWAPINFO
from tests.check.editor import Editor
from tests.check.kernels import MEMINFO_CODE, VMLINUX, make_from
from tests.symbols.inputs import compile_object

HOLDER = "hw_protection_shutdown"


def found(data: bytes, side: KernelSide) -> list[Finding]:
    report = check_bytes(data, "livepatch.ko", side)
    return [f for f in report.findings if f.rule is catalogue.INLINED]


def test_the_callers_are_named(miniature: KernelSide, good: dict[str, bytes]) -> None:
    editor = Editor(good["meminfo"])
    editor.point("functions_vmlinux", 0, INLINED)
    (finding,) = found(editor.data(), miniature)
    line = 1 + VMLINUX.split("\n").index(
        f"int {HOLDER}(int force) {{ return {INLINED}(force) + 2; }}"
    )
    directory = miniature.kernel.build
    assert finding.what.replace(f"{directory}/", "") == (
        f"{INLINED}() is inlined into {HOLDER}() (meminfo.c:{line}), where the old code stays"
    )
    assert finding.hint == f"Patch these functions, too: {HOLDER}."


def test_a_caller_that_is_patched_does_not_count(miniature: KernelSide, tmp_path: Path) -> None:
    both = f'{{ "{INLINED}", livepatch_meminfo_proc_show }}, {{ "{HOLDER}", other }}, {{ }}'
    code = "int other(void *m) { return 3; }" + MEMINFO_CODE.replace(
        '{ "meminfo_proc_show", livepatch_meminfo_proc_show }, { }', both
    )
    assert both in code
    data = make_from(tmp_path, "meminfo", code, {"klp_si_swapinfo": SWAPINFO}, "vmlinux")
    assert found(data, miniature) == []


def test_a_caller_that_a_patch_changes_has_nothing_of_a_c_file(
    miniature: KernelSide, tmp_path: Path
) -> None:
    """One livepatch of both kinds: what the patch changes is compiled from the kernel's source."""
    both = f'{{ "{INLINED}", livepatch_meminfo_proc_show }}, {{ "{HOLDER}", other }}, {{ }}'
    named = f'int other(void *m) asm("{HOLDER}.livepatch0"); int other(void *m) {{ return 3; }}'
    code = named + MEMINFO_CODE.replace(
        '{ "meminfo_proc_show", livepatch_meminfo_proc_show }, { }', both
    )
    data = make_from(tmp_path, "meminfo", code, {"klp_si_swapinfo": SWAPINFO}, "vmlinux")
    (finding,) = found(data, miniature)
    assert finding.what.startswith(f"{INLINED}() is inlined into {HOLDER}() (")


def test_without_debug_information_it_is_not_checked(
    miniature: KernelSide, good: dict[str, bytes]
) -> None:
    kernel = replace(miniature.kernel, vmlinux=None)
    side = KernelSide(kernel, miniature.kernel.build / "symbols.klp")
    report = check_bytes(good["meminfo"], "livepatch.ko", side)
    (unchecked,) = [u for u in report.unchecked if u.rule is catalogue.INLINED]
    assert (unchecked.about, unchecked.why) == (
        "vmlinux",
        "the kernel's debug information is not at hand",
    )


SOURCE = """
int work(int v);
static inline __attribute__((always_inline)) int inner(int v) { return work(v) + 1; }
int outer(int v) { return inner(v) + 2; }
int user(int v) {
    extern int declared(int);
    return outer(v) + declared(v);
}
static int twice(int v) { return inner(v) * 2; }
int (*pointer)(int) = twice;
int caller(int v) { return twice(v) + work(twice(v)); }
"""


@pytest.mark.parametrize("version", [4, 5])
def test_both_versions_of_dwarf(tmp_path: Path, version: int) -> None:
    path = compile_object(tmp_path, "some.c", SOURCE, "-O2", f"-gdwarf-{version}")
    assert set(every_copy(path)) == set(judged(path))
    calls = {(copy.holder, copy.call.rpartition(":")[2]) for _, copy in every_copy(path)}
    assert {("caller", "11"), ("user", "7")} == calls


def every_copy(path: Path) -> list[tuple[str, Copy]]:
    """Each function that has an address with its copies."""
    elf = ElfFile.read(path)
    dwarf = Dwarf(elf)
    every = []
    for symbol in elf.symbol_list:
        if symbol.is_function and symbol.is_defined:
            unit = dwarf.unit_at(symbol.st_value, symbol.st_shndx)
            if unit is not None:
                some = copies(unit, symbol.name, symbol.st_value)
                every += [(symbol.name.split(".")[0], copy) for copy in some]
    return every


def judged(path: Path) -> list[tuple[str, Copy]]:
    """The same from pyelftools."""
    every = []
    with path.open("rb") as file:
        dwarf = ELFFile(file).get_dwarf_info()
        for unit in dwarf.iter_CUs():
            files = file_names(dwarf.line_program_for_CU(unit), unit["version"])
            copied = [d for d in unit.iter_DIEs() if d.tag == "DW_TAG_inlined_subroutine"]
            for die in unit.iter_DIEs():
                if die.tag == "DW_TAG_subprogram" and "DW_AT_low_pc" in die.attributes:
                    every += [
                        (name_of(die), Copy(name_of(holder), start_of(holder), call(d, files)))
                        for d in copied
                        if root(d).offset == root(die).offset and has_code(d)
                        for holder in [holder_of(d)]
                        if root(holder).offset != root(die).offset
                    ]
    return every


def file_names(program: LineProgram, version: int) -> list[str]:
    header = program.header
    directories = [d.decode() for d in header["include_directory"]]
    if version == 4:
        directories.insert(0, "")
    names = [] if version == 5 else [""]
    for entry in header["file_entry"]:
        name, number = entry.name.decode(), entry.dir_index
        plain = name.startswith("/") or not number
        names.append(name if plain else f"{directories[number]}/{name}")
    return names


def root(die: DIE) -> DIE:
    for attribute in ("DW_AT_abstract_origin", "DW_AT_specification"):
        if attribute in die.attributes:
            return root(die.get_DIE_from_attribute(attribute))
    return die


def name_of(die: DIE) -> str:
    name: bytes = root(die).attributes["DW_AT_name"].value
    return name.decode()


def start_of(die: DIE) -> int | None:
    low = die.attributes.get("DW_AT_low_pc")
    return None if low is None else int(low.value)


def has_code(die: DIE) -> bool:
    return bool({"DW_AT_low_pc", "DW_AT_ranges"} & set(die.attributes))


def holder_of(die: DIE) -> DIE:
    parent = die.get_parent()
    assert parent is not None
    return parent if parent.tag == "DW_TAG_subprogram" else holder_of(parent)


def call(die: DIE, files: list[str]) -> str:
    number = die.attributes["DW_AT_call_file"].value
    return f"{files[number]}:{die.attributes['DW_AT_call_line'].value}"


@pytest.mark.kernel
def test_a_module_of_debian(debian_debug_kernel: Kernel) -> None:
    directory = debian_debug_kernel.debug_modules
    assert directory is not None
    path = directory / "kernel/drivers/acpi/button.ko"
    mine = set(every_copy(path))
    assert mine
    assert mine == set(judged(path))


@pytest.mark.kernel
def test_a_function_of_vmlinux(debian_debug_kernel: Kernel) -> None:
    vmlinux = debian_debug_kernel.vmlinux
    assert vmlinux is not None
    elf = ElfFile.read(vmlinux)
    symbol = next(s for s in elf.symbol_list if s.name == INLINED)
    unit = Dwarf(elf).unit_at(symbol.st_value)
    assert unit is not None
    (copy,) = copies(unit, INLINED, symbol.st_value)
    assert copy.holder == HOLDER
    assert copy.call.startswith("kernel/reboot.c:")
