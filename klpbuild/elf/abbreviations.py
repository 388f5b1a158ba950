"""Read abbreviations of debug information entries (DWARF 5, section 7.5.3), and LEB128 numbers."""

from __future__ import annotations

from dataclasses import dataclass

IMPLICIT = 0x21  # DW_FORM_implicit_const
_LEB_BITS_MAX = 70

#: A form and, for DW_FORM_implicit_const, its value.
Form = tuple[int, int]


@dataclass(frozen=True)
class Abbreviation:
    """An abbreviation: tag, whether there are children, attribute to form."""

    tag: int
    children: bool
    forms: tuple[tuple[int, Form], ...]


def read_abbreviations(data: memoryview, offset: int) -> dict[int, Abbreviation]:
    """Read a unit's abbreviations by their codes.

    :param data: ``.debug_abbrev``.
    """
    found: dict[int, Abbreviation] = {}
    at = offset
    while True:
        code, at = uleb(data, at)
        if not code:
            return found
        tag, at = uleb(data, at)
        children, at = bool(data[at]), at + 1
        forms: list[tuple[int, Form]] = []
        while True:
            attribute, at = uleb(data, at)
            form, at = uleb(data, at)
            value = 0
            if form == IMPLICIT:
                value, at = sleb(data, at)
            if not attribute:
                break
            forms.append((attribute, (form, value)))
        found[code] = Abbreviation(tag, children, tuple(forms))


def uleb(data: memoryview, at: int) -> tuple[int, int]:
    """Read an unsigned LEB128 number; return it and the place behind it."""
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > _LEB_BITS_MAX:
            raise ValueError("a number has too many bytes")


def sleb(data: memoryview, at: int) -> tuple[int, int]:
    """Read a signed LEB128 number; return it and the place behind it."""
    start = at
    value, at = uleb(data, at)
    bits = 7 * (at - start)
    return value - (1 << bits) if value >> (bits - 1) else value, at
