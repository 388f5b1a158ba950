"""Finish a checked module for installation: signed, then compressed.

Nothing may rewrite the ELF file after the conversion: a signature is put behind it, and a
compression goes around both.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from klpbuild.errors import reading
from klpbuild.files.whole import write_file
from klpbuild.package.compression import Compression, compress
from klpbuild.package.install import Place
from klpbuild.package.signing import Signer


@dataclass(frozen=True)
class Finish:
    """Plan by which a kernel's modules are signed, compressed and installed.

    :ivar signer: None when they are not signed.
    """

    signer: Signer | None
    compression: Compression
    place: Place

    def file_name(self, module: str) -> str:
        """Name the finished file of a module: ``livepatch-meminfo.ko.xz``."""
        return f"{module}.ko{self.compression.suffix}"


def compress_file(module: Path, compression: Compression, output: Path) -> None:
    """Write a module compressed.

    :raises KlpError: when it cannot be read or written.
    """
    with reading(module):
        data = module.read_bytes()
    write_file(output, compress(data, compression))
