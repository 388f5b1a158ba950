"""The real thing: Debian's kernels, fetched with the machine's own apt."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from klpbuild.elf.reader import ElfFile
from klpbuild.kernel.installed import is_stub
from klpbuild.kernel.kbuild import find_compiler, run_make
from klpbuild.kernel.tree import Kernel
from tests.kernel.machines import write

pytestmark = pytest.mark.kernel

MODULE = """\
#include <linux/livepatch.h>
#include <linux/module.h>
static int __init start(void) { pr_info("started\\n"); return 0; }
module_init(start);
MODULE_LICENSE("GPL");
"""


def build_module(kernel: Kernel, directory: Path) -> Path:
    write(directory / "Kbuild", "obj-m := sample.o\n")
    write(directory / "sample.c", MODULE)
    run_make(kernel, directory, "modules")
    return directory / "sample.ko"


def vermagic(module: Path) -> str:
    elf = ElfFile.read(module)
    modinfo = next(section for section in elf.sections if section.name == ".modinfo")
    fields = bytes(elf.contents(modinfo)).split(b"\0")
    return next(f for f in fields if f.startswith(b"vermagic=")).decode()


def test_a_module_builds_for_it(debian_kernel: Kernel, tmp_path: Path) -> None:
    module = build_module(debian_kernel, tmp_path)
    assert vermagic(module).startswith(f"vermagic={debian_kernel.release} SMP ")


def test_plain_make_builds_it_too(debian_kernel: Kernel, tmp_path: Path) -> None:
    """modpost, objtool and the linker script work where they were unpacked."""
    write(tmp_path / "Kbuild", "obj-m := sample.o\n")
    write(tmp_path / "sample.c", MODULE)
    command = ["make", "-C", debian_kernel.build, f"M={tmp_path}", "modules"]
    subprocess.run(command, check=True, capture_output=True)
    assert any(s.name == ".orc_unwind" for s in ElfFile.read(tmp_path / "sample.ko").sections)


def test_the_newest_kernel_that_apt_offers_works(newest_kernel: Kernel, tmp_path: Path) -> None:
    kernel = newest_kernel
    assert f"vermagic={kernel.release} " in vermagic(build_module(kernel, tmp_path))
    assert len(kernel.modules) > 500
    assert all(path.suffix == ".ko" for path in kernel.modules)
    assert ElfFile.read(kernel.modules[0]).symtab is not None


def test_building_changes_nothing_in_the_kernel(debian_kernel: Kernel, tmp_path: Path) -> None:
    def times() -> dict[Path, int]:
        fetched = debian_kernel.cache.parent
        trees = (fetched / "root" / "usr" / "src", fetched / "build")
        return {p: p.lstat().st_mtime_ns for tree in trees for p in (tree, *tree.rglob("*"))}

    before = times()
    build_module(debian_kernel, tmp_path)
    assert times() == before


def test_its_parts_are_its_own(debian_kernel: Kernel) -> None:
    assert debian_kernel.image
    assert debian_kernel.release.encode() in debian_kernel.image.read_bytes()
    upstream = ".".join(map(str, debian_kernel.version))
    assert debian_kernel.package_version.startswith(upstream)
    assert find_compiler(debian_kernel).kernel_version.startswith(("gcc", debian_kernel.arch.name))


def test_its_system_map_in_boot_is_a_stub(debian_kernel: Kernel) -> None:
    assert debian_kernel.image
    release = debian_kernel.release
    assert is_stub(debian_kernel.image.with_name(f"System.map-{release}"))


def test_debug_symbols_have_code_and_symbols(debian_debug_kernel: Kernel) -> None:
    assert debian_debug_kernel.vmlinux and debian_debug_kernel.system_map
    symtab = ElfFile.read(debian_debug_kernel.vmlinux).symtab
    assert symtab and symtab.sh_size > 24 * 50_000
    assert debian_debug_kernel.system_map.stat().st_size > 1_000_000
    assert debian_debug_kernel.debug_modules
    debug = {p.name for p in debian_debug_kernel.debug_modules.rglob("*.ko")}
    assert {p.name for p in debian_debug_kernel.modules} <= debug
