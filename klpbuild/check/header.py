"""Check the ELF headers as the module loader does before it looks at anything else.

See kernel/module/main.c: elf_validity_check() and setup_load_info(), in newer kernels
elf_validity_cache_copy().

It works on bytes, for `klpbuild.elf.reader` is stricter in some places and the
kernel's words depend on the first fault that the kernel sees.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np
import numpy.typing as npt

from klpbuild.arch import ARCHITECTURES, Architecture
from klpbuild.check import catalogue
from klpbuild.check.rule import Rule, Version
from klpbuild.check.structmodule import THIS_MODULE
from klpbuild.elf.constants import ET, SHF, SHN_LORESERVE, SHN_XINDEX, SHT
from klpbuild.elf.tables import EHDR_SIZE, Table, ehdr_dtype, section_dtype, string_at, symbol_dtype

EI_CLASS, EI_DATA = 4, 5
_ELFCLASS64 = 2
#: First kernel that reads the headers in another order and checks more of them.
_STRICT = (6, 12)
#: First kernel that wants exactly one struct module.
_ONE_MODULE = (6, 4)
_NEWEST = (99, 0)
_ALLOC = np.uint64(SHF.ALLOC)

_Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Fault:
    """A fault of the headers, and the values for the kernel's words."""

    rule: Rule
    what: str
    values: dict[str, object]


def header_faults(
    data: bytes, machine: int | None, version: Version | None = None
) -> tuple[Fault, ...]:
    """Find the first fault of a file's headers: nothing behind it can be read.

    :param machine: ``e_machine`` of the kernel; None takes each that has livepatch.
    :param version: of the kernel; None for the newest.
    """
    return tuple(islice(_faults(data, machine, version or _NEWEST), 1))


def _faults(data: bytes, machine: int | None, version: Version) -> Iterator[Fault]:
    if len(data) < EHDR_SIZE or data[:4] != b"\x7fELF":
        kind = "is empty" if not data else "does not begin with ELF's magic number"
        kind = kind if data[:4] != b"\x7fELF" else f"ends after {len(data)} bytes"
        # init_module() says nothing of a file that is too short; finit_module() does.
        said = "Invalid ELF header magic: != \x7fELF" if len(data) >= EHDR_SIZE else ""
        yield Fault(catalogue.NOT_ELF, kind, {"said": said})
        return
    known = [a for a in ARCHITECTURES if machine is None or a.machine == machine]
    arch = _architecture(data, known)
    header = _header(data, arch or known[0])
    if header["e_type"] != ET.REL:
        kind = f"has e_type {header['e_type']}, not ET_REL"
        if header["e_type"] == ET.REL << 8:
            orders = "little-endian", "big-endian"
            own = (arch or known[0]).big_endian
            kind += f": it is {orders[not own]}, and {(arch or known[0]).name} is {orders[own]}"
        yield Fault(catalogue.NOT_RELOCATABLE, kind, {"type": header["e_type"]})
    if arch is None:
        wanted = " or ".join(a.name for a in known)
        other = _architecture(data, list(ARCHITECTURES))
        named = other.name if other else f"machine {header['e_machine']}"
        kind = f"is for {named}, not {wanted}"
        yield Fault(catalogue.WRONG_MACHINE, kind, {"machine": header["e_machine"]})
        return
    yield from _table_faults(data, header, arch, version)


def foreign_identity(data: bytes, machine: int | None) -> bytes | None:
    """Correct a file's ELF class and byte order to its machine's; None when they are right.

    The kernel looks at neither; other programs cannot read such a file.

    :param data: a file whose first fault is not `catalogue.NOT_ELF` or `WRONG_MACHINE`.
    """
    known = [a for a in ARCHITECTURES if machine is None or a.machine == machine]
    arch = _architecture(data, known) if len(data) >= EHDR_SIZE else None
    if arch is None:
        return None
    right = bytes((_ELFCLASS64, 2 if arch.big_endian else 1))
    if data[EI_CLASS : EI_DATA + 1] == right:
        return None
    return data[:EI_CLASS] + right + data[EI_DATA + 1 :]


def _header(data: bytes, arch: Architecture) -> np.void:
    header: np.void = np.frombuffer(data, ehdr_dtype(_order(arch)), 1)[0]
    return header


def _order(arch: Architecture) -> str:
    return ">" if arch.big_endian else "<"


def _architecture(data: bytes, known: list[Architecture]) -> Architecture | None:
    """Find whose module it is: the kernel looks at e_machine alone."""
    found = [a for a in known if _header(data, a)["e_machine"] == a.machine]
    said = [a for a in found if data[EI_DATA] == (2 if a.big_endian else 1)]
    return next(iter(said or found), None)


def _table_faults(
    data: bytes, header: np.void, arch: Architecture, version: Version
) -> Iterator[Fault]:
    dtype = section_dtype(_order(arch))
    if header["e_shentsize"] != dtype.itemsize:
        kind = f"has section headers of {header['e_shentsize']} bytes, not {dtype.itemsize}"
        yield Fault(catalogue.SECTION_HEADERS, kind, {"said": "size"})
        return
    offset, count = int(header["e_shoff"]), int(header["e_shnum"])
    if offset >= len(data) or offset + count * dtype.itemsize > len(data):
        kind = f"has {count} section headers at {offset:#x}, past its end at {len(data):#x}"
        yield Fault(catalogue.SECTION_HEADERS, kind, {"said": "overflow"})
        return
    headers = np.frombuffer(data, dtype, count, offset)
    index = int(header["e_shstrndx"])
    checks: list[Callable[[], Iterator[Fault]]] = [
        lambda: _name_table_faults(data, headers, index, version),
        lambda: _null_faults(data, headers, offset),
        lambda: _contents_faults(data, headers, index, version),
    ]
    if version >= _STRICT:
        checks = [checks[1], checks[2], checks[0]]
    for check in checks:
        yield from check()
    names = _contents(data, headers[index])
    called = [string_at(names, n) if n < len(names) else "" for n in headers["sh_name"].tolist()]
    sections = _Sections(data, headers, tuple(called), version)
    yield from _unique_faults(sections)
    yield from _symbol_faults(sections, arch)


def _name_table_faults(
    data: bytes, headers: Table, index: int, version: Version
) -> Iterator[Fault]:
    said = _names_fault(data, headers, index, version)
    if said:
        kind = f"has no usable section names: e_shstrndx is {index} of {len(headers)}"
        yield Fault(catalogue.SECTION_NAMES, kind, {"said": said})
        return
    if version >= _STRICT:
        yield from _section_name_faults(headers, index, headers["sh_type"] != SHT.NULL)


def _names_fault(data: bytes, headers: Table, index: int, version: Version) -> str:
    """Check the table of section names; return the kernel's words, empty when it accepts it."""
    if index == 0 or index >= len(headers):
        return f"Invalid ELF section name index: {index}"
    table = headers[index]
    if version < _STRICT and _ends_outside(data, headers[index : index + 1]).any():
        return f"Invalid ELF section hdr(type {table['sh_type']})"
    if version >= _STRICT and table["sh_type"] != SHT.STRTAB:
        return f"Invalid ELF section name table type: {table['sh_type']}"
    if table["sh_size"] == 0:
        return "empty section name table"
    if data[int(table["sh_offset"]) + int(table["sh_size"]) - 1]:
        return "ELF Spec violation: section name table isn't null terminated"
    return ""


def _null_faults(data: bytes, headers: Table, offset: int) -> Iterator[Fault]:
    if not len(headers):
        # The kernel looks at what stands where the first one would be.
        kind = f"has no section headers at {offset:#x}"
        yield Fault(catalogue.SECTION_HEADERS, kind, {"said": "overflow"})
        return
    first = headers[0]
    if first["sh_type"] != SHT.NULL or first["sh_size"] or first["sh_addr"]:
        kind = f"has a section 0 of type {first['sh_type']}"
        yield Fault(catalogue.NULL_SECTION, kind, {"type": first["sh_type"]})


def _ends_outside(data: bytes, headers: Table) -> _Mask:
    """Find which sections do not lie in the file, as validate_section_offset() reckons."""
    ends = headers["sh_offset"] + headers["sh_size"]
    outside: _Mask = (ends > len(data)) | (ends < headers["sh_offset"])
    return outside


def _contents_faults(data: bytes, headers: Table, index: int, version: Version) -> Iterator[Fault]:
    in_file = ~np.isin(headers["sh_type"], (SHT.NULL, SHT.NOBITS))
    bad = in_file & _ends_outside(data, headers)
    tables = headers["sh_type"] == SHT.SYMTAB
    unnamed = tables & ((headers["sh_link"] == 0) | (headers["sh_link"] >= len(headers)))
    if version >= _STRICT:
        unnamed[:] = False  # looked at later
    for number in np.flatnonzero(bad | unnamed).tolist():
        if unnamed[number]:
            yield _no_strings(headers, number)
        else:
            end = int(headers[number]["sh_offset"]) + int(headers[number]["sh_size"])
            kind = f"section {number} ends at {end:#x}, past the end of the file at {len(data):#x}"
            values: dict[str, object] = {"section": number}
            values["type"] = int(headers[number]["sh_type"])
            yield Fault(catalogue.TRUNCATED, kind, values)
    if version < _STRICT:
        loaded = in_file & (headers["sh_flags"] & _ALLOC != 0)
        yield from _section_name_faults(headers, index, loaded)


def _section_name_faults(headers: Table, index: int, looked_at: _Mask) -> Iterator[Fault]:
    bad = looked_at & (headers["sh_name"] >= headers[index]["sh_size"])
    for number in np.flatnonzero(bad).tolist():
        kind = f"the name of section {number} is not in the table of section names"
        values: dict[str, object] = {"section": number, "type": int(headers[number]["sh_type"])}
        yield Fault(catalogue.SECTION_NAME, kind, values)


def _no_strings(headers: Table, number: int) -> Fault:
    link = int(headers[number]["sh_link"])
    kind = f"the symbol table, section {number}, has its names in section {link}"
    said = f"Invalid ELF sh_link!=SHN_UNDEF({link})"
    if 0 < link < len(headers):
        said = f"Invalid ELF symbol string table type: {headers[link]['sh_type']}"
    return Fault(catalogue.NO_STRINGS, kind, {"said": said})


def _contents(data: bytes, header: np.void) -> bytes:
    start = int(header["sh_offset"])
    return data[start : start + int(header["sh_size"])]


@dataclass(frozen=True)
class _Sections:
    """Sound section headers with their names."""

    data: bytes
    headers: Table
    names: tuple[str, ...]
    version: Version

    def __len__(self) -> int:
        return len(self.headers)

    def called(self, name: str) -> list[int]:
        """List the sections of a name that the kernel finds: before 6.4 only loaded ones."""
        found = [n for n, each in enumerate(self.names) if each == name]
        if self.version < _ONE_MODULE:
            found = [n for n in found if self.headers[n]["sh_flags"] & _ALLOC]
        return found

    def module(self) -> str:
        """Name the module as the kernel does in its first messages."""
        for number in self.called(".modinfo")[:1]:
            for text in _contents(self.data, self.headers[number]).split(b"\0"):
                if text.startswith(b"name="):
                    return text[5:].decode(errors="replace")
        return "(missing .modinfo section or name field)"


def _unique_faults(sections: _Sections) -> Iterator[Fault]:
    """Check the sections of which the kernel wants exactly one."""
    if sections.version >= _STRICT and len(sections.called(".modinfo")) > 1:
        yield Fault(catalogue.TWO_MODINFO, "has more than one section .modinfo", {})
    if sections.version < _STRICT:
        yield from _symbol_table_faults(sections)
    yield from _this_module_faults(sections)
    if sections.version >= _STRICT:
        yield from _symbol_table_faults(sections)


def _this_module_faults(sections: _Sections) -> Iterator[Fault]:
    found = sections.called(THIS_MODULE)
    strict = sections.version >= _ONE_MODULE
    values: dict[str, object] = {"module": sections.module()}
    if not found or (strict and len(found) > 1):
        count = f"{len(found)} sections" if found else "no section"
        values["said"] = "Exactly one .gnu.linkonce.this_module section must exist."
        yield Fault(catalogue.NO_THIS_MODULE, f"has {count} {THIS_MODULE}", values)
    elif strict and sections.headers[found[0]]["sh_type"] == SHT.NOBITS:
        values["said"] = ".gnu.linkonce.this_module section must have a size set"
        yield Fault(catalogue.NO_THIS_MODULE, f"{THIS_MODULE} has no contents", values)
    elif strict and not sections.headers[found[0]]["sh_flags"] & _ALLOC:
        values["said"] = ".gnu.linkonce.this_module must occupy memory during process execution"
        yield Fault(catalogue.NO_THIS_MODULE, f"{THIS_MODULE} has no flag SHF_ALLOC", values)


def _symbol_table_faults(sections: _Sections) -> Iterator[Fault]:
    headers = sections.headers
    tables = np.flatnonzero(headers["sh_type"] == SHT.SYMTAB).tolist()
    strict = sections.version >= _STRICT
    if not tables or (strict and len(tables) > 1):
        kind = f"has {len(tables)} symbol tables" if tables else "has no symbol table"
        yield Fault(catalogue.NO_SYMBOLS, kind, {"module": sections.module()})
        return
    link = int(headers[tables[0]]["sh_link"])
    if strict and (not 0 < link < len(headers) or headers[link]["sh_type"] != SHT.STRTAB):
        yield _no_strings(headers, tables[0])


def _symbol_faults(sections: _Sections, arch: Architecture) -> Iterator[Fault]:
    """Check for symbols in sections that do not exist; `klpbuild.elf.reader` refuses them."""
    headers, dtype = sections.headers, symbol_dtype(_order(arch))
    number = int(np.flatnonzero(headers["sh_type"] == SHT.SYMTAB)[0])
    table = _contents(sections.data, headers[number])
    symbols = np.frombuffer(table, dtype, len(table) // dtype.itemsize)
    places = symbols["st_shndx"]
    bad = (places >= len(headers)) & ((places < SHN_LORESERVE) | (places == SHN_XINDEX))
    names = _contents(sections.data, headers[int(headers[number]["sh_link"])])
    for index in np.flatnonzero(bad[1:])[:1].tolist():
        at, place = int(symbols[index + 1]["st_name"]), int(places[index + 1])
        name = string_at(names, at) if at < len(names) else ""
        what = f"symbol {name or index + 1} is in section {place:#x}"
        values = {"module": sections.module(), "symbol": name}
        yield Fault(
            catalogue.SECTION_INDEX, what, {**values, "section": place, "last": len(headers) - 1}
        )
