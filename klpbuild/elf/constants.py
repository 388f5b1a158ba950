"""The ELF constants that klpbuild uses, by the names of elf.h.

pyelftools does not know the livepatch ones: include/uapi/linux/elf.h,
Linux commit 425595a7fc20 ("livepatch: reuse module loader code to write
relocations"), v4.7.
"""

from __future__ import annotations

from enum import IntEnum, IntFlag

SHN_UNDEF = 0
SHN_LORESERVE = 0xFF00
SHN_LIVEPATCH = 0xFF20
SHN_ABS = 0xFFF1
SHN_COMMON = 0xFFF2
SHN_XINDEX = 0xFFFF


class ET(IntEnum):
    """Kind of file, ``e_type``."""

    REL = 1
    EXEC = 2
    DYN = 3


class EM(IntEnum):
    """Machines whose kernels have livepatch, ``e_machine``."""

    PPC64 = 21
    S390 = 22
    X86_64 = 62
    AARCH64 = 183
    RISCV = 243
    LOONGARCH = 258


class SHT(IntEnum):
    """Kind of section, ``sh_type``."""

    NULL = 0
    PROGBITS = 1
    SYMTAB = 2
    STRTAB = 3
    RELA = 4
    NOTE = 7
    NOBITS = 8
    REL = 9
    GROUP = 17
    SYMTAB_SHNDX = 18


class SHF(IntFlag):
    """Section flags, ``sh_flags``."""

    WRITE = 0x1
    ALLOC = 0x2
    EXECINSTR = 0x4
    MERGE = 0x10
    STRINGS = 0x20
    INFO_LINK = 0x40
    LINK_ORDER = 0x80
    GROUP = 0x200
    COMPRESSED = 0x800
    RELA_LIVEPATCH = 0x00100000


class STB(IntEnum):
    """Symbol binding, the high four bits of ``st_info``."""

    LOCAL = 0
    GLOBAL = 1
    WEAK = 2


class STT(IntEnum):
    """Symbol type, the low four bits of ``st_info``."""

    NOTYPE = 0
    OBJECT = 1
    FUNC = 2
    SECTION = 3
    FILE = 4
