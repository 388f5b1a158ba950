"""Read the notes of a file."""

from __future__ import annotations

from klpbuild.elf.constants import SHT
from klpbuild.elf.reader import ElfFile

_NT_GNU_BUILD_ID = 3


def build_id(elf: ElfFile) -> str:
    """Read the GNU build id in hexadecimal digits (elf(5), NT_GNU_BUILD_ID); empty without one."""
    order = "little" if elf.order == "<" else "big"
    for section in elf.sections:
        if section.sh_type != SHT.NOTE:
            continue
        data, offset = bytes(elf.contents(section)), 0
        while offset + 12 <= len(data):
            sizes = data[offset : offset + 12]
            name, size, kind = (int.from_bytes(sizes[i : i + 4], order) for i in (0, 4, 8))  # type: ignore[arg-type]
            begin = offset + 12 + (name + 3 & ~3)
            if kind == _NT_GNU_BUILD_ID and data[offset + 12 : begin].startswith(b"GNU\0"):
                return data[begin : begin + size].hex()
            offset = begin + (size + 3 & ~3)
    return ""
