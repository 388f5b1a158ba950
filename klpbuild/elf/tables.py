"""The ELF64 tables as numpy structured types, in the fields' own names."""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

#: A table of `symbol_dtype`, `rela_dtype` or `section_dtype` records.
Table = npt.NDArray[np.void]

_Number = TypeVar("_Number", bound=np.integer[Any])

EHDR_SIZE = 64


#: The fields of a table in their order, by their types.
_Layout = tuple[tuple[str, str], ...]

_EHDR: _Layout = (
    ("V16", "e_ident"),
    ("u2", "e_type e_machine"),
    ("u4", "e_version"),
    ("u8", "e_entry e_phoff e_shoff"),
    ("u4", "e_flags"),
    ("u2", "e_ehsize e_phentsize e_phnum e_shentsize e_shnum e_shstrndx"),
)
_SECTION: _Layout = (
    ("u4", "sh_name sh_type"),
    ("u8", "sh_flags sh_addr sh_offset sh_size"),
    ("u4", "sh_link sh_info"),
    ("u8", "sh_addralign sh_entsize"),
)
_SYMBOL: _Layout = (
    ("u4", "st_name"),
    ("u1", "st_info st_other"),
    ("u2", "st_shndx"),
    ("u8", "st_value st_size"),
)


def _dtype(layout: _Layout, order: str) -> np.dtype[Any]:
    return np.dtype([(name, order + kind) for kind, names in layout for name in names.split()])


def ehdr_dtype(order: str) -> np.dtype[Any]:
    """Describe the ELF header, 64 bytes.

    :param order: ``"<"`` or ``">"``.
    """
    return _dtype(_EHDR, order)


def section_dtype(order: str) -> np.dtype[Any]:
    """Describe a section header, 64 bytes."""
    return _dtype(_SECTION, order)


def symbol_dtype(order: str) -> np.dtype[Any]:
    """Describe a symbol, 24 bytes."""
    return _dtype(_SYMBOL, order)


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
