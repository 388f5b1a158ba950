"""Variables that C files declare, compared with a kernel's that the machine's gcc makes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from klpbuild.elf.reader import ElfFile
from klpbuild.errors import Problems
from klpbuild.module.structures import KernelTypes, Source
from klpbuild.module.variables import check_variables
from tests.module.test_structures import Made, make_kernel, make_kernel_with_btf, told
from tests.symbols.inputs import compile_object

KERNEL = """
typedef unsigned long long u64; typedef unsigned char u8; typedef struct { int counter; } atomic_t;
struct key { int enabled; void *entries; };
struct key_true { struct key key; }; struct key_false { struct key key; };
struct queue { int limit, depth; }; struct other { int x, y; };
enum state { IDLE, BUSY };
u64 wide = 1; u8 narrow = 1; unsigned int number; static int hidden = 3; enum state state;
atomic_t counted; struct queue queue; struct other o;
struct key_true on; struct key_false off; struct queue *at; struct queue table[4]; void *any;
char text[8]; int (*call)(int); volatile _Bool truth;
__attribute__((section(".data..percpu"))) long mine = 2;
int use(int n) { static int seen = 5; queue.limit = hidden += n; return seen += narrow + mine; }
"""
QUEUE = "struct queue { int limit, depth; } v"
OWN = "struct queue; struct other; struct key; struct unknown; struct mine;\n"


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return make_kernel(tmp_path_factory.mktemp("dwarf"), "-g", text=KERNEL)


def said(made: Made, directory: Path, name: str, head: str, accepted: str = "") -> list[str]:
    """What is said of a variable's declaration, and what is not compared."""
    symbol = f".klp.sym.vmlinux.{name},0"
    text = f'{OWN}extern {head} __asm__("\\"{symbol}\\"");\n'
    text += "void *mine(void) { return (void *)&v; }\n"
    own = ElfFile.read(compile_object(directory, "own.c", text, "-g", "-O2"))
    there, problems = replace(made.function("vmlinux", name), kind="D"), Problems()
    source = Source(directory / "own.c", own, (), (accepted,))
    untold = check_variables(KernelTypes(made.kernel), [source], {symbol: there}, problems)
    return [*(each.replace(f"{directory}/", "") for each in told(problems)), *untold]


@pytest.mark.parametrize(
    ("name", "head"),
    [
        ("wide", "unsigned long v"),
        ("wide", "const volatile long v"),
        ("number", "int v"),
        ("number", "enum { A, B } v"),
        ("state", "int v"),
        ("hidden", "int v"),
        ("seen.0", "int v"),
        ("counted", "int v"),
        ("counted", "struct { int value; } v"),
        ("queue", "struct queue v"),
        ("queue", "struct unknown { long all; } v"),
        ("queue", "char v[]"),
        ("queue", "char v[8]"),
        ("on", "struct key { int enabled; void *entries; } v"),
        ("on", "struct key_true { struct key { int enabled; void *entries; } key; } v"),
        ("at", "struct queue *v"),
        ("at", "void *v"),
        ("at", "struct mine *v"),
        ("any", "struct queue *v"),
        ("table", f"{QUEUE}[4]"),
        ("table", f"{QUEUE}[]"),
        ("text", "char v[]"),
        ("call", "int (*v)(int)"),
        ("truth", "unsigned char v"),
        ("mine", "long v"),
    ],
)
def test_a_variable_that_is_declared_as_it_is(
    kernel: Made, tmp_path: Path, name: str, head: str
) -> None:
    assert said(kernel, tmp_path, name, head) == []


@pytest.mark.parametrize(
    ("name", "head", "it", "is_"),
    [
        ("wide", "int v", "int, of 4 bytes", "u64, of 8 bytes"),
        ("narrow", "int v", "int, of 4 bytes", "u8, of 1 bytes"),
        ("hidden", "long v", "long int, of 8 bytes", "int, of 4 bytes"),
        ("queue", "int v", "int, of 4 bytes", "struct queue, of 8 bytes"),
        ("queue", "long v", "long int, of 8 bytes", "struct queue, of 8 bytes"),
        ("queue", "struct other v", "struct other", "struct queue, of 8 bytes"),
        ("wide", QUEUE, "struct queue, of 8 bytes", "u64, of 8 bytes"),
        ("queue", "struct queue *v", "struct queue *, of 8 bytes", "struct queue, of 8 bytes"),
        ("table", "struct queue *v", "struct queue *, of 8 bytes",
         "struct queue[4], of 32 bytes"),
        ("table", f"{QUEUE}[5]", "struct queue[5], of 40 bytes",
         "struct queue[4], of 32 bytes"),
        ("at", "struct other { int x; } *v", "struct other *, of 8 bytes",
         "struct queue *, of 8 bytes"),
        ("at", "struct queue **v", "struct queue * *, of 8 bytes", "struct queue *, of 8 bytes"),
        ("at", "long v", "long int, of 8 bytes", "struct queue *, of 8 bytes"),
        ("text", "char *v", "char *, of 8 bytes", "char[8], of 8 bytes"),
        ("on", "struct key_false { struct key { int enabled; void *entries; } key; } v",
         "struct key_false, of 16 bytes", "struct key_true, of 16 bytes"),
        ("mine", "int v", "int, of 4 bytes", "long int, of 8 bytes"),
    ],
)  # fmt: skip
def test_a_variable_that_is_declared_otherwise(
    kernel: Made, tmp_path: Path, name: str, head: str, it: str, is_: str
) -> None:
    assert said(kernel, tmp_path, name, head) == [
        f"own.c:2: declares {name} otherwise than the kernel\n"
        f"  It is {it}; the kernel's is {is_}.\n"
        "  Code would read or write something else.\n"
        "  Take the declaration from this kernel's source.\n"
        f'  If the difference does no harm, accept it: accept_layouts = ["{name}"]'
        " in livepatch.toml."
    ]
    assert said(kernel, tmp_path, name, head, accepted=name) == []


def test_btf_has_per_cpu_variables_alone(tmp_path: Path) -> None:
    made = make_kernel_with_btf(tmp_path, KERNEL)
    untold = "type of v: the debug information at hand does not have "
    assert said(made, tmp_path, "seen.0", "int v") == [f"{untold}seen.0"]
    assert "It is int, of 4 bytes; the kernel's is long int, of 8 bytes." in "".join(
        said(made, tmp_path, "mine", "int v")
    )


def test_variables_without_debug_information(kernel: Made, tmp_path: Path) -> None:
    own = compile_object(tmp_path, "own.c", "extern int x; int f(void) { return x; }")
    source, problems = Source(tmp_path / "own.c", ElfFile.read(own), ()), Problems()
    untold = check_variables(KernelTypes(kernel.kernel), [source], {}, problems)
    assert untold == ("variables of own.c: compiled without debug information",)


def test_a_variable_of_a_module(tmp_path: Path) -> None:
    code = "long volume = 3; int gadget_work(int n) { return volume + n; }"
    made = make_kernel(tmp_path, "-g", module=code)
    text = "extern int volume;\nint f(void) { return volume; }\n"
    own = ElfFile.read(compile_object(tmp_path, "own.c", text, "-g", "-O2"))
    there, problems = replace(made.function("gadget", "volume"), kind="D"), Problems()
    source = Source(tmp_path / "own.c", own, ())
    check_variables(KernelTypes(made.kernel), [source], {"volume": there}, problems)
    (text,) = told(problems)
    assert "declares volume of gadget otherwise than the kernel" in text
    assert "It is int, of 4 bytes; the kernel's is long int, of 8 bytes." in text
