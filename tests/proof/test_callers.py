"""Who refers to a function in the shipped kernel, so that a new declaration would not reach it."""

from __future__ import annotations

import dataclasses
import subprocess
from collections.abc import Collection
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from klpbuild.arch import ARM64, S390X, Architecture
from klpbuild.arch.base import MCOUNT, PATCHABLE
from klpbuild.elf.reader import ElfFile
from klpbuild.elf.vartypes import function_types
from klpbuild.errors import KlpError
from klpbuild.extract.result import ChangedFunction
from klpbuild.kernel.tree import Kernel
from klpbuild.patch.patched import PatchedFile, SourceLine
from klpbuild.patch.recompile import Types
from klpbuild.proof.callers import check_callers
from klpbuild.proof.prototypes import check_prototypes
from klpbuild.proof.shipped import shipped_file
from tests.machines.objects import compile_for
from tests.patch.small_kernel import make_kernel

FLAGS = ("-O2", "-fno-pie", "-mcmodel=kernel", "-fno-asynchronous-unwind-tables", "-fno-inline")
VMLINUX = """
int gcd(int a) { return a + 1; }
int first(int a) { return gcd(a) + 2; }
int second(int a) { return gcd(a + 1) + 5; }
__attribute__((section(".init.text"))) int early(int a) { return gcd(a) + 3; }
int (*keeper)(int);
"""


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Kernel:
    directory = tmp_path_factory.mktemp("callers")
    kernel = make_kernel(directory / "small").kernel
    (directory / "v.c").write_text(VMLINUX)
    (directory / "m.c").write_text("int gcd(int);\nint driver(int a) { return gcd(a) + 1; }\n")
    for name in ("v", "m"):
        command = ["gcc", *FLAGS, "-c", directory / f"{name}.c", "-o", directory / f"{name}.o"]
        subprocess.run(command, check=True)
    vmlinux, module = directory / "vmlinux", directory / "driver.ko"
    link = ["ld", "-Ttext=0xffffffff81000000", "-e", "gcd", "-o", vmlinux, directory / "v.o"]
    subprocess.run(link, check=True)
    (directory / "m.o").rename(module)
    return dataclasses.replace(kernel, vmlinux=vmlinux, modules=(module,))


_ELSEWHERE = {
    # Where each machine's kernel is linked to.
    S390X: "-Ttext=0x3ffe0000000",
    ARM64: "-Ttext=0xffff800080000000",
}
_OTHERS = """
extern int gcd(int), tail(int);
extern void keep(int (*f)(int));
int first(int a) { return gcd(a) + 2; }
int second(int a) { return gcd(a + 1); }
void third(void) { keep(gcd); }
int fourth(int a) { return tail(a) + 1; }
__attribute__((section(".init.text"))) int early(int a) { return gcd(a) + 3; }
int (*keeper)(int) = gcd;
"""


@pytest.mark.parametrize("arch", _ELSEWHERE, ids=lambda arch: str(arch.name))
def test_callers_in_binaries_of_other_machines(
    arch: Architecture, kernel: Kernel, tmp_path: Path
) -> None:
    texts = {
        "o": _OTHERS,
        "v": "int tail(int a) { return a; } int gcd(int a) { return a + 1; }"
        "void keep(int (*f)(int)) { }",
        "m": "int gcd(int); int driver(int a) { return gcd(a) + 1; }",
    }
    for name, text in texts.items():
        made = compile_for(arch.name, tmp_path, text, "-fno-section-anchors")
        (tmp_path / f"{name}.o").write_bytes(made)
        # In a kernel they are in .init.data.
        entries = [f"--remove-section={table}" for table in (*MCOUNT, *PATCHABLE)]
        strip = [f"{arch.name}-linux-gnu-objcopy", *entries, f"{name}.o"]
        subprocess.run(strip, cwd=tmp_path, check=True)
    link = [f"{arch.name}-linux-gnu-ld", _ELSEWHERE[arch], "-e", "gcd", "-o", "vmlinux", "o.o"]
    subprocess.run([*link, "v.o"], cwd=tmp_path, check=True)
    (tmp_path / "m.o").rename(tmp_path / "driver.ko")
    other = dataclasses.replace(
        kernel, arch=arch, vmlinux=tmp_path / "vmlinux", modules=(tmp_path / "driver.ko",)
    )
    known = {place(other, name) for name in ("first", "second")}
    assert ": driver of driver, keeper of vmlinux, third of vmlinux\n" in refusal(
        other, {"vmlinux": known}
    )
    assert "first of vmlinux, keeper of vmlinux and 2 more\n" in refusal(other, {})
    known |= {place(other, name) for name in ("third", "keeper")}
    check_callers(
        other, "vmlinux", "gcd", "lib/gcd.c", {"vmlinux": known, "driver": {in_module(other)}}
    )


def test_a_module_of_another_machine_is_not_the_kernel_s(kernel: Kernel) -> None:
    with pytest.raises(KlpError, match=r"driver[.]ko: is for x86_64, and the kernel is for s390x"):
        shipped_file(dataclasses.replace(kernel, arch=S390X), "driver")


def place(kernel: Kernel, name: str) -> int:
    assert kernel.vmlinux is not None
    return next(s.st_value for s in ElfFile.read(kernel.vmlinux).symbol_list if s.name == name)


def in_module(kernel: Kernel) -> int:
    elf = ElfFile.read(kernel.modules[0])
    symbol = next(s for s in elf.symbol_list if s.name == "driver")
    return (symbol.st_shndx << 40) + symbol.st_value


def refusal(kernel: Kernel, replaced: dict[str, Collection[int]]) -> str:
    with pytest.raises(KlpError) as caught:
        check_callers(kernel, "vmlinux", "gcd", "lib/gcd.c", replaced)
    return str(caught.value)


def test_all_callers_are_replaced(kernel: Kernel) -> None:
    """Code that has run at boot does not count."""
    own = {place(kernel, "first"), place(kernel, "second")}
    check_callers(
        kernel, "vmlinux", "gcd", "lib/gcd.c", {"vmlinux": own, "driver": {in_module(kernel)}}
    )


def test_callers_that_stay(kernel: Kernel) -> None:
    text = refusal(kernel, {"vmlinux": {place(kernel, "first")}})
    assert text == (
        "lib/gcd.c: gcd() is declared otherwise, and not all that uses it changes: "
        "driver of driver, second of vmlinux\n"
        "  They call the kernel's own as it was, so that the change does not reach them.\n"
        "  Change its callers in the same patch, or add a function of another name."
    )


def test_an_address_that_data_holds(kernel: Kernel, tmp_path: Path) -> None:
    source = tmp_path / "v.c"
    source.write_text(VMLINUX.replace("keeper)(int);", "keeper)(int) = gcd;"))
    subprocess.run(["gcc", *FLAGS, "-c", source, "-o", tmp_path / "v.o"], check=True)
    vmlinux = tmp_path / "vmlinux"
    link = ["ld", "-Ttext=0xffffffff81000000", "-e", "gcd", "-o", vmlinux, tmp_path / "v.o"]
    subprocess.run(link, check=True)
    other = dataclasses.replace(kernel, vmlinux=vmlinux, modules=())
    own = {place(other, "first"), place(other, "second")}
    assert ": keeper of vmlinux\n" in refusal(other, {"vmlinux": own})


def check_replaced(kernel: Kernel, directory: Path, before: str, after: str) -> None:
    """Check the prototypes of a patch that makes another text of the file that defines gcd()."""
    objects = {}
    for patched, text in ((False, before), (True, after)):
        source, objects[patched] = directory / "gcd.c", directory / f"{patched}.o"
        source.write_text(text)
        subprocess.run(["gcc", *FLAGS, "-g", "-c", source, "-o", objects[patched]], check=True)
    lines = tuple(SourceLine(text, None, "fix.patch:3") for text in after.encode().splitlines(True))
    file = PatchedFile("lib/gcd.c", before.encode(), lines, "fix.patch:1")
    pair: Any = SimpleNamespace(owner="vmlinux", source=file.path, files=frozenset(), command=None)
    compiled: Any = SimpleNamespace(
        pairs=(pair,),
        unchanged=(),
        patched=SimpleNamespace(files=(file,)),
        compiler=SimpleNamespace(
            types=lambda _, patched: Types({}, function_types(ElfFile.read(objects[patched])))
        ),
    )
    extraction: Any = SimpleNamespace(changed=(ChangedFunction("gcd", 1, "gcd", "code differs"),))
    known = {place(kernel, "first")}
    check_prototypes(kernel, compiled, [(pair, extraction)], lambda pair: known)


def test_callers_that_the_patch_does_not_compile_would_pass_other_parameters(
    kernel: Kernel, tmp_path: Path
) -> None:
    before = "int gcd(int a) { return a + 1; }\n"
    with pytest.raises(KlpError) as caught:
        check_replaced(kernel, tmp_path, before, "int gcd(int a,\n  long b) { return a + b; }\n")
    assert str(caught.value) == (
        "lib/gcd.c: gcd() is declared otherwise, and not all that uses it changes: "
        "driver of driver, second of vmlinux\n"
        "  They call it as it was declared, and would reach the new one.\n"
        "  Change its callers in the same patch, or add a function of another name."
    )


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("int gcd(int a) { return a + 1; }\n", "int gcd(int n)\n{ return n + 2; }\n"),
        ("int gcd(int a) { return a + 1; }\n", "int gcd(unsigned a) { return a + 2; }\n"),
        ("void gcd(int a) { }\n", "int gcd(int a) { return 3; }\n"),
    ],
    ids=["name", "sign", "result"],
)
def test_what_old_callers_pass_as_before(
    kernel: Kernel, tmp_path: Path, before: str, after: str
) -> None:
    check_replaced(kernel, tmp_path, before, after)


def test_how_functions_are_called(tmp_path: Path) -> None:
    source, made = tmp_path / "t.c", tmp_path / "t.o"
    source.write_text(
        "struct s { int a; long b; }; typedef unsigned char u8; extern int k(int);\n"
        "int f(const char *p, struct s *q, u8 c, short d, _Bool e, long g) { return k(c); }\n"
        "void g(struct s v, ...) { }\n"
        "static int h(int x) { return x; }\n"
    )
    subprocess.run(["gcc", *FLAGS, "-g", "-c", source, "-o", made], check=True)
    word, pointer = "4 bytes", "8 bytes"
    assert function_types(ElfFile.read(made)) == {
        "f": (word, pointer, pointer, "1 bytes", "signed 2 bytes", "truth 1 bytes", pointer),
        "g": ("void", "struct s", "..."),
    }
