"""What is compiled here is compared with what was linked, and found in it."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from klpbuild.elf.reader import ElfFile
from klpbuild.proof.fidelity import Fidelity, Proof, compare
from klpbuild.proof.shipped import ShippedBinary

Link = Callable[[list[Path]], ShippedBinary]

FLAGS = ["-O2", "-fno-pie", "-mcmodel=kernel", "-fno-asynchronous-unwind-tables", "-fno-common"]

#: Two files with functions and variables of the same names, and of the same sizes.
FIRST = """\
extern int shared(int); extern int other(int);
static int count, limit = 3;
const char *const first_names[] = { "first", "one" };
static __attribute__((noinline)) int helper(int a) { count += a; return shared(a) + limit; }
void first_limit(int a) { limit = a; }
int first(int a) { return helper(a) * 3; }
int first_again(int a) { return shared(helper(a)) + 1; }
const char *first_name(void) { return first_names[0]; }
__attribute__((weak)) int may_be_replaced(void) { return 1; }
__attribute__((section(".init.text"))) int starts(void) { return helper(2); }
"""
SECOND = """\
extern int shared(int);
static int count, limit = 5;
static __attribute__((noinline)) int helper(int a) { count += a; return shared(a) + limit; }
void second_limit(int a) { limit = a; }
int second(int a) { return helper(a) * 3; }
int may_be_replaced(void) { return 2; }
"""
COMMON = """\
int total;
int shared(int a) { return total += a; }
int other(int a) { return total -= a; }
"""


def build(path: Path, text: str, *flags: str) -> Path:
    source = path.with_suffix(".c")
    source.write_text(text)
    subprocess.run(["gcc", *FLAGS, *flags, "-c", "-o", path, source], check=True)
    return path


@pytest.fixture
def objects(tmp_path: Path) -> list[Path]:
    texts = {"second": SECOND, "first": FIRST, "common": COMMON}
    return [build(tmp_path / f"{name}.o", text) for name, text in texts.items()]


def vmlinux(objects: list[Path]) -> ShippedBinary:
    path = objects[0].with_name("vmlinux")
    options = ["-Ttext=0xffffffff81000000", "-e", "first", "-z", "noexecstack"]
    subprocess.run(["ld", *options, "-o", path, *objects], check=True)
    return ShippedBinary(ElfFile.read(path))


def module(objects: list[Path]) -> ShippedBinary:
    path = objects[0].with_name("module.ko")
    subprocess.run(["ld", "-r", "-o", path, *objects], check=True)
    return ShippedBinary(ElfFile.read(path))


def compared(text: str, shipped: ShippedBinary, tmp_path: Path, *flags: str) -> Fidelity:
    plain = build(tmp_path / "ours.o", text, *flags)
    return compare(ElfFile.read(plain), shipped)


def places(shipped: ShippedBinary, name: str) -> list[int]:
    return sorted(symbol.place for symbol in shipped.named(name))


def differing(fidelity: Fidelity) -> set[str]:
    return {difference.symbol for difference in fidelity.differences}


NAMES = {"helper", "first", "first_again", "first_name", "count", "limit", "starts"}


@pytest.mark.parametrize("link", [vmlinux, module])
def test_a_faithful_object_is_proven_whole(objects: list[Path], tmp_path: Path, link: Link) -> None:
    fidelity = compared(FIRST, link(objects), tmp_path)
    assert fidelity.differences == ()
    assert fidelity.proven >= NAMES
    assert {fidelity.located[name].proof for name in NAMES} == {Proof.SECTION}


@pytest.mark.parametrize("link", [vmlinux, module])
@pytest.mark.parametrize(("text", "number"), [(SECOND, 0), (FIRST, 1)])
def test_each_file_finds_its_own_of_two_names(
    objects: list[Path], tmp_path: Path, link: Link, text: str, number: int
) -> None:
    shipped = link(objects)
    fidelity = compared(text, shipped, tmp_path)
    for name in ("helper", "count", "limit"):
        both = places(shipped, name)
        assert len(both) == 2
        located = fidelity.located[name]
        assert located.place == both[number]
        assert located.index is not None
        assert shipped.symbol(located.index, name).place == both[number]


def test_symbols_of_other_files_are_found(objects: list[Path], tmp_path: Path) -> None:
    shipped = vmlinux(objects)
    shared = compared(FIRST, shipped, tmp_path).located["shared"]
    assert [shared.place] == places(shipped, "shared")
    assert shared.proof is Proof.REFERENCE


def test_a_module_imports(objects: list[Path], tmp_path: Path) -> None:
    fidelity = compared(FIRST, module(objects[:2]), tmp_path)
    assert fidelity.differences == ()
    assert fidelity.imported == {"shared"}
    assert fidelity.find("shared") is None


def test_a_weak_function_that_another_file_replaces(objects: list[Path], tmp_path: Path) -> None:
    fidelity = compared(FIRST, vmlinux(objects), tmp_path)
    assert fidelity.differences == ()


@pytest.mark.parametrize("link", [vmlinux, module])
def test_other_bytes_name_the_function(objects: list[Path], tmp_path: Path, link: Link) -> None:
    changed = FIRST.replace("+ 1;", "+ 2;")
    fidelity = compared(changed, link(objects), tmp_path)
    assert differing(fidelity) == {"first_again"}
    difference = fidelity.difference("first_again")
    assert difference is not None
    assert difference.what == "has other bytes"
    assert "first_again" not in fidelity.proven
    assert {"helper", "first"} <= fidelity.proven


@pytest.mark.parametrize("link", [vmlinux, module])
def test_the_same_bytes_with_another_reference(
    objects: list[Path], tmp_path: Path, link: Link
) -> None:
    changed = FIRST.replace("return shared(a) + limit", "return other(a) + limit")
    fidelity = compared(changed, link(objects), tmp_path)
    assert differing(fidelity) == {"helper"}


@pytest.mark.parametrize("link", [vmlinux, module])
def test_the_same_bytes_with_another_string(
    objects: list[Path], tmp_path: Path, link: Link
) -> None:
    fidelity = compared(FIRST.replace('"first"', '"worst"'), link(objects), tmp_path)
    assert differing(fidelity) == {"first_names"}
    assert fidelity.differences[0].what == "uses another string"


@pytest.mark.parametrize("link", [vmlinux, module])
def test_other_variables_are_told_by_their_references(
    objects: list[Path], tmp_path: Path, link: Link
) -> None:
    changed = FIRST.replace("count += a;", "limit += a;").replace("+ limit;", "+ count;")
    changed = changed.replace("{ limit = a; }", "{ count = a; }")
    fidelity = compared(changed, link(objects), tmp_path)
    assert differing(fidelity) >= {"helper", "first_limit"}


@pytest.mark.parametrize("link", [vmlinux, module])
def test_other_flags_are_other_functions(objects: list[Path], tmp_path: Path, link: Link) -> None:
    fidelity = compared(FIRST, link(objects), tmp_path, "-Os", "-fno-inline", "-pg", "-mfentry")
    assert {"first", "helper"} <= differing(fidelity)
    first = fidelity.difference("first")
    assert first is not None
    assert "bytes here and" in first.what
    assert not {"first", "helper"} & fidelity.proven


def test_another_version_of_the_source(objects: list[Path], tmp_path: Path) -> None:
    fidelity = compared(FIRST + "int added(void) { return 7; }\n", vmlinux(objects), tmp_path)
    added = fidelity.difference("added")
    assert added is not None
    assert str(added) == ".text:added+0x0: is not in the shipped binary"


def test_a_stripped_module_says_so(objects: list[Path], tmp_path: Path) -> None:
    shipped = module(objects)
    stripped = tmp_path / "stripped.ko"
    shutil.copy(shipped.elf.name, stripped)
    subprocess.run(["strip", "--strip-debug", stripped], check=True)
    fidelity = compared(FIRST, ShippedBinary(ElfFile.read(stripped)), tmp_path)
    assert fidelity.differences == ()


def test_a_file_with_weak_functions_only_is_found(tmp_path: Path) -> None:
    """The linker keeps the code of one that gave way, so that the other stands behind it."""
    weak = "__attribute__((weak)) int {}(int a) {{ return a + {}; }}\n"
    text = weak.format("may_be_replaced", 3) + weak.format("stays", 5)
    others = [build(tmp_path / "second.o", SECOND), build(tmp_path / "common.o", COMMON)]
    alone = vmlinux([build(tmp_path / "weak.o", weak.format("stays", 5)), *others])
    same = compared(weak.format("stays", 5), alone, tmp_path)
    assert same.proven == {"stays"}
    found = compared(weak.format("stays", 7), alone, tmp_path)
    assert found.difference("stays") is not None
    both = vmlinux([build(tmp_path / "weak.o", text), *others])
    assert compared(text, both, tmp_path).find("stays") is not None
