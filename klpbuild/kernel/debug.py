"""Find a kernel's debug information: DWARF of debug packages, BTF of what is shipped."""

from __future__ import annotations

import lzma
import platform
import shutil
import subprocess
import zlib
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from struct import unpack_from

from klpbuild.elf.btf import Btf
from klpbuild.elf.dwarf import Dwarf
from klpbuild.elf.reader import ElfFile
from klpbuild.errors import KlpError
from klpbuild.files.whole import write_file
from klpbuild.kernel.tree import Kernel
from klpbuild.names import VMLINUX

_NO_DEBUG = "the kernel's debug information is not at hand"
#: The running kernel's own types.
_RUNNING = Path("/sys/kernel/btf/vmlinux")


def debug_information(kernel: Kernel, owner: str) -> Dwarf:
    """Open the debug information of vmlinux or of a module.

    :raises KlpError: when it is not at hand or cannot be read.
    """
    for path in _debug_files(kernel, owner):
        elf = ElfFile.read(path)
        if elf.section(".debug_info") is not None:
            return Dwarf(elf)
    raise KlpError(_NO_DEBUG, where=owner)


def _debug_files(kernel: Kernel, owner: str) -> list[Path]:
    path, directory = kernel.file_of(owner), kernel.debug_modules
    if path is None or owner == VMLINUX or directory is None or "kernel" not in path.parts:
        return [path] if path else []
    parts = path.parts
    place = len(parts) - 1 - parts[::-1].index("kernel")
    separate = directory.joinpath(*parts[place:])
    beside = [separate, separate.with_name(f"{separate.name}.debug")]
    return [*(file for file in beside if file.is_file()), path]


def type_information(kernel: Kernel, owner: str) -> Btf | None:
    """Read the types of vmlinux, or of a module over these; None when they are not at hand.

    :raises KlpError: when they are damaged.
    """
    base = _vmlinux_types(kernel)
    if base is None or owner == VMLINUX:
        return base
    path = kernel.file_of(owner)
    return Btf.of(ElfFile.read(path), base) if path else None


def _vmlinux_types(kernel: Kernel) -> Btf | None:
    # Headers of Debian since 6.12 have a vmlinux that holds nothing else.
    for path in (kernel.vmlinux, kernel.config.parent / "vmlinux"):
        if path is not None and path.is_file() and (found := _read(path)):
            return found
    if kernel.release == platform.release() and _RUNNING.is_file():
        return _read(_RUNNING)
    kept = kernel.cache / "vmlinux.btf"
    if not kept.is_file():
        data = _image_types(kernel.image) if kernel.image else None
        if data is None:
            return None
        write_file(kept, data)
    return _read(kept)


def _read(path: Path) -> Btf | None:
    status = path.stat()
    return _types_in(path, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=2)
def _types_in(path: Path, size: int, changed: int) -> Btf | None:
    """Read the types in a file that is ELF or BTF itself; the same file is read once."""
    with path.open("rb") as file:
        if file.read(4) == b"\x7fELF":
            return Btf.of(ElfFile.read(path))
    return Btf(path.read_bytes(), where=str(path))


def _image_types(image: Path) -> bytes | None:
    """Read the ``.BTF`` section of the vmlinux in a bzImage; None for another image."""
    data = image.read_bytes()
    if data[0x202:0x206] != b"HdrS" or len(data) < 0x250:
        return None
    # Documentation/x86/boot.rst: setup_sects, payload_offset and payload_length.
    offset, length = unpack_from("<II", data, 0x248)
    start = ((data[0x1F1] or 4) + 1) * 512 + offset
    payload = data[start : start + length]
    for magic, decompress in _FORMATS:
        if payload.startswith(magic):
            vmlinux = decompress(payload)
            if not vmlinux:
                return None
            elf = ElfFile(vmlinux, str(image))
            section = elf.section(".BTF")
            return bytes(elf.contents(section)) if section else None
    return None


def _gunzip(payload: bytes) -> bytes:
    return zlib.decompressobj(wbits=31).decompress(payload)


def _unxz(payload: bytes) -> bytes:
    return lzma.LZMADecompressor().decompress(payload)


def _program(*words: str) -> Callable[[bytes], bytes]:
    """Make a decompressor of a program; the kernel's build appends the size (``size_append``)."""

    def decompress(payload: bytes) -> bytes:
        if shutil.which(words[0]) is None:
            return b""
        return subprocess.run(words, input=payload[:-4], capture_output=True, check=False).stdout

    return decompress


_FORMATS: tuple[tuple[bytes, Callable[[bytes], bytes]], ...] = (
    (b"\x1f\x8b", _gunzip),
    (b"\xfd7zXZ", _unxz),
    (b"\x5d\0\0", _unxz),
    (b"\x28\xb5\x2f\xfd", _program("zstd", "-dcq")),
    (b"\x02\x21\x4c\x18", _program("lz4", "-dcq")),
)
