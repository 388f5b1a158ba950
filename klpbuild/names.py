"""Format and parse the names that the kernel parses: objects, livepatch sections and symbols.

The kernel reads them with ``sscanf``; each ``parse`` here accepts what the
kernel accepts, and each ``format`` produces only what it accepts
(kernel/livepatch/core.c, klp_resolve_symbols and klp_apply_section_relocs).
The kernel's sscanf is not the C library's (lib/vsprintf.c, vsscanf): it counts
bytes, takes no sign for ``%lu``, and lets the number wrap.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path

from klpbuild.errors import KlpError

VMLINUX = "vmlinux"

#: MODULE_NAME_LEN is 64 - sizeof(unsigned long), with the terminating zero.
MODULE_NAME_MAX = 55
#: KSYM_NAME_LEN - 1.  Linux commit b8a94bfb3395 ("kallsyms: increase maximum
#: kernel symbol length to 512"), v6.1; 127 before.
SYMBOL_NAME_MAX = 511
SYMBOL_NAME_MAX_BEFORE_6_1 = 127

#: The kernel counts its symbols in 32 bits (kernel/kallsyms_internal.h, kallsyms_num_syms).
SYMPOS_MAX = 2**32 - 1

SECTION_PREFIX = ".klp.rela."
SYMBOL_PREFIX = ".klp.sym."
ANNOTATION_PREFIX = ".klp.sym.rela."

_ULONG_MAX = 2**64 - 1
_SECTION = re.compile(rb"\.klp\.rela\.([^.\0]{1,%d})(?:\.(.*))?" % MODULE_NAME_MAX, re.DOTALL)

# The third version of the "minimal klp-convert" series wrote a dot before the
# position, the versions before it and this project a comma.
_ANNOTATION = re.compile(
    rf"\.klp\.sym\.rela\.([^.]{{1,{MODULE_NAME_MAX}}})\.([^.]{{1,{MODULE_NAME_MAX}}})"
    r"\.(?:([^,]+),([0-9]{1,19})|([^,]+)\.([0-9]{1,19}))",
    re.DOTALL,
)

_MODULE_SUFFIXES = (".ko.xz", ".ko.zst", ".ko.gz", ".ko", ".o")


@cache
def _symbol_pattern(name_max: int) -> re.Pattern[bytes]:
    # The last class is what the kernel's isspace accepts (lib/ctype.c).
    return re.compile(
        rb"\.klp\.sym\.([^.\0]{1,%d})\.([^,\0]{1,%d}),[\t-\r \xa0]*([0-9]+)"
        % (MODULE_NAME_MAX, name_max)
    )


def _bytes(text: str) -> bytes:
    return text.encode(errors="surrogateescape")


def _text(name: bytes) -> str:
    return name.decode(errors="surrogateescape")


@lru_cache(4096)  # Module.symvers names the same owners thousands of times
def object_name(path: str) -> str:
    """Derive the kernel's name of an object from its file: ``fs/snd-pcm.ko`` is ``snd_pcm``.

    kbuild turns ``-`` and ``,`` into ``_`` in KBUILD_MODNAME (scripts/Makefile.lib,
    name-fix-token).

    :param path: a module's file name, with or without directories and suffix.
    """
    name = path.rstrip("/").rpartition("/")[2]
    for suffix in _MODULE_SUFFIXES:
        if name.endswith(suffix):
            name = name.removesuffix(suffix)
            break
    return name.replace("-", "_").replace(",", "_")


def symbol_name_max(version: tuple[int, int]) -> int:
    """Return the longest symbol name that a kernel of this version can look up, in bytes."""
    return SYMBOL_NAME_MAX if version >= (6, 1) else SYMBOL_NAME_MAX_BEFORE_6_1


@dataclass(frozen=True, order=True)
class LivepatchSymbol:
    """The name of a livepatch symbol, ``.klp.sym.<owner>.<symbol>,<sympos>``.

    :param owner: the object that defines the symbol.
    :param symbol: its name there; dots are allowed, commas are not.
    :param sympos: 0 if unique in its owner, else its 1-based place among the
        owner's symbols of that name in kallsyms order.
    """

    owner: str
    symbol: str
    sympos: int

    def format(self, name_max: int = SYMBOL_NAME_MAX) -> str:
        """Format the symbol's name in the ELF file.

        :param name_max: longest symbol name in bytes, see `symbol_name_max`.
        :raises KlpError: for a name that the kernel would not parse.
        """
        check_object_name(self.owner)
        length = len(_bytes(self.symbol))
        if length > name_max:
            raise KlpError(
                f"symbol name of {length} bytes is too long",
                where=f"{self.owner}:{self.symbol}",
                why=f"This kernel looks up names of at most {name_max} bytes.",
                hint="Reach the symbol through another one with a shorter name.",
            )
        if not self.symbol or "," in self.symbol or "\0" in self.symbol:
            raise KlpError(
                f"symbol name {self.symbol!r} cannot be written as a livepatch symbol",
                where=self.owner,
                why="The kernel takes the text between the object and the first comma as the name.",
            )
        if not 0 <= self.sympos <= _ULONG_MAX:
            raise KlpError(
                f"symbol position {self.sympos} cannot be written",
                where=f"{self.owner}:{self.symbol}",
                why="A position is 0 for a name that is unique, else 1 or more.",
            )
        return f"{SYMBOL_PREFIX}{self.owner}.{self.symbol},{self.sympos}"

    @classmethod
    def parse(cls, name: str, name_max: int = SYMBOL_NAME_MAX) -> LivepatchSymbol | None:
        """Parse a symbol's name as the kernel does, None if it would refuse it.

        The pattern is ``.klp.sym.%55[^.].%511[^,],%lu``.
        """
        match = _symbol_pattern(name_max).match(_bytes(name))
        if not match:
            return None
        digits = match[3][-64:]  # 10**64 is a multiple of 2**64: the rest wraps away
        return cls(_text(match[1]), _text(match[2]), int(digits) & _ULONG_MAX)


@dataclass(frozen=True, order=True)
class AnnotatedSymbol:
    """The name that KLP_RELOC_SYMBOL gives an undefined symbol before conversion.

    It is ``.klp.sym.rela.<gate>.<owner>.<symbol>,<sympos>``; klpbuild reads it, the
    kernel never does.
    """

    gate: str
    owner: str
    symbol: str
    sympos: int

    def format(self) -> str:
        """Format the name that `parse` reads."""
        return f"{ANNOTATION_PREFIX}{self.gate}.{self.owner}.{self.symbol},{self.sympos}"

    @classmethod
    def parse(cls, name: str) -> AnnotatedSymbol | None:
        """Parse such a name, None for another one.  ``-`` in objects becomes ``_``."""
        match = _ANNOTATION.fullmatch(name)
        if match is None:
            return None
        symbol, sympos = match[3] or match[5], match[4] or match[6]
        return cls(object_name(match[1]), object_name(match[2]), symbol, int(sympos))


@dataclass(frozen=True, order=True)
class LivepatchSection:
    """The name of a livepatch relocation section, ``.klp.rela.<gate>.<section>``.

    :param gate: the object whose loading applies the relocations.
    :param section: name of the section that they change, as in the file.
    """

    gate: str
    section: str

    def format(self) -> str:
        """Format the section's name in the ELF file.

        The kernel's document writes ``.klp.rela.ext4.text.ext4_attr_store`` for
        ``.text.ext4_attr_store``: one dot, which a name like ``__jump_table``
        lacks and gets, since the kernel ends the object's name at the next dot.

        :raises KlpError: for a gate that the kernel would not parse.
        """
        check_object_name(self.gate)
        return f"{SECTION_PREFIX}{self.gate}.{self.section.removeprefix('.')}"

    @classmethod
    def parse(cls, name: str) -> LivepatchSection | None:
        """Parse a section's name as the kernel does, None if it would refuse it.

        The pattern is ``.klp.rela.%55[^.]``; what follows is not looked at, so
        the section is known from sh_info alone.
        """
        match = _SECTION.match(_bytes(name))
        return cls(_text(match[1]), _text(match[2] or b"")) if match else None


def check_object_name(name: str) -> None:
    """Refuse the name of an object that the kernel cannot have."""
    if name and not set(name) & set(".-/\0") and len(_bytes(name)) <= MODULE_NAME_MAX:
        return
    raise KlpError(
        f"object name {name!r} cannot be a module's",
        why=f"A module's name has 1 to {MODULE_NAME_MAX} bytes and no dot, and '-' is written '_'.",
        hint=f"Write {object_name(name)!r}." if "-" in name else "",
    )


def index_path(symbols_klp: Path) -> Path:
    """Compute where the index of a symbols.klp is."""
    return symbols_klp.with_name(symbols_klp.name + ".index")
