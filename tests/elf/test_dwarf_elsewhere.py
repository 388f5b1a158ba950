"""Debug information of other machines, of both byte orders."""

from __future__ import annotations

from pathlib import Path

import pytest

from klpbuild.elf.dwarf import Dwarf
from klpbuild.elf.dwarftypes import DwarfTypes
from klpbuild.elf.reader import ElfFile
from klpbuild.elf.types import Kind
from tests.machines.objects import FLAGS, compile_for

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
