"""Compressed modules: as the kernel's configuration wants them, always the same bytes."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from klpbuild.errors import KlpError
from klpbuild.kernel.modules import decompress
from klpbuild.kernel.tree import Kernel
from klpbuild.package.compression import (
    Compression,
    check_compression,
    compress,
    configured_compression,
)

DATA = bytes(range(256)) * 1000


@pytest.mark.parametrize("compression", Compression)
def test_it_can_be_taken_back(compression: Compression, tmp_path: Path) -> None:
    path = tmp_path / f"x.ko{compression.suffix}"
    path.write_bytes(compress(DATA, compression))
    assert path.read_bytes() == compress(DATA, compression)
    if compression is Compression.NONE:
        assert path.read_bytes() == DATA
    else:
        assert len(path.read_bytes()) < len(DATA)
        assert decompress(path) == DATA


def test_xz_is_what_the_kernel_can_read(tmp_path: Path) -> None:
    path = tmp_path / "x.ko.xz"
    path.write_bytes(compress(DATA, Compression.XZ))
    done = subprocess.run(["xz", "--list", "-vv", path], capture_output=True, text=True, check=True)
    assert "CRC32" in done.stdout
    assert "--lzma2=dict=1MiB" in done.stdout


@pytest.mark.parametrize(
    ("version", "options", "expected"),
    [
        ((6, 1, 0), "CONFIG_MODULE_COMPRESS_NONE=y", Compression.NONE),
        ((6, 1, 0), "CONFIG_MODULE_COMPRESS_ZSTD=y", Compression.ZSTD),
        ((5, 10, 0), "CONFIG_MODULE_COMPRESS=y\nCONFIG_MODULE_COMPRESS_GZIP=y", Compression.GZIP),
        ((6, 12, 0), "CONFIG_MODULE_COMPRESS=y\nCONFIG_MODULE_COMPRESS_XZ=y", Compression.NONE),
        ((6, 12, 0), "CONFIG_MODULE_COMPRESS_XZ=y\nCONFIG_MODULE_COMPRESS_ALL=y", Compression.XZ),
        ((6, 1, 0), "CONFIG_MODULES=y", Compression.NONE),
    ],
)
def test_the_kernels_own(
    fixtures_kernel: Kernel, tmp_path: Path, version: tuple[int, int, int], options: str,
    expected: Compression,
) -> None:  # fmt: skip
    config = tmp_path / ".config"
    config.write_text(f"{options}\n")
    kernel = replace(fixtures_kernel, version=version, config=config)
    assert configured_compression(kernel) is expected


def test_without_zstd(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    check_compression(Compression.XZ)
    with pytest.raises(KlpError) as caught:
        check_compression(Compression.ZSTD)
    assert str(caught.value) == (
        "COMPRESS=zstd: zstd is not on this machine\n"
        "  Install the package zstd, or choose COMPRESS=none, xz or gzip."
    )
