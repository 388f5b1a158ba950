"""Heads of functions from type information that gcc wrote."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from klpbuild.elf.btf import Btf
from klpbuild.elf.reader import ElfFile
from klpbuild.elf.types import Kind
from klpbuild.errors import KlpError
from klpbuild.excerpt.btf import head as head_of
from tests.machines.objects import compile_for

PROGRAM = """
struct file; union value { int i; }; enum state { IDLE };
typedef unsigned long size_t;
typedef int (*compare_t)(const void *, const void *);
int plain(struct file *m, void *v) { return 0; }
void nothing(void) {}
const char *const *text(const char *const names[4], volatile int *p, ...) { return 0; }
void *search(const void *key, size_t size, compare_t compare) { return 0; }
struct file *made(int (*make)(struct file *, int [3]), union value v, enum state s) { return 0; }
"""


@pytest.fixture(scope="module")
def section(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    output = tmp_path_factory.mktemp("btf") / "a.o"
    command = ["gcc", "-gbtf", "-xc", "-", "-c", "-o", output]
    subprocess.run(command, input=PROGRAM, text=True, check=True)
    elf = ElfFile.read(output)
    found = elf.section(".BTF")
    assert found is not None
    return bytes(elf.contents(found))


@pytest.mark.parametrize(
    ("function", "head"),
    [
        ("plain", "int new(struct file *m, void *v)"),
        ("nothing", "void new(void)"),
        ("text", "const char *const *new(const char *const *names, volatile int *p, ...)"),
        ("search", "void *new(const void *key, size_t size, compare_t compare)"),
        (
            "made",
            "struct file *new(int (*make)(struct file *, int *), union value v, enum state s)",
        ),
        ("absent", None),
    ],
)
def test_heads(section: bytes, function: str, head: str | None) -> None:
    found = head_of(Btf(section), function, "new")
    assert found == head


def test_big_endian_types(tmp_path: Path) -> None:
    """A kernel of s390x has them in its own byte order."""
    program = PROGRAM + "struct s { char a; int b[3]; enum { LOW = -2, HIGH = 7 } c; } value;"
    elf = ElfFile(compile_for("s390x", tmp_path, program, "-gbtf"), "code.o")
    types = Btf.of(elf)
    assert types is not None
    wanted = "struct file *new(int (*make)(struct file *, int *), union value v, enum state s)"
    assert head_of(types, "made", "new") == wanted
    (number,) = types.named("s", frozenset({Kind.STRUCT}))
    fields = {field.name: field for field in types.fields(number)}
    assert {name: each.offset for name, each in fields.items()} == {"a": 0, "b": 32, "c": 128}
    assert types.count(fields["b"].type) == 3
    assert list(types.enumerators(fields["c"].type)) == [("LOW", -2), ("HIGH", 7)]


def test_what_is_not_btf(section: bytes) -> None:
    with pytest.raises(KlpError, match="has broken type") as caught:
        Btf(section[:10], where="vmlinux:.BTF")
    assert str(caught.value) == "vmlinux:.BTF: has broken type information (BTF)"
    with pytest.raises(KlpError) as caught:
        Btf(b"\0" * 24, where="vmlinux:.BTF")
    assert str(caught.value) == "vmlinux:.BTF: is not BTF"


def test_a_section_cut_short(section: bytes) -> None:
    with pytest.raises(KlpError) as caught:
        Btf(section[: len(section) // 2], where="vmlinux:.BTF")
    assert str(caught.value) == "vmlinux:.BTF: has broken type information (BTF)"
