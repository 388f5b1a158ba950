"""Read the shipped vmlinux by address, and its static keys."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from klpbuild.elf.constants import SHT, STT
from klpbuild.elf.reader import ElfFile
from klpbuild.names import VMLINUX
from klpbuild.symbols.database import SymbolDatabase

#: struct jump_entry of include/linux/jump_label.h with CONFIG_HAVE_ARCH_JUMP_LABEL_RELATIVE.
_JUMP_ENTRY = [("code", "i4"), ("target", "i4"), ("key", "u8")]
_KEY, _KEY_SIZE, _TYPE = 8, 16, 8
_MASK = 2**64 - 1


class Vmlinux:
    """vmlinux, and where its symbols are.

    :ivar elf: the file.
    """

    def __init__(self, path: Path, database: SymbolDatabase) -> None:
        """Open the file.

        :raises KlpError: when the file cannot be read.
        """
        self.elf = ElfFile.read(path)
        self._database = database

    def address(self, name: str) -> int | None:
        """Look up the address of the first symbol of a name."""
        found = self._database.in_object(VMLINUX, name)
        return found[0].address if found else None

    @cached_property
    def in_place(self) -> bool:
        """Whether its symbols' addresses are the file's: a running kernel moves them (KASLR)."""
        text = self.elf.section(".text")
        return text is not None and text.sh_addr == self.address("_stext")

    def read(self, address: int, size: int) -> bytes | None:
        """Read bytes at an address, zeros where the file holds none; None outside of it."""
        for section in self.elf.sections:
            start = address - section.sh_addr
            if section.sh_addr and start >= 0 and start + size <= section.sh_size:
                if section.sh_type == SHT.NOBITS:
                    return bytes(size)
                return bytes(self.elf.contents(section)[start : start + size])
        return None

    def size_at(self, address: int) -> int:
        """Return the bytes of the variable that begins at an address; 0 when not known."""
        starts, sizes = self._variables
        place = int(np.searchsorted(starts, np.uint64(address)))
        found = place < len(starts) and int(starts[place]) == address
        return int(sizes[place]) if found and self.in_place else 0

    @cached_property
    def _variables(self) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]:
        rows = self.elf.symbols
        rows = rows[(rows["st_info"] & 0xF == STT.OBJECT) & (rows["st_size"] > 0)]
        # Of aliases the largest counts: it comes first.
        rows = rows[np.lexsort((-rows["st_size"].astype(np.int64), rows["st_value"]))]
        return rows["st_value"].astype(np.uint64), rows["st_size"].astype(np.uint64)

    @cached_property
    def static_keys(self) -> dict[int, bool]:
        """Address of each static key that its own jumps use, and whether it begins as true."""
        start, stop = self.address("__start___jump_table"), self.address("__stop___jump_table")
        table = self.read(start, stop - start) if self.in_place and start and stop else None
        entry = np.dtype([(name, self.elf.order + kind) for name, kind in _JUMP_ENTRY])
        if start is None or table is None or len(table) % entry.itemsize:
            return {}
        distances = np.frombuffer(table, entry)["key"].astype(np.uint64)
        places = np.arange(len(distances), dtype=np.uint64) * np.uint64(entry.itemsize)
        keys = (places + np.uint64(start + _KEY) + distances) & np.uint64(_MASK - 3)
        found = {}
        for key in np.unique(keys).tolist():
            data = self.read(key, _KEY_SIZE)
            if data is not None:
                low = data[_TYPE] if self.elf.order == "<" else data[-1]
                found[key] = bool(low & 1)
        return found
