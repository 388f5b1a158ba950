"""Repair section headers that the kernel ignores, so that other readers accept the file."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from klpbuild.elf.constants import SHF, SHT
from klpbuild.elf.tables import Table, ehdr_dtype, rela_dtype, section_dtype, symbol_dtype

_ROWS = (SHT.RELA, SHT.REL)
#: Types that the module loader looks at.
_KNOWN = (SHT.NULL, SHT.PROGBITS, SHT.SYMTAB, SHT.STRTAB, *_ROWS, SHT.NOBITS, SHT.NOTE)
#: What compilers write: no size of entries, SHT_INIT_ARRAY and SHT_FINI_ARRAY (KASAN's).
_MADE_SO = {("sh_entsize", 0), ("sh_type", 14), ("sh_type", 15)}
_ALLOC, _LATE = np.uint64(SHF.ALLOC), np.uint64(SHF.RELA_LIVEPATCH)


def made_sound(data: bytes, order: str) -> tuple[bytes, tuple[str, ...], tuple[str, ...]]:
    """Repair section headers to what the kernel makes of them.

    apply_relocations() and klp_apply_section_relocs() take sh_info, sh_size and flags; the
    symbol table that they use is the first one, whatever sh_link says, and a record has its
    size, whatever sh_entsize says.  Types are looked at to find tables and bytes, no more.

    :param data: a file whose headers are in it.
    :param order: ``"<"`` or ``">"``.
    :returns: the file; what was changed, in words; and what is lost by it: the kernel passes
        over half a record.
    """
    header = np.frombuffer(data, ehdr_dtype(order), 1)[0]
    dtype = section_dtype(order)
    changed = bytearray(data)
    count, start = int(header["e_shnum"]), int(header["e_shoff"])
    headers = np.frombuffer(changed, dtype, count, start)
    before = headers.copy()
    applied = _repair(headers, order)
    cut = applied & (before["sh_size"] != headers["sh_size"])
    lost = (f"section {n} ends in half a record" for n in np.flatnonzero(cut).tolist())
    before["sh_size"][cut] = headers["sh_size"][cut]
    return bytes(changed), tuple(_differences(before, headers)), tuple(lost)


def _repair(headers: Table, order: str) -> npt.NDArray[np.bool_]:
    """Repair headers in place, and tell which sections hold relocations that are applied."""
    count, kinds, flags = len(headers), headers["sh_type"], headers["sh_flags"]
    held = flags & _ALLOC != 0
    symbols = np.flatnonzero(kinds == SHT.SYMTAB)
    late = (flags & _LATE != 0) & held & ~np.isin(kinds, (SHT.NULL, SHT.NOBITS))
    into = np.where(headers["sh_info"] < count, headers["sh_info"], 0)
    applied = held[into] & ~np.isin(kinds[into], _ROWS) & (np.arange(count) > 0)
    rows = np.isin(kinds, _ROWS)
    kinds[late & applied & rows] = SHT.RELA
    # Nobody applies the others, nor are odd types other than bytes.
    kinds[rows & ~applied & (headers["sh_info"] != into)] = SHT.PROGBITS
    kinds[rows & (headers["sh_info"] == 0)] = SHT.PROGBITS
    kinds[held & ((kinds == SHT.NULL) | ~np.isin(kinds, _KNOWN))] = SHT.PROGBITS
    rela = kinds == SHT.RELA
    if len(symbols):
        headers["sh_link"][rela] = symbols[0]
    bad = ~rela & (kinds != SHT.SYMTAB) & (headers["sh_link"] >= count)
    headers["sh_link"][bad] = 0
    for chosen, size in (
        (rela, rela_dtype(order).itemsize),
        (symbols, symbol_dtype(order).itemsize),
    ):
        headers["sh_entsize"][chosen] = size
        headers["sh_size"][chosen] -= headers["sh_size"][chosen] % np.uint64(size)
    held_rows: npt.NDArray[np.bool_] = rela & applied
    return held_rows


def _differences(before: Table, after: Table) -> Iterator[str]:
    for number in np.flatnonzero(before != after).tolist():
        for field in before.dtype.names or ():
            old, new = before[number][field], after[number][field]
            if old != new and (field, old) not in _MADE_SO:
                yield f"section {number} has {field} {old:#x}"
