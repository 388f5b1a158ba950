"""What the module loader checks before it looks at anything else: kernel/module/main.c,
elf_validity_check() and setup_load_info().

It works on bytes, for `klpbuild.elf.reader` is stricter in some places and the
kernel's words depend on the first fault that the kernel sees.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from klpbuild.arch import ARCHITECTURES
from klpbuild.check import catalogue
from klpbuild.check.rule import Rule
from klpbuild.elf.constants import ET, SHT
from klpbuild.elf.tables import EHDR_SIZE, Table, ehdr_dtype, section_dtype

_EI_CLASS, _EI_DATA = 4, 5
_ELFCLASS64 = 2


@dataclass(frozen=True)
class Fault:
    """What is wrong with the headers, and the values for the kernel's words."""

    rule: Rule
    what: str
    values: dict[str, object]


def header_faults(data: bytes, machine: int | None) -> Iterator[Fault]:
    """The first fault of a file's headers: with one, nothing behind it can be read.

    :param machine: ``e_machine`` of the kernel; None takes each that has livepatch.
    """
    if len(data) < EHDR_SIZE or data[:4] != b"\x7fELF":
        kind = "is empty" if not data else "does not begin with ELF's magic number"
        kind = kind if data[:4] != b"\x7fELF" else f"ends after {len(data)} bytes"
        yield Fault(catalogue.NOT_ELF, kind, {})
        return
    order = "<" if data[_EI_DATA] == 1 else ">"
    header = np.frombuffer(data, ehdr_dtype(order), 1)[0]
    if header["e_type"] != ET.REL:
        kind = f"has e_type {header['e_type']}, not ET_REL"
        yield Fault(catalogue.NOT_RELOCATABLE, kind, {"type": header["e_type"]})
        return
    known = [a for a in ARCHITECTURES if machine is None or a.machine == machine]
    if not any(_is_for(data, header, a.machine, a.big_endian) for a in known):
        wanted = " or ".join(a.name for a in known)
        kind = f"is for machine {header['e_machine']}, not {wanted}"
        yield Fault(catalogue.WRONG_MACHINE, kind, {"machine": header["e_machine"]})
        return
    yield from _section_faults(data, header, order)


def _is_for(data: bytes, header: np.void, machine: int, big_endian: bool) -> bool:
    same = bool(header["e_machine"] == machine) and data[_EI_CLASS] == _ELFCLASS64
    return same and data[_EI_DATA] == (2 if big_endian else 1)


def _section_faults(data: bytes, header: np.void, order: str) -> Iterator[Fault]:
    dtype = section_dtype(order)
    if header["e_shentsize"] != dtype.itemsize:
        kind = f"has section headers of {header['e_shentsize']} bytes, not {dtype.itemsize}"
        yield Fault(catalogue.SECTION_HEADERS, kind, {})
        return
    offset, count = int(header["e_shoff"]), int(header["e_shnum"])
    if offset >= len(data) or offset + count * dtype.itemsize > len(data):
        kind = f"has {count} section headers at {offset:#x}, past its end at {len(data):#x}"
        yield Fault(catalogue.SECTION_HEADERS, kind, {})
        return
    headers = np.frombuffer(data, dtype, count, offset)
    said = _names_fault(data, headers, int(header["e_shstrndx"]))
    if said:
        kind = f"has no usable section names: e_shstrndx is {header['e_shstrndx']} of {count}"
        yield Fault(catalogue.SECTION_NAMES, kind, {"said": said})
        return
    first = headers[0]
    if first["sh_type"] != SHT.NULL or first["sh_size"] or first["sh_addr"]:
        kind = f"has a section 0 of type {first['sh_type']}"
        yield Fault(catalogue.NULL_SECTION, kind, {"type": first["sh_type"]})
        return
    outside = _outside(data, headers)
    if outside is not None:
        ends = int(headers[outside]["sh_offset"]) + int(headers[outside]["sh_size"])
        kind = f"section {outside} ends at {ends:#x}, past the end of the file at {len(data):#x}"
        values: dict[str, object] = {"section": outside, "type": int(headers[outside]["sh_type"])}
        yield Fault(catalogue.TRUNCATED, kind, values)


def _names_fault(data: bytes, headers: Table, index: int) -> str:
    """What the kernel says of the table of section names; empty when it takes it."""
    if index == 0 or index >= len(headers):
        return f"Invalid ELF section name index: {index}"
    table = headers[index]
    start, size = int(table["sh_offset"]), int(table["sh_size"])
    if start + size > len(data):
        return "Invalid ELF section"
    if size == 0:
        return "empty section name table"
    if data[start + size - 1]:
        return "ELF Spec violation: section name table isn't null terminated"
    return ""


def _outside(data: bytes, headers: Table) -> int | None:
    in_file = ~np.isin(headers["sh_type"], (SHT.NULL, SHT.NOBITS))
    ends = headers["sh_offset"] + headers["sh_size"]
    bad = in_file & ((ends > len(data)) | (ends < headers["sh_offset"]))
    return int(np.argmax(bad)) if bad.any() else None
