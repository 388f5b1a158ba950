"""Open a module's file as it lies on a disk: compressed, signed, or as it was built.

The order of a release is convert, sign, compress.  What `ModuleFile.data` holds is the
file as it was converted, so that its digest is the same before and after.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import lzma
import shutil
import subprocess
import tempfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from klpbuild.errors import KlpError, reading
from klpbuild.package.compression import Compression
from klpbuild.package.signing import signature_of
from klpbuild.report.signature import Signature, read_signature

#: Larger than any module.
_SIZE_MAX = 1 << 28
#: For decompression; xz -9 takes 65 MiB.
_MEMORY_MAX = 1 << 28


@dataclass(frozen=True)
class ModuleFile:
    """A module's file.

    :ivar path: its name on the disk.
    :ivar compression: how it is compressed.
    :ivar data: the module without signature.
    :ivar signature: the appended one, None for an unsigned module.
    """

    path: Path
    compression: Compression
    data: bytes
    signature: Signature | None

    @cached_property
    def sha256(self) -> str:
        """The digest of the module as it was converted."""
        return hashlib.sha256(self.data).hexdigest()

    @property
    def stem(self) -> str:
        """The name without ``.ko`` and what follows it."""
        name, suffix, _ = self.path.name.rpartition(".ko")
        return name if suffix else self.path.stem


def read_file(path: Path) -> ModuleFile:
    """Read a module, compressed or not, signed or not.

    :raises KlpError: when it cannot be read, does not decompress, or its signature is
        broken.
    """
    with reading(path):
        if path.exists() and not path.is_file():
            raise KlpError("is not a file", where=str(path))
        if path.stat().st_size > _SIZE_MAX:
            raise _too_large(path)
        data = path.read_bytes()
    plain, compression = _decompress(data, path)
    signed = signature_of(plain, str(path))
    if signed is None:
        return ModuleFile(path, compression, plain, None)
    module, message = signed
    return ModuleFile(path, compression, module, read_signature(message))


def _too_large(path: Path) -> KlpError:
    return KlpError("is too large for a module", where=str(path))


def _gzip(data: bytes) -> bytes:
    return _bounded(gzip.GzipFile(fileobj=io.BytesIO(data)).read)


def _xz(data: bytes) -> bytes:
    decompressor = lzma.LZMADecompressor(memlimit=_MEMORY_MAX)
    plain = decompressor.decompress(data, _SIZE_MAX + 1)
    if not decompressor.eof and len(plain) <= _SIZE_MAX:
        raise EOFError("Compressed file ended before the end-of-stream marker was reached")
    return plain


def _bounded(read: Callable[[int], bytes]) -> bytes:
    """Read a stream in pieces: Python takes the memory for all that is asked for at once."""
    parts: list[bytes] = []
    while sum(map(len, parts)) <= _SIZE_MAX and (part := read(1 << 20)):
        parts.append(part)
    return b"".join(parts)


def _zstd(data: bytes) -> bytes:
    """Decompress by the program that kbuild compresses modules with (scripts/Makefile.modinst)."""
    program = shutil.which("zstd")
    if program is None:
        raise OSError("the program zstd is not installed")
    with tempfile.TemporaryFile() as packed:
        packed.write(data)
        packed.seek(0)
        command, pipe = [program, "-dcq"], subprocess.PIPE
        with subprocess.Popen(command, stdin=packed, stdout=pipe, stderr=pipe) as process:
            assert process.stdout and process.stderr
            plain = _bounded(process.stdout.read)
            process.stdout.close()  # where it has more to say, it ends
            said = process.stderr.read().decode(errors="replace")
    if process.returncode and len(plain) <= _SIZE_MAX:
        raise OSError(said.partition(":")[2].strip())
    return plain


#: First bytes of a file, name of the compression, function.
_COMPRESSIONS = (
    (b"\x1f\x8b", Compression.GZIP, _gzip),
    (b"\xfd7zXZ\0", Compression.XZ, _xz),
    (b"\x28\xb5\x2f\xfd", Compression.ZSTD, _zstd),
)


def _decompress(data: bytes, path: Path) -> tuple[bytes, Compression]:
    for magic, kind, decompress in _COMPRESSIONS:
        if data.startswith(magic):
            try:
                plain = decompress(data)
            except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
                raise KlpError(
                    f"does not decompress as {kind}", where=str(path), why=str(error)
                ) from error
            if len(plain) > _SIZE_MAX:
                raise _too_large(path)
            return plain, kind
    return data, Compression.NONE
