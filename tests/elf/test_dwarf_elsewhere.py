"""Debug information of other machines, of both byte orders."""

from __future__ import annotations

from pathlib import Path

import pytest

from klpbuild.elf.dwarf import Dwarf, Unit
from klpbuild.elf.dwarftypes import DwarfTypes
from klpbuild.elf.reader import ElfFile
from klpbuild.elf.types import Kind
from klpbuild.errors import KlpError
from tests.machines.objects import FLAGS, compile_for

#: DW_AT_sibling; DW_TAG_structure_type, DW_TAG_member, DW_TAG_subprogram.
SIBLING, STRUCTURE, MEMBER, FUNCTION = 0x01, 0x13, 0x0D, 0x2E

_SOURCE = """
struct s { char a; int b : 3, c : 7; long d[300]; enum e { X = -1, Y = 5 } e; };
int f(struct s *p);
int f(struct s *p) { return p->b; }
"""


@pytest.mark.parametrize("version", [4, 5])
@pytest.mark.parametrize("arch", FLAGS)
def test_types(arch: str, version: int, tmp_path: Path) -> None:
    data = compile_for(arch, tmp_path, _SOURCE, "-g", f"-gdwarf-{version}")
    elf = ElfFile(data, "code.o")
    text = elf.section(".text")
    assert text is not None
    unit = Dwarf(elf).unit_at(4, text.index)
    assert unit is not None
    assert f"{tmp_path}/{arch}.c" in unit.file_names()
    types = DwarfTypes(unit)
    (number,) = types.named("s", frozenset({Kind.STRUCT}))
    assert types.bytes(number) == 2416
    fields = {field.name: field for field in types.fields(number)}
    assert {name: (each.offset, each.bits) for name, each in fields.items()} == {
        "a": (0, 0), "b": (8, 3), "c": (11, 7), "d": (64, 0), "e": (19264, 0),
    }  # fmt: skip
    assert types.count(fields["d"].type) == 300
    assert list(types.enumerators(fields["e"].type)) == [("X", -1), ("Y", 5)]


@pytest.mark.parametrize("arch", FLAGS)
def test_what_is_inside_of_types_and_functions_is_passed_over(arch: str, tmp_path: Path) -> None:
    """A type says where the next entry begins; one that says that it is before itself is broken."""
    data = bytearray(compile_for(arch, tmp_path, _SOURCE, "-g", "-gdwarf-5"))
    elf = ElfFile(bytes(data), "code.o")
    unit, info = Unit(Dwarf(elf), 0), elf.section(".debug_info")
    assert info is not None
    every = {tag: frozenset({SIBLING}) for tag in (STRUCTURE, MEMBER, FUNCTION)}
    types, inside = unit.listed(every, outermost=True), unit.listed(every)
    assert [e.tag for e in types] == [STRUCTURE, FUNCTION]
    assert [e.tag for e in inside] == [STRUCTURE, *[MEMBER] * 5, FUNCTION]
    (function,) = unit.listed({FUNCTION: frozenset()})
    assert function.offset == types[1].offset

    beside = int(types[0].values[SIBLING])
    order = "big" if elf.order == ">" else "little"
    at = data.index(beside.to_bytes(4, order), info.sh_offset + types[0].offset)
    data[at : at + 4] = bytes(4)
    broken = Unit(Dwarf(ElfFile(bytes(data), "code.o")), 0)
    assert len(broken.listed({MEMBER: frozenset()})) == 5
    with pytest.raises(KlpError, match="broken debug information"):
        broken.listed({FUNCTION: frozenset()})
