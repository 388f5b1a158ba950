"""Read what callers must know of functions: from a compile unit's DWARF, or from BTF."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from struct import unpack_from
from typing import NamedTuple

from klpbuild.elf.btf import Btf, BtfKind
from klpbuild.elf.dwarf import Entry, Unit
from klpbuild.elf.vartypes import ADDRESS, EXTERNAL, FILE, LINE, WANTED_OF_FUNCTIONS, TypeTexts

_TAGGED_POINTER = re.compile(r"((?:struct|union) \w+)(?: \*)+")
_TAGS = {
    BtfKind.STRUCT: "struct", BtfKind.UNION: "union", BtfKind.ENUM: "enum", BtfKind.ENUM64: "enum",
    BtfKind.FWD: "struct",
}  # fmt: skip
_PASSED_OVER = frozenset({
    BtfKind.TYPEDEF, BtfKind.CONST, BtfKind.VOLATILE, BtfKind.RESTRICT, BtfKind.TYPE_TAG,
})  # fmt: skip
_POINTER = "8 bytes"
#: Limit on nested types; real ones are some ten deep.
_LEVELS_MAX = 100


class Prototype(NamedTuple):
    """Result and parameters of a function.

    :ivar types: in C, without names of types (typedef) and qualifiers: the result's first.
    :ivar kinds: in what form each is passed, as `function_types` says.
    :ivar is_global: whether other files can call it.
    :ivar address: of the function; 0 if not known, as of one that is inlined, too.
    :ivar file: number of the file in which it is defined, and the line there; 0 if not known.
    """

    types: tuple[str, ...]
    kinds: tuple[str, ...]
    is_global: bool = False
    address: int = 0
    file: int = 0
    line: int = 0

    def __str__(self) -> str:
        return f"{self.types[0]} ({', '.join(self.types[1:]) or 'void'})"

    def serves(self, other: Prototype, tags: frozenset[str]) -> bool:
        """Tell whether a function of this prototype does for callers that know another one.

        A pointer to a structure does for one to another structure only if the kernel knows one
        of the two not by its name: an author may call a copy otherwise.  Who called a function
        without a result does not look at one.  The last parameters may be left alone.

        :param tags: names, such as ``struct x``, that the kernel knows.
        """
        if len(self.kinds) > len(other.kinds):
            return False
        pairs = list(zip(self.types, self.kinds, other.types, other.kinds, strict=False))
        if other.kinds[0] == "void":
            del pairs[0]
        return all(
            kind == there and (kind != _POINTER or _points_alike(type_, known, tags))
            for type_, kind, known, there in pairs
        )


def _points_alike(own: str, other: str, tags: frozenset[str]) -> bool:
    if own.endswith("*") is not other.endswith("*"):
        return False
    mine, theirs = map(_TAGGED_POINTER.fullmatch, (own, other))
    return not (mine and theirs and own != other and {mine[1], theirs[1]} <= tags)


class Prototypes(NamedTuple):
    """Prototypes of functions by name, several for several of a name, and the names of types.

    :ivar declared: of functions that are declared only, by their symbols.
    """

    functions: dict[str, list[Prototype]]
    tags: frozenset[str]
    declared: dict[str, Prototype]


#: Of what has no debug information.
NONE = Prototypes({}, frozenset(), {})


def in_unit(unit: Unit) -> Prototypes:
    """Read the prototypes of the functions that a compile unit defines.

    :raises KlpError: when the unit is broken.
    """
    types = TypeTexts.read(unit, WANTED_OF_FUNCTIONS)
    found: dict[str, list[Prototype]] = defaultdict(list)
    for name, entry in types.definitions():
        found[name].append(_prototype(types, entry))
    declared = {name: _prototype(types, entry) for name, entry in types.declarations()}
    return Prototypes(dict(found), frozenset(types.tags()), declared)


def _prototype(types: TypeTexts, entry: Entry) -> Prototype:
    form = types.prototype(entry), types.passed(entry), bool(entry.values.get(EXTERNAL))
    return Prototype(*form, *(int(entry.values.get(each, 0)) for each in (ADDRESS, FILE, LINE)))


def in_btf(types: Btf, name: str) -> Iterator[Prototype]:
    """Find the prototypes of the functions of a name.

    Of damaged types what `klpbuild.errors.broken` takes is raised.
    """
    for function in types.numbers(name, frozenset({BtfKind.FUNC})):
        _, _, count, _, result, behind = types.type(types.type(function).other)
        rows = [unpack_from(f"{types.order}II", behind, 8 * place) for place in range(count)]
        pairs = [_in_btf(types, result)]
        pairs += [_in_btf(types, aim) if named or aim else ("...", "...") for named, aim in rows]
        texts, kinds = zip(*pairs, strict=True)
        yield Prototype(texts, kinds)


def _in_btf(types: Btf, number: int) -> tuple[str, str]:
    """Write a type in C, and tell in what form its values are passed."""
    kind, levels = types.type(number).kind, 0
    while kind in _PASSED_OVER and levels < _LEVELS_MAX:
        number, levels = types.inner(number), levels + 1
        kind = types.type(number).kind
    name, _, _, _, other, behind = types.type(number)
    if kind is BtfKind.VOID:
        return "void", "void"
    if kind is BtfKind.PTR:
        return f"{_pointed(types, other)} *", _POINTER
    if kind not in (BtfKind.INT, BtfKind.ENUM, BtfKind.ENUM64):
        return _pointed(types, number), _pointed(types, number)
    text, narrow = f"{_TAGS.get(kind, '')} {name}".strip(), ""
    if kind is BtfKind.INT and other < 4:
        encoding = unpack_from(f"{types.order}I", behind)[0] >> 24 & 0xF
        narrow = "truth " if encoding & 4 else "signed " if encoding & 1 else ""
    return text, f"{narrow}{other} bytes"


def _pointed(types: Btf, number: int) -> str:
    """Write the type that a pointer leads to: of a nameless structure its members' types."""
    stars = ""
    for _ in range(_LEVELS_MAX):
        name, kind, _, _, other, _ = types.type(number)
        if kind is not BtfKind.PTR and kind not in _PASSED_OVER:
            break
        stars += " *" * (kind is BtfKind.PTR)
        number = other
    if kind is BtfKind.VOID:
        name = "void"
    elif kind in (BtfKind.ARRAY, BtfKind.FUNC_PROTO):
        name = "..."
    elif not name and kind in (BtfKind.STRUCT, BtfKind.UNION):
        inside = (f"{_in_btf(types, each.type)[0]} {each.name}" for each in types.fields(number))
        name = "{" + ", ".join(inside) + "}"
    return f"{_TAGS.get(kind, '')} {name}".strip() + stars
