"""Read the variables of a compile unit, and compare types of variables."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator
from struct import pack, unpack_from
from typing import NamedTuple

from klpbuild.elf.constants import ET
from klpbuild.elf.dwarf import Dwarf, Unit
from klpbuild.elf.types import TAGGED, Kind, Types
from klpbuild.elf.vartypes import EXTERNAL, FILE, LINE

_VARIABLE = 0x34
_ADDR = 0x03  # DW_OP_addr
_LOCATION, _NAME, _DECLARATION, _SPECIFICATION, _TYPE, _LINKAGE_NAME = (
    0x02, 0x03, 0x3C, 0x47, 0x49, 0x6E,
)  # fmt: skip
_WANTED = {
    _VARIABLE: frozenset(
        {_LOCATION, _NAME, _DECLARATION, _SPECIFICATION, _TYPE, _LINKAGE_NAME, EXTERNAL, FILE, LINE}
    )
}


class Variable(NamedTuple):
    """A variable that a unit defines or declares.

    :ivar symbol: its name for the linker.
    :ivar type: the offset of its type in ``.debug_info``; 0 if it has none.
    :ivar place: where the expression stands that tells its address; 0 for none.
    :ivar is_declared: whether it is declared only.
    :ivar file: number of the file in which it is declared, and the line there.
    """

    name: str
    symbol: str
    type: int
    place: int
    is_declared: bool
    file: int
    line: int


def variables(unit: Unit) -> Iterator[Variable]:
    """List the variables of a unit; what one lacks is where it was declared before.

    :raises KlpError: when the unit is broken.
    """
    known: dict[int, dict[int, int | str]] = {}
    for entry in unit.listed(_WANTED):
        values = known.get(int(entry.values.get(_SPECIFICATION, 0)), {}) | entry.values
        known[entry.offset] = values
        name = str(values.get(_NAME, ""))
        symbol = str(values.get(_LINKAGE_NAME, name)).strip('"')  # as the assembler reads it
        place, is_declared = values.get(_LOCATION, 0), _DECLARATION in entry.values
        numbers = (int(values.get(each, 0)) for each in (FILE, LINE))
        type_ = int(values.get(_TYPE, 0))
        yield Variable(name, symbol, type_, int(place), is_declared, *numbers)


def at_address(dwarf: Dwarf, address: int, section: int = 0) -> Iterator[tuple[Unit, Variable]]:
    """Find the variables at an address, each with its compile unit.

    No table leads to a variable's unit: the bytes are looked for that say where it is.

    :param section: in a relocatable file the section that `address` counts from.
    :raises KlpError: as `Unit`.
    """
    order = dwarf.elf.order
    if dwarf.elf.e_type == ET.REL:
        places = [at - 1 for at, aim in dwarf.addresses().items() if aim == (section, address)]
    else:
        wanted = re.escape(bytes([_ADDR]) + pack(f"{order}Q", address))
        places = [match.start() for match in re.finditer(wanted, dwarf.info, re.DOTALL)]
    starts, at = list[int](), 0
    while places and at + 4 <= len(dwarf.info):
        starts.append(at)
        at += 4 + int(unpack_from(f"{order}I", dwarf.info, at)[0])
    for number in sorted({bisect_right(starts, place) - 1 for place in places}):
        unit = Unit(dwarf, starts[number])
        yield from ((unit, each) for each in variables(unit) if each.place in places)


def fits(own: Types, mine: int, there: Types, other: int) -> bool:
    """Tell whether code that takes a variable for one type does with another one.

    Numbers go by size, pointers by the structures that they lead to.  Bytes do for anything of
    their number, and a structure of one member for that, and the other way round.
    """
    first = (_fits(own, each, there, other) for each in _unwrapped(own, mine))
    return any(first) or any(_fits(own, mine, there, e) for e in _unwrapped(there, other))


def _unwrapped(types: Types, number: int) -> Iterator[int]:
    """Yield a type, what it is alone made of, and so on."""
    while True:
        number = types.plain(number)
        yield number
        fields = list(types.fields(number)) if types.kind(number) is Kind.STRUCT else []
        if len(fields) != 1 or fields[0].bits or types.size(fields[0].type) != types.size(number):
            return
        number = fields[0].type


def _fits(own: Types, mine: int, there: Types, other: int) -> bool:
    mine, other = own.plain(mine), there.plain(other)
    kind, known = own.kind(mine), there.kind(other)
    sizes = own.size(mine), there.size(other)
    # An array without a length has none, nor a structure that is not defined.
    same_size = not all(sizes) or sizes[0] == sizes[1]
    if kind is Kind.ARRAY:
        element = own.inner(mine)
        if own.size(element) == 1:
            return same_size
        return same_size and known is kind and _fits(own, element, there, there.inner(other))
    if kind in (Kind.STRUCT, Kind.UNION):
        return known is kind and same_size and not _is_another(own, mine, there, other)
    if kind is Kind.POINTER and known is kind:
        mine, other = own.plain(own.inner(mine)), there.plain(there.inner(other))
        kinds = {own.kind(mine), there.kind(other)}
        deeper = len(kinds) > 1 and Kind.POINTER in kinds and bool(kinds & TAGGED)
        return not deeper and not _is_another(own, mine, there, other)
    return same_size and {kind, known} <= {Kind.OTHER, Kind.ENUM}


def _is_another(own: Types, mine: int, there: Types, other: int) -> bool:
    """Tell whether two are structures of different names, of which the kernel knows both."""
    if not {own.kind(mine), there.kind(other)} <= TAGGED:
        return False
    names = own.name(mine), there.name(other)
    return all(names) and names[0] != names[1] and any(there.named(names[0], TAGGED))


def told(types: Types, number: int) -> str:
    """Write a type as C does, with its size."""
    size = types.size(number)
    return _text(types, number) + (f", of {size} bytes" if size else "")


def _text(types: Types, number: int) -> str:
    bare, plain = types.bare(number), types.plain(number)
    kind = types.kind(plain)
    if kind is Kind.ARRAY:
        return f"{_text(types, types.inner(plain))}[{types.count(plain) or ''}]"
    if kind is Kind.POINTER:
        return f"{_text(types, types.inner(plain))} *"
    if kind in TAGGED and types.name(plain):
        return f"{kind.value} {types.name(plain)}"
    return types.name(bare) or (kind.value if plain else "void")
