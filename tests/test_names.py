"""Names as the kernel parses them, at the exact limits."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from klpbuild.errors import KlpError
from klpbuild.names import (
    LivepatchSection,
    LivepatchSymbol,
    check_object_name,
    object_name,
    symbol_name_max,
)

#: A letter of two bytes.
E_ACUTE = "\u00e9"

#: What ``sscanf(name, ".klp.sym.%55[^.].%511[^,],%lu")`` gives, with vsscanf of
#: Linux 6.1 (lib/vsprintf.c) compiled for user space.  None where it fills less
#: than three fields, which the kernel calls "an incorrectly formatted name".
KERNEL_READS = {
    ".klp.sym.vmlinux.f,0": ("vmlinux", "f", 0),
    ".klp.sym.vmlinux.f,+1": None,
    ".klp.sym.vmlinux.f,-1": None,
    ".klp.sym.vmlinux.f, 3": ("vmlinux", "f", 3),
    ".klp.sym.vmlinux.f,\t7": ("vmlinux", "f", 7),
    ".klp.sym.vmlinux.f,\udca07": ("vmlinux", "f", 7),
    ".klp.sym.vmlinux.f,\u00a07": None,
    ".klp.sym.vmlinux.f,\u0663": None,
    ".klp.sym.vmlinux.f,3x": ("vmlinux", "f", 3),
    ".klp.sym.vmlinux.f,": None,
    ".klp.sym.vmlinux.f": None,
    ".klp.sym.vmlinux.f.isra.0,0007": ("vmlinux", "f.isra.0", 7),
    ".klp.sym.vmlinux.f.llvm.123,2": ("vmlinux", "f.llvm.123", 2),
    ".klp.sym. vm.f,3": (" vm", "f", 3),
    ".klp.sym.v.,3": None,
    ".klp.sym.v..f,1": ("v", ".f", 1),
    ".klp.sym..f,1": None,
    ".klp.sym.v.f,g,3": None,
    ".klp.sym.a,b.f,1": ("a,b", "f", 1),
    ".klp.sym.v.f,18446744073709551615": ("v", "f", 2**64 - 1),
    ".klp.sym.v.f,18446744073709551617": ("v", "f", 1),
    "klp.sym.v.f,1": None,
    " .klp.sym.v.f,1": None,
    ".klp.sym.rela.ext4.vmlinux.f,0": ("rela", "ext4.vmlinux.f", 0),
    f".klp.sym.{'m' * 55}.f,0": ("m" * 55, "f", 0),
    f".klp.sym.{'m' * 56}.f,0": None,
    f".klp.sym.v.{'s' * 511},0": ("v", "s" * 511, 0),
    f".klp.sym.v.{'s' * 512},0": None,
    # 55 bytes, and 56.
    f".klp.sym.{E_ACUTE * 27}m.f,0": (E_ACUTE * 27 + "m", "f", 0),
    f".klp.sym.{E_ACUTE * 28}.f,0": None,
}


@pytest.mark.parametrize("name", KERNEL_READS)
def test_reads_a_symbol_as_the_kernel_does(name: str) -> None:
    expected = KERNEL_READS[name]
    assert LivepatchSymbol.parse(name) == (expected and LivepatchSymbol(*expected))


def test_kernels_before_6_1_read_shorter_names() -> None:
    assert [symbol_name_max(v) for v in ((5, 10), (6, 0), (6, 1), (6, 12))] == [127, 127, 511, 511]
    for length, symbol in ((127, LivepatchSymbol("v", "s" * 127, 0)), (128, None)):
        assert LivepatchSymbol.parse(f".klp.sym.v.{'s' * length},0", 127) == symbol


def test_a_number_of_any_length_wraps() -> None:
    digits = "7" * 6000
    found = LivepatchSymbol.parse(f".klp.sym.v.f,{digits}")
    assert found is not None
    value = 0
    for digit in digits:
        value = (value * 10 + int(digit)) % 2**64
    assert found.sympos == value


#: What ``sscanf(name, ".klp.rela.%55[^.]")`` gives.
SECTIONS = {
    ".klp.rela.ext4.text.ext4_attr_store": ("ext4", "text.ext4_attr_store"),
    ".klp.rela.vmlinux..text": ("vmlinux", ".text"),
    ".klp.rela.vmlinux": ("vmlinux", ""),
    ".klp.rela..text": None,
    ".klp.rela.": None,
    ".rela.klp.module_relocs.ext4": None,
    f".klp.rela.{'m' * 55}.text": ("m" * 55, "text"),
    f".klp.rela.{'m' * 56}.text": ("m" * 55, ""),
}


@pytest.mark.parametrize("name", SECTIONS)
def test_reads_a_section_as_the_kernel_does(name: str) -> None:
    expected = SECTIONS[name]
    assert LivepatchSection.parse(name) == (expected and LivepatchSection(*expected))


@pytest.mark.parametrize(
    ("section", "name"),
    [
        (".text.ext4_attr_store", ".klp.rela.ext4.text.ext4_attr_store"),
        (".text", ".klp.rela.ext4.text"),
        ("__jump_table", ".klp.rela.ext4.__jump_table"),
        ("..odd", ".klp.rela.ext4..odd"),
    ],
)
def test_writes_a_section_as_the_kernels_document_does(section: str, name: str) -> None:
    assert LivepatchSection("ext4", section).format() == name
    again = LivepatchSection.parse(name)
    assert again == LivepatchSection("ext4", section.removeprefix("."))


NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=80)


@given(NAMES, NAMES, st.integers(-1, 2**64))
def test_what_is_written_is_read_back(owner: str, symbol: str, sympos: int) -> None:
    record = LivepatchSymbol(owner, symbol, sympos)
    try:
        name = record.format()
    except KlpError:
        return
    assert LivepatchSymbol.parse(name) == record


@given(NAMES, NAMES)
def test_a_section_that_is_written_has_its_gate(gate: str, section: str) -> None:
    try:
        name = LivepatchSection(gate, section).format()
    except KlpError:
        return
    found = LivepatchSection.parse(name)
    assert found is not None
    assert found.gate == gate


@given(st.text("abc.,+ 09_-", max_size=12))
def test_reading_agrees_with_a_reader_by_hand(rest: str) -> None:
    """The pattern once more, character by character, for names without long parts."""
    owner, dot, tail = rest.partition(".")
    symbol, comma, number = tail.partition(",")
    number = number.lstrip(" ")
    digits = number[: len(number) - len(number.lstrip("0123456789"))]
    good = owner and dot and symbol and comma and digits
    expected = LivepatchSymbol(owner, symbol, int(digits)) if good else None
    assert LivepatchSymbol.parse(".klp.sym." + rest) == expected


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("ext4.ko", "ext4"),
        ("sound/core/snd-pcm.ko", "snd_pcm"),
        ("/lib/modules/R/kernel/kvm-amd.ko.xz", "kvm_amd"),
        ("a-b-c.ko.zst", "a_b_c"),
        ("a-b.ko.gz", "a_b"),
        ("odd,name.ko", "odd_name"),
        ("fs/ext4/ext4.o", "ext4"),
        ("vmlinux", "vmlinux"),
        ("vmlinux.o", "vmlinux"),
        ("snd_pcm", "snd_pcm"),
        ("nf-nat.ko/", "nf_nat"),
    ],
)
def test_object_names(path: str, name: str) -> None:
    assert object_name(path) == name
    check_object_name(name)


def message(record: LivepatchSymbol | LivepatchSection) -> str:
    with pytest.raises(KlpError) as caught:
        record.format()
    return str(caught.value)


def test_names_that_cannot_be_written() -> None:
    rule = "  A module's name has 1 to 55 bytes and no dot, and '-' is written '_'."
    assert message(LivepatchSymbol("snd-pcm", "f", 0)) == (
        f"object name 'snd-pcm' cannot be a module's\n{rule}\n  Write 'snd_pcm'."
    )
    for owner in ("", "a.b", "a/b", "m" * 56, E_ACUTE * 28):
        assert message(LivepatchSymbol(owner, "f", 0)) == (
            f"object name {owner!r} cannot be a module's\n{rule}"
        )
        assert message(LivepatchSection(owner, ".text")) == (
            f"object name {owner!r} cannot be a module's\n{rule}"
        )
    comma = "  The kernel takes the text between the object and the first comma as the name."
    for symbol in ("", "f,g"):
        assert message(LivepatchSymbol("ext4", symbol, 0)) == (
            f"ext4: symbol name {symbol!r} cannot be written as a livepatch symbol\n{comma}"
        )
    assert message(LivepatchSymbol("ext4", "f", -1)) == (
        "ext4:f: symbol position -1 cannot be written\n"
        "  A position is 0 for a name that is unique, else 1 or more."
    )


@pytest.mark.parametrize("limit", [127, 511])
def test_the_longest_symbol_name(limit: int) -> None:
    symbol = "s" * limit
    assert LivepatchSymbol("v", symbol, 0).format(limit) == f".klp.sym.v.{symbol},0"
    with pytest.raises(KlpError) as caught:
        LivepatchSymbol("v", symbol + "s", 0).format(limit)
    assert str(caught.value) == (
        f"v:{symbol}s: symbol name of {limit + 1} bytes is too long\n"
        f"  This kernel looks up names of at most {limit} bytes.\n"
        "  Reach the symbol through another one with a shorter name."
    )
