"""What becomes of references of extracted code, row by row of the table."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from klpbuild.elf.reader import ElfFile
from klpbuild.errors import KlpError
from klpbuild.kernel.dependencies import Dependencies
from klpbuild.resolve.fate import Decision, Fate, Place, Reference, Resolver
from klpbuild.symbols.database import SymbolDatabase
from klpbuild.symbols.symvers import Exports
from klpbuild.symbols.write import SymbolSources, write_symbols
from tests.objects import KERNEL_LIKE, module_symvers
from tests.tables import modules

# Two files of vmlinux, each with a static twin; one twin of the module, too.
FIRST = """
static __attribute__((noinline, used)) int twin(int a) { return a + 1; }
int exported(int a) { return twin(a) + 3; }
int unexported(int a) { return a * 5; }
int in_namespace(int a) { return a * 7; }
int shadowed(int a) { return a; }
"""
SECOND = """
static __attribute__((noinline, used)) int twin(int a) { return a + 2; }
static __attribute__((noinline, used)) int exported_twin(int a) { return a + 9; }
int user(int a) { return twin(a) + exported_twin(a); }
"""
MODULE = """
static __attribute__((noinline, used)) int twin(int a) { return a + 3; }
int shadowed(int a) { return a * 9; }
int of_module(int a) { return twin(a); }
"""
OTHER = "int by_other(int a) { return a * 11; }"


@pytest.fixture
def kernel(tmp_path: Path) -> Kernel:
    return Kernel(tmp_path)


class Kernel:
    """vmlinux and two modules, compiled and read as real ones are."""

    def __init__(self, directory: Path) -> None:
        objects = [self.compile(directory, *f) for f in (("first", FIRST), ("second", SECOND))]
        self.vmlinux = directory / "vmlinux"
        subprocess.run(
            ["ld", "-Ttext=0xffffffff81000000", "-e", "user", "-o", self.vmlinux, *objects],
            check=True,
        )
        modules = (
            self.compile(directory, "mod", MODULE).rename(directory / "mod.ko"),
            self.compile(directory, "other", OTHER).rename(directory / "other.ko"),
        )
        output = directory / "symbols.klp"
        sources = SymbolSources((6, 1), modules, self.vmlinux)
        write_symbols(output, sources, directory / "cache")
        exports = module_symvers(
            directory, vmlinux="exported exported_twin shadowed", drivers__other="by_other"
        )
        text = exports.read_text() + "0x1\tin_namespace\tvmlinux\tEXPORT_SYMBOL\tPRIVATE\n"
        exports.write_text(text)
        self.resolver = Resolver(
            SymbolDatabase.read(output), Exports.read(exports), frozenset({"mod"})
        )
        self.module = ElfFile.read(modules[0])

    @staticmethod
    def compile(directory: Path, name: str, text: str) -> Path:
        source = directory / f"{name}.c"
        source.write_text(text)
        output = source.with_suffix(".o")
        subprocess.run(["gcc", *KERNEL_LIKE, "-c", source, "-o", output], check=True)
        return output

    def places(self, name: str) -> list[Place]:
        """Where vmlinux has the symbols of a name, by address."""
        elf = ElfFile.read(self.vmlinux)
        return [
            Place("", value)
            for value in sorted(s.st_value for s in elf.symbol_list if s.name == name)
        ]

    def decide(
        self,
        name: str,
        home: str,
        place: Place | None = None,
        pointer: bool = False,
        holder: str = "",
    ) -> Decision:
        reference = Reference(name, "fs/x.c")
        return self.resolver.decide_extracted(reference, home, place, pointer, holder=holder)


def told(decision: Decision) -> str:
    """Gate and symbol, or the fate."""
    if decision.target is None:
        return decision.fate.value
    return f"{decision.gate} {decision.target.format()}"


@pytest.mark.parametrize("number", [0, 1])
def test_a_static_function_is_the_one_at_its_place(kernel: Kernel, number: int) -> None:
    decision = kernel.decide("twin", "vmlinux", kernel.places("twin")[number])
    assert told(decision) == f"vmlinux .klp.sym.vmlinux.twin,{number + 1}"


def test_a_static_function_of_a_module(kernel: Kernel) -> None:
    (value,) = (s.st_value for s in kernel.module.symbol_list if s.name == "twin")
    decision = kernel.decide("twin", "mod", Place(".text", value))
    assert told(decision) == "mod .klp.sym.mod.twin,0"


def test_a_static_function_of_vmlinux_that_a_module_may_use_now(kernel: Kernel) -> None:
    decision = kernel.decide("twin", "mod", kernel.places("twin")[1], holder="vmlinux")
    assert told(decision) == "vmlinux .klp.sym.vmlinux.twin,2"


def test_an_export_of_vmlinux_stays_ordinary(kernel: Kernel) -> None:
    assert kernel.decide("exported", "vmlinux").fate is Fate.EXPORTED
    assert kernel.decide("exported", "mod").fate is Fate.EXPORTED
    (place,) = kernel.places("exported")
    assert kernel.decide("exported", "vmlinux", place).fate is Fate.EXPORTED


def test_a_static_namesake_of_an_export_is_not_the_export(kernel: Kernel) -> None:
    (place,) = kernel.places("exported_twin")
    decision = kernel.decide("exported_twin", "vmlinux", place)
    assert told(decision) == "vmlinux .klp.sym.vmlinux.exported_twin,0"


def test_the_address_of_a_replaced_function_is_the_old_ones(kernel: Kernel) -> None:
    decision = kernel.decide("exported", "vmlinux", pointer=True)
    assert told(decision) == "vmlinux .klp.sym.vmlinux.exported,0"


def test_an_export_in_a_namespace_needs_no_import(kernel: Kernel) -> None:
    assert told(kernel.decide("in_namespace", "mod")) == "vmlinux .klp.sym.vmlinux.in_namespace,0"


def test_a_modules_own_global_comes_before_vmlinux(kernel: Kernel) -> None:
    assert told(kernel.decide("shadowed", "mod")) == "mod .klp.sym.mod.shadowed,0"
    assert kernel.decide("shadowed", "vmlinux").fate is Fate.EXPORTED


def test_another_modules_export_waits_for_the_patched_module(kernel: Kernel) -> None:
    assert told(kernel.decide("by_other", "mod")) == "mod .klp.sym.other.by_other,0"


def test_a_module_that_the_home_does_not_depend_on(kernel: Kernel, tmp_path: Path) -> None:
    needing = Dependencies(modules(tmp_path, mod="between", between="other", other=""))
    kernel.resolver = replace(kernel.resolver, dependencies=needing)
    assert told(kernel.decide("by_other", "mod")) == "mod .klp.sym.other.by_other,0"
    alone = Dependencies(modules(tmp_path, mod="", between="other", other=""))
    kernel.resolver = replace(kernel.resolver, dependencies=alone)
    with pytest.raises(KlpError) as caught:
        kernel.decide("by_other", "mod")
    assert str(caught.value) == (
        "fs/x.c: symbol 'by_other' is of module other, on which mod does not depend\n"
        "  When mod loads, other need not be there: "
        "the kernel would refuse mod, or the livepatch.\n"
        "  A livepatch cannot add a dependency. What is exported with EXPORT_SYMBOL_GPL "
        "can be asked for while running: symbol_get()."
    )


def test_an_unexported_symbol_of_vmlinux_has_gate_vmlinux(kernel: Kernel) -> None:
    for home in ("vmlinux", "mod"):
        decision = kernel.decide("unexported", home)
        assert told(decision) == "vmlinux .klp.sym.vmlinux.unexported,0"


def test_a_symbol_that_is_not_at_its_place(kernel: Kernel) -> None:
    first, second = (place.address for place in kernel.places("twin"))
    with pytest.raises(KlpError) as caught:
        kernel.decide("twin", "vmlinux", Place("", first + 1))
    assert str(caught.value) == (
        "fs/x.c: symbol 'twin' is not in vmlinux where it was found\n"
        f"  Expected at +0x{first + 1:x}; kallsyms leaves it out, "
        "or symbols.klp is of another kernel.\n"
        "  Known:\n"
        f"    vmlinux position 1, first.c, address 0x{first:x}\n"
        f"    vmlinux position 2, second.c, address 0x{second:x}"
    )


def test_vmlinux_cannot_use_a_modules_export(kernel: Kernel) -> None:
    with pytest.raises(KlpError) as caught:
        kernel.decide("by_other", "vmlinux")
    assert str(caught.value).startswith(
        "fs/x.c: symbol 'by_other' is not in this kernel where vmlinux could use it\n"
        "  It is defined by:\n"
        "    other position 1"
    )


def test_a_symbol_of_nobody(kernel: Kernel) -> None:
    with pytest.raises(KlpError) as caught:
        kernel.decide("nowhere", "mod")
    assert str(caught.value) == (
        "fs/x.c: symbol 'nowhere' is not in this kernel where mod could use it\n"
        "  The patch needs another one that brings it."
    )
