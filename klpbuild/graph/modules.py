"""Read from a module's file which symbols of other objects it uses."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from klpbuild.elf.constants import SHF, SHN_UNDEF, STB
from klpbuild.elf.modinfo import depends, modinfo
from klpbuild.elf.reader import ElfFile
from klpbuild.elf.tables import string_at
from klpbuild.errors import KlpError
from klpbuild.names import (
    ANNOTATION_PREFIX,
    SECTION_PREFIX,
    AnnotatedSymbol,
    LivepatchSection,
    LivepatchSymbol,
    object_name,
)


@dataclass(frozen=True, order=True)
class LivepatchReference:
    """A symbol that livepatch relocations name.

    :ivar gate: object whose loading applies the relocations; empty when not yet chosen.
    :ivar owner: object that defines the symbol.
    :ivar symbol: its name there.
    :ivar sympos: 0 or its 1-based place among the owner's symbols of the name.
    """

    gate: str
    owner: str
    symbol: str
    sympos: int


@dataclass(frozen=True)
class Module:
    """The symbols and modules that a module uses.

    :ivar name: the kernel's name of the module.
    :ivar livepatch: whether it says ``livepatch=Y``.
    :ivar depends: the modules that modpost found it to need, sorted.
    :ivar undefined: the ordinary undefined symbols, sorted.
    :ivar weak: those of them that the kernel may leave 0.
    :ivar references: what its livepatch relocations name, sorted; of an
        unconverted livepatch what KLP_RELOC_SYMBOL says.
    """

    name: str
    livepatch: bool
    depends: tuple[str, ...]
    undefined: tuple[str, ...]
    weak: frozenset[str]
    references: tuple[LivepatchReference, ...]


def read_modules(paths: Iterable[Path]) -> tuple[Module, ...]:
    """Read many modules, sorted by name.

    :raises KlpError: when one cannot be read.
    """
    return tuple(sorted(map(read_module, paths), key=lambda module: module.name))


def read_module(path: Path) -> Module:
    """Read a ``.ko`` file, converted or not.

    :raises KlpError: when it cannot be read, or names livepatch symbols or
        sections that the kernel would refuse.
    """
    return module_from_elf(ElfFile.read(path), path.name)


def module_from_elf(elf: ElfFile, file_name: str) -> Module:
    """Read a module as `read_module` does, from an ELF file that is open already.

    :param file_name: names the module where ``.modinfo`` does not.
    :raises KlpError: as `read_module`.
    """
    tags = modinfo(elf)
    undefined, weak, annotated = _undefined(elf)
    return Module(
        object_name(tags.get("name", [""])[-1] or file_name),
        tags.get("livepatch", [""])[-1] == "Y",
        tuple(sorted(depends(tags))),
        undefined,
        weak,
        tuple(sorted({*annotated, *_livepatch_references(elf)})),
    )


def _undefined(
    elf: ElfFile,
) -> tuple[tuple[str, ...], frozenset[str], tuple[LivepatchReference, ...]]:
    """List the undefined symbols, the weak ones, and those that are annotated.

    The kernel resolves all that have a name, used or not (kernel/module/main.c,
    simplify_symbols).
    """
    symbols = elf.symbols
    rows = symbols[(symbols["st_shndx"] == SHN_UNDEF) & (symbols["st_name"] != 0)]
    names: set[str] = set()
    weak: set[str] = set()
    annotated = []
    for offset, info in zip(rows["st_name"].tolist(), rows["st_info"].tolist(), strict=True):
        name = string_at(elf.strtab, offset)
        if name.startswith(ANNOTATION_PREFIX):
            annotated.append(_annotation(elf, name))
            continue
        names.add(name)
        if info >> 4 == STB.WEAK:
            weak.add(name)
    return tuple(sorted(names)), frozenset(weak), tuple(annotated)


def _annotation(elf: ElfFile, name: str) -> LivepatchReference:
    found = AnnotatedSymbol.parse(name)
    if found is None:
        raise KlpError(
            f"annotation {name!r} cannot be read",
            where=elf.name,
            why=f"It is {ANNOTATION_PREFIX}<gate>.<owner>.<symbol>,<position>.",
            hint="Write it with KLP_RELOC_SYMBOL(gate, owner, symbol, position).",
        )
    return LivepatchReference(found.gate, found.owner, found.symbol, found.sympos)


def _livepatch_references(elf: ElfFile) -> set[LivepatchReference]:
    found = set()
    for section in elf.relocation_sections:
        if not section.sh_flags & SHF.RELA_LIVEPATCH:
            continue
        name = LivepatchSection.parse(section.name)
        if name is None:
            raise KlpError(
                f"section {section.index} has the name {section.name!r}",
                where=elf.name,
                why=f"The kernel refuses livepatch relocations but in {SECTION_PREFIX}<object>.*.",
            )
        for index in np.unique(elf.relocations(section)["r_sym"]).tolist():
            text = elf.symbol_name(index)
            symbol = LivepatchSymbol.parse(text)
            if symbol is None:
                raise KlpError(
                    f"symbol {index} has the name {text!r}",
                    where=f"{elf.name}:{section.name}",
                    why="The kernel reads .klp.sym.<object>.<symbol>,<position> there.",
                )
            found.add(LivepatchReference(name.gate, symbol.owner, symbol.symbol, symbol.sympos))
    return found
