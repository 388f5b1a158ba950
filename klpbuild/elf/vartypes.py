"""Read the types of an object's variables and global functions from its debug information."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from klpbuild.elf.constants import STT
from klpbuild.elf.dwarf import Dwarf, Entry, Unit
from klpbuild.elf.reader import ElfFile

# Tags and attributes of DWARF 5, sections 7.5.3 and 7.5.4.
_ARRAY, _ENUMERATION, _PARAMETER, _MEMBER, _POINTER = 0x01, 0x04, 0x05, 0x0D, 0x0F
_STRUCTURE, _FUNCTION, _TYPEDEF, _UNION, _SUBRANGE, _BASE = 0x13, 0x15, 0x16, 0x17, 0x21, 0x24
_CONST, _VARIABLE, _VOLATILE, _RESTRICT, _ATOMIC = 0x26, 0x34, 0x35, 0x37, 0x47
_LOCATION, _NAME, _UPPER, _ABSTRACT, _COUNT = 0x02, 0x03, 0x2F, 0x31, 0x37
_SPECIFICATION, _TYPE, _LINKAGE_NAME = 0x47, 0x49, 0x6E
_SUBPROGRAM, _ELLIPSIS = 0x2E, 0x18
#: DW_AT_low_pc, DW_AT_decl_file and DW_AT_decl_line.
ADDRESS, FILE, LINE = 0x11, 0x3A, 0x3B
_BITS, _BYTES, _DECLARATION, _ENCODING, EXTERNAL = 0x0D, 0x0B, 0x3C, 0x3E, 0x3F
_BOOLEAN, _SIGNED = 0x02, (0x05, 0x06)

_QUALIFIERS = (_TYPEDEF, _CONST, _VOLATILE, _RESTRICT, _ATOMIC)
_WORDS = {_STRUCTURE: "struct", _UNION: "union", _ENUMERATION: "enum"}
_REFERENCES = frozenset({_NAME, _TYPE})
_WANTED = dict.fromkeys(
    (_ARRAY, _PARAMETER, _MEMBER, _POINTER, _FUNCTION, _BASE, *_QUALIFIERS, *_WORDS), _REFERENCES
)
_WANTED |= {
    _MEMBER: _REFERENCES | {_BITS},
    _SUBRANGE: frozenset({_UPPER, _COUNT}),
    _VARIABLE: _REFERENCES | {_LOCATION, _ABSTRACT, _SPECIFICATION},
}
WANTED_OF_FUNCTIONS = _WANTED | {
    _SUBPROGRAM: _REFERENCES
    | {_DECLARATION, EXTERNAL, _SPECIFICATION, _LINKAGE_NAME, ADDRESS, FILE, LINE},
    _PARAMETER: _REFERENCES | {_ABSTRACT},
    _ELLIPSIS: frozenset[int](),
    _BASE: _REFERENCES | {_BYTES, _ENCODING},
    _ENUMERATION: _REFERENCES | {_BYTES},
}
#: An int: narrower ones are widened by the caller, as their kind says.
_WORD = 4


@dataclass(frozen=True)
class VariableType:
    """The type of a variable.

    :ivar text: in C, without qualifiers and names of types (typedef): ``atomic_t`` is
        ``struct {int counter}``.
    :ivar members: the types of a structure's members, by their names.
    """

    text: str
    members: Mapping[str, str] = field(default_factory=dict)


def variable_types(elf: ElfFile) -> dict[str, VariableType]:
    """Read the types of the variables that a compiled object of one unit defines.

    :returns: by symbol.
    :raises KlpError: when the object has no debug information that can be read.
    """
    dwarf = Dwarf(elf)
    types = TypeTexts.read(Unit(dwarf, 0), _WANTED)
    places = dwarf.addresses()
    names = _names(elf)
    found = {}
    for entry in types.entries.values():
        location = entry.values.get(_LOCATION)
        if entry.tag == _VARIABLE and isinstance(location, int) and location + 1 in places:
            for name in names.get(places[location + 1], ()):
                found[name] = VariableType(types.of(entry), types.members(entry))
    return found


def function_types(elf: ElfFile) -> dict[str, tuple[str, ...]]:
    """Read how the global functions that a compiled object of one unit defines are called.

    :returns: by name what a caller must know: the result's kind, then each parameter's. Types
        that are passed alike are of one kind: ``int`` and ``unsigned int``, all pointers.
    :raises KlpError: when the object has no debug information that can be read.
    """
    types = TypeTexts.read(Unit(Dwarf(elf), 0), WANTED_OF_FUNCTIONS)
    return {
        name: types.passed(entry)
        for name, entry in types.definitions()
        if entry.values.get(EXTERNAL)
    }


def _names(elf: ElfFile) -> Mapping[tuple[int, int], list[str]]:
    """Map section and offset to the variables there."""
    found: dict[tuple[int, int], list[str]] = defaultdict(list)
    for symbol in elf.symbol_list:
        if symbol.is_defined and symbol.type == STT.OBJECT:
            found[symbol.st_shndx, symbol.st_value].append(symbol.name)
    return found


class TypeTexts:
    """The types of a compile unit, written in C."""

    def __init__(self, entries: Mapping[int, Entry], children: Mapping[int, list[Entry]]) -> None:
        self.entries, self._children = entries, children

    @classmethod
    def read(cls, unit: Unit, wanted: dict[int, frozenset[int]]) -> TypeTexts:
        """Read the entries of a unit."""
        entries: dict[int, Entry] = {}
        children: dict[int, list[Entry]] = defaultdict(list)
        above: list[int] = []
        for entry in unit.entries(wanted):
            entries[entry.offset] = entry
            del above[entry.depth :]
            above += [0] * (entry.depth - len(above)) + [entry.offset]
            children[above[entry.depth - 1] if entry.depth else 0].append(entry)
        return cls(entries, children)

    def passed(self, function: Entry) -> tuple[str, ...]:
        """Tell in what form a function's result and parameters are passed."""
        return self._kind(function), *self._of_parameters(function, self._kind)

    def prototype(self, function: Entry) -> tuple[str, ...]:
        """Write a function's result and parameters in C."""
        return self.of(function), *self._of_parameters(function, self.of)

    def _of_parameters(self, function: Entry, of: Callable[[Entry], str]) -> Iterator[str]:
        for child in self._children[function.offset]:
            if child.tag in (_PARAMETER, _ELLIPSIS):
                yield "..." if child.tag == _ELLIPSIS else of(child)

    def definitions(self) -> Iterator[tuple[str, Entry]]:
        """List the functions that are defined, by their names; a copy that is inlined is none."""
        for entry in self.entries.values():
            if entry.tag == _SUBPROGRAM and not entry.values.get(_DECLARATION):
                declared = self.entries.get(int(entry.values.get(_SPECIFICATION, -1)), entry)
                if _NAME in declared.values:
                    yield str(declared.values[_NAME]), entry

    def declarations(self) -> Iterator[tuple[str, Entry]]:
        """List the functions that are declared only, by their symbols."""
        for entry in self.entries.values():
            name = entry.values.get(_LINKAGE_NAME, entry.values.get(_NAME))
            if entry.tag == _SUBPROGRAM and entry.values.get(_DECLARATION) and name is not None:
                yield str(name).strip('"'), entry  # as the assembler reads it

    def tags(self) -> Iterator[str]:
        """List the structures, unions and enumerations that have a name, as C writes them."""
        for entry in self.entries.values():
            if (word := _WORDS.get(entry.tag)) and _NAME in entry.values:
                yield f"{word} {entry.values[_NAME]}"

    def _kind(self, entry: Entry) -> str:
        """Tell in what form a value of an entry's type is passed."""
        aim = self._aim(entry)
        while aim is not None and aim.tag in _QUALIFIERS:
            aim = self._aim(aim)
        if aim is None:
            return "void"
        if aim.tag in (_POINTER, _ARRAY, _FUNCTION):
            return "8 bytes"
        if aim.tag not in (_BASE, _ENUMERATION):
            return self._told(aim)
        size, encoding = int(aim.values.get(_BYTES, 0)), aim.values.get(_ENCODING)
        narrow = "truth " if encoding == _BOOLEAN else "signed " if encoding in _SIGNED else ""
        return f"{narrow if size < _WORD else ''}{size} bytes"

    def of(self, entry: Entry) -> str:
        """Write the type of a variable, member or parameter in C."""
        aim = self._aim(entry)
        return self._told(aim) if aim is not None else "void"

    def _aim(self, entry: Entry) -> Entry | None:
        """Find the type that an entry names, itself or where it was declared."""
        for attribute in (_TYPE, _SPECIFICATION, _ABSTRACT):
            aim = self.entries.get(int(entry.values.get(attribute, -1)))
            if aim is not None:
                return aim if attribute == _TYPE else self._aim(aim)
        return None

    def members(self, entry: Entry) -> dict[str, str]:
        """List the members of a variable that is a structure, with their types."""
        aim = self._aim(entry)
        while aim is not None and aim.tag in _QUALIFIERS:
            aim = self._aim(aim)
        if aim is None or aim.tag not in (_STRUCTURE, _UNION):
            return {}
        children = self._children[aim.offset]
        members = [c for c in children if c.tag == _MEMBER]
        return {str(c.values.get(_NAME, "")): self.of(c) + _width(c) for c in members}

    def _told(self, entry: Entry) -> str:
        if entry.tag in _QUALIFIERS:
            return self.of(entry)
        if entry.tag == _POINTER:
            return f"{self.of(entry)} *"
        if entry.tag == _ARRAY:
            sizes = (f"[{_elements(c)}]" for c in self._children[entry.offset])
            return self.of(entry) + "".join(sizes)
        if entry.tag == _FUNCTION:
            parameters = ", ".join(self.of(c) for c in self._children[entry.offset])
            return f"{self.of(entry)} ({parameters})"
        name = str(entry.values.get(_NAME, ""))
        word = _WORDS.get(entry.tag, "")
        if word and not name:
            inside = (
                f"{self.of(c)} {c.values.get(_NAME, '')}{_width(c)}"
                for c in self._children[entry.offset]
            )
            name = "{" + ", ".join(inside) + "}"
        return f"{word} {name}".strip()


def _width(member: Entry) -> str:
    """Tell how wide a bit field is, as C does; empty for another member."""
    bits = member.values.get(_BITS)
    return "" if bits is None else f" : {bits}"


def _elements(subrange: Entry) -> str:
    """Return the number of elements of an array, empty if that is not known."""
    for attribute, more in ((_COUNT, 0), (_UPPER, 1)):
        number = subrange.values.get(attribute)
        if isinstance(number, int):
            return str(number + more)
    return ""
