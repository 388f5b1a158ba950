"""Damage to inputs, the same for the same random numbers: of bytes, of text and of ELF files."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

import numpy as np

from klpbuild.elf.tables import EHDR_SIZE, ehdr_dtype, rela_dtype, section_dtype, symbol_dtype

#: Makes a damaged input of whole ones; the first is damaged, others lend pieces.
Mutator = Callable[[Random, Sequence[bytes]], bytes]

EXTREMES: tuple[int, ...] = (
    0, 1, 2, 3, 0x7F, 0x80, 0xFF, 0xFF00, 0xFFF1, 0xFFFF, 2**31 - 1, 2**31, 2**32 - 1,
    2**63 - 1, 2**63, 2**64 - 1,
)  # fmt: skip
WORDS = (
    b"", b"0", b"-1", b"1e999", b"nan", b"18446744073709551616", b"0x" + b"f" * 40, b"9" * 5000,
    b"\0", b"\xff\xfe", b"\xed\xa0\x80", b"\r", b"\t", b"\n", b"\x1b[31m", b'"', b"'", b"\\", b"`",
    b"$(x)", b"${x}", b"%s", b"../", b"/", b"//", b"{", b"}", b"[", b"]" * 3, b"[" * 3000,
    b'{"a":' * 2000, b"a" * 70_000, "ä\u202e😀".encode(), b"null", b"true", b"[]", b"{}", b'""',
)  # fmt: skip
VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1.5, 2**64, float("inf"), "", "x", "\0", "\ud800", "a" * 5000, "../x",
    "/x", [], {}, [[]], [None], [1, "2"], {"a": {}}, {"path": 1, "sha256": []},
)  # fmt: skip


def of_bytes(random: Random, whole: Sequence[bytes]) -> bytes:
    """Change bytes and numbers, move pieces, cut off."""
    data = bytearray(whole[0])
    for _ in range(random.choice((1, 1, 2, 3, 8))):
        _change_bytes(random, data, whole)
    return bytes(data)


def _change_bytes(random: Random, data: bytearray, whole: Sequence[bytes]) -> None:
    at = random.randrange(len(data) + 1)
    match random.randrange(8):
        case 0 | 1:
            data[at : at + 1] = bytes([random.randrange(256)])
        case 2 | 3:
            width = random.choice((1, 2, 4, 8))
            at -= at % width
            value = random.choice(EXTREMES) + random.choice((0, 0, 0, -1, 1, len(data)))
            data[at : at + width] = (value % 256**width).to_bytes(width, "little")
        case 4:
            other = random.choice(whole)
            start = random.randrange(len(other) + 1)
            piece = other[start : start + random.randrange(1, 65)]
            data[at : at + random.choice((0, len(piece)))] = piece
        case 5:
            del data[at : at + random.randrange(1, 65)]
        case 6:
            del data[at:]
        case _:
            data[at:at] = random.randbytes(random.randrange(1, 17))


def of_text(random: Random, whole: Sequence[bytes]) -> bytes:
    """Change, repeat, move and drop words and lines."""
    data = whole[0]
    for _ in range(random.choice((1, 1, 2, 3, 6))):
        data = _change_text(random, data, whole)
    return data


def _change_text(random: Random, data: bytes, whole: Sequence[bytes]) -> bytes:
    kind = random.randrange(8)
    if kind == 0:
        return of_bytes(random, [data, *whole])
    if kind < 4:  # a word becomes another, or comes in between
        words = [m.span() for m in re.finditer(rb"\w+|[^\w\s]", data)] or [(0, 0)]
        start, end = random.choice(words)
        if kind == 3:
            end = start
        first, last = random.choice(words)
        word = random.choice((random.choice(WORDS), data[first:last]))
        return data[:start] + word + data[end:]
    lines = data.splitlines(keepends=True) or [b""]
    at = random.randrange(len(lines))
    if kind == 4:
        del lines[at]
    elif kind == 5:
        lines[at:at] = [lines[at]] * random.choice((1, 1, 2, 100))
    elif kind == 6:
        lines.insert(random.randrange(len(lines)), lines.pop(at))
    else:
        others = random.choice(whole).splitlines(keepends=True) or [b""]
        lines.insert(at, random.choice(others))
    return b"".join(lines)


def of_json(random: Random, whole: Sequence[bytes]) -> bytes:
    """Change values for those of other types, drop and repeat; now and then the text itself."""
    if random.randrange(3) == 0:
        return of_text(random, whole)
    try:
        value = json.loads(whole[0])
    except ValueError:
        return of_text(random, whole)
    for _ in range(random.choice((1, 1, 2, 4))):
        value = _change_json(random, value)
    return json.dumps(value).encode()


def _change_json(random: Random, value: Any) -> Any:
    if isinstance(value, dict | list) and value and random.randrange(5):
        keys = list(value) if isinstance(value, dict) else list(range(len(value)))
        key = random.choice(keys)
        changed: Any = dict(value) if isinstance(value, dict) else list(value)
        match random.randrange(8):
            case 0:
                del changed[key]
            case 1 if isinstance(changed, list):
                changed.insert(key, changed[random.choice(keys)])
            case 1:
                changed["more"] = changed[random.choice(keys)]
            case _:
                changed[key] = _change_json(random, value[key])
        return changed
    return random.choice(VALUES)


def of_toml(random: Random, whole: Sequence[bytes]) -> bytes:
    """Change values for those of other types, drop and repeat; now and then the text itself."""
    if random.randrange(3) == 0:
        return of_text(random, whole)
    value: Any = tomllib.loads(whole[0].decode())
    for _ in range(random.choice((1, 1, 2, 4))):
        value = _change_json(random, value)
    if not isinstance(value, dict):
        return _as_toml(value)
    return b"".join(
        _as_toml(str(key)) + b" = " + _as_toml(each) + b"\n" for key, each in value.items()
    )


def _as_toml(value: Any) -> bytes:
    if isinstance(value, dict):
        pairs = (_as_toml(str(key)) + b" = " + _as_toml(each) for key, each in value.items())
        return b"{" + b", ".join(pairs) + b"}"
    if isinstance(value, list):
        return b"[" + b", ".join(map(_as_toml, value)) + b"]"
    if isinstance(value, float):
        return str(value).encode()
    return json.dumps(value).encode()


def of_elf(random: Random, whole: Sequence[bytes]) -> bytes:
    """Change fields of headers, symbols and relocations, or what is in a section."""
    data = bytearray(whole[0])
    for _ in range(random.choice((1, 1, 2, 4))):
        if len(data) < EHDR_SIZE or random.randrange(8) == 0:
            return of_bytes(random, [bytes(data), *whole])
        header = np.frombuffer(data, ehdr_dtype("<"), 1)
        offset, count = int(header[0]["e_shoff"]), int(header[0]["e_shnum"])
        if offset + count * 64 > len(data) or not count:
            return of_bytes(random, [bytes(data), *whole])
        sections = np.frombuffer(data, section_dtype("<"), count, offset)
        chosen = sections[random.randrange(count)]
        match random.randrange(6):
            case 0:
                _change_field(random, header[0])
            case 1:
                _change_field(random, chosen)
            case 2:
                _change_row(random, data, sections[sections["sh_type"] == 2], symbol_dtype("<"))
            case 3:
                _change_row(random, data, sections[sections["sh_type"] == 4], rela_dtype("<"))
            case _:
                start, size = int(chosen["sh_offset"]), int(chosen["sh_size"])
                inside = bytes(data[start : start + size])
                changed = of_bytes(random, [inside, *whole])[: len(inside)]
                data[start : start + len(changed)] = changed
        del header, sections, chosen
    return bytes(data)


def _change_field(random: Random, record: np.void) -> None:
    name = random.choice([n for n in record.dtype.names or () if n != "e_ident"])
    limit = int(np.iinfo(record.dtype[name]).max)
    near = int(record[name]) + random.choice((-1, 1, 8, -8))
    record[name] = random.choice((random.choice(EXTREMES), random.randrange(64), near)) & limit


def _change_row(
    random: Random, data: bytearray, sections: np.ndarray, dtype: np.dtype[np.void]
) -> None:
    if not len(sections):
        return
    section = sections[random.randrange(len(sections))]
    start, count = int(section["sh_offset"]), int(section["sh_size"]) // dtype.itemsize
    if count and start + count * dtype.itemsize <= len(data):
        rows = np.frombuffer(data, dtype, count, start)
        _change_field(random, rows[random.randrange(count)])


def section_of_elf(name: str) -> Mutator:
    """Change what is in one section of an ELF file, whose table of sections stays."""

    def mutate(random: Random, whole: Sequence[bytes]) -> bytes:
        from klpbuild.elf.reader import ElfFile

        data = bytearray(whole[0])
        found = [s for s in ElfFile(bytes(data), "whole").sections if s.name.startswith(name)]
        if not found or random.randrange(20) == 0:
            return of_elf(random, whole)
        section = random.choice(found)
        start, size = section.sh_offset, section.sh_size
        inside = bytes(data[start : start + size])
        changed = of_bytes(random, [inside, inside])[:size]
        data[start : start + size] = changed.ljust(size, b"\0")
        return bytes(data)

    return mutate
