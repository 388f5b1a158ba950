"""Module files as they lie on disks: compressed, signed, broken."""

from __future__ import annotations

import gzip
import lzma
import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from klpbuild.errors import KlpError
from klpbuild.package.compression import Compression, compress
from klpbuild.package.signing import MARKER
from klpbuild.report.file import read_file

MODULE = b"\x7fELF and the rest of a module" * 20


@pytest.mark.parametrize("compression", list(Compression))
def test_compressed(tmp_path: Path, compression: Compression) -> None:
    if compression is Compression.ZSTD and not shutil.which("zstd"):
        pytest.skip("zstd is not installed")
    path = tmp_path / f"livepatch-x.ko{compression.suffix}"
    path.write_bytes(compress(MODULE, compression))
    file = read_file(path)
    assert (file.data, file.compression, file.signature) == (MODULE, compression, None)
    assert file.stem == "livepatch-x"


def sign(module: bytes, directory: Path) -> bytes:
    """As scripts/sign-file does, by openssl."""
    key, certificate, content = (directory / name for name in ("key.pem", "cert.pem", "content"))
    content.write_bytes(module)
    words = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj"]
    words += ["/O=Tests/CN=Signing Tests", "-set_serial", "0x1a2b3c"]
    words += ["-keyout", str(key), "-out", str(certificate)]
    subprocess.run(words, check=True, capture_output=True)
    words = ["openssl", "cms", "-sign", "-binary", "-noattr", "-nocerts", "-md", "sha256"]
    words += ["-signer", str(certificate), "-inkey", str(key), "-in", str(content)]
    message = subprocess.run([*words, "-outform", "DER"], check=True, capture_output=True).stdout
    return module + message + struct.pack(">5B3xI", 0, 0, 2, 0, 0, len(message)) + MARKER


def test_signed_and_compressed(tmp_path: Path) -> None:
    path = tmp_path / "livepatch-x.ko.xz"
    path.write_bytes(lzma.compress(sign(MODULE, tmp_path)))
    file = read_file(path)
    assert file.data == MODULE
    assert file.signature is not None
    assert vars(file.signature) == {"signer": "Signing Tests", "key": "1a2b3c", "hash": "sha256"}


def test_a_signature_that_says_nothing(tmp_path: Path) -> None:
    path = tmp_path / "livepatch-x.ko"
    path.write_bytes(MODULE + b"junk" + struct.pack(">5B3xI", 0, 0, 2, 0, 0, 4) + MARKER)
    file = read_file(path)
    assert file.data == MODULE
    assert file.signature is not None
    assert vars(file.signature) == {"signer": "", "key": "", "hash": ""}


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (gzip.compress(MODULE, mtime=0)[:-9],
         "PATH: does not decompress as gzip\n"
         "  Compressed file ended before the end-of-stream marker was reached"),
        (lzma.compress(MODULE)[:40],
         "PATH: does not decompress as xz\n"
         "  Compressed file ended before the end-of-stream marker was reached"),
        (MODULE + struct.pack(">5B3xI", 0, 0, 2, 0, 0, 1 << 20) + MARKER,
         "PATH: the signature is broken\n  Sign the module again."),
    ],
)  # fmt: skip
def test_broken(tmp_path: Path, data: bytes, text: str) -> None:
    path = tmp_path / "livepatch-x.ko"
    path.write_bytes(data)
    with pytest.raises(KlpError) as error:
        read_file(path)
    assert str(error.value) == text.replace("PATH", str(path))


def test_broken_zstd(tmp_path: Path) -> None:
    if not shutil.which("zstd"):
        pytest.skip("zstd is not installed")
    path = tmp_path / "livepatch-x.ko.zst"
    path.write_bytes(compress(MODULE, Compression.ZSTD)[:20])
    with pytest.raises(KlpError) as error:
        read_file(path)
    assert str(error.value).startswith(f"{path}: does not decompress as zstd\n")


def test_no_zstd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "livepatch-x.ko.zst"
    path.write_bytes(b"\x28\xb5\x2f\xfd")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(KlpError) as error:
        read_file(path)
    assert str(error.value) == (
        f"{path}: does not decompress as zstd\n  the program zstd is not installed"
    )


def test_not_a_file(tmp_path: Path) -> None:
    with pytest.raises(KlpError) as error:
        read_file(tmp_path)
    assert str(error.value) == f"{tmp_path}: is not a file"
