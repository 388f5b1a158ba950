"""Signatures, by a kernel's sign-file, and every way in which a key can be wrong."""

from __future__ import annotations

import os
import resource
import shutil
import struct
import subprocess
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest

from klpbuild.errors import KlpError
from klpbuild.kernel.tree import Kernel
from klpbuild.package.signing import (
    MARKER,
    Signer,
    find_signer,
    sign,
    signature_of,
    verify,
)
from tests.package.keys import PASSPHRASE, Keys, make_key


@pytest.fixture
def signer(fixtures_kernel: Kernel, keys: Keys) -> Signer:
    return find_signer(fixtures_kernel, str(keys.key), keys.certificate)


def refused(kernel: Kernel, key: Path | str, certificate: Path, digest: str = "") -> str:
    with pytest.raises(KlpError) as caught:
        find_signer(kernel, str(key), certificate, digest)
    return str(caught.value)


def test_a_signature_follows_the_module(signer: Signer, module: Path, tmp_path: Path) -> None:
    output = tmp_path / "signed" / module.name
    sign(module, signer, output)
    data = output.read_bytes()
    found = signature_of(data, "x")
    assert found is not None
    assert found[0] == module.read_bytes()
    message = found[1]
    assert data == module.read_bytes() + message + struct.pack(
        ">BBBBBBBBI", 0, 0, 2, 0, 0, 0, 0, 0, len(message)
    ) + b"~Module signature appended~\n"  # fmt: skip
    assert message[0] == 0x30  # a DER sequence
    verify(data, signer.certificate, "x")
    assert signature_of(module.read_bytes(), "x") is None


def test_the_same_key_gives_the_same_bytes(
    signer: Signer, fixtures_kernel: Kernel, keys: Keys, module: Path, tmp_path: Path
) -> None:
    sign(module, signer, tmp_path / "a")
    other = find_signer(fixtures_kernel, str(keys.both), keys.der)
    sign(module, other, tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert signer.identity == other.identity
    assert "sha256" in signer.identity


def test_the_digest_is_the_kernels_or_the_users(
    fixtures_kernel: Kernel, keys: Keys, module: Path, tmp_path: Path
) -> None:
    signer = find_signer(fixtures_kernel, str(keys.key), keys.certificate, "sha512")
    sign(module, signer, tmp_path / "signed")
    found = signature_of((tmp_path / "signed").read_bytes(), "x")
    assert found is not None
    assert bytes.fromhex("0609608648016503040203") in found[1]  # the OID of SHA-512
    kernels = find_signer(fixtures_kernel, str(keys.key), keys.certificate)
    assert kernels.digest == "sha256"
    assert signer.identity != kernels.identity


def test_an_encrypted_key(
    fixtures_kernel: Kernel, keys: Keys, module: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    assert refused(fixtures_kernel, keys.encrypted, keys.certificate) == (
        f"SIGN_KEY={keys.encrypted}: is encrypted\n"
        "  Set KBUILD_SIGN_PIN in the environment to its passphrase."
    )
    monkeypatch.setenv("KBUILD_SIGN_PIN", "wrong")
    assert refused(fixtures_kernel, keys.encrypted, keys.certificate) == (
        f"SIGN_KEY={keys.encrypted}: cannot be read with the passphrase in KBUILD_SIGN_PIN"
    )
    monkeypatch.setenv("KBUILD_SIGN_PIN", PASSPHRASE)
    sign(module, find_signer(fixtures_kernel, str(keys.encrypted), keys.der), tmp_path / "a")
    sign(module, find_signer(fixtures_kernel, str(keys.key), keys.der), tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_keys_that_are_wrong(fixtures_kernel: Kernel, keys: Keys, tmp_path: Path) -> None:
    empty, broken = tmp_path / "empty", tmp_path / "broken.pem"
    empty.write_bytes(b"")
    lines = keys.key.read_text().splitlines()
    broken.write_text("\n".join([lines[0], *lines[3:]]))
    kernel = fixtures_kernel
    assert refused(kernel, tmp_path / "none", keys.der) == (
        f"SIGN_KEY={tmp_path}/none: cannot be read: No such file or directory"
    )
    assert refused(kernel, tmp_path, keys.der) == f"SIGN_KEY={tmp_path}: is not a file"
    os.mkfifo(pipe := tmp_path / "pipe")  # openssl reads it again
    assert refused(kernel, pipe, keys.der) == f"SIGN_KEY={pipe}: is not a file"
    assert refused(kernel, keys.key, pipe) == f"SIGN_CERT={pipe}: is not a file"
    assert refused(kernel, empty, keys.der) == (
        f"SIGN_KEY={empty}: holds no private key in PEM\n"
        "  `openssl pkey -inform DER -in FILE -out FILE.pem` makes PEM of DER."
    )
    assert refused(kernel, broken, keys.der) == f"SIGN_KEY={broken}: is a broken key"
    assert refused(kernel, keys.key, keys.other) == (
        f"SIGN_CERT={keys.other}: is not the certificate of SIGN_KEY\n"
        f"  Its public key is not that of {keys.key}."
    )


def test_certificates_that_are_wrong(fixtures_kernel: Kernel, keys: Keys, tmp_path: Path) -> None:
    assert refused(fixtures_kernel, keys.key, tmp_path / "none") == (
        f"SIGN_CERT={tmp_path}/none: cannot be read: No such file or directory"
    )
    assert refused(fixtures_kernel, keys.key, keys.other_key) == (
        f"SIGN_CERT={keys.other_key}: is not an X.509 certificate, neither PEM nor DER"
    )
    assert refused(fixtures_kernel, keys.key, keys.key) == (
        f"SIGN_KEY={keys.key}: holds no certificate\n  Give SIGN_CERT=FILE, too."
    )
    assert refused(fixtures_kernel, tmp_path / "none", tmp_path / "none") == (
        f"SIGN_KEY={tmp_path}/none: cannot be read: No such file or directory"
    )


def test_a_digest_that_no_kernel_knows(fixtures_kernel: Kernel, keys: Keys) -> None:
    assert refused(fixtures_kernel, keys.key, keys.der, "crc32") == (
        "SIGN_HASH=crc32: is not a digest that a kernel knows\n"
        "  Known: sha1, sha224, sha256, sha384, sha512, sha3-256, sha3-384, sha3-512."
    )


def test_a_kernel_without_sign_file(fixtures_kernel: Kernel, keys: Keys, tmp_path: Path) -> None:
    assert refused(replace(fixtures_kernel, build=tmp_path), keys.key, keys.der) == (
        f"{tmp_path}: the kernel has no scripts/sign-file\n"
        "  kbuild makes it for kernels with CONFIG_MODULE_SIG or a signed image.\n"
        "  Install the kernel's headers as its distribution packs them,\n"
        "  or leave SIGN_KEY out."
    )


def test_sign_file_fails(signer: Signer, keys: Keys, module: Path, tmp_path: Path) -> None:
    secret = "pkcs11:token=none;object=secret"
    with pytest.raises(KlpError) as caught:
        sign(module, replace(signer, key=secret), tmp_path / "signed")
    assert str(caught.value).startswith(f"{module}: sign-file fails")
    assert "secret" not in str(caught.value)
    assert "secret" not in repr(replace(signer, key=secret))
    assert not (tmp_path / "signed").exists()


def test_the_key_of_another_certificate(
    signer: Signer, keys: Keys, module: Path, tmp_path: Path
) -> None:
    """As a token can be: it is asked when it signs."""
    mixed = tmp_path / "sign-file"
    mixed.write_text(f'#!/bin/sh\nexec "{signer.program}" "$1" "{keys.other_key}" '
                     f'"{keys.other}" "$4" "$5"\n')  # fmt: skip
    mixed.chmod(0o755)
    with pytest.raises(KlpError) as caught:
        sign(module, replace(signer, program=mixed), tmp_path / "signed")
    assert str(caught.value).startswith(
        f"{tmp_path}/signed: the signature is not the certificate's\n"
    )
    assert str(caught.value).endswith("\n  Is SIGN_CERT the certificate of SIGN_KEY?")
    assert not (tmp_path / "signed").exists()


def test_every_changed_byte_is_noticed(signer: Signer, module: Path, tmp_path: Path) -> None:
    sign(module, signer, tmp_path / "signed")
    data = bytearray((tmp_path / "signed").read_bytes())
    size, end = module.stat().st_size, len(data)
    for place in (0, size - 1, end - len(MARKER) - 12 - 1, end - len(MARKER) - 1):
        changed = bytearray(data)
        changed[place] ^= 1
        with pytest.raises(KlpError, match="the signature is"):
            verify(bytes(changed), signer.certificate, "x")
    with pytest.raises(KlpError, match="x: is not signed"):
        verify(bytes(data[:-1]), signer.certificate, "x")


@pytest.mark.parametrize("trailer", [b"", bytes(12), bytes([0, 0, 2]) + b"\xff" * 9])
def test_what_the_kernel_would_not_read(trailer: bytes) -> None:
    with pytest.raises(KlpError, match="the signature is broken"):
        signature_of(b"module" + trailer + MARKER, "x")


def test_no_room_for_temporary_files(signer: Signer, module: Path, tmp_path: Path) -> None:
    sign(module, signer, tmp_path / "signed")
    data = (tmp_path / "signed").read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        with pytest.raises(KlpError) as caught:
            verify(data, signer.certificate, "x")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert str(caught.value) == (
        f"{tempfile.gettempdir()}: cannot be written: File too large\n"
        "  TMPDIR in the environment names another directory."
    )


def test_elliptic_curves(fixtures_kernel: Kernel, module: Path, tmp_path: Path) -> None:
    key, certificate = make_key(tmp_path, "curve", "ec", "-pkeyopt", "ec_paramgen_curve:P-384")
    signer = find_signer(fixtures_kernel, str(key), certificate)
    sign(module, signer, tmp_path / "signed")
    verify((tmp_path / "signed").read_bytes(), signer.certificate, "x")


@pytest.fixture
def token(keys: Keys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URI of the key in a token."""
    if not shutil.which("softhsm2-util") or not engine_is_there():
        pytest.skip("softhsm2 and libengine-pkcs11-openssl are not on this machine")
    (tmp_path / "tokens").mkdir()
    (tmp_path / "softhsm.conf").write_text(f"directories.tokendir = {tmp_path}/tokens\n")
    monkeypatch.setenv("SOFTHSM2_CONF", str(tmp_path / "softhsm.conf"))
    said = ["--pin", "1234"]
    new = ["--init-token", "--free", "--label", "livepatch", "--so-pin", "4321"]
    move = ["--import", str(keys.key), "--token", "livepatch", "--label", "signing", "--id", "01"]
    for words in (new, move):
        subprocess.run(["softhsm2-util", *words, *said], check=True, capture_output=True)
    return "pkcs11:token=livepatch;object=signing"


def engine_is_there() -> bool:
    command = ["openssl", "engine", "pkcs11"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def test_the_key_in_a_token(
    fixtures_kernel: Kernel, keys: Keys, module: Path, tmp_path: Path, token: str,
    signer: Signer, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """It signs as the file does; without PIN, or for another certificate, it does not."""
    other = find_signer(fixtures_kernel, token, keys.der)
    with pytest.raises(KlpError, match="sign-file fails"):
        sign(module, other, tmp_path / "a")
    monkeypatch.setenv("KBUILD_SIGN_PIN", "1234")
    sign(module, other, tmp_path / "a")
    sign(module, signer, tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    wrong = find_signer(fixtures_kernel, token, keys.other)
    with pytest.raises(KlpError, match=r"sign-file fails|not the certificate's"):
        sign(module, wrong, tmp_path / "c")
    assert not (tmp_path / "c").exists()
