"""The recipe of docs/architecture.md: what is known of an architecture, and what is said else."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import pytest

import klpbuild.arch
from klpbuild.arch import ARCHITECTURES, PPC64LE, X86_64, Architecture, by_machine
from klpbuild.elf.reader import ElfFile
from klpbuild.errors import KlpError
from klpbuild.extract.objects import CodeObject
from klpbuild.kernel.code import Code
from klpbuild.proof.shipped import ShippedBinary
from klpbuild.resolve.reach import Reach
from klpbuild.vm.machine import machine_for
from tests.extract.pairs import SIZES, extract
from tests.objects import compile_c

#: A machine that has no livepatch, nor will: the AT&T WE 32100.
NEW = 1
#: Facts that an architecture may lack, each with who asks for it.
LACKING = {
    "fields", "instructions", "qemu", "entry_opcode", "entry_symbol", "entry_before", "none",
    "takes_none", "relocated", "section_flags",
}  # fmt: skip


@pytest.fixture(params=ARCHITECTURES, ids=lambda architecture: architecture.name)
def architecture(request: pytest.FixtureRequest) -> Architecture:
    found: Architecture = request.param
    return found


@pytest.fixture
def elf(architecture: Architecture, tmp_path: Path) -> ElfFile:
    """An object that says it is of the architecture."""
    return of_machine(architecture.machine, tmp_path)


def of_machine(machine: int, directory: Path) -> ElfFile:
    data = bytearray(compile_c(directory, "int f(void) { return 1; }").read_bytes())
    data[18:20] = machine.to_bytes(2, "little")
    return ElfFile(bytes(data), "code.o")


def test_every_fact_is_there(architecture: Architecture) -> None:
    missing = {
        fact.name
        for fact in fields(architecture)
        if fact.name not in LACKING | {"big_endian"} and not getattr(architecture, fact.name)
    }
    assert missing == set()
    assert by_machine(architecture.machine) is architecture


def test_none_is_another_s(architecture: Architecture) -> None:
    for fact in ("name", "kernel_name", "debian_name", "machine"):
        named = [getattr(each, fact) for each in ARCHITECTURES]
        assert named.count(getattr(architecture, fact)) == 1


def test_patches_need_instructions_and_relocations(
    architecture: Architecture, elf: ElfFile
) -> None:
    assert (architecture.instructions is None) == (not architecture.fields)
    if architecture.instructions is None:
        refusals = (
            lambda: extract(elf, elf, entry_sizes=SIZES, arch=architecture),
            lambda: CodeObject(elf, SIZES),
            lambda: ShippedBinary(elf),
            lambda: Code(elf),
        )
        for refused in refusals:
            with pytest.raises(KlpError, match=r"^code\.o: is for "):
                refused()
    else:
        assert CodeObject(elf, SIZES).instructions is architecture.instructions


def test_gates_are_followed_where_instructions_are_known(
    architecture: Architecture, elf: ElfFile
) -> None:
    # Else a relocation keeps the gate that its owner gives it, and is told as unchecked.
    assert Reach(elf, ()).traced == (architecture.instructions is not None)


def test_it_boots_or_says_that_it_does_not(architecture: Architecture) -> None:
    if architecture.qemu is None:
        with pytest.raises(KlpError, match=f"^{architecture.name} kernels cannot be booted"):
            machine_for(architecture)
    else:
        assert machine_for(architecture).qemu is architecture.qemu


def test_another_one_is_a_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its record is all that an architecture needs to be known."""
    elf = of_machine(NEW, tmp_path)
    with pytest.raises(KlpError, match="is for machine 1, which has no livepatch"):
        CodeObject(elf, SIZES)
    record = replace(PPC64LE, name="we32100", kernel_name="we32k", machine=NEW)
    monkeypatch.setattr(klpbuild.arch, "ARCHITECTURES", (*ARCHITECTURES, record))
    assert by_machine(NEW) is record
    with pytest.raises(KlpError, match="Source patches are built for x86-64, s390x and arm64 only"):
        CodeObject(elf, SIZES)
    assert not Reach(elf, ()).traced
    known = replace(record, instructions=X86_64.instructions, fields=X86_64.fields)
    monkeypatch.setattr(klpbuild.arch, "ARCHITECTURES", (*ARCHITECTURES, known))
    assert CodeObject(elf, SIZES).instructions is X86_64.instructions
    assert Reach(elf, ()).traced
