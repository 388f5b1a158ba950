"""The kernel with a packager's source and tools."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from klpbuild.errors import KlpError
from klpbuild.kernel.tree import Kernel, Toolchain
from klpbuild.request.chosen import named_livepatches, with_replace
from klpbuild.request.target import with_variables
from klpbuild.request.variables import Variables
from tests.compiler.kernels import SOURCE


def test_nothing_is_said(fixtures_kernel: Kernel) -> None:
    assert with_variables(fixtures_kernel, Variables()) == fixtures_kernel


def test_source_and_tools(fixtures_kernel: Kernel) -> None:
    tools = Toolchain(cc="gcc", kcflags="-DX")
    changed = with_variables(fixtures_kernel, Variables(source=SOURCE, toolchain=tools))
    assert changed == replace(fixtures_kernel, source=SOURCE, toolchain=tools)


def test_what_is_for_another_kernel(fixtures_kernel: Kernel, tmp_path: Path) -> None:
    shutil.copy(SOURCE / "Makefile", tmp_path)
    makefile = tmp_path / "Makefile"
    makefile.write_text(makefile.read_text().replace("PATCHLEVEL = 1", "PATCHLEVEL = 2"))
    variables = Variables(
        kernel="/tree", release="6.2.0", source=tmp_path, toolchain=Toolchain(arch="arm64")
    )
    with pytest.raises(KlpError) as caught:
        with_variables(fixtures_kernel, variables)
    assert str(caught.value) == (
        "KDIR=/tree: is of release 6.1.0-fixtures\n"
        "  KVER=6.2.0 is asked for.\n"
        f"KSRC={tmp_path}: is the source of Linux 6.2.0\n"
        "  6.1.0-fixtures is Linux 6.1.0.\n"
        "ARCH=arm64: the kernel is for x86_64, which kbuild calls x86\n"
        f"  {fixtures_kernel.config} says so.\n"
        "  Leave ARCH out: klpbuild knows it from the kernel."
    )


def test_a_directory_that_is_no_source(fixtures_kernel: Kernel, tmp_path: Path) -> None:
    with pytest.raises(KlpError) as caught:
        with_variables(fixtures_kernel, Variables(source=tmp_path))
    assert (
        str(caught.value) == f"KSRC={tmp_path}: is not the source of a kernel: it has no Makefile"
    )


def test_replace(tmp_path: Path) -> None:
    own, described = tmp_path / "own", tmp_path / "described"
    for directory in (own, described):
        directory.mkdir()
    (own / "own.c").write_text("static struct klp_patch patch = { };\nmodule_init(init);\n")
    (described / "fix.c").write_text("void fix(void) { }\n")
    (described / "livepatch.toml").write_text(
        '[[object]]\nname = "vmlinux"\nfunctions = [{ old = "f", new = "fix" }]\n'
    )
    first, second = with_replace(named_livepatches(tmp_path, "all"), False)
    assert first.chosen is not None and first.chosen.livepatch.replace is False
    assert second.chosen is None
    assert str(second.error) == (
        f"{own}: has a struct klp_patch of its own, which REPLACE cannot change\n"
        "  Set its .replace, or leave REPLACE out."
    )
