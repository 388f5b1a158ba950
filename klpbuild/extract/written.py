"""Write the list of what callbacks write to the kernel's variables."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from klpbuild.elf.constants import SHF, SHT
from klpbuild.elf.reader import Section
from klpbuild.extract.atoms import Atom
from klpbuild.extract.sections import Memory, memory_of
from klpbuild.extract.words import words

if TYPE_CHECKING:
    from klpbuild.extract.assemble import Assembly
    from klpbuild.extract.output import OutputSymbol

#: The symbol of the list.
WORDS = "klpbuild_words"
#: ``struct klpbuild_word`` of klpbuild/module/words.c.j2 behind its place, old and new value.
_REST = "IHBB"


def write_words(assembly: Assembly) -> None:
    """List the words of accepted variables: where each is, what it was and what it becomes."""
    chosen, correlation = assembly.chosen.written, assembly.correlation
    if not chosen:
        return
    arch = correlation.patched.arch
    pointer, order = arch.absolute_64, correlation.patched.elf.order
    flags = SHF.ALLOC | SHF.WRITE
    like = Section(0, f".data.{WORDS}", SHT.PROGBITS, flags, 0, 0, 0, 0, 0, 8, 0)
    output = assembly.output(like)
    for number, atom in enumerate(chosen):
        twin = correlation.to_original[atom]
        symbol = twin.symbols[0]
        variable = assembly.undefined_symbol(symbol.name, symbol, symbol, is_address=True)
        is_variable = int(memory_of(twin.section) is Memory.ORDINARY)
        for word in words(correlation, atom):
            start = len(output.data)
            for value in (b"", word.old, word.new):
                # It is read as an unsigned long.
                output.data += value.rjust(8, b"\0") if arch.big_endian else value.ljust(8, b"\0")
            output.data += struct.pack(order + _REST, number, word.size, is_variable, 0)
            place = word.offset + twin.entry - symbol.st_value
            output.relocations.append((start, pointer, variable, place))
            if word.was is not None:
                old, addend = _former(assembly, word.was.symbol, word.was.target, word.was.addend)
                output.relocations.append((start + 8, pointer, old, addend))
            if word.becomes is not None:
                new, addend = assembly.bind(atom, word.becomes, is_entry=False)
                output.relocations.append((start + 16, pointer, new, addend))
    assembly.define(WORDS, output, len(output.data))


def _former(
    assembly: Assembly, index: int, target: object, addend: int
) -> tuple[OutputSymbol, int]:
    """Choose symbol and addend of a pointer that the original object has."""
    symbol, is_replaced = assembly.original.elf.symbol_list[index], False
    if isinstance(target, Atom):
        symbol = target.symbols[0]
        addend += target.entry - symbol.st_value
        is_replaced = assembly.correlation.to_patched.get(target) in assembly.places
    made = assembly.undefined_symbol(symbol.name, symbol, symbol, is_replaced, is_address=True)
    return made, addend
