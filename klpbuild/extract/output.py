"""Fill sections of an object that is written, and refer to symbols in it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from klpbuild.arch.base import Part
from klpbuild.elf.constants import STB, STT
from klpbuild.elf.writer import WritableSection
from klpbuild.errors import KlpError
from klpbuild.extract.atoms import Atom, Reference

if TYPE_CHECKING:
    from klpbuild.extract.assemble import Assembly


@dataclass(eq=False)
class OutputSymbol:
    """A symbol of the object that is written; its index comes at the end."""

    name: str
    bind: int
    type: int
    section: int
    value: int = 0
    size: int = 0
    other: int = 0
    index: int = 0


@dataclass(eq=False)
class Output:
    """A section being filled."""

    section: WritableSection
    index: int
    symbol: OutputSymbol
    data: bytearray = field(default_factory=bytearray)
    relocations: list[tuple[int, int, OutputSymbol, int]] = field(default_factory=list)

    def place(self, size: int, start: int = 0) -> int:
        """Append bytes that stood at an offset; keeps their alignment."""
        align = max(self.section.sh_addralign, 1)
        offset = -(-len(self.data) // align) * align + start % align if self.data else 0
        self.data += bytes(offset + size - len(self.data))
        return offset


def from_table(
    assembly: Assembly, atom: Atom, reference: Reference, symbol: OutputSymbol, addend: int
) -> tuple[OutputSymbol, int]:
    """Give an address that code takes from the GOT a symbol: an entry of it has no addend.

    :raises KlpError: when the kernel has no symbol there.
    """
    field = assembly.patched.arch.fields.get(reference.type)
    if field is None or field.part is not Part.ENTRY or addend == -field.behind:
        return symbol, addend
    if not symbol.section:
        raise KlpError(
            f"{atom.name} takes the address of a place in {symbol.name} from the GOT",
            where=assembly.patched.elf.name,
            why="An entry of it holds the address of a symbol, and the kernel has none there.",
        )
    value = symbol.value + addend + field.behind
    name = f".LG{len(assembly.locals)}"
    made = OutputSymbol(name, STB.LOCAL, STT.NOTYPE, symbol.section, value)
    assembly.locals.append(made)
    return made, -field.behind
