"""Damaged files: a clear error, or an object that can be written; never another exception."""

from __future__ import annotations

import tracemalloc
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from klpbuild.elf.reader import ElfFile
from klpbuild.elf.writer import ElfObject
from klpbuild.errors import KlpError

from .inputs import compile_object, small_object

#: What a changed object may take: many times its size, and no more than that.
MEMORY_MAX = 64 << 20

EXTREMES = [0, 1, 2, 0x7F, 0x80, 0xFF, 0xFF00, 0xFF20, 0xFFFF, 2**31, 2**32 - 1, 2**63, 2**64 - 1]


@cache
def victim(kind: str) -> bytes:
    """A whole object, to be damaged."""
    if kind == "small":
        return small_object().to_bytes()
    with TemporaryDirectory() as directory:
        return compile_object(Path(directory), kind).read_bytes()


def use(data: bytes) -> None:
    """Read and rewrite all of it, as the converter does."""
    try:
        elf = ElfFile(data, "damaged.o")
        for section in elf.sections:
            elf.contents(section)
        for section in elf.relocation_sections:
            for row in elf.relocations(section)[:100]:
                elf.symbol(int(row["r_sym"]))
        assert len(elf.symbol_list) == len(elf.symbols)
        written = ElfObject.from_elf(elf).to_bytes()
    except KlpError as error:
        assert str(error).startswith("damaged.o: ")
        return
    again = ElfFile(written, "written.o")
    assert [s.name for s in again.sections] == [s.name for s in elf.sections]
    assert [s.name for s in again.symbol_list] == [s.name for s in elf.symbol_list]


def use_in_bounds(data: bytes) -> None:
    tracemalloc.start()
    try:
        use(data)
        assert tracemalloc.get_traced_memory()[1] < MEMORY_MAX
    finally:
        tracemalloc.stop()


KINDS = st.sampled_from(["small", "sections", "link-order", "groups", "common"])
POSITION = st.floats(0, 1, exclude_max=True)


@settings(deadline=None, max_examples=200)
@given(KINDS, st.lists(st.tuples(POSITION, st.integers(0, 255)), min_size=1, max_size=8))
def test_changed_bytes(kind: str, changes: list[tuple[float, int]]) -> None:
    data = bytearray(victim(kind))
    for position, value in changes:
        data[int(position * len(data))] = value
    use_in_bounds(bytes(data))


@pytest.mark.hardening
@settings(deadline=None, max_examples=300)
@given(
    KINDS,
    st.lists(
        st.tuples(POSITION, st.sampled_from([1, 2, 4, 8]), st.sampled_from(EXTREMES)),
        min_size=1,
        max_size=4,
    ),
)
def test_changed_headers(kind: str, changes: list[tuple[float, int, int]]) -> None:
    """Extreme numbers in the fields of the ELF header and the section headers."""
    data = bytearray(victim(kind))
    headers = int.from_bytes(data[40:48], "little")
    fields = [*range(16, 64, 2), *range(headers, len(data), 4)]
    for position, width, value in changes:
        place = fields[int(position * len(fields))]
        data[place : place + width] = (value % 256**width).to_bytes(width, "little")
    use_in_bounds(bytes(data))


@settings(deadline=None, max_examples=100)
@given(KINDS, POSITION)
def test_cut_off(kind: str, position: float) -> None:
    data = victim(kind)
    use_in_bounds(data[: int(position * len(data))])


@settings(deadline=None, max_examples=100)
@given(st.binary(max_size=256), st.booleans())
def test_noise(noise: bytes, little: bool) -> None:
    use_in_bounds(noise)
    use_in_bounds(b"\x7fELF\x02" + (b"\1" if little else b"\2") + noise)


@settings(deadline=None, max_examples=100)
@given(KINDS, st.data())
def test_pieces_in_another_order(kind: str, data: st.DataObject) -> None:
    """A file whose parts were overwritten by other parts of it."""
    whole = bytearray(victim(kind))
    place = st.integers(0, len(whole) - 1)
    for _ in range(data.draw(st.integers(1, 4))):
        source, target, size = data.draw(place), data.draw(place), data.draw(st.integers(1, 64))
        piece = whole[source : source + size]
        whole[target : target + len(piece)] = piece
    use_in_bounds(bytes(whole))
