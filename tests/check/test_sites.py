"""Tables with lengths beside their places: alternatives; and those of the kernel's faults."""

from __future__ import annotations

import struct

import numpy as np
import pytest

from klpbuild.check.kernelside import KernelSide
from klpbuild.check.module import check_bytes
from klpbuild.check.rule import Effect
from klpbuild.elf.constants import SHF, SHT, STB, STT
from klpbuild.elf.tables import rela_dtype
from klpbuild.elf.writer import WritableSection
from tests.check.editor import Edit, Editor, edited

PC32 = 2
CODE = SHF.ALLOC | SHF.EXECINSTR


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
        old = e.symbol("livepatch_meminfo_proc_show")
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


def found(miniature: KernelSide, data: bytes) -> list[str]:
    report = check_bytes(data, "livepatch.ko", miniature)
    sites = [each for each in report.findings if each.rule.identifier == "KLP422"]
    assert {each.effect for each in sites} <= {Effect.UNFORESEEN}
    return [each.what for each in sites]


@pytest.mark.parametrize("size", [12, 13, 14])
def test_good_alternatives(miniature: KernelSide, good: dict[str, bytes], size: int) -> None:
    """Of kernels before 5.13, since, and since 6.3."""
    assert found(miniature, edited(alternatives(size=size))(good["meminfo"])) == []


BAD = {
    "longer": (alternatives((3, 5), number=5), "replaces 3 bytes by 5"),
    "too long": (alternatives((255, 3)), "replaces 255 bytes by 3"),
    "past the code": (alternatives((200, 2)), "leads to 200 bytes at .text+0x0, past its end"),
    "past the replacements": (
        alternatives((5, 5)),
        "leads to 5 bytes at .altinstr_replacement+0x3, past its end",
    ),
    "not code": (alternatives(at=0x10000), "leads to .text+0x10000, which is no code"),
    "another struct": (alternatives(size=16), "has 16 bytes, but no struct alt_instr has"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_alternatives(miniature: KernelSide, good: dict[str, bytes], name: str) -> None:
    edit, what = BAD[name]
    said = f"an entry of .altinstructions {what}"
    assert said in found(miniature, edited(edit)(good["meminfo"]))


def test_an_address_is_missing(miniature: KernelSide, good: dict[str, bytes]) -> None:
    """In a table so long that the sizes of its entries still seem right."""

    def edit(e: Editor) -> None:
        alternatives()(e)
        entries = bytes(e.section(".altinstructions").data)[:12] * 14
        e.section(".altinstructions").data = entries
        rows = np.resize(e.rows(".rela.altinstructions")[:2], 28)
        rows["r_offset"] = [start + field for start in range(0, 14 * 12, 12) for field in (0, 4)]
        e.set_rows(".rela.altinstructions", rows[:-1])

    assert found(miniature, edited(edit)(good["meminfo"])) == [
        "an entry of .altinstructions lacks an address: there are 27 for 14 entries"
    ]


def test_a_fault_that_leads_nowhere(miniature: KernelSide, good: dict[str, bytes]) -> None:
    """After a fault the kernel goes on where the second address leads."""

    def edit(e: Editor) -> None:
        table = e.object.add_section(
            WritableSection("__ex_table", SHT.PROGBITS, SHF.ALLOC, data=bytes(12))
        )
        rows = np.zeros(2, rela_dtype("<"))
        rows["r_offset"], rows["r_type"] = (0, 4), PC32
        rows["r_sym"] = e.symbol("livepatch_meminfo_proc_show"), e.symbol("patch")
        e.object.add_relocations(".rela__ex_table", table, rows, SHF.INFO_LINK)

    (said,) = found(miniature, edited(edit)(good["meminfo"]))
    assert said.startswith("an entry of __ex_table leads to .data+0x")
    assert said.endswith(", which is no code")
