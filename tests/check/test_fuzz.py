"""Whatever the file holds, there are findings or a clear error: never a traceback."""

from __future__ import annotations

from contextlib import suppress

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from klpbuild.check import formats
from klpbuild.check.explain import Explainer
from klpbuild.check.header import header_faults
from klpbuild.check.kernelside import KernelSide
from klpbuild.check.module import check_bytes
from klpbuild.check.subject import Subject
from klpbuild.check.transcript import lines
from klpbuild.elf.reader import ElfFile
from klpbuild.elf.tables import EHDR_SIZE, ehdr_dtype, rela_dtype, section_dtype, symbol_dtype
from klpbuild.errors import KlpError

_QUICK = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def check(data: bytes, side: KernelSide | None) -> None:
    """A report whose every format can be written."""
    report = check_bytes(data, "livepatch.ko", side)
    assert formats.as_text([report], verbose=True).isprintable() is False  # it has line ends
    formats.as_json([report]).encode()
    formats.as_sarif([report]).encode()
    if side is not None:
        with suppress(KlpError):
            explain(data, side)


def explain(data: bytes, side: KernelSide) -> None:
    """All functions, as far as there are any."""
    for _ in header_faults(data, side.kernel.arch.machine):
        return
    explainer = Explainer(Subject(ElfFile(data, "livepatch.ko"), "livepatch.ko", side))
    for name in explainer.functions:
        list(lines(explainer.explain(name)))


@given(data=st.binary(max_size=400))
@_QUICK
def test_any_bytes(data: bytes) -> None:
    check(data, None)
    check(b"\x7fELF\x02\x01\x01" + data, None)


@given(end=st.integers(0, 1 << 20), name=st.sampled_from(["meminfo", "button"]))
@_QUICK
def test_truncated(miniature: KernelSide, good: dict[str, bytes], end: int, name: str) -> None:
    check(good[name][: end % len(good[name])], miniature)


@given(
    changes=st.lists(st.tuples(st.integers(0, 1 << 20), st.integers(0, 255)), max_size=12),
    name=st.sampled_from(["meminfo", "button"]),
)
@_QUICK
def test_changed_bytes(
    miniature: KernelSide, good: dict[str, bytes], changes: list[tuple[int, int]], name: str
) -> None:
    data = bytearray(good[name])
    for at, value in changes:
        data[at % len(data)] = value
    check(bytes(data), miniature)


_SECTION_FIELDS = list(section_dtype("<").names or ())
_HEADER_FIELDS = [n for n in ehdr_dtype("<").names or () if n != "e_ident"]
_NUMBERS = st.one_of(
    st.integers(0, 40), st.sampled_from([0xFF00, 0xFF20, 0xFFFF, 1 << 20, 1 << 31, (1 << 63) - 1])
)


@pytest.mark.hardening
@given(
    changes=st.lists(
        st.tuples(st.integers(0, 60), st.sampled_from(_SECTION_FIELDS), _NUMBERS), max_size=4
    ),
    headers=st.lists(st.tuples(st.sampled_from(_HEADER_FIELDS), _NUMBERS), max_size=1),
    name=st.sampled_from(["meminfo", "button"]),
)
@_QUICK
def test_changed_headers(
    miniature: KernelSide,
    good: dict[str, bytes],
    changes: list[tuple[int, str, int]],
    headers: list[tuple[str, int]],
    name: str,
) -> None:
    """Section headers that name each other in circles, or what is not there."""
    data = bytearray(good[name])
    header = np.frombuffer(data, ehdr_dtype("<"), 1)
    offset, count = int(header[0]["e_shoff"]), int(header[0]["e_shnum"])
    sections = np.frombuffer(data, section_dtype("<"), count, offset)
    for number, field, value in changes:
        limit = int(np.iinfo(sections.dtype[field]).max)
        sections[number % count][field] = value & limit
    for field, value in headers:
        header[0][field] = value & int(np.iinfo(header.dtype[field]).max)
    assert len(data) > EHDR_SIZE
    check(bytes(data), miniature)


@pytest.mark.hardening
@given(
    changes=st.lists(st.tuples(st.integers(0, 7), st.integers(0, 200), st.integers(0, 5), _NUMBERS),
                     min_size=1, max_size=4),
    name=st.sampled_from(["meminfo", "button"]),
)  # fmt: skip
@_QUICK
def test_changed_records(
    miniature: KernelSide,
    good: dict[str, bytes],
    changes: list[tuple[int, int, int, int]],
    name: str,
) -> None:
    """Symbols and relocations that name what is not there, or lead nowhere."""
    data = bytearray(good[name])
    elf = ElfFile(bytes(data), name)
    assert elf.symtab is not None
    tables = [(elf.symtab, symbol_dtype("<"))]
    tables += [(section, rela_dtype("<")) for section in elf.relocation_sections]
    for table, number, field, value in changes:
        section, dtype = tables[table % len(tables)]
        rows = np.frombuffer(data, dtype, section.sh_size // dtype.itemsize, section.sh_offset)
        names = dtype.names or ()
        word = names[field % len(names)]
        rows[number % len(rows)][word] = value & int(np.iinfo(dtype[word]).max)
    check(bytes(data), miniature)
