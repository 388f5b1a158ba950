"""Functions whose landing place for indirect calls the kernel removes."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from klpbuild.elf.reader import ElfFile
from klpbuild.extract.landing import no_landing, sealed_places
from klpbuild.resolve.fate import Place

SOURCE = """
.text
nop
first: endbr64; ret
second: endbr64; ret
.section .text.more, "ax"
third: endbr64; ret
.section .ibt_endbr_seal, "a"
.long first - .
.long third - .
"""


@pytest.mark.parametrize("linked", [False, True])
def test_they_are_read_from_the_shipped_file(tmp_path: Path, linked: bool) -> None:
    subprocess.run(["as", "-o", tmp_path / "x.o", "-"], input=SOURCE.encode(), check=True)
    if not linked:
        found = sealed_places(ElfFile.read(tmp_path / "x.o"))
        assert found == {Place(".text", 1), Place(".text.more", 0)}
        return
    command = ["ld", "-Ttext=0x1000", "-e", "first", "-o", tmp_path / "x", tmp_path / "x.o"]
    subprocess.run(command, check=True)
    assert sealed_places(ElfFile.read(tmp_path / "x")) == {Place("", 0x1001), Place("", 0x100B)}


def test_a_kernel_without(tmp_path: Path) -> None:
    subprocess.run(["as", "-o", tmp_path / "x.o", "-"], input=b"nop\n", check=True)
    assert sealed_places(ElfFile.read(tmp_path / "x.o")) == frozenset()


def test_the_refusal() -> None:
    assert str(no_landing("do_it", "fs/open.c:fs/open.o")) == (
        "fs/open.c:fs/open.o: the address of do_it cannot be taken\n"
        "  Nothing in the running kernel takes it, so that the kernel removed the function's "
        "landing place for indirect calls (IBT).\n"
        "  Take the address of a new function that calls it."
    )
