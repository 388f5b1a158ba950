"""Who refers to a function in the shipped kernel, so that a new declaration would not reach it."""

from __future__ import annotations

import dataclasses
import subprocess
from collections.abc import Collection
from pathlib import Path

import pytest

from klpbuild.elf.reader import ElfFile
from klpbuild.errors import KlpError
from klpbuild.kernel.tree import Kernel
from klpbuild.proof.callers import check_callers
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
