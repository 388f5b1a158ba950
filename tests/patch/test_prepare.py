"""The kernel's source is configured once, as the kernel was."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import pytest

from klpbuild.errors import KlpError
from klpbuild.kernel.kbuild import find_compiler
from klpbuild.kernel.prepare import prepare
from klpbuild.kernel.tree import Toolchain
from klpbuild.patch.pair import compile_patch
from klpbuild.pipeline.from_patch import build_from_patches
from tests.kernel.machines import write
from tests.patch.small_kernel import make_kernel


def test_it_is_done_once(tmp_path: Path) -> None:
    small = make_kernel(tmp_path)
    log: list[str] = []
    first = prepare(small.kernel, log.append)
    assert any("olddefconfig" in line for line in log)
    log.clear()
    assert prepare(small.kernel, log.append) == first
    assert log == []
    assert first.differences == ()
    assert first.objtool == ()


def test_two_compilers_have_a_tree_each(tmp_path: Path) -> None:
    """Else the one would make the other's anew while that compiles in it."""
    kernel = make_kernel(tmp_path).kernel
    toolchains = (Toolchain(), Toolchain(cc="gcc"), Toolchain(kcflags="-DX"))
    kernels = [dataclasses.replace(kernel, toolchain=each) for each in toolchains]
    trees = [prepare(each, lambda line: None) for each in kernels]
    assert len({tree.build for tree in trees}) == 3
    assert all((tree.build / ".klpbuild-prepared").is_file() for tree in trees)
    launched = dataclasses.replace(kernel, toolchain=Toolchain(launcher="ccache"))
    assert prepare(launched, lambda line: None) == trees[0]


def test_what_was_broken_off_is_done_again(tmp_path: Path) -> None:
    small = make_kernel(tmp_path)
    tree = prepare(small.kernel, lambda line: None)
    (tree.build / ".klpbuild-prepared").unlink()
    (tree.build / "left-over").touch()
    prepare(small.kernel, lambda line: None)
    assert not (tree.build / "left-over").exists()


def files(top: Path) -> dict[str, tuple[int, int]]:
    return {
        str(path.relative_to(top)): (path.lstat().st_size, path.lstat().st_mtime_ns)
        for path in top.rglob("*")
    }


def test_a_kernel_that_was_built_in_its_source_tree(tmp_path: Path) -> None:
    """Its objects are left out and nothing is written into it."""
    small = make_kernel(tmp_path)
    source, made = small.source, small.kernel.build
    shutil.copytree(made, source, dirs_exist_ok=True)
    (source / "include/config/stale.h").write_text("#error stale\n")
    (source / "drivers/link").symlink_to("disk")
    kernel = dataclasses.replace(small.kernel, build=source, config=source / ".config")
    before = files(source)
    patch = tmp_path / "fix.patch"
    patch.write_text(small.patch("fs/open.c", "LIMIT", "LIMIT + 1"))
    compiled = compile_patch(kernel, [patch], tmp_path / "work", lambda line: None)
    assert [pair.source for pair in compiled.pairs] == ["fs/open.c"]
    linked = compiled.tree.source
    names = {str(path.relative_to(linked)) for path in linked.rglob("*") if not path.is_dir()}
    assert {"Makefile", "fs/open.c", "include/linux/kernel.h"} <= names
    assert not names & {".config", "Module.symvers", "fs/open.o", "fs/.open.o.cmd",
                        "include/config/auto.conf", "include/config/stale.h"}  # fmt: skip
    assert (linked / "drivers/link").is_symlink()
    assert files(source) == before


def test_another_configuration_is_reported(tmp_path: Path) -> None:
    small = make_kernel(tmp_path, config="CONFIG_A=y\nCONFIG_B=m\n")
    (small.source / "settled").write_text("CONFIG_A=m\nCONFIG_NEW=y\nCONFIG_RUSTC_VERSION=0\n")
    tree = prepare(small.kernel, lambda line: None)
    assert tree.differences == (
        "CONFIG_A is m, and y in the kernel",
        "CONFIG_NEW is y, and not set in the kernel",
    )


def test_c_code_sees_rust_as_the_kernel_has_it(tmp_path: Path) -> None:
    """lib/vsprintf.c asks for CONFIG_RUST, which kbuild turns off without rustc."""
    config = (
        "CONFIG_A=y\nCONFIG_RUST=y\nCONFIG_RUST_OVERFLOW_CHECKS=y\nCONFIG_RUSTC_VERSION=108501\n"
    )
    small = make_kernel(tmp_path, config=config)
    makefile = small.source / "Makefile"
    made = (
        "\t@mkdir -p include/generated; echo '#define CONFIG_A 1' > include/generated/autoconf.h\n"
    )
    text = makefile.read_text().replace("prepare:\n", f"prepare:\n{made}")
    # What kbuild settles on: another .config than the kernel's.
    makefile.write_text(text.replace("cat $(srctree)/settled >> .config", "sed -i /RUST/d .config"))
    tree = prepare(small.kernel, lambda line: None)
    assert tree.differences == ()
    assert (tree.build / "include/generated/autoconf.h").read_text() == (
        "#define CONFIG_A 1\n#define CONFIG_RUST 1\n#define CONFIG_RUST_OVERFLOW_CHECKS 1\n"
    )


def test_structures_are_laid_out_by_the_kernels_seed(tmp_path: Path) -> None:
    """kbuild makes one at random as the first thing (scripts/basic/Makefile)."""
    small = make_kernel(tmp_path, config="CONFIG_RANDSTRUCT=y\n")
    makefile = small.source / "Makefile"
    made = (
        "scripts_basic:\n\t@mkdir -p scripts/basic include/generated\n"
        "\t@for file in scripts/basic/randstruct.seed include/generated/randstruct_hash.h; do \\\n"
        "\t\ttest -e $$file || echo random > $$file; done\n"
    )
    rule = f"{made}prepare: scripts_basic\n\t@cat scripts/basic/randstruct.seed > used\n"
    makefile.write_text(makefile.read_text().replace("prepare:\n", rule))
    for name in ("scripts/basic/randstruct.seed", "include/generated/randstruct_hash.h"):
        write(small.kernel.config.parent / name, f"{name} of the kernel")
    tree = prepare(small.kernel, lambda line: None)
    assert (tree.build / "used").read_text() == "scripts/basic/randstruct.seed of the kernel"
    header = tree.build / "include/generated/randstruct_hash.h"
    assert header.read_text() == "include/generated/randstruct_hash.h of the kernel"


def test_a_compiler_that_is_not_there(tmp_path: Path) -> None:
    small = make_kernel(tmp_path)
    small.kernel.config.write_text('CONFIG_CC_VERSION_TEXT="gcc-99 (Debian 99.1.0-1) 99.1.0"\n')
    here = find_compiler(small.kernel).version
    with pytest.raises(KlpError) as caught:
        build_from_patches(small.kernel, [tmp_path / "fix.patch"], "fix", tmp_path / "out")
    assert not (tmp_path / "out").exists()  # it is the first thing that is said
    assert str(caught.value) == (
        "small: the compiler that built this kernel is not on this machine\n"
        f"  It was built by gcc-99 (Debian 99.1.0-1) 99.1.0; here is {here}.\n"
        "  A patch is compiled with the compiler that built the kernel, so that all that it does "
        "not change comes out the same.\n"
        "  Install gcc-99, or name the compiler with CC=."
    )


def test_what_kbuild_says_when_it_fails(tmp_path: Path) -> None:
    small = make_kernel(tmp_path)
    makefile = small.source / "Makefile"
    text = makefile.read_text()
    makefile.write_text(text.replace("prepare:\n", "prepare:\n\t@echo flex: not found; exit 1\n"))
    with pytest.raises(KlpError) as caught:
        prepare(small.kernel, lambda line: None)
    assert "prepare fails\n  flex: not found\n" in str(caught.value)
    assert not (small.kernel.cache / "prepared/.klpbuild-prepared").exists()


def test_without_source(tmp_path: Path) -> None:
    small = make_kernel(tmp_path)
    with pytest.raises(KlpError, match=r"source of 6\.1\.0-small is not at hand"):
        prepare(dataclasses.replace(small.kernel, source=None), lambda line: None)
