"""The ELF64 tables as numpy structured types, in the fields' own names."""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

#: A table of `symbol_dtype`, `rela_dtype` or `section_dtype` records.
Table = npt.NDArray[np.void]

_Number = TypeVar("_Number", bound=np.integer[Any])

EHDR_SIZE = 64


def ehdr_dtype(order: str) -> np.dtype[Any]:
    """Describe the ELF header, 64 bytes.

    :param order: ``"<"`` or ``">"``.
    """
    return np.dtype(
        [
            ("e_ident", "V16"),
            ("e_type", order + "u2"),
            ("e_machine", order + "u2"),
            ("e_version", order + "u4"),
            ("e_entry", order + "u8"),
            ("e_phoff", order + "u8"),
            ("e_shoff", order + "u8"),
            ("e_flags", order + "u4"),
            ("e_ehsize", order + "u2"),
            ("e_phentsize", order + "u2"),
            ("e_phnum", order + "u2"),
            ("e_shentsize", order + "u2"),
            ("e_shnum", order + "u2"),
            ("e_shstrndx", order + "u2"),
        ]
    )


def section_dtype(order: str) -> np.dtype[Any]:
    """Describe a section header, 64 bytes."""
    return np.dtype(
        [
            ("sh_name", order + "u4"),
            ("sh_type", order + "u4"),
            ("sh_flags", order + "u8"),
            ("sh_addr", order + "u8"),
            ("sh_offset", order + "u8"),
            ("sh_size", order + "u8"),
            ("sh_link", order + "u4"),
            ("sh_info", order + "u4"),
            ("sh_addralign", order + "u8"),
            ("sh_entsize", order + "u8"),
        ]
    )


def symbol_dtype(order: str) -> np.dtype[Any]:
    """Describe a symbol, 24 bytes."""
    return np.dtype(
        [
            ("st_name", order + "u4"),
            ("st_info", "u1"),
            ("st_other", "u1"),
            ("st_shndx", order + "u2"),
            ("st_value", order + "u8"),
            ("st_size", order + "u8"),
        ]
    )


def rela_dtype(order: str) -> np.dtype[Any]:
    """Describe a relocation with addend, 24 bytes; type and symbol index are the halves of r_info.

    In either byte order a row is (offset, type, symbol, addend).
    """
    kind, symbol = (8, 12) if order == "<" else (12, 8)
    return np.dtype(
        {
            "names": ["r_offset", "r_type", "r_sym", "r_addend"],
            "formats": [order + "u8", order + "u4", order + "u4", order + "i8"],
            "offsets": [0, kind, symbol, 16],
        }
    )


def distinct(numbers: npt.NDArray[_Number]) -> npt.NDArray[_Number]:
    """Sort numbers and drop repeats: `numpy.unique` since 2.3 hashes, ten times as slowly."""
    in_order = np.sort(numbers)
    kept = np.ones(len(in_order), np.bool_)
    kept[1:] = in_order[1:] != in_order[:-1]
    return in_order[kept]


def string_at(table: bytes | memoryview, offset: int) -> str:
    """Read the zero-terminated string at an offset; what lies past the end is empty."""
    view = bytes(table) if isinstance(table, memoryview) else table
    end = view.find(b"\0", offset)
    return view[offset : end if end >= 0 else len(view)].decode(errors="surrogateescape")
