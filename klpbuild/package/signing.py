"""Sign modules with the kernel's own ``sign-file``, and verify what it made.

A signed module is the module, then a PKCS#7 message in DER, then ``struct module_signature``
of 12 bytes and a marker of 28 (include/linux/module_signature.h).  The message holds
neither certificates nor a time, so that with RSA the same key and module give the same bytes.

The key is read by sign-file and openssl only.  It is never an input that SCons knows, and
its name is not in the build log: the certificate stands for it.
"""

from __future__ import annotations

import hashlib
import os
import re
import struct
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from klpbuild.errors import KlpError
from klpbuild.files.given import read_given_file
from klpbuild.files.whole import write_file
from klpbuild.kernel.config import Config
from klpbuild.kernel.tree import Kernel
from klpbuild.run import run

PIN = "KBUILD_SIGN_PIN"
MARKER = b"~Module signature appended~\n"

#: struct module_signature: algo, hash, id_type, signer_len, key_id_len, 3 bytes of
#: padding, sig_len in network order.  With PKCS#7 all but the type and the length are zero.
_TRAILER = struct.Struct(">BBBBB3xI")
_PKCS7 = 2
#: Of a key or certificate with all that stands around it.
_SIZE_MAX = 1 << 20

#: crypto/asymmetric_keys/pkcs7_parser.c, pkcs7_sig_note_digest_algo.
HASHES = ("sha1", "sha224", "sha256", "sha384", "sha512", "sha3-256", "sha3-384", "sha3-512")


def is_token(key: str) -> bool:
    """Tell whether a key is in a token: named by a URI (RFC 7512), not by a path."""
    return key.startswith("pkcs11:")


def check_hash(name: str) -> None:
    """Refuse a digest that no kernel knows; empty is the kernel's own."""
    if name and name not in HASHES:
        raise KlpError(
            "is not a digest that a kernel knows",
            where=f"SIGN_HASH={name}",
            hint=f"Known: {', '.join(HASHES)}.",
        )


@dataclass(frozen=True)
class Signer:
    """A key with its certificate, found good, and the kernel's program that signs.

    :ivar certificate: PEM, as openssl prints it.
    """

    program: Path
    digest: str
    key: str = field(repr=False)
    certificate_file: Path
    certificate: str = field(repr=False)

    @property
    def identity(self) -> str:
        """A text that changes when signatures do; it says nothing of the key."""
        digest = hashlib.sha256(self.certificate.encode()).hexdigest()
        return f"{self.program.name} {self.digest} {digest}"

    @property
    def subject(self) -> str:
        """Whom the certificate names, such as ``CN = livepatch``."""
        said = _openssl(["x509", "-noout", "-subject"], self.certificate.encode())
        return said.stdout.decode(errors="replace").strip().removeprefix("subject=").strip()


def find_signer(kernel: Kernel, key: str, certificate: Path, digest: str = "") -> Signer:
    """Check that a key can sign, before anything is built.

    That the key of a token belongs to the certificate shows when it has signed.

    :param key: a PEM file or a ``pkcs11:`` URI; ``KBUILD_SIGN_PIN`` of the environment is
        its passphrase or PIN.
    :param certificate: PEM or DER.
    :param digest: empty for CONFIG_MODULE_SIG_HASH, and sha256 without one.
    :raises KlpError: when the kernel has no sign-file, or key and certificate cannot be
        read or do not match.
    """
    check_hash(digest)
    program = kernel.build / "scripts" / "sign-file"
    if not program.is_file():
        raise KlpError(
            "the kernel has no scripts/sign-file",
            where=str(kernel.build),
            why="kbuild makes it for kernels with CONFIG_MODULE_SIG or a signed image.",
            hint="Install the kernel's headers as its distribution packs them,\n"
            "or leave SIGN_KEY out.",
        )
    text = _read_certificate(certificate, key)
    if not is_token(key):
        _check_key(Path(key), certificate, text)
    wanted = Config.read(kernel.config).value("MODULE_SIG_HASH")
    return Signer(program, digest or wanted or "sha256", key, certificate, text)


def _read_certificate(certificate: Path, key: str) -> str:
    data = _read("SIGN_KEY" if str(certificate) == key else "SIGN_CERT", certificate)
    form = "DER" if data[:1] == b"\x30" else "PEM"  # as sign-file tells them apart
    done = _openssl(["x509", "-inform", form], data)
    if done.returncode == 0:
        return done.stdout.decode()
    if str(certificate) == key:
        raise KlpError(
            "holds no certificate",
            where=f"SIGN_KEY={certificate}",
            hint="Give SIGN_CERT=FILE, too.",
        )
    raise KlpError(
        "is not an X.509 certificate, neither PEM nor DER", where=f"SIGN_CERT={certificate}"
    )


def _read(name: str, path: Path) -> bytes:
    """Read a key or certificate; openssl reads it again, so a pipe cannot be one."""
    try:
        return read_given_file(path, _SIZE_MAX)
    except KlpError as error:
        raise KlpError(error.problems[0].what, where=f"{name}={path}") from error


def _check_key(key: Path, certificate: Path, text: str) -> None:
    """Refuse a key file that cannot sign for a certificate."""
    where = f"SIGN_KEY={key}"
    begins = re.findall(rb"^(?:-----BEGIN .*-----|Proc-Type:.*)$", _read("SIGN_KEY", key), re.M)
    if not any(b"PRIVATE KEY" in line for line in begins):
        raise KlpError(
            "holds no private key in PEM",
            where=where,
            hint="`openssl pkey -inform DER -in FILE -out FILE.pem` makes PEM of DER.",
        )
    encrypted = any(b"ENCRYPTED" in line for line in begins)
    if encrypted and PIN not in os.environ:
        raise KlpError(
            "is encrypted", where=where, hint=f"Set {PIN} in the environment to its passphrase."
        )
    secret = ["-passin", f"env:{PIN}"] if PIN in os.environ else []
    public = _openssl(["pkey", "-in", str(key), *secret, "-pubout"])
    if public.returncode:
        raise KlpError(
            f"cannot be read with the passphrase in {PIN}" if encrypted else "is a broken key",
            where=where,
        )
    wanted = _openssl(["x509", "-noout", "-pubkey"], text.encode())
    if public.stdout != wanted.stdout:
        raise KlpError(
            "is not the certificate of SIGN_KEY",
            where=f"SIGN_CERT={certificate}",
            why=f"Its public key is not that of {key}.",
        )


def _openssl(words: Sequence[str], data: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    try:
        return subprocess.run(["openssl", *words], input=data, capture_output=True, check=False)
    except FileNotFoundError as error:
        raise KlpError(
            "openssl is not on this machine",
            why="Signatures are verified with it.",
            hint="Install the package openssl.",
        ) from error


@contextmanager
def _temporary_directory() -> Iterator[Path]:
    try:
        with tempfile.TemporaryDirectory(prefix="klpbuild-") as directory:
            yield Path(directory)
    except OSError as error:
        raise KlpError(
            f"cannot be written: {error.strerror}",
            where=tempfile.gettempdir(),
            hint="TMPDIR in the environment names another directory.",
        ) from error


def sign(
    module: Path, signer: Signer, output: Path, examine: Callable[[bytes], object] = lambda _: None
) -> None:
    """Sign a module, verify the signature, and write the signed module.

    :param examine: is called with the signed module before that is written.
    :raises KlpError: when sign-file fails, or made a signature that is not the certificate's;
        and what `examine` raises.
    """
    with _temporary_directory() as directory:
        signed = directory / module.name
        command = [
            str(signer.program),
            signer.digest,
            signer.key,
            str(signer.certificate_file),
            str(module.resolve()),
            str(signed),
        ]
        try:
            done = run(command, together=True)
        except OSError as error:
            raise KlpError(f"does not run: {error.strerror}", where=str(signer.program)) from error
        if done.returncode or not signed.is_file():
            raise KlpError(
                "sign-file fails",
                where=str(module),
                why=done.stdout.replace(signer.key, "SIGN_KEY").strip(),
            )
        data = signed.read_bytes()
    if not data.startswith(module.read_bytes()):
        raise KlpError("sign-file changed the module itself", where=str(module))
    verify(data, signer.certificate, str(output))
    examine(data)
    write_file(output, data)


def signature_of(data: bytes, name: str) -> tuple[bytes, bytes] | None:
    """Split a module into its own bytes and its PKCS#7 message; None when it is not signed.

    :param name: what messages call the module.
    :raises KlpError: when what follows the module is not what the kernel reads
        (kernel/module_signature.c, mod_check_sig).
    """
    if not data.endswith(MARKER):
        return None
    end = len(data) - len(MARKER) - _TRAILER.size
    broken = KlpError("the signature is broken", where=name, hint="Sign the module again.")
    if end < 0:
        raise broken
    *zeros, length = _TRAILER.unpack_from(data, end)
    if zeros != [0, 0, _PKCS7, 0, 0] or length >= end:
        raise broken
    return data[: end - length], data[end - length : end]


def verify(data: bytes, certificate: str, name: str) -> None:
    """Verify a module's signature.

    :param data: the signed module, not compressed.
    :param certificate: PEM.
    :param name: what messages call the module.
    :raises KlpError: when it is not signed, or not by the key of the certificate.
    """
    found = signature_of(data, name)
    if found is None:
        raise KlpError("is not signed", where=name)
    module, message = found
    with _temporary_directory() as directory:
        content, pem = directory / "module", directory / "certificate"
        content.write_bytes(module)
        pem.write_text(certificate)
        # The signature alone is in question: whom to trust is the kernel's to say.
        options = ["-verify", "-binary", "-inform", "DER", "-nointern", "-noverify"]
        files = ["-content", str(content), "-certfile", str(pem), "-out", os.devnull]
        done = _openssl(["cms", *options, *files], message)
    if done.returncode:
        lines = done.stderr.decode(errors="replace").splitlines()
        raise KlpError(
            "the signature is not the certificate's",
            where=name,
            why="\n".join(line.rpartition(":error:")[2] for line in lines[:3]),
            hint="Is SIGN_CERT the certificate of SIGN_KEY?",
        )
