"""Compress a module as the target's own modules are (scripts/Makefile.modinst)."""

from __future__ import annotations

import gzip
import lzma
import subprocess
from enum import StrEnum

from klpbuild.errors import KlpError
from klpbuild.kernel.config import Config
from klpbuild.kernel.tree import Kernel

#: The dictionary that kbuild asks xz for; the kernel's own decompressor takes no larger one.
_XZ_DICTIONARY = 1 << 20


class Compression(StrEnum):
    """Compression of a module's file; the value is what ``COMPRESS`` takes."""

    NONE = "none"
    XZ = "xz"
    ZSTD = "zstd"
    GZIP = "gzip"

    @property
    def suffix(self) -> str:
        """The suffix behind ``.ko``."""
        return {"none": "", "xz": ".xz", "zstd": ".zst", "gzip": ".gz"}[self.value]


def configured_compression(kernel: Kernel) -> Compression:
    """Read how ``make modules_install`` of a kernel compresses.

    Since 6.12 a kernel may choose a compression and yet leave its modules as they are:
    then CONFIG_MODULE_COMPRESS_ALL is not set.

    :raises KlpError: when its configuration cannot be read.
    """
    config = Config.read(kernel.config)
    if kernel.version >= (6, 12, 0) and not config.enabled("MODULE_COMPRESS_ALL"):
        return Compression.NONE
    for compression in (Compression.XZ, Compression.ZSTD, Compression.GZIP):
        if config.enabled(f"MODULE_COMPRESS_{compression.name}"):
            return compression
    return Compression.NONE


def compress(data: bytes, compression: Compression) -> bytes:
    """Compress a module; the same bytes give the same, on any day and under any name.

    :raises KlpError: when zstd is needed and not on this machine.
    """
    if compression is Compression.XZ:
        # The kernel's decompressor knows CRC32 only; the xz format's default is CRC64.
        filters = [{"id": lzma.FILTER_LZMA2, "preset": 6, "dict_size": _XZ_DICTIONARY}]
        return lzma.compress(data, lzma.FORMAT_XZ, lzma.CHECK_CRC32, filters=filters)
    if compression is Compression.GZIP:
        return gzip.compress(data, mtime=0)
    if compression is Compression.ZSTD:
        return _zstd(data)
    return data


def _zstd(data: bytes) -> bytes:
    # One thread: with several the frames depend on the machine.
    command = ["zstd", "--quiet", "--stdout", "--single-thread", "-"]
    try:
        return subprocess.run(command, input=data, capture_output=True, check=True).stdout
    except FileNotFoundError as error:
        raise KlpError(
            "zstd is not on this machine",
            where="COMPRESS=zstd",
            hint="Install the package zstd, or choose COMPRESS=none, xz or gzip.",
        ) from error
    except subprocess.CalledProcessError as error:
        why = error.stderr.decode(errors="replace").strip()
        raise KlpError("zstd fails", where="COMPRESS=zstd", why=why) from error


def check_compression(compression: Compression) -> None:
    """Refuse a compression that this machine lacks the program for, before anything is built."""
    compress(b"", compression)
