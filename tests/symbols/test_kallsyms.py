"""Which symbols kallsyms holds and in which order."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from klpbuild.symbols.kallsyms import select
from klpbuild.symbols.lines import Lines
from tests.symbols.inputs import V6_1, V6_12

Line = tuple[int, str, str]


def held(*lines: Line, version: tuple[int, ...] = V6_12) -> list[str]:
    """The names that kallsyms holds of these lines of ``nm``, in its order."""
    names = Lines.of("".join(f"{name}\n" for _, _, name in lines).encode())
    addresses = np.array([address for address, _, _ in lines], np.uint64)
    kinds = np.array([kind for _, kind, _ in lines], "S1")
    return [lines[row][2] for row in select(names, addresses, kinds, version).tolist()]


IGNORED = [
    "$x",
    "$d.17",
    ".Ltmp3",
    ".LC0",
    "__crc_kmalloc",
    "__kstrtab_kmalloc",
    "__kstrtabns_kmalloc",
    "__efistub_memcpy",
    "__pi_$x",
    "__pi_.Lend",
    "__kvm_nvhe_$d",
    "__kvm_nvhe_.L3",
    "__AArch64ADRPThunk_memcpy",
    "__ARMV5PILongThunk_f",
    "__microLA25Thunk_f",
    "__kcfi_typeid_f",
    "__kvm_nvhe___kcfi_typeid_f",
    "__pi___kcfi_typeid_f",
    "memcpy_from_arm",
    "memcpy_from_thumb",
    "memcpy_veneer",
    "L0",
    "_SDA_BASE_",
    "_SDA2_BASE_",
    "0001.long_branch.f",
    "0001.plt_branch.f",
]
HELD = [
    "x$",
    "f.L3",
    "my__crc_f",
    "kstrtab_f",
    "__pi_memcpy",
    "__kvm_nvhe_f",
    "Thunk_f",
    "f_Thunk_g",
    "__kcfi_type",
    "veneer_f",
    "_veneer_f",
    "L00",
    "L",
    "_SDA_BASE_X",
    "long_branch",
    "meminfo_proc_show.cold",
    "counter.0",
    "helper.isra.0",
    "__pfx_meminfo_proc_show",
]


@pytest.mark.parametrize("version", [V6_1, V6_12])
def test_names_that_are_left_out(version: tuple[int, ...]) -> None:
    lines = [(n, "t", name) for n, name in enumerate(IGNORED + HELD)]
    assert held(*lines, version=version) == HELD


def test_one_ignored_name_does_not_hide_the_next() -> None:
    assert held((1, "T", "__crc_f"), (2, "T", "__crc_g"), (3, "T", "f"), (4, "T", "L0")) == ["f"]
    assert held((1, "T", "f_veneer"), (2, "T", "veneer"), (3, "T", "L0")) == ["veneer"]


def test_kinds_that_are_left_out() -> None:
    lines = [(n, kind, f"kind_{kind}") for n, kind in enumerate("aANnUuvwTtDdBbRrVW")]
    assert held(*lines) == [f"kind_{kind}" for kind in "TtDdBbRrVW"]


def test_the_own_symbols_of_kallsyms() -> None:
    """Until they were made in one step, they were left out."""
    own = [(n, "R", f"kallsyms_{name}") for n, name in enumerate(["names", "offsets", "markers"])]
    other = (9, "T", "kallsyms_on_each_symbol")
    assert held(*own, other, version=V6_1) == ["kallsyms_on_each_symbol"]
    assert len(held(*own, other, version=V6_12)) == 4


@pytest.mark.parametrize(("version", "longest"), [((6, 0, 0), 127), (V6_1, 511)])
def test_names_that_are_too_long(version: tuple[int, ...], longest: int) -> None:
    fits, too_long = "f" * longest, "g" * (longest + 1)
    assert held((1, "t", fits), (2, "t", too_long), version=version) == [fits]


def test_order_is_by_address_without_sign() -> None:
    lines = [
        (0xFFFFFFFF81000000, "T", "f"),
        (0x1000, "D", "percpu"),
        (0x7FFF000000000000, "d", "d"),
    ]
    assert held(*lines) == ["percpu", "d", "f"]


def test_order_at_one_address() -> None:
    """Weak names, then what a linker script may provide, then underscores, then the name."""
    names = [
        ("T", "_stext"),
        ("T", "_text"),
        ("T", "__a"),
        ("T", "b"),
        ("T", "__start_of_it"),
        ("T", "__section_end"),
        ("W", "a_weak"),
    ]
    lines = [(0x1000, kind, name) for kind, name in names]
    expected = ["b", "_stext", "_text", "__a", "__section_end", "__start_of_it", "a_weak"]
    assert held(*lines) == expected
    assert held(*reversed(lines)) == expected


def test_short_names_are_not_the_linkers() -> None:
    assert held((1, "T", "__ends"), (1, "T", "___z")) == ["__ends", "___z"]
    assert held((1, "T", "__end_a"), (1, "T", "___zzzz")) == ["__end_a", "___zzzz"]
    assert held((1, "T", "__end_ab"), (1, "T", "___zzzz")) == ["___zzzz", "__end_ab"]


@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from("tTDW"), st.text("_ab", min_size=1))))
def test_the_order_of_the_input_does_not_matter(lines: list[Line]) -> None:
    assert held(*lines) == held(*reversed(lines))
    assert sorted(held(*lines)) == sorted(name for _, _, name in lines)


def test_nothing() -> None:
    assert held() == []
