"""Types in debug information, as gcc and clang write it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from klpbuild.elf.dwarf import Dwarf, Unit
from klpbuild.elf.dwarftypes import DwarfTypes
from klpbuild.elf.reader import ElfFile
from klpbuild.elf.types import Kind

_STRUCTURES = frozenset({Kind.STRUCT})


@pytest.mark.parametrize("version", [4, 5])
def test_a_type_inside_a_function_is_not_part_of_the_array_before_it(
    tmp_path: Path, version: int
) -> None:
    source = tmp_path / "x.c"
    source.write_text("""
struct table { int cells[3][2]; } table;
int f(int n) { struct local { int z; } l = { n }; return l.z; }
""")
    command = ["gcc", "-g", f"-gdwarf-{version}", "-c", source, "-o", tmp_path / "x.o"]
    subprocess.run(command, check=True)
    types = DwarfTypes(Unit(Dwarf(ElfFile.read(tmp_path / "x.o")), 0))
    (number,) = types.named("table", _STRUCTURES)
    (field,) = types.fields(number)
    assert (types.count(field.type), types.size(field.type)) == (6, 24)


#: As clang writes DWARF 5: names are numbers of entries in .debug_str_offsets, the unit's own
#: begin behind those of another one; a pointer has no size.
_CLANG = """
.section .debug_str, "MS", @progbits, 1
.Lother: .asciz "other"
.Ls: .asciz "s"
.Lp: .asciz "pointer"
.section .debug_str_offsets, "", @progbits
.long 8; .short 5, 0
.long .Lother
.long 12; .short 5, 0
.Lbase: .long .Ls, .Lp
.section .debug_addr, "", @progbits
.long 12; .short 5; .byte 8, 0
.Laddresses: .quad 0x1234
.section .debug_abbrev, "", @progbits
.uleb128 1, 0x11; .byte 1; .uleb128 0x72, 0x17, 0x73, 0x17, 0x11, 0x1b, 0, 0
.uleb128 2, 0x13; .byte 1; .uleb128 0x03, 0x25, 0x0b, 0x0b, 0, 0
.uleb128 3, 0x0d; .byte 0; .uleb128 0x03, 0x1a, 0x49, 0x13, 0x38, 0x0b, 0, 0
.uleb128 4, 0x0f; .byte 0; .uleb128 0, 0
.uleb128 0
.section .debug_info, "", @progbits
.Lunit: .long .Lend - .Lversion
.Lversion: .short 5; .byte 1, 8; .long 0
.uleb128 1; .long .Lbase - .debug_str_offsets, .Laddresses - .debug_addr; .uleb128 0
.uleb128 2; .byte 0, 16
.uleb128 3, 1; .long .Lpointer - .Lunit; .byte 8
.uleb128 0
.Lpointer: .uleb128 4
.uleb128 0
.Lend:
"""


def test_numbered_strings_and_addresses(tmp_path: Path) -> None:
    command = ["as", "-o", tmp_path / "x.o", "-"]
    subprocess.run(command, input=_CLANG.encode(), check=True)
    unit = Unit(Dwarf(ElfFile.read(tmp_path / "x.o")), 0)
    types = DwarfTypes(unit)
    (number,) = types.named("s", _STRUCTURES)
    (field,) = types.fields(number)
    assert (types.bytes(number), field.name, field.offset, types.size(field.type)) == (
        16, "pointer", 64, 8,
    )  # fmt: skip
    low_pc = 0x11
    assert [e.values for e in unit.entries({0x11: frozenset({low_pc})})] == [{low_pc: 0x1234}]
