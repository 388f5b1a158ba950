"""The kernel's own modules: what to load, and in which order."""

from __future__ import annotations

import lzma
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from klpbuild.errors import KlpError
from klpbuild.kernel.tree import Kernel
from klpbuild.vm.modules import GuestModules, read_module


def module(directory: Path, name: str, **tags: str) -> Path:
    """Compile a file that has only the tags of a module."""
    texts = [f"{tag}={value}" for tag, value in tags.items()]
    arrays = "\n".join(
        f'static const char t{i}[] __attribute__((section(".modinfo"), used)) = "{text}";'
        for i, text in enumerate(texts)
    )
    source = directory / f"{name}.c"
    source.write_text(arrays + "\n")
    path = directory / f"{name}.ko"
    subprocess.run(["gcc", "-c", source, "-o", path], check=True)
    return path


def test_dependencies_come_first(tmp_path: Path) -> None:
    modules = GuestModules(
        [
            module(tmp_path, "top-one", depends="middle,base"),
            module(tmp_path, "middle", depends="base"),
            module(tmp_path, "base", depends=""),
        ]
    )
    assert modules.load_order(["top-one"]) == ("base", "middle", "top_one")
    assert modules.load_order(["middle", "top_one"]) == ("base", "middle", "top_one")


def test_what_is_built_in_is_not_loaded(tmp_path: Path) -> None:
    modules = GuestModules([module(tmp_path, "user", depends="core")], ["core"])
    assert modules.load_order(["user", "core"]) == ("user",)


def test_softdeps_by_name_and_by_alias(tmp_path: Path) -> None:
    modules = GuestModules(
        [
            module(tmp_path, "fs", depends="lib", softdep="pre: crypto-hash post: late"),
            module(tmp_path, "lib"),
            module(tmp_path, "late", depends="later"),
            module(tmp_path, "later"),
            module(tmp_path, "hash_generic", alias="crypto-hash"),
            module(tmp_path, "other"),
        ]
    )
    assert modules.load_order(["fs"]) == ("lib", "fs")
    assert modules.closure(["fs"]) == ("lib", "fs", "hash_generic", "later", "late")


def test_a_module_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(KlpError) as caught:
        GuestModules([module(tmp_path, "user", depends="gone")]).load_order(["user"])
    assert str(caught.value) == (
        "module gone is not one of the kernel's\n"
        "  It may belong to another package or configuration of the same release."
    )


def test_a_circle(tmp_path: Path) -> None:
    modules = GuestModules([module(tmp_path, "a", depends="b"), module(tmp_path, "b", depends="a")])
    with pytest.raises(KlpError) as caught:
        modules.load_order(["a"])
    assert str(caught.value) == "modules depend on each other: a -> b -> a"


def test_the_list_of_what_is_built_in(tmp_path: Path, kernel: Kernel) -> None:
    listed = tmp_path / "lib/modules" / kernel.release / "modules.builtin"
    listed.parent.mkdir(parents=True)
    listed.write_text("kernel/fs/ext4/ext4.ko\nkernel/drivers/a-b.ko\n")
    user = module(tmp_path, "user", depends="ext4,a-b")
    assert GuestModules.of(replace(kernel, modules=(user,))).load_order(["user"]) == ("user",)


def test_reading_a_module_file(tmp_path: Path) -> None:
    packed = tmp_path / "x.ko.xz"
    packed.write_bytes(lzma.compress(b"module"))
    assert read_module(packed) == b"module"
    with pytest.raises(KlpError) as caught:
        read_module(tmp_path / "gone.ko")
    assert str(caught.value) == f"{tmp_path}/gone.ko: cannot be read: No such file or directory"
