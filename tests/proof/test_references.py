"""Names of undefined symbols, before and after the link."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from klpbuild.elf.reader import ElfFile
from klpbuild.proof.references import LateNames, name_references, rename_undefined
from klpbuild.resolve.fate import Decision, Fate, LivepatchSymbol, Reference

SOURCE = "void a(void); void b(void); void c(void); void run(void) { a(); b(); c(); }\n"


def compiled(tmp_path: Path) -> ElfFile:
    source = tmp_path / "x.c"
    source.write_text(SOURCE)
    subprocess.run(["gcc", "-c", "-fno-pic", "-o", tmp_path / "x.o", source], check=True)
    return ElfFile.read(tmp_path / "x.o")


def names(elf: ElfFile) -> set[str]:
    return {s.name for s in elf.symbol_list if s.name and s.st_shndx == 0}


def decision(symbol: str, position: int = 0) -> Decision:
    target = LivepatchSymbol("vmlinux", symbol, position)
    return Decision(Reference(symbol, "x.o"), Fate.LIVEPATCH, "", "vmlinux", target)


def test_names_that_wait_for_objtool(tmp_path: Path) -> None:
    """Those that another object uses for something else, or that are exported, cannot."""
    plain = compiled(tmp_path)
    late = LateNames(lambda name: name == "b")
    first = {"a": decision("a"), "b": decision("b")}
    name_references(plain, first, late).write(tmp_path / "1.o")
    assert names(ElfFile.read(tmp_path / "1.o")) == {"a", ".klp.sym.rela.vmlinux.vmlinux.b,0", "c"}
    second = {"a": decision("a", 2), "b": decision("b"), "c": decision("c")}
    name_references(plain, second, late).write(tmp_path / "2.o")
    assert names(ElfFile.read(tmp_path / "2.o")) == {
        ".klp.sym.rela.vmlinux.vmlinux.a,2",
        ".klp.sym.rela.vmlinux.vmlinux.b,0",
        "c",
    }
    rename_undefined(ElfFile.read(tmp_path / "1.o"), late.names).write(tmp_path / "3.o")
    assert names(ElfFile.read(tmp_path / "3.o")) == {
        ".klp.sym.rela.vmlinux.vmlinux.a,0",
        ".klp.sym.rela.vmlinux.vmlinux.b,0",
        ".klp.sym.rela.vmlinux.vmlinux.c,0",
    }


def test_a_name_that_the_link_bound_is_not_lost(tmp_path: Path) -> None:
    compiled(tmp_path)
    with pytest.raises(ValueError, match=r"defines \['run'\]"):
        rename_undefined(ElfFile.read(tmp_path / "x.o"), {"run": "other"})
