"""The objects that a livepatch patches are those of the kernel, or may come later."""

from __future__ import annotations

from pathlib import Path

import pytest

from klpbuild.elf.reader import ElfFile
from klpbuild.errors import KlpError, Problems
from klpbuild.module.old_functions import check_objects, copied_state
from klpbuild.symbols.database import SymbolDatabase
from klpbuild.symbols.write import SymbolSources, write_symbols
from tests.symbols.inputs import V6_1, compile_object, link_vmlinux

KNOWN = ("vmlinux", "button", "ext4")


def unknown(*names: str, builtin: frozenset[str] = frozenset()) -> tuple[str, ...]:
    problems = Problems()
    said = check_objects(dict.fromkeys(names, "livepatch.toml:2"), KNOWN, builtin, problems)
    problems.check()
    return said


def test_objects_of_the_kernel() -> None:
    assert unknown(*KNOWN) == ()


def test_a_module_that_may_come_later() -> None:
    assert unknown("vendor_driver", "vmlinux") == (
        "whether object vendor_driver has what is patched: this kernel has no module of that "
        "name, which may come later (modules= names further ones)",
    )


def test_a_name_that_is_spelt_nearly_like_a_module_s() -> None:
    (said,) = unknown("buton")
    assert said.endswith("which may come later (did you mean button?)")


def test_a_module_that_is_built_in() -> None:
    with pytest.raises(KlpError) as caught:
        unknown("tcp_cubic", builtin=frozenset({"tcp_cubic"}))
    assert str(caught.value) == (
        "livepatch.toml:2: object 'tcp_cubic' is part of vmlinux in this kernel\n"
        "  The livepatch would wait for a module that never comes.\n"
        '  Its functions belong to vmlinux: name = "vmlinux".'
    )


def test_variables_that_the_replaced_function_s_file_has(tmp_path: Path) -> None:
    """Not those of another file, constants, and what is declared only."""
    here = "static int seen, kept; static int show(int n) { return seen += kept += n; }"
    here += "int (*shows)(int) = show; const int step = 4;"
    here += "int next(void) { static int last; return last++; } void (*volatile done)(void);"
    here += "static void end(void) { } void set(void) { done = end; }"
    there = "static int apart; const int limit = 4; int other(int n) { return apart += n; }"
    first = compile_object(tmp_path, "first.c", here)
    vmlinux = link_vmlinux(tmp_path, first, compile_object(tmp_path, "second.c", there))
    symbols = tmp_path / "symbols.klp"
    write_symbols(symbols, SymbolSources(V6_1, (), vmlinux), tmp_path / "cache")
    database = SymbolDatabase.read(symbols)
    own = "static int seen, apart; extern int kept; const int step = 3;"
    own += "int show(int n) { return seen += (apart -= n) + step + kept++; }"
    own += "int more(void) { static int last; return --last; } void *volatile done;"
    own += "static void end(void) { } void set(void) { done = end; }"
    made = ElfFile.read(compile_object(tmp_path, "own.c", own))
    (last,) = (s.name for s in made.symbol_list if s.name.startswith("last."))
    assert set(copied_state(made, database.candidates("show"), database)) == {
        "seen is new, though vmlinux has one in first.c, whose content it does not have:"
        " to use that, declare it extern",
        f"{last} is new, though vmlinux has one in first.c, whose content it does not have:"
        f' to use that, declare it extern ... asm("{last}")',
        "the address of end is handed on, or compared, and vmlinux has its own in first.c:"
        " to use that, declare it extern",
    }
