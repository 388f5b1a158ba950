"""Have relocations name local variables, which as(1) writes as offsets in their sections."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from klpbuild.elf.reader import ElfFile
from klpbuild.elf.tables import rela_dtype


def with_globals(assembly: str, names: Collection[str]) -> str:
    """Make symbols global in assembly: as(1) keeps those in relocations."""
    return assembly + "".join(f"\t.globl\t{name}\n" for name in names)


def with_names(plain: ElfFile, named: ElfFile, names: Collection[str]) -> bytes:
    """Return an object with the references to some of its symbols that another one has.

    :param plain: an object that as(1) made.
    :param named: the same, but that `with_globals` made these symbols global.
    """
    theirs = {named.symbol(index).name: index for index in named.symbols_named(*names).tolist()}
    ours = np.zeros(len(named.symbols), np.uint32)
    for index in plain.symbols_named(*names).tolist():
        ours[theirs[plain.symbol(index).name]] = index
    data = bytearray(plain.data)
    pairs = zip(plain.relocation_sections, named.relocation_sections, strict=True)
    for section, other in pairs:
        before, source = plain.relocations(section), named.relocations(other)
        assert (section.name, len(before)) == (other.name, len(source))
        assert (before["r_offset"] == source["r_offset"]).all()
        rows = np.frombuffer(data, rela_dtype(plain.order), len(source), section.sh_offset)
        changed = ours[source["r_sym"]] != 0
        rows["r_sym"][changed] = ours[source["r_sym"]][changed]
        rows["r_addend"][changed] = source["r_addend"][changed]
    return bytes(data)
