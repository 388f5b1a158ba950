"""Keys and certificates, made by openssl."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

PASSPHRASE = "correct horse"


@dataclass(frozen=True)
class Keys:
    """A key with its certificate, in the forms that users have them."""

    key: Path
    certificate: Path
    der: Path
    both: Path
    encrypted: Path
    other: Path
    other_key: Path


def openssl(*words: str | Path) -> None:
    subprocess.run(["openssl", *words], check=True, capture_output=True)


def make_key(directory: Path, name: str, *algorithm: str) -> tuple[Path, Path]:
    key, certificate = directory / f"{name}.key", directory / f"{name}.pem"
    form = ["-new", "-x509", "-nodes", "-days", "36500", "-subj", f"/CN={name}"]
    kind = ["-newkey", *(algorithm or ("rsa:2048",))]
    openssl("req", *form, *kind, "-keyout", key, "-out", certificate)
    return key, certificate


def make_keys(directory: Path) -> Keys:
    key, certificate = make_key(directory, "livepatch")
    der, encrypted = directory / "livepatch.x509", directory / "encrypted.key"
    openssl("x509", "-in", certificate, "-outform", "DER", "-out", der)
    openssl("pkey", "-in", key, "-aes256", "-passout", f"pass:{PASSPHRASE}", "-out", encrypted)
    both = directory / "signing_key.pem"
    both.write_bytes(key.read_bytes() + certificate.read_bytes())
    other_key, other = make_key(directory, "other")
    return Keys(key, certificate, der, both, encrypted, other, other_key)
