"""Parts of a kernel that the user names."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from klpbuild.errors import KlpError
from klpbuild.kernel.locate import locate
from klpbuild.request.given import Parts, locate_kernel, with_parts
from klpbuild.request.variables import Variables
from tests.kernel.machines import prepared_tree, write


def test_named_parts_are_taken(tmp_path: Path) -> None:
    kernel = locate(str(prepared_tree(tmp_path / "tree", "6.1.170-x")))
    source = tmp_path / "source"
    numbers = "VERSION = 6\nPATCHLEVEL = 1\nSUBLEVEL = 170\n"
    write(source / "Makefile", numbers)
    vmlinux, image = write(tmp_path / "vmlinux", "x"), write(tmp_path / "bzImage", "x")
    debug = write(tmp_path / "debug/kernel/x.ko.debug", "x").parents[1]
    changed = with_parts(kernel, Parts(source, vmlinux, debug, image))
    assert changed.source == source
    assert (changed.vmlinux, changed.debug_modules, changed.image) == (vmlinux, debug, image)
    assert with_parts(kernel, Parts()) == kernel


def test_what_is_not_there_is_told_together(tmp_path: Path) -> None:
    kernel = locate(str(prepared_tree(tmp_path / "tree", "6.1.170-x")))
    with pytest.raises(KlpError) as caught:
        with_parts(kernel, Parts(tmp_path / "s", tmp_path / "v", tmp_path / "d", tmp_path / "i"))
    assert str(caught.value) == (
        f"--source {tmp_path}/s: there is no such directory\n"
        f"--vmlinux {tmp_path}/v: there is no such file\n"
        f"--debug-modules {tmp_path}/d: there is no such directory\n"
        f"--image {tmp_path}/i: there is no such file"
    )


def _header(machine: int, order: int) -> bytes:
    """The beginning of an ELF file."""
    number = machine.to_bytes(2, "big" if order == 2 else "little")
    return b"\x7fELF\x02" + bytes([order]) + bytes(12) + number + bytes(44)


@pytest.mark.parametrize(
    ("header", "said"),
    [
        (_header(22, 2), "is for s390x, and the kernel is for x86_64"),
        (_header(40, 1), "is for machine 40, and the kernel is for x86_64"),
        (_header(62, 2), "is big-endian, and x86_64 kernels are little-endian"),
        (
            _header(62, 1) + b"Linux version %s\0Linux version 6.1.170-y (a@b) (gcc) #1",
            "is of 6.1.170-y, and the kernel is 6.1.170-x",
        ),
    ],
)
def test_vmlinux_of_another_kernel(header: bytes, said: str, tmp_path: Path) -> None:
    tree = str(prepared_tree(tmp_path / "tree", "6.1.170-x"))
    vmlinux = tmp_path / "vmlinux"
    vmlinux.write_bytes(header)
    with pytest.raises(KlpError) as caught:
        with_parts(locate(tree), Parts(vmlinux=vmlinux))
    assert str(caught.value) == f"--vmlinux {vmlinux}: {said}\n  Name the file of this kernel."
    with pytest.raises(KlpError) as caught:
        locate_kernel(tree, tmp_path, tmp_path / "build", Variables(vmlinux=str(vmlinux)))
    assert str(caught.value) == f"vmlinux={vmlinux}: {said}\n  Name the file of this kernel."


def _module(path: Path, build_id: str) -> Path:
    """A module, or its debug file, with a build ID of four bytes."""
    source = write(
        path.with_suffix(".c"),
        "struct { int sizes[2], kind; char name[4], id[4]; } note __attribute__((section"
        f'(".note.gnu.build-id"))) = {{ {{ 4, 4 }}, 3, "GNU", "{build_id}" }};\n',
    )
    subprocess.run(["gcc", "-c", source, "-o", path], check=True)
    source.unlink()
    return path


def test_debug_files_of_another_kernel(tmp_path: Path) -> None:
    tree = prepared_tree(tmp_path / "tree", "6.1.170-x")
    write(tree / "modules.order", "fs/ext-4.ko\nfs/xfs.ko\n")
    own, _ = (_module(tree / f"fs/{name}.ko", "ours") for name in ("ext-4", "xfs"))
    kernel, debug = locate(str(tree)), tmp_path / "debug"
    debug.mkdir()

    def refusal() -> str:
        with pytest.raises(KlpError) as caught:
            with_parts(kernel, Parts(debug_modules=debug))
        return str(caught.value).replace(str(debug), "DIR")

    assert refusal() == (
        "--debug-modules DIR: holds no debug files of modules\n"
        "  They are called MODULE.ko or MODULE.ko.debug."
    )
    file = _module(debug / "kernel/fs/ext-4.ko.debug", "else")
    assert refusal() == (
        "--debug-modules DIR/kernel/fs/ext-4.ko.debug: is not of the module ext_4 that the kernel"
        f" has\n  Its build ID is 656c7365, and 6f757273 is that of {own}.\n"
        "  Name the directory of this kernel."
    )
    file.write_bytes(_header(22, 2))
    assert refusal() == (
        "--debug-modules DIR/kernel/fs/ext-4.ko.debug: is for s390x, and the kernel is for x86_64\n"
        "  Name the file of this kernel."
    )
    _module(file, "else")  # a driver of another package may stand in place of the kernel's own
    _module(debug / "kernel/fs/xfs.ko", "ours")
    assert with_parts(kernel, Parts(debug_modules=debug)).debug_modules == debug
