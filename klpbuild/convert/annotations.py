"""Read the annotations that a linked, unconverted livepatch carries.

Two styles say where a symbol is:

- ``struct KLP_MODULE_RELOC(object) name[] = { KLP_SYMPOS(symbol, pos) };`` makes
  12-byte entries, ``u64 symbol; u32 sympos``, in ``.klp.module_relocs.<object>``;
- ``KLP_RELOC_SYMBOL(gate, owner, symbol[, pos])`` puts everything into the
  name of the undefined symbol, ``.klp.sym.rela.<gate>.<owner>.<symbol>,<pos>``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from klpbuild.elf.reader import ElfFile, Section
from klpbuild.errors import KlpError, Problems
from klpbuild.names import ANNOTATION_PREFIX, AnnotatedSymbol, object_name
from klpbuild.resolve.fate import Annotation

SECTION_PREFIX = ".klp.module_relocs."
_ENTRY_SIZE = 12


@dataclass(frozen=True)
class Annotations:
    """All annotations of a file.

    :ivar by_symbol: symbol index to what is said about it.
    :ivar sections: indexes of the sections that hold the entries.
    """

    by_symbol: dict[int, Annotation]
    sections: frozenset[int]


def read_annotations(elf: ElfFile) -> Annotations:
    """Read both styles.

    :raises KlpError: for entries that cannot be read or contradict each other.
    """
    problems = Problems()
    said: dict[int, Annotation] = {}
    sections = set()
    for section in elf.sections:
        if section.name.startswith(SECTION_PREFIX):
            sections.add(section.index)
            with problems.collect():
                for index, annotation in _entries(elf, section):
                    with problems.collect():
                        _agree(said.setdefault(index, annotation), annotation)
    for symbol in elf.symbol_list:
        if symbol.name.startswith(ANNOTATION_PREFIX) and symbol.st_shndx == 0:
            with problems.collect():
                annotation = parse_symbol(symbol.name, elf.name)
                _agree(annotation, said.get(symbol.index, annotation))
                said[symbol.index] = annotation
    problems.check()
    return Annotations(said, frozenset(sections))


def parse_symbol(name: str, where: str) -> Annotation:
    """Read the symbol name that KLP_RELOC_SYMBOL makes.

    :raises KlpError: when it is not one.
    """
    read = AnnotatedSymbol.parse(name)
    if read is None:
        raise KlpError(
            f"annotation {name!r} cannot be read",
            where=where,
            why=f"It is {ANNOTATION_PREFIX}<gate>.<owner>.<symbol>,<position>.",
            hint="Write it with KLP_RELOC_SYMBOL(gate, owner, symbol, position).",
        )
    place = f"{where}:KLP_RELOC_SYMBOL({read.gate}, {read.owner}, {read.symbol})"
    return Annotation(read.symbol, read.owner, read.sympos, read.gate, place)


def _agree(first: Annotation, second: Annotation) -> None:
    if (first.owner, first.sympos) != (second.owner, second.sympos):
        raise KlpError(
            f"symbol {first.symbol!r} is annotated as {first.owner} position {first.sympos} "
            f"and as {second.owner} position {second.sympos}",
            where=second.where,
            why="Both mean the same symbol of the object file.",
            hint="Leave one of them out, or tell two symbols apart with "
            "KLP_RELOC_SYMBOL(gate, owner, symbol, position).",
        )


def _entries(elf: ElfFile, section: Section) -> list[tuple[int, Annotation]]:
    where = f"{elf.name}:{section.name}"
    owner = object_name(section.name.removeprefix(SECTION_PREFIX))
    data = bytes(elf.contents(section))
    if len(data) % _ENTRY_SIZE:
        raise KlpError(
            f"annotations of {len(data)} bytes are not whole entries of {_ENTRY_SIZE} bytes",
            where=where,
            hint="Compile with the KLP_MODULE_RELOC of klpbuild's header.",
        )
    by_offset: dict[int, int] = {}
    for rela in elf.relocation_sections:
        if rela.sh_info == section.index:
            rows = elf.relocations(rela)
            by_offset.update(zip(rows["r_offset"].tolist(), rows["r_sym"].tolist(), strict=True))
    positions = np.frombuffer(data, np.dtype(elf.order + "u4")).reshape(-1, 3)[:, 2]
    entries = []
    for number, sympos in enumerate(positions.tolist()):
        index = by_offset.pop(number * _ENTRY_SIZE, None)
        if index is None:
            raise KlpError(
                f"annotation {number + 1} names no symbol",
                where=where,
                hint="Write each entry as KLP_SYMPOS(symbol, position).",
            )
        symbol = elf.symbol(index)
        if symbol.st_shndx != 0:
            raise KlpError(
                f"annotated symbol {symbol.name!r} is defined by the livepatch itself",
                where=where,
                hint="Declare it extern, or take the annotation away.",
            )
        named = AnnotatedSymbol.parse(symbol.name)
        name = symbol.name if named is None else named.symbol
        place = f"{where}:KLP_SYMPOS({name}, {sympos})"
        entries.append((index, Annotation(name, owner, sympos, None, place)))
    if by_offset:
        raise KlpError("relocations stand outside of the entries", where=where)
    return entries
