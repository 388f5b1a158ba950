"""Relocate debug sections of relocatable files: ld leaves that to their readers."""

from __future__ import annotations

import numpy as np

from klpbuild.elf.reader import ElfFile, Section

#: e_machine and type of the absolute relocations to how many bytes they write.
WIDTHS = {
    (62, 1): 8, (62, 10): 4, (183, 257): 8, (183, 258): 4,
    (21, 38): 8, (21, 1): 4, (22, 22): 8, (22, 4): 4,
}  # fmt: skip


def relocate(
    elf: ElfFile,
    section: Section,
    data: bytearray | memoryview,
    start: int = 0,
    end: int | None = None,
) -> None:
    """Apply the absolute relocations of 4 and 8 bytes of a debug section in a relocatable file.

    :param data: the section's bytes, not compressed.
    :param start: where to begin, and `end` where to stop.
    """
    end = len(data) if end is None else min(end, len(data))
    fields = np.frombuffer(data, np.uint8)
    for relocations in elf.relocation_sections:
        if relocations.sh_info != section.index:
            continue
        rows = elf.relocations(relocations)
        rows = rows[(rows["r_offset"] >= start) & (rows["r_offset"] < end)]
        for (machine, kind), width in WIDTHS.items():
            if machine != elf.e_machine:
                continue
            made = rows[(rows["r_type"] == kind) & (rows["r_offset"] + width <= len(data))]
            values = elf.symbols["st_value"][made["r_sym"]].astype(f"{elf.order}u8")
            values += made["r_addend"].astype(f"{elf.order}u8")
            places = made["r_offset"].astype(np.int64)[:, None] + np.arange(width)
            written = slice(8 - width, 8) if elf.order == ">" else slice(width)
            fields[places] = values.view(np.uint8).reshape(-1, 8)[:, written]
