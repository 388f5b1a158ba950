"""Find the variables that share a section which a patch lays out otherwise.

As(1) writes a reference to a local variable as an offset in its section.  The end of a loop over
``table``, or ``table[i + 8]`` of a negative ``i``, is a place behind ``table``: in a section of its
own that is told by the section, but where several variables share one (``__read_mostly``,
per-CPU) another one begins there.  As long as the section holds the same in both objects, and so
in the kernel, both ways lead to one address.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator

import numpy as np

from klpbuild.elf.constants import STT
from klpbuild.elf.reader import ElfFile, Symbol
from klpbuild.extract.names import CONSTANT_LABEL, base_name
from klpbuild.extract.sections import SectionKind, is_special_static, is_watched, kind_of


def shared_otherwise(original: ElfFile, patched: ElfFile) -> frozenset[str]:
    """Find the sections of several variables that are not the same in both objects.

    Those do not count of which a livepatch takes a copy, such as of a ``WARN_ONCE()``: code
    computes no address from theirs.  Constants without names always do (KASAN's strings): copies
    of them stand elsewhere.

    :returns: their names.
    """
    before, after = _contents(original), _contents(patched)
    found = set()
    for name in before.keys() | after.keys():
        variables = [variable for c in (before, after) for variable in c.get(name, ((), b""))[0]]
        several = len({place for _, place, _ in variables}) > 1
        copied = any(variable.startswith(CONSTANT_LABEL) for variable, _, _ in variables)
        if several and (copied or before.get(name) != after.get(name)):
            found.add(name)
    return frozenset(found)


def _contents(elf: ElfFile) -> dict[str, tuple[list[tuple[str, int, int]], bytes]]:
    """Collect the variables of each section and its bytes, by its name."""
    held = {s.index: s for s in elf.sections if kind_of(s) is SectionKind.DATA}
    variables = defaultdict(list)
    for symbol in _objects(elf):
        section = held.get(symbol.st_shndx)
        if section and not is_special_static(symbol.name, section, symbol.st_size):
            variable = base_name(symbol.name), symbol.st_value, symbol.st_size
            variables[symbol.st_shndx].append(variable)
    return {
        held[index].name: (sorted(found, key=lambda v: v[1:]), bytes(elf.contents(held[index])))
        for index, found in variables.items()
    }


def _objects(elf: ElfFile) -> Iterator[Symbol]:
    types = elf.symbols["st_info"] & 0xF
    wanted = types == STT.OBJECT
    if is_watched(elf):
        wanted |= types == STT.NOTYPE
    for symbol in map(elf.symbol, np.flatnonzero(wanted).tolist()):
        if symbol.type == STT.OBJECT or symbol.name.startswith(CONSTANT_LABEL):
            yield symbol


def local_variables(elf: ElfFile, sections: Collection[str]) -> tuple[str, ...]:
    """List the names of the local variables in some sections."""
    held = {s.index for s in elf.sections if s.name in sections}
    return tuple(s.name for s in _objects(elf) if s.st_shndx in held and s.is_local)
