"""The reader against pyelftools, an independent reader, and against broken files."""

from __future__ import annotations

import io
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from elftools.elf.elffile import ELFFile
from elftools.elf.enums import ENUM_SH_TYPE_AMD64
from elftools.elf.relocation import RelocationSection

from klpbuild.elf.constants import EM, SHN_XINDEX, SHT
from klpbuild.elf.reader import ElfFile
from klpbuild.elf.tables import distinct, ehdr_dtype, rela_dtype, section_dtype, symbol_dtype
from klpbuild.errors import KlpError

from .inputs import FLAGS, compile_object, small_object

FIELDS = ("sh_flags", "sh_addr", "sh_offset", "sh_size", "sh_link", "sh_info", "sh_addralign")


def same_as_pyelftools(elf: ElfFile) -> None:
    """Every section, symbol and relocation, in order."""
    other = ELFFile(io.BytesIO(bytes(elf.data)))
    assert other.num_sections() == len(elf.sections)
    for ours, theirs in zip(elf.sections, other.iter_sections(), strict=True):
        header = theirs.header
        assert ours.name == theirs.name
        assert ours.sh_type == ENUM_SH_TYPE_AMD64.get(header["sh_type"], header["sh_type"])
        assert [getattr(ours, field) for field in FIELDS] == [header[field] for field in FIELDS]
        assert ours.sh_entsize == header["sh_entsize"]
        if ours.sh_type not in (SHT.NULL, SHT.NOBITS):
            assert bytes(elf.contents(ours)) == theirs.data()
        if isinstance(theirs, RelocationSection):
            assert [tuple(row) for row in elf.relocations(ours)[
                ["r_offset", "r_sym", "r_type", "r_addend"]
            ].tolist()] == [
                (r["r_offset"], r["r_info_sym"], r["r_info_type"], r["r_addend"])
                for r in theirs.iter_relocations()
            ]  # fmt: skip
    others = other.get_section_by_name(".symtab").iter_symbols()
    for symbol, entry in zip(elf.symbol_list, others, strict=True):
        # pyelftools names a section symbol after its section.
        assert entry["st_info"]["type"] == "STT_SECTION" or symbol.name == entry.name
        assert (symbol.st_value, symbol.st_size) == (entry["st_value"], entry["st_size"])
        words = {"SHN_UNDEF": 0, "SHN_ABS": 0xFFF1, "SHN_COMMON": 0xFFF2}
        assert symbol.st_shndx == words.get(entry["st_shndx"], entry["st_shndx"])
        binding = {"STB_LOCAL": 0, "STB_GLOBAL": 1, "STB_WEAK": 2}
        assert symbol.bind == binding[entry["st_info"]["bind"]]


@pytest.mark.parametrize("kind", FLAGS)
def test_reads_what_pyelftools_reads(kind: str, tmp_path: Path) -> None:
    elf = ElfFile.read(compile_object(tmp_path, kind))
    assert elf.relocation_sections
    same_as_pyelftools(elf)


@pytest.mark.parametrize(("order", "machine"), [("<", EM.X86_64), (">", EM.S390), ("<", EM.RISCV)])
def test_reads_both_byte_orders(order: str, machine: int) -> None:
    elf = ElfFile(small_object(order, machine).to_bytes(), "small.o")
    assert (elf.order, elf.e_machine) == (order, machine)
    same_as_pyelftools(elf)
    (rela,) = elf.relocation_sections
    rows = elf.relocations(rela)
    assert rows["r_addend"].tolist() == [-(2**40), -4]
    names = ("r_offset", "r_type", "r_sym", "r_addend")
    assert rows.tolist() == [tuple(row[name] for name in names) for row in rows], "in either order"
    assert elf.symbol(4).name == "elsewhere"
    assert not elf.symbol(4).is_defined


def test_sections_of_one_name_are_told_apart_by_index(tmp_path: Path) -> None:
    elf = ElfFile.read(compile_object(tmp_path, "groups"))
    groups = [s for s in elf.sections if s.sh_type == SHT.GROUP]
    assert len(groups) == 1
    small = small_object()
    small.add_section(small.sections[4])
    twice = ElfFile(small.to_bytes(), "twice.o")
    assert [s.index for s in twice.sections if s.name == ".text"] == [4, 7]
    first = twice.section(".text")
    assert first is not None
    assert first.index == 4


def broken(change: Callable[[ElfFile, bytearray], object]) -> str:
    """What the user reads after `change` damaged a small object."""
    data = bytearray(small_object().to_bytes())
    change(ElfFile(bytes(data), "small.o"), data)
    elf = ElfFile(bytes(data), "small.o")
    elf.symbol_list  # noqa: B018
    for section in elf.relocation_sections:
        elf.relocations(section)
    raise AssertionError("the damage was not noticed")


def put_header(field: str, value: int) -> Callable[[ElfFile, bytearray], object]:
    def change(elf: ElfFile, data: bytearray) -> None:
        np.frombuffer(data, ehdr_dtype(elf.order), 1)[field] = value

    return change


def put_section(index: int, field: str, value: int) -> Callable[[ElfFile, bytearray], object]:
    def change(elf: ElfFile, data: bytearray) -> None:
        offset = int(elf.header["e_shoff"])
        np.frombuffer(data, section_dtype(elf.order), 7, offset)[field][index] = value

    return change


def put_symbol(index: int, field: str, value: int) -> Callable[[ElfFile, bytearray], object]:
    def change(elf: ElfFile, data: bytearray) -> None:
        table = elf.sections[1]
        np.frombuffer(data, symbol_dtype(elf.order), 5, table.sh_offset)[field][index] = value

    return change


def put_relocation(index: int, field: str, value: int) -> Callable[[ElfFile, bytearray], object]:
    def change(elf: ElfFile, data: bytearray) -> None:
        table = elf.sections[6]
        np.frombuffer(data, rela_dtype(elf.order), 2, table.sh_offset)[field][index] = value

    return change


def put_last_byte(section: int, value: int) -> Callable[[ElfFile, bytearray], object]:
    def change(elf: ElfFile, data: bytearray) -> None:
        data[elf.sections[section].sh_offset + elf.sections[section].sh_size - 1] = value

    return change


def no_magic(elf: ElfFile, data: bytearray) -> None:
    data[1] = 0


def cut(elf: ElfFile, data: bytearray) -> None:
    del data[-1:]


def long_name(elf: ElfFile, data: bytearray) -> None:
    data += b"\0" + b"x" * 5000 + b"\0"
    put_section(2, "sh_offset", len(data) - 5002)(elf, data)
    put_section(2, "sh_size", 5002)(elf, data)


# Sections: 1 .symtab, 2 .strtab, 3 .shstrtab, 4 .text, 5 .bss, 6 .rela.text
DAMAGE = {
    "not ELF": (no_magic, "is not an ELF file"),
    "wrong header size": (put_header("e_shentsize", 40), "has section headers of a wrong size"),
    "headers past the end": (
        put_header("e_shoff", 2**63), "is truncated: its section headers are missing"),
    "half of the last header": (cut, "is truncated: its section headers are missing"),
    "too many sections": (
        put_header("e_shnum", 60000), "is truncated: its section headers are missing"),
    "huge count in the null section": (
        lambda e, d: (put_header("e_shnum", 0)(e, d), put_section(0, "sh_size", 2**60)(e, d)),
        "is truncated: its section headers are missing"),
    "no count at all": (put_header("e_shnum", 0), "does not begin with the null section"),
    "no null section": (put_section(0, "sh_type", 1), "does not begin with the null section"),
    "huge size": (put_section(4, "sh_size", 2**63), "is truncated: section 4 ends past its end"),
    "size that wraps": (
        put_section(4, "sh_size", 2**64 - 64), "is truncated: section 4 ends past its end"),
    "offset past the end": (
        put_section(4, "sh_offset", 10**6), "is truncated: section 4 ends past its end"),
    "link past the end": (
        put_section(4, "sh_link", 7), "section 4 names a section that is not there"),
    "names of sections past the end": (
        put_header("e_shstrndx", 7), "names a section name table that it does not have"),
    "names of sections in code": (
        put_header("e_shstrndx", 4), "has a name that is not in its string table"),
    "section name past the end": (
        put_section(4, "sh_name", 5000), "has a name that is not in its string table"),
    "names that do not end": (
        put_last_byte(3, 65), "has a string table that does not begin and end with a zero byte"),
    "symbols without names": (put_section(1, "sh_link", 4), "has a symbol table without names"),
    "symbols that name themselves": (
        put_section(1, "sh_link", 1), "has a symbol table without names"),
    "symbol size": (put_section(1, "sh_entsize", 16), "has symbols of a wrong size"),
    "half a symbol": (put_section(1, "sh_size", 100), "has symbols of a wrong size"),
    "symbol name past the end": (
        put_symbol(3, "st_name", 2**32 - 1), "has a name that is not in its string table"),
    "symbol name just past the end": (
        put_symbol(3, "st_name", 23), "has a name that is not in its string table"),
    "symbol names that do not end": (
        put_last_byte(2, 65), "has a string table that does not begin and end with a zero byte"),
    "a very long name": (long_name, "has a name of more than 4,096 bytes"),
    "symbol in no section": (
        put_symbol(2, "st_shndx", 7), "symbol 2 is in section 7, which is not there"),
    "symbol in the missing index table": (
        put_symbol(2, "st_shndx", SHN_XINDEX), "symbol 2 is in section 65535, which is not there"),
    "relocations for nothing": (
        put_section(6, "sh_info", 0), "section 6 holds relocations for section 0"),
    "relocations for a missing section": (
        put_section(6, "sh_info", 99), "section 6 holds relocations for section 99"),
    "relocations for themselves": (
        put_section(6, "sh_info", 6), "section 6 holds relocations for section 6"),
    "relocations with other symbols": (
        put_section(6, "sh_link", 4), "section 6 (.rela.text) does not use the symbol table"),
    "half a relocation": (
        put_section(6, "sh_size", 40), "section 6 (.rela.text) ends in half a record"),
    "relocation of a missing symbol": (
        put_relocation(1, "r_sym", 5), "section 6 (.rela.text) names symbol 5, and there are 5"),
    "relocation past the section": (
        put_relocation(0, "r_offset", 33),
        "section 6 (.rela.text) changes offset 0x21 of a section of 0x20 bytes"),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_has_its_message(damage: str) -> None:
    change, message = DAMAGE[damage]
    with pytest.raises(KlpError) as caught:
        broken(change)
    assert str(caught.value) == f"small.o: {message}\n  Build or fetch the file again."


def test_other_kinds_of_file() -> None:
    with pytest.raises(KlpError) as caught:
        ElfFile(b"\x7fELF\x01\x01\x01" + bytes(57), "old.o")
    assert str(caught.value) == (
        "old.o: is not a 64-bit ELF file\n  Every architecture with livepatch has 64-bit objects."
    )
    with pytest.raises(KlpError) as caught:
        ElfFile(b"#!/bin/sh\n", "script")
    assert str(caught.value) == "script: is not an ELF file\n  Build or fetch the file again."


@pytest.mark.parametrize("magic", [b"BC\xc0\xde", b"\xde\xc0\x17\x0b"])
def test_bitcode_is_named(magic: bytes) -> None:
    with pytest.raises(KlpError) as caught:
        ElfFile(magic + bytes(60), "a.o")
    assert str(caught.value) == (
        "a.o: is LLVM's bitcode and no ELF file\n"
        "  What it becomes is known when it is linked.\n"
        "  Compile it without -flto."
    )


def test_relocations_without_addends_are_refused() -> None:
    small = small_object()
    small.sections[6].sh_type, small.sections[6].sh_entsize = SHT.REL, 16
    elf = ElfFile(small.to_bytes(), "small.o")
    with pytest.raises(KlpError) as caught:
        elf.relocations(elf.sections[6])
    assert str(caught.value) == (
        "small.o: section 6 (.rela.text) does not hold relocations with addends\n"
        "  Livepatch works with SHT_RELA only."
    )


def test_an_index_table_of_sections_is_refused() -> None:
    small = small_object()
    small.sections[4].sh_type = SHT.SYMTAB_SHNDX
    elf = ElfFile(small.to_bytes(), "big.o")
    with pytest.raises(KlpError) as caught:
        elf.symbols  # noqa: B018
    assert str(caught.value) == "big.o: has more than 65,279 sections"


@pytest.mark.parametrize("index", [5, -1, 2**40])
def test_a_symbol_that_is_not_there(index: int) -> None:
    elf = ElfFile(small_object().to_bytes(), "small.o")
    for read in (elf.symbol, elf.symbol_name):
        with pytest.raises(KlpError) as caught:
            read(index)
        assert str(caught.value) == (
            f"small.o: names symbol {index}, and has 5\n  Build or fetch the file again."
        )


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    empty = tmp_path / "empty.o"
    empty.touch()
    os.mkfifo(tmp_path / "pipe.o")
    for path, message in (
        (empty, "is empty"),
        (tmp_path / "absent.o", "cannot be read: No such file or directory"),
        (tmp_path, "is not a file"),
        (tmp_path / "pipe.o", "is not a file"),
    ):
        with pytest.raises(KlpError) as caught:
            ElfFile.read(path)
        assert str(caught.value) == f"{path}: {message}"


def test_a_file_without_sections_has_no_symbols() -> None:
    data = bytearray(small_object().to_bytes())
    put_header("e_shoff", 0)(ElfFile(bytes(data), "bare"), data)
    elf = ElfFile(bytes(data), "bare")
    assert (elf.sections, elf.symtab, len(elf.symbols), elf.strtab) == ((), None, 0, b"")


def test_symbols_are_found_by_name(tmp_path: Path) -> None:
    source = "int end; int backend = 1; static int f(void) { return 1; } int (*g)(void) = f;"
    path = tmp_path / "names.o"
    command = ["gcc", "-c", "-x", "c", "-o", str(path), "-"]
    subprocess.run(command, input=source.encode(), check=True, capture_output=True)
    elf = ElfFile.read(path)
    for name in ("end", "backend", "f", "g") * 100:  # after some there is a list
        expected = [s.index for s in elf.symbol_list if s.name == name]
        assert elf.symbols_named(name).tolist() == expected != []
    both = elf.symbols_named("g", "end", "missing").tolist()
    assert both == sorted(s.index for s in elf.symbol_list if s.name in ("g", "end"))


def test_numbers_are_told_apart() -> None:
    numbers = np.array([3, 1, 2**64 - 1, 3, 1], np.uint64)
    assert distinct(numbers).tolist() == [1, 3, 2**64 - 1]
    assert distinct(numbers[:0]).tolist() == []
