"""Types of a kernel: from debug symbols, from what is shipped, and out of the bootable image."""

from __future__ import annotations

import gzip
import lzma
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from klpbuild.arch import X86_64
from klpbuild.elf.dwarftypes import DwarfTypes
from klpbuild.elf.reader import ElfFile
from klpbuild.elf.types import TypeName
from klpbuild.kernel.debug import debug_information, type_information
from klpbuild.kernel.tree import Kernel
from tests.symbols.inputs import compile_object, link_vmlinux

QUEUE = TypeName("struct", "queue")
SOURCE = "struct queue { int limit; };\nint work(struct queue *q) { return q->limit; }\n"


def bz_image(payload: bytes) -> bytes:
    """As arch/x86/boot/header.S begins: two sectors of setup code, then the payload."""
    image = bytearray(3 * 512 + 64)
    image[0x1F1] = 2
    image[0x202:0x206] = b"HdrS"
    image[0x248:0x250] = (64).to_bytes(4, "little") + len(payload).to_bytes(4, "little")
    return bytes(image) + payload


def program(*words: str) -> Callable[[bytes], bytes]:
    def compress(data: bytes) -> bytes:
        if shutil.which(words[0]) is None:
            pytest.skip(f"{words[0]} is not installed")
        packed = subprocess.run(words, input=data, capture_output=True, check=True).stdout
        return packed + len(data).to_bytes(4, "little")

    return compress


@pytest.mark.parametrize(
    "compress",
    [gzip.compress, lzma.compress, program("zstd", "-qc"), program("lz4", "-lqc")],
    ids=["gzip", "xz", "zstd", "lz4"],
)
def test_types_out_of_a_bootable_image(tmp_path: Path, compress: Callable[[bytes], bytes]) -> None:
    made = compile_object(tmp_path, "queue.c", SOURCE, "-g0", "-gbtf")
    vmlinux = link_vmlinux(tmp_path, made)
    image = tmp_path / "vmlinuz"
    image.write_bytes(bz_image(compress(vmlinux.read_bytes())))
    kernel = Kernel(
        "small", "6.1.0-small", (6, 1, 0), tmp_path, X86_64, tmp_path / "build" / ".config",
        tmp_path, (), None, None, None, None, image, None, tmp_path / "cache",
    )  # fmt: skip
    for _ in range(2):  # the second time from the cache
        types = type_information(kernel, "vmlinux")
        assert types is not None
        ((_, layout),) = types.find(QUEUE)
        assert [member.name for member in layout.members] == ["limit"]
    assert type_information(replace(kernel, image=None, cache=tmp_path / "none"), "vmlinux") is None


@pytest.mark.parametrize("data", [b"", b"\x7fELF" + bytes(800), bz_image(b"something else")])
def test_another_image(tmp_path: Path, data: bytes) -> None:
    image = tmp_path / "vmlinuz"
    image.write_bytes(data)
    kernel = Kernel(
        "small", "6.1.0-small", (6, 1, 0), tmp_path, X86_64, tmp_path / "build" / ".config",
        tmp_path, (), None, None, None, None, image, None, tmp_path / "cache",
    )  # fmt: skip
    assert type_information(kernel, "vmlinux") is None


@pytest.mark.kernel
@pytest.mark.parametrize(
    ("owner", "function", "name"),
    [
        ("sch_netem", "netem_enqueue", TypeName("struct", "netem_sched_data")),
        ("vmlinux", "audit_log_end", TypeName("struct", "audit_reply")),
    ],
)
def test_a_debian_kernel_s_types(
    debian_source_kernel: Kernel, tmp_path: Path, owner: str, function: str, name: TypeName
) -> None:
    """DWARF, the type information that is shipped, and that of the image say the same."""
    dwarf = debug_information(debian_source_kernel, owner)
    symbol = next(s for s in dwarf.elf.symbol_list if s.name == function)
    place = 0 if owner == "vmlinux" else symbol.st_shndx
    unit = dwarf.unit_at(symbol.st_value, place)
    assert unit is not None
    wanted = DwarfTypes(unit).find(name)
    assert len(wanted) == 1
    bare = replace(debian_source_kernel, vmlinux=None, debug_modules=None, cache=tmp_path)
    for kernel in (debian_source_kernel, bare):
        types = type_information(kernel, owner)
        assert types is not None
        assert types.find(name) == wanted
    assert ElfFile.read(bare.modules[0]).section(".BTF") is not None
