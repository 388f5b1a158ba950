"""The proof on other machines: where unchanged code of a patched function leads."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from klpbuild.arch import ARCHITECTURES
from klpbuild.check.explain import Explainer
from klpbuild.check.kernelside import KernelSide
from klpbuild.check.patched import PatchedFunction
from klpbuild.check.subject import Subject
from klpbuild.elf.constants import SHN_LIVEPATCH
from klpbuild.elf.reader import ElfFile
from klpbuild.errors import KlpError
from klpbuild.kernel.tree import Kernel
from klpbuild.symbols.write import SymbolSources, write_symbols
from tests.check.editor import Editor
from tests.machines.objects import compile_for
from tests.symbols.inputs import LINKER_SCRIPT

TWINS = """
static int __attribute__((used, noinline)) twin(void) { asm volatile(""); return NUMBER; }
static volatile int count __attribute__((used)) = NUMBER;
"""
SHOWN = """
int __attribute__((noipa)) other(void *m) { asm volatile(""); return 0; }
int show(void *m) { count += other(m); return twin() + 1; }
"""
AGAIN = """
extern int other(void *m), klp_twin(void);
extern volatile int klp_count;
int livepatch_show(void *m) { klp_count += other(m); return klp_twin() + 2; }
"""


def make_kernel(arch: str, directory: Path) -> KernelSide:
    """A kernel with two functions, and two variables, of one name."""
    (directory / "vmlinux.lds").write_text(LINKER_SCRIPT)
    objects = []
    for name, text in (("a", TWINS.replace("NUMBER", "1") + SHOWN),
                       ("b", TWINS.replace("NUMBER", "2"))):  # fmt: skip
        objects.append(directory / f"{name}.o")
        objects[-1].write_bytes(compile_for(arch, directory, text))
    vmlinux, config = directory / "vmlinux", directory / ".config"
    words = [f"{arch}-linux-gnu-ld", "-static", "-e", "0", "-T", "vmlinux.lds", "-o", "vmlinux"]
    subprocess.run([*words, *objects], check=True, capture_output=True, cwd=directory)
    config.touch()
    symvers = directory / "Module.symvers"
    symvers.write_text("0x00000001\tother\tvmlinux\tEXPORT_SYMBOL\t\n")
    machine = next(each for each in ARCHITECTURES if each.name == arch)
    kernel = Kernel(
        "small", "7.0.0-small", (7, 0, 0), directory, machine, config, symvers, (), vmlinux,
        None, None, None, None, None, directory / "cache",
    )  # fmt: skip
    symbols = directory / "symbols.klp"
    write_symbols(symbols, SymbolSources(kernel.version, (), vmlinux), directory / "fragments")
    return KernelSide(kernel, symbols)


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], KernelSide]:
    """The kernel of an architecture, made once."""
    return cache(lambda arch: make_kernel(arch, tmp_path_factory.mktemp(arch)))


def mismatches(side: KernelSide, directory: Path, *positions: int) -> set[str] | None:
    """What is found in a livepatch that takes these of the two functions and variables."""
    editor = Editor(compile_for(side.kernel.arch.name, directory, AGAIN))
    for name, position in zip(("twin", "count"), positions, strict=True):
        number = editor.symbol(f"klp_{name}")
        editor.rename(f"klp_{name}", f".klp.sym.vmlinux.{name},{position}")
        editor.object.symbols["st_shndx"][number] = SHN_LIVEPATCH
    elf = ElfFile(editor.data(), "again.ko")
    new = next(symbol for symbol in elf.symbol_list if symbol.name == "livepatch_show")
    function = PatchedFunction("show", new.name, (new.st_shndx, new.st_value), 0)
    found = Explainer(Subject(elf, "again", side)).mismatches("vmlinux", function)
    return None if found is None else {each.what.partition(" ")[0] for each in found}


@pytest.mark.parametrize("arch", ["aarch64", "s390x"])
@pytest.mark.parametrize(
    ("positions", "found"),
    [((1, 1), set()), ((2, 1), {"vmlinux:twin"}), ((1, 2), {"vmlinux:count"})],
)
def test_unchanged_code_leads_to_the_same_symbol(
    kernels: Callable[[str], KernelSide],
    arch: str,
    positions: tuple[int, int],
    found: set[str],
    tmp_path: Path,
) -> None:
    assert mismatches(kernels(arch), tmp_path, *positions) == found


def test_code_that_is_not_followed(miniature: KernelSide, tmp_path: Path) -> None:
    elf = ElfFile(compile_for("powerpc64le", tmp_path, AGAIN), "again.ko")
    with pytest.raises(KlpError) as caught:
        Explainer(Subject(elf, "again", miniature))
    assert str(caught.value) == "again.ko: code of powerpc64le cannot be explained"
