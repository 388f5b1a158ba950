"""Read back what a finished livepatch module contains."""

from __future__ import annotations

import struct
from collections import Counter
from dataclasses import dataclass
from typing import Any

from klpbuild.check import catalogue
from klpbuild.check.header import header_faults
from klpbuild.check.patched import Patched
from klpbuild.check.subject import is_livepatch_section
from klpbuild.check.tables import read_tables
from klpbuild.elf.constants import SHN_UNDEF
from klpbuild.elf.modinfo import modinfo
from klpbuild.elf.reader import ElfFile
from klpbuild.errors import KlpError
from klpbuild.names import LivepatchSection, LivepatchSymbol, object_name

#: ``struct modversion_info``: CRC and name (include/linux/module.h).
_VERSION = struct.Struct("Q56s")


@dataclass(frozen=True, order=True)
class LivepatchRelocation:
    """The livepatch relocations of one section that name one symbol.

    :ivar gate: the object whose loading applies them.
    :ivar owner: the object that defines the symbol.
    :ivar symbol: its name there.
    :ivar sympos: 0 or its 1-based place among the owner's symbols of the name.
    :ivar section: the section that they change.
    :ivar count: how many.
    """

    gate: str
    owner: str
    symbol: str
    sympos: int
    section: str
    count: int


@dataclass(frozen=True, order=True)
class External:
    """An exported symbol that the module uses by ordinary relocations.

    :ivar crc: what ``__versions`` says of it; None without CONFIG_MODVERSIONS.
    """

    symbol: str
    crc: int | None


@dataclass(frozen=True)
class Contents:
    """A livepatch module as it stands in its file.

    :ivar name: the kernel's name of it.
    :ivar information: the tags of ``.modinfo``, each with its values.
    :ivar patched: what its static tables replace, in their order; None when they are made
        at run time.
    :ivar relocations: its livepatch relocations, sorted.
    :ivar externals: the ordinary undefined symbols, sorted.
    """

    elf: ElfFile
    name: str
    information: dict[str, list[str]]
    patched: tuple[Patched, ...] | None
    relocations: tuple[LivepatchRelocation, ...]
    externals: tuple[External, ...]

    def says(self, tag: str) -> str:
        """Return the first value of a tag; empty when it is missing."""
        return self.information.get(tag, [""])[0]


def read_contents(data: bytes, where: str) -> Contents:
    """Read a livepatch module, converted or not.

    :param data: without signature, not compressed.
    :param where: names the file in messages.
    :raises KlpError: when it is broken, or is no livepatch, in the words of the check.
    """
    for fault in header_faults(data, None):
        raise KlpError(fault.what, where=where, why=fault.rule.why, hint=fault.rule.hint)
    elf = ElfFile(data, where)
    information = modinfo(elf)
    if information.get("livepatch") != ["Y"]:
        raise KlpError(
            "has no modinfo 'livepatch'",
            where=where,
            why=catalogue.NOT_LIVEPATCH.why,
            hint=catalogue.NOT_LIVEPATCH.hint,
        )
    return Contents(
        elf,
        information.get("name", [object_name(where)])[0],
        information,
        read_tables(elf),
        _relocations(elf),
        _externals(elf),
    )


def patched_as_json(contents: Contents) -> list[dict[str, Any]] | None:
    """List what the static tables replace, for JSON; None when they are made at run time."""
    if contents.patched is None:
        return None
    return [
        {
            "object": patched.object,
            "functions": [
                {"old": f.old, "sympos": f.sympos, "new": f.new} for f in patched.functions or ()
            ],
            "callbacks": sorted(patched.callbacks),
        }
        for patched in contents.patched
    ]


def _relocations(elf: ElfFile) -> tuple[LivepatchRelocation, ...]:
    found: Counter[tuple[str, str, str, int, str]] = Counter()
    for section in elf.relocation_sections:
        if not is_livepatch_section(section):
            continue
        parsed = LivepatchSection.parse(section.name)
        gate = parsed.gate if parsed else ""
        target = elf.sections[section.sh_info].name if section.sh_info < len(elf.sections) else ""
        for index in elf.relocations(section)["r_sym"].tolist():
            known = LivepatchSymbol.parse(name := elf.symbol_name(index))
            symbol = (known.owner, known.symbol, known.sympos) if known else ("", name, 0)
            found[gate, *symbol, target] += 1
    return tuple(sorted(LivepatchRelocation(*key, count) for key, count in found.items()))


def _externals(elf: ElfFile) -> tuple[External, ...]:
    rows = elf.symbols
    undefined = (rows["st_shndx"] == SHN_UNDEF) & (rows["st_name"] != 0)
    crcs = _versions(elf)
    names = (elf.symbol_name(index) for index in undefined.nonzero()[0].tolist())
    return tuple(External(name, crcs.get(name)) for name in sorted(set(names)))


def _versions(elf: ElfFile) -> dict[str, int]:
    section = elf.section("__versions")
    if section is None:
        return {}
    data = bytes(elf.contents(section))
    order = "<" if elf.order == "<" else ">"
    entry = struct.Struct(order + _VERSION.format)
    whole = len(data) - len(data) % entry.size
    return {
        name.partition(b"\0")[0].decode(errors="replace"): crc
        for crc, name in entry.iter_unpack(data[:whole])
    }
